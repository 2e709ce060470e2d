"""What the headers of DICOM files say of their slices: where each lies, and what is no slice of a CT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from datasets.volume.declared_size import check_declared
from datasets.volume.dicom_files import BoundedFile, read_dicom
from datasets.volume.geometry import VolumeError

EXTENSIONS = (".dcm", ".ima")
_NO_IMAGES = ("SEG", "RTSTRUCT", "RTDOSE", "RTPLAN", "SR", "PR", "KO", "REG")  # made of images, and kept beside them
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_GROUPS = {  # of an enhanced image: which functional group holds what a single slice has in its header
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}


@dataclass(frozen=True)
class DicomSlice:
    """One slice: a file, or a frame of one.

    position: mm, LPS, the centre of the first voxel.  rows_and_columns: direction cosines along a row, then along a
    column.  spacing: mm between rows, then between columns.  size: rows, columns.
    """

    path: Path
    frame: int
    patient: tuple[str, str]  # the patient's ID and the study's UID, which a series has one of
    position: np.ndarray
    rows_and_columns: tuple[float, ...]
    spacing: tuple[float, float]
    size: tuple[int, int]
    slope: float
    intercept: float


@dataclass(frozen=True)
class SeriesName:
    """What tells a DICOM series from another one."""

    uid: str
    modality: str = ""
    number: str = ""
    description: str = ""

    @classmethod
    def of(cls, data: pydicom.Dataset) -> SeriesName:
        """As a header has it; what is absent is empty."""
        names = ("SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription")
        return cls(*(" ".join(str(data.get(name) or "").split()) for name in names))


def listed(counts: Counter[SeriesName]) -> str:
    """The series with their files on one line, for messages."""

    def one(name: SeriesName, count: int) -> str:
        number = f"number {name.number}" if name.number else ""
        parts = (f"{count} files", name.modality, number, name.description[:40])
        return f"{name.uid or '(no UID)'} ({', '.join(part for part in parts if part)})"

    return ", ".join(one(name, counts[name]) for name in sorted(counts, key=lambda name: name.uid))


def is_dicom(path: Path) -> bool:
    """Whether a file bears the mark DICM."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def has_frames(path: Path) -> bool:
    """Whether a DICOM file holds several images."""
    return int(_read(path, ["NumberOfFrames"]).get("NumberOfFrames") or 1) > 1


def dicom_files(folder: Path) -> list[Path]:
    """The files directly in a folder, sorted, without hidden ones."""
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def series_in(paths: Iterable[Path]) -> Counter[SeriesName]:
    """The image series of DICOM files and how many files each has; files that cannot be read are passed over."""
    counts: Counter[SeriesName] = Counter()
    tags = ["SeriesInstanceUID", "Modality", "SeriesNumber", "SeriesDescription", "Rows", "NumberOfFrames"]
    for path in paths:
        try:
            data = _read(path, tags) if is_dicom(path) else pydicom.Dataset()
        except (VolumeError, OSError):
            continue
        if "Rows" in data and str(data.get("Modality")) not in _NO_IMAGES:
            counts[SeriesName.of(data)] += int(data.get("NumberOfFrames") or 1)
    return counts


def image_header(path: Path) -> tuple[pydicom.Dataset, int] | None:
    """Header of a DICOM image and the bytes behind it; None for other files and for objects that are no image.

    Raises VolumeError for a file that must be a slice but has lost its header: at an end of the series no gap would
    show it.
    """
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: is empty, so a slice may be lost; copy it again or remove it")
    if not is_dicom(path):
        if path.suffix.lower() in EXTENSIONS:
            raise VolumeError(
                f"{path}: named as DICOM but without the mark DICM, so truncated or of an old kind; copy it again, "
                "convert it or remove it"
            )
        return None
    try:
        with BoundedFile(path) as file:
            data = pydicom.dcmread(file, stop_before_pixels=True)
            after_header = path.stat().st_size - file.tell()
    except Exception as error:
        raise VolumeError(f"{path}: damaged DICOM header ({error})") from error
    if str(data.get("Modality")) in _NO_IMAGES:
        return None
    if "Rows" not in data or "Columns" not in data:
        stored = pydicom.uid.UID(str(data.file_meta.get("MediaStorageSOPClassUID", "")))
        if stored.name.endswith("Image Storage"):
            raise VolumeError(f"{path}: a DICOM image without rows and columns, truncated? Copy it again or remove it")
        is_private = bool(stored) and data.get("SOPClassUID") == stored  # the object repeats what its file says
        if stored.name == stored and not is_private:  # nor is it a class that has a name
            raise VolumeError(f"{path}: damaged DICOM header (it does not say what it is); copy it again or remove it")
        return None
    return data, after_header


def slices_of(path: Path, data: pydicom.Dataset, after_header: int) -> list[DicomSlice]:
    """The slice of an image, or one for each frame of an enhanced CT.

    Raises VolumeError where it is no CT, has no place in space, or is cut off.
    """
    frames = int(data.get("NumberOfFrames") or 1)
    modality = str(data.get("Modality") or "CT")
    if modality != "CT":
        raise VolumeError(f"{path}: its modality is {modality}, this is no CT; give the folder of a CT series")
    if int(data.get("SamplesPerPixel") or 1) > 1:
        raise VolumeError(f"{path}: a colour DICOM image, this is no CT; remove it from the folder")
    grouped = "PerFrameFunctionalGroupsSequence" in data
    if frames > 1 and (not grouped or len(data.PerFrameFunctionalGroupsSequence) != frames):
        raise VolumeError(f"{path}: a multi-frame DICOM image whose frames have no place; convert it to NIfTI first")
    _check_size(path, data, after_header, frames)
    found = [_one(path, data, frame if grouped else None) for frame in range(frames)]
    return found


def _one(path: Path, data: pydicom.Dataset, frame: int | None) -> DicomSlice:
    values = {name: _value(data, frame, name) for name in _GROUPS}
    if missing := [name for name in _PLACE if not values[name]]:
        raise VolumeError(f"{path}: DICOM image without {', '.join(missing)}; remove it from the folder")
    spacing = [float(size) for size in values["PixelSpacing"]]
    if len(spacing) != 2 or min(spacing) <= 0:
        raise VolumeError(f"{path}: its PixelSpacing is {spacing}; two sizes above 0 are needed, correct or remove it")
    slope = values["RescaleSlope"]
    if slope is not None and not float(slope) > 0:
        raise VolumeError(f"{path}: its RescaleSlope is {slope}, which makes no Hounsfield units; correct or remove it")
    return DicomSlice(
        path=path,
        frame=frame or 0,
        patient=(str(data.get("PatientID") or ""), str(data.get("StudyInstanceUID") or "")),
        position=np.array(values["ImagePositionPatient"], dtype=np.float64),
        rows_and_columns=tuple(float(v) for v in values["ImageOrientationPatient"]),
        spacing=(spacing[0], spacing[1]),
        size=(int(data.Rows), int(data.Columns)),
        slope=float(slope or 1),
        intercept=float(values["RescaleIntercept"] or 0),
    )


def _value(data: pydicom.Dataset, frame: int | None, name: str) -> Any:
    """An attribute of the image, or of one frame: its own functional group, else that which all share."""
    if frame is None:
        return data.get(name)
    shared = data.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()]
    for group in (data.PerFrameFunctionalGroupsSequence[frame], shared[0]):
        if sequence := group.get(_GROUPS[name]):
            return sequence[0].get(name)
    return None


def _check_size(path: Path, data: pydicom.Dataset, after_header: int, frames: int) -> None:
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None or syntax.is_compressed:
        return
    voxel_bytes = int(data.get("BitsAllocated") or 8) // 8
    shape = (frames, data.Rows, data.Columns)
    check_declared(path, shape, voxel_bytes, path.stat().st_size, packed=syntax.is_deflated)
    needed = int(np.prod(shape)) * int(data.get("BitsAllocated") or 0) // 8
    if not syntax.is_deflated and after_header < needed:
        raise VolumeError(
            f"{path}: damaged or truncated DICOM slice, {after_header} of {needed} bytes of voxels; copy it again"
        )


def _read(path: Path, tags: list[str]) -> pydicom.Dataset:
    try:
        return read_dicom(path, stop_before_pixels=True, specific_tags=tags)
    except Exception as error:
        raise VolumeError(f"{path}: damaged DICOM header ({error})") from error

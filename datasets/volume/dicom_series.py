"""One DICOM series in a folder as a volume: pydicom reads it, SimpleITK decodes what pydicom cannot."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from datasets.volume.declared_size import check_declared, check_voxels
from datasets.volume.geometry import LPS_TO_RAS, VolumeError

EXTENSIONS = (".dcm", ".ima")
TILT_DEGREES = 0.5  # between the slices' normal and the way from slice to slice


@dataclass(frozen=True)
class _Slice:
    path: Path
    series: str
    patient: tuple[str, str]  # the patient's ID and the study's UID, which a series has one of
    position: np.ndarray  # mm, LPS, the centre of the first voxel
    rows_and_columns: tuple[float, ...]  # direction cosines: along a row, then along a column
    spacing: tuple[float, float]  # mm between rows, then between columns
    size: tuple[int, int]  # rows, columns


def read_dicom_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array (columns, rows, slices) float32 in rescaled units (HU), and its affine (4, 4) to RAS+ millimetres.

    Slices are sorted along the slice normal; hidden files and those that are no DICOM image are passed over.  Raises
    VolumeError for several series or patients (named), another modality than CT, slices that differ in size or
    orientation, missing, doubled or empty slices, and damaged or undecodable ones; warns where the spacing is slightly
    uneven or the gantry was tilted.
    """
    slices, affine = _sorted_slices(folder)
    rows, columns = slices[0].size
    array = np.empty((columns, rows, len(slices)), dtype=np.float32, order="F")
    for index, header in enumerate(slices):
        array[:, :, index] = _slice_voxels(header.path).T
    return array, affine


def dicom_series_grid(folder: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the array that `read_dicom_series` gives, from the slices' headers; raises as it does."""
    slices, affine = _sorted_slices(folder)
    rows, columns = slices[0].size
    return (columns, rows, len(slices)), affine


def _sorted_slices(folder: Path) -> tuple[list[_Slice], np.ndarray]:
    """The slices in the order of the array, and its affine."""
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
    slices = [header for path in paths for header in _slice_header(path)]
    if not slices:
        raise VolumeError(f"{folder}: no DICOM image lies directly in this folder; give the one that holds the slices")
    _check_one_series(slices, folder)
    check_voxels(folder, (*slices[0].size, len(slices)))
    along_row, along_column = np.reshape(slices[0].rows_and_columns, (2, 3))
    normal = np.cross(along_row, along_column)
    slices.sort(key=lambda header: float(header.position @ normal))
    if len(slices) == 1:
        raise VolumeError(f"{folder}: holds one DICOM slice, a 2D image; give the folder of the whole series")
    _check_spacing(np.array([header.position @ normal for header in slices]), slices, folder)
    affine = np.eye(4)
    affine[:3, 0] = along_row * slices[0].spacing[1]
    affine[:3, 1] = along_column * slices[0].spacing[0]
    # the step from first to last, not the normal: it also holds for a tilted gantry
    step = affine[:3, 2] = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    tilt = np.degrees(np.arctan2(np.linalg.norm(np.cross(step, normal)), step @ normal))
    if tilt > TILT_DEGREES:
        warnings.warn(
            f"{folder}: the gantry was tilted by {tilt:.1f} degrees; masks keep that as a sheared affine, which "
            "viewers built on ITK may draw straightened",
            stacklevel=3,
        )
    affine[:3, 3] = slices[0].position
    return slices, LPS_TO_RAS @ affine


def _slice_header(path: Path) -> list[_Slice]:
    """The slice of a DICOM image file; empty for other files and for objects without pixels (DICOMDIR, RTSTRUCT).

    A file that must be a slice but has lost its header is an error: at an end of the series no gap would show it.
    """
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: is empty, so a slice may be lost; copy it again or remove it")
    if not _is_dicom(path):
        if path.suffix.lower() in EXTENSIONS:
            raise VolumeError(
                f"{path}: named as DICOM but without the mark DICM, so truncated or of an old kind; copy it again, "
                "convert it or remove it"
            )
        return []
    try:
        with open(path, "rb") as file:
            data = pydicom.dcmread(file, stop_before_pixels=True)
            after_header = path.stat().st_size - file.tell()
    except Exception as error:
        raise VolumeError(f"{path}: damaged DICOM header ({error})") from error
    if "Rows" not in data or "Columns" not in data:
        stored = pydicom.uid.UID(str(data.file_meta.get("MediaStorageSOPClassUID", "")))
        if stored.name.endswith("Image Storage"):
            raise VolumeError(f"{path}: a DICOM image without rows and columns, truncated? Copy it again or remove it")
        return []
    if int(data.get("NumberOfFrames") or 1) > 1 or int(data.get("SamplesPerPixel") or 1) > 1:
        raise VolumeError(f"{path}: a multi-frame or colour DICOM image; convert it to NIfTI first")
    missing = [
        name for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing") if not data.get(name)
    ]
    if missing:
        raise VolumeError(f"{path}: DICOM image without {', '.join(missing)}; remove it from the folder")
    _check_header(path, data)
    packed = data.file_meta.TransferSyntaxUID.is_compressed or data.file_meta.TransferSyntaxUID.is_deflated
    needed = int(data.Rows) * int(data.Columns) * int(data.get("BitsAllocated") or 0) // 8
    if not packed and after_header < needed:
        raise VolumeError(
            f"{path}: damaged or truncated DICOM slice, {after_header} of {needed} bytes of voxels; copy it again"
        )
    return [
        _Slice(
            path=path,
            series=str(data.get("SeriesInstanceUID") or ""),
            patient=(str(data.get("PatientID") or ""), str(data.get("StudyInstanceUID") or "")),
            position=np.array(data.ImagePositionPatient, dtype=np.float64),
            rows_and_columns=tuple(float(v) for v in data.ImageOrientationPatient),
            spacing=(float(data.PixelSpacing[0]), float(data.PixelSpacing[1])),
            size=(int(data.Rows), int(data.Columns)),
        )
    ]


def _check_header(path: Path, data: pydicom.Dataset) -> None:
    """VolumeError where a slice is no CT, or where its header cannot be right."""
    modality = str(data.get("Modality") or "CT")
    if modality != "CT":
        raise VolumeError(f"{path}: its modality is {modality}, this is no CT; give the folder of a CT series")
    spacing = [float(size) for size in data.PixelSpacing]
    if len(spacing) != 2 or min(spacing) <= 0:
        raise VolumeError(f"{path}: its PixelSpacing is {spacing}; two sizes above 0 are needed, correct or remove it")
    slope = data.get("RescaleSlope")
    if slope is not None and not float(slope) > 0:
        raise VolumeError(f"{path}: its RescaleSlope is {slope}, which makes no Hounsfield units; correct or remove it")
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is not None and not syntax.is_compressed:
        voxel_bytes = int(data.get("BitsAllocated") or 8) // 8
        size = path.stat().st_size
        check_declared(path, (data.Rows, data.Columns), voxel_bytes, size, packed=syntax.is_deflated)


def _check_one_series(slices: list[_Slice], folder: Path) -> None:
    counts = Counter(header.series for header in slices)
    if len(counts) > 1:
        named = ", ".join(f"{series or '(no UID)'} ({count} files)" for series, count in sorted(counts.items()))
        raise VolumeError(f"{folder}: holds {len(counts)} DICOM series, give a folder with one of them: {named}")
    first = slices[0]
    for header in slices:
        if header.patient != first.patient:
            raise VolumeError(
                f"{folder}: {header.path.name} and {first.path.name} have one series UID but are of two patients or "
                "studies (PatientID, StudyInstanceUID); give a folder with one of them"
            )
        same = header.size == first.size and np.allclose(header.spacing, first.spacing, rtol=1e-3)
        if not same or not np.allclose(header.rows_and_columns, first.rows_and_columns, atol=1e-3):
            raise VolumeError(
                f"{folder}: {header.path.name} and {first.path.name} differ in size, pixel spacing or orientation; "
                "remove the slices that do not belong, such as a localiser"
            )


def _check_spacing(along_normal: np.ndarray, slices: list[_Slice], folder: Path) -> None:
    """A missing or doubled slice would bend the volume: an error.  Slight unevenness is averaged, with a warning."""
    gaps = np.diff(along_normal)
    typical = float(np.median(gaps))
    if typical <= 1e-3 or gaps.min() < 0.5 * typical:
        index = int(gaps.argmin())
        names = f"{slices[index].path.name} and {slices[index + 1].path.name}"
        raise VolumeError(f"{folder}: {names} lie at nearly the same position; keep one acquisition a folder")
    if gaps.max() > 1.5 * typical:
        index = int(gaps.argmax())
        names = f"{slices[index].path.name} and {slices[index + 1].path.name}"
        raise VolumeError(
            f"{folder}: slices are missing between {names} ({gaps.max():.2f} mm apart, {typical:.2f} mm elsewhere)"
        )
    if np.abs(gaps - typical).max() > 0.02 * typical + 0.01:
        warnings.warn(
            f"{folder}: slice spacing varies from {gaps.min():.2f} to {gaps.max():.2f} mm; taken as even", stacklevel=3
        )


def _is_dicom(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def _slice_voxels(path: Path) -> np.ndarray:
    """Voxels (rows, columns) of one slice in rescaled units, HU for CT."""
    data = pydicom.dcmread(path)
    try:
        voxels = data.pixel_array
    except (RuntimeError, AttributeError, ValueError) as error:
        return _slice_voxels_by_itk(path, data, error)
    slope, intercept = float(data.get("RescaleSlope") or 1), float(data.get("RescaleIntercept") or 0)
    return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _slice_voxels_by_itk(path: Path, data: pydicom.Dataset, error: Exception) -> np.ndarray:
    """SimpleITK decodes compressed slices for which pydicom has no decoder here; it rescales by itself."""
    syntax = data.file_meta.TransferSyntaxUID
    if not syntax.is_compressed:
        raise VolumeError(f"{path}: damaged or truncated DICOM slice ({error})") from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return sitk.GetArrayFromImage(reader.Execute())[0].astype(np.float32)
    except RuntimeError:
        raise VolumeError(f"{path}: no decoder for DICOM {syntax.name}; decompress the series first") from error

"""The DICOM series that a volume was read from, as new objects refer to it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from datasets.errors import InputError, OneLineError
from datasets.volume.dicom_series import sorted_slices
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.readers import file_kind

_MAY_BE_EMPTY = (  # of patient and study: DICOM wants these attributes, empty where they are not known
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True)
class DicomSource:
    """images: the headers of a series' files.  places: for each slice of the volume its frame of a single file with
    frames, or its file's place in `images`, which are in the order of the volume then."""

    images: list[pydicom.Dataset]
    places: list[int]


def is_dicom_source(path: str | Path) -> bool:
    """Whether a volume's path is of a DICOM series, which alone can have DICOM objects that refer to it."""
    try:
        return file_kind(Path(path)) in ("DICOM", "DICOM series")
    except InputError:
        return False


def read_dicom_source(geometry: VolumeGeometry) -> DicomSource:
    """Headers of the series that a volume was read from, with what anonymising took away from them put in its place.

    A missing instance UID is taken from the file's own header, missing ones of series and study are made of the frame
    of reference's, and a missing slice thickness is the way from slice to slice.  Raises InputError where the source is
    no DICOM series, is no longer as it was read, or has no frame of reference, without which nothing can be laid over
    it.
    """
    path = Path(geometry.source)
    if not is_dicom_source(path):
        raise InputError(
            f"{path}: is no DICOM series, so no DICOM object can refer to it; write .seg.nrrd or .nii.gz in its place"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about the series was said when it was read
        slices, _ = sorted_slices(path)
    if (*reversed(slices[0].size), len(slices)) != geometry.source_shape:
        raise InputError(f"{path}: is no longer the series that was read; ask again")
    files = list(dict.fromkeys(header.path for header in slices))
    if len(files) not in (1, len(slices)):
        raise InputError(f"{path}: a series of several files with frames; DICOM objects are written for one such file")
    thickness = float(np.linalg.norm(np.asarray(geometry.source_affine)[:3, 2]))
    images = [_completed(pydicom.dcmread(file, stop_before_pixels=True), file, thickness) for file in files]
    frames = [header.frame for header in slices]
    return DicomSource(images, frames if len(files) == 1 else list(range(len(slices))))


def _completed(data: pydicom.Dataset, path: Path, thickness: float) -> pydicom.Dataset:
    frame = str(data.get("FrameOfReferenceUID") or "")
    if not frame:
        raise InputError(f"{path}: has no FrameOfReferenceUID, so nothing can be laid over it; write .seg.nrrd instead")
    data.SOPInstanceUID = data.get("SOPInstanceUID") or data.file_meta.MediaStorageSOPInstanceUID
    data.SOPClassUID = data.get("SOPClassUID") or data.file_meta.MediaStorageSOPClassUID
    for name in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not data.get(name):
            setattr(data, name, generate_uid(entropy_srcs=[frame, name]))
    for name in _MAY_BE_EMPTY:
        if name not in data:
            setattr(data, name, "")
    if not data.get("SliceThickness"):
        data.SliceThickness = f"{thickness:.6g}"
    return data


@contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Turn what highdicom raises over a header that lacks something into an InputError."""
    try:
        yield
    except OneLineError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"{path}: its headers lack what a DICOM object needs ({reason}); write .seg.nrrd or .json instead"
        ) from error

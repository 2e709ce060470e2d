"""One DICOM series as a volume: pydicom reads it, SimpleITK decodes what pydicom cannot.

A series is a folder that holds no other, one file with frames (an enhanced CT), or, where a folder holds several, the
folder and the series' UID as one path: ``study/1.2.840.113619.2.55``.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import SimpleITK as sitk

from datasets.volume.declared_size import check_voxels
from datasets.volume.dicom_files import check_pixel_data, read_dicom
from datasets.volume.dicom_headers import (
    DicomSlice,
    SeriesName,
    dicom_files,
    image_header,
    listed,
    series_in,
    slices_of,
)
from datasets.volume.geometry import LPS_TO_RAS, VolumeError

TILT_DEGREES = 0.5  # between the slices' normal and the way from slice to slice
_READERS = 4  # files read and unpacked at a time: more wait for Python itself
_UID = re.compile(r"\d+(\.\d+)+")


def read_dicom_series(place: Path, integers: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Array (columns, rows, slices) float32 in rescaled units (HU), and its affine (4, 4) to RAS+ millimetres.

    Slices are sorted along the slice normal; hidden files and those that are no DICOM image are passed over.
    integers: HU come as int16 where they are whole numbers that it holds.

    Raises VolumeError for several series (listed) or patients, another modality than CT, slices that differ in size or
    orientation, missing, doubled or empty slices, and damaged or undecodable ones; warns where the spacing is slightly
    uneven or the gantry was tilted.
    """
    slices, affine = sorted_slices(place)
    if integers and all(header.slope == 1 and header.intercept.is_integer() for header in slices):
        with suppress(_NotHeld):
            return _filled(slices, np.dtype(np.int16)), affine
    return _filled(slices, np.dtype(np.float32)), affine


class _NotHeld(Exception):
    """A slice has a number that int16 does not hold."""


def _filled(slices: list[DicomSlice], dtype: np.dtype) -> np.ndarray:
    """The array of sorted slices; raises _NotHeld where int16 is asked for and cannot hold it."""
    rows, columns = slices[0].size
    array = np.empty((columns, rows, len(slices)), dtype=dtype, order="F")
    places: dict[Path, list[int]] = {}
    for index, header in enumerate(slices):
        places.setdefault(header.path, []).append(index)

    def fill(path: Path) -> None:
        frames, rescaled = _decoded(path)
        for index in places[path]:
            header = slices[index]
            rescale = (1.0, 0.0) if rescaled else (header.slope, header.intercept)
            array[:, :, index] = (_whole if dtype.kind == "i" else _real)(frames[header.frame], *rescale).T

    with ThreadPoolExecutor(_READERS) as readers:
        for _ in readers.map(fill, places):
            pass  # raises what a file raised, the first in order
    return array


def _real(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    if (slope, intercept) == (1, 0):
        return voxels
    return voxels.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _whole(voxels: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Voxels plus a whole intercept, for a slope of 1; raises _NotHeld as `_filled`."""
    limits = np.iinfo(np.int16)
    if voxels.dtype.kind not in "iu":
        raise _NotHeld
    if int(voxels.min()) + intercept < limits.min or int(voxels.max()) + intercept > limits.max:
        raise _NotHeld
    return voxels if intercept == 0 else voxels.astype(np.int32) + np.int32(intercept)


def dicom_series_grid(place: Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine of the array that `read_dicom_series` gives, from the slices' headers; raises as it does."""
    slices, affine = sorted_slices(place)
    rows, columns = slices[0].size
    return (columns, rows, len(slices)), affine


def is_series_path(path: Path) -> bool:
    """Whether a path is a folder and the UID of a series in it, as ``study/1.2.840.113619.2.55``."""
    return _UID.fullmatch(path.name) is not None and not path.exists() and path.parent.is_dir()


def volume_exists(path: Path) -> bool:
    """Whether a volume may be at a path: a file, a folder, or a series of a folder, which is not looked for in it."""
    return path.exists() or is_series_path(path)


def series_path(folder: str | Path, wanted: str) -> Path:
    """The path of one of the series in a folder.

    wanted: its UID, or its number.  Raises VolumeError, which lists the series, where there is none or are several.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise VolumeError(f"{folder}: --series chooses among the DICOM series of a folder, and this is none")
    counts = series_in(dicom_files(folder))
    found = [name for name in counts if wanted in (name.uid, name.number)]
    if len(found) != 1 or not _UID.fullmatch(found[0].uid):
        what = "no series" if not found else "several series" if len(found) > 1 else "a series without a UID"
        raise VolumeError(f"{folder}: {wanted} names {what} of it; it holds {listed(counts) or 'no DICOM images'}")
    return folder / found[0].uid


def sorted_slices(place: Path) -> tuple[list[DicomSlice], np.ndarray]:
    """The slices in the order of the array, and its affine; raises as `read_dicom_series`."""
    slices = _slices(place)
    _check_alike(slices, place)
    check_voxels(place, (*slices[0].size, len(slices)))
    along_row, along_column = np.reshape(slices[0].rows_and_columns, (2, 3))
    normal = np.cross(along_row, along_column)
    slices.sort(key=lambda header: float(header.position @ normal))
    if len(slices) == 1:
        raise VolumeError(f"{place}: holds one DICOM slice, a 2D image; give the folder of the whole series")
    _check_spacing(np.array([header.position @ normal for header in slices]), slices, place)
    affine = np.eye(4)
    affine[:3, 0] = along_row * slices[0].spacing[1]
    affine[:3, 1] = along_column * slices[0].spacing[0]
    # the step from first to last, not the normal: it also holds for a tilted gantry
    step = affine[:3, 2] = (slices[-1].position - slices[0].position) / (len(slices) - 1)
    tilt = np.degrees(np.arctan2(np.linalg.norm(np.cross(step, normal)), step @ normal))
    if tilt > TILT_DEGREES:
        warnings.warn(
            f"{place}: the gantry was tilted by {tilt:.1f} degrees; masks keep that as a sheared affine, which "
            "viewers built on ITK may draw straightened",
            stacklevel=3,
        )
    affine[:3, 3] = slices[0].position
    return slices, LPS_TO_RAS @ affine


def _slices(place: Path) -> list[DicomSlice]:
    """The slices of a folder, a file or one series of a folder, in the order of the files."""
    wanted, folder = (place.name, place.parent) if is_series_path(place) else (None, place)
    paths = dicom_files(folder) if folder.is_dir() else [folder]
    slices: list[DicomSlice] = []
    problems: list[VolumeError] = []
    counts: Counter[SeriesName] = Counter()
    with ThreadPoolExecutor(_READERS) as readers:
        for found in readers.map(lambda path: _found(path, wanted), paths):
            if found.name is not None:
                counts[found.name] += found.images
            slices += found.slices
            problems += found.problems
    uids = {name.uid for name in counts}
    if wanted is None and len(uids) > 1:
        raise VolumeError(
            f"{place}: holds {len(uids)} DICOM series; choose one by --series, or by its path ({place}/UID): "
            f"{listed(counts)}"
        )
    if problems:
        raise problems[0]
    if not slices and wanted:
        raise VolumeError(f"{folder}: holds no series {wanted}, but {listed(counts) or 'no DICOM image'}")
    if not slices:
        raise VolumeError(
            f"{place}: no DICOM image lies directly in this folder; give the one that holds the slices, or a volume's "
            "file; --images takes a folder of several CTs"
        )
    return slices


class _Found(NamedTuple):
    """What one file adds to a series; no name where it is no image."""

    name: SeriesName | None
    images: int
    slices: list[DicomSlice]
    problems: list[VolumeError]


def _found(path: Path, wanted: str | None) -> _Found:
    """The slices of a file, unless another series than the one with this UID is wanted, or what is wrong with it."""
    name, images = None, 0
    try:
        if (header := image_header(path)) is None:
            return _Found(None, 0, [], [])
        name, images = SeriesName.of(header[0]), int(header[0].get("NumberOfFrames") or 1)
        return _Found(name, images, slices_of(path, *header) if wanted in (None, name.uid) else [], [])
    except VolumeError as error:
        return _Found(name, images, [], [error])


def _check_alike(slices: list[DicomSlice], place: Path) -> None:
    first = slices[0]
    for header in slices:
        if header.patient != first.patient:
            raise VolumeError(
                f"{place}: {header.path.name} and {first.path.name} have one series UID but are of two patients or "
                "studies (PatientID, StudyInstanceUID); give a folder with one of them"
            )
        same = header.size == first.size and np.allclose(header.spacing, first.spacing, rtol=1e-3)
        if not same or not np.allclose(header.rows_and_columns, first.rows_and_columns, atol=1e-3):
            raise VolumeError(
                f"{place}: {header.path.name} and {first.path.name} differ in size, pixel spacing or orientation; "
                "remove the slices that do not belong, such as a localiser"
            )


def _check_spacing(along_normal: np.ndarray, slices: list[DicomSlice], place: Path) -> None:
    """A missing or doubled slice would bend the volume: an error.  Slight unevenness is averaged, with a warning."""
    gaps = np.diff(along_normal)
    typical = float(np.median(gaps))
    if typical <= 1e-3 or gaps.min() < 0.5 * typical:
        index = int(gaps.argmin())
        names = f"{_named(slices[index])} and {_named(slices[index + 1])}"
        raise VolumeError(f"{place}: {names} lie at nearly the same position; keep one acquisition a folder")
    if gaps.max() > 1.5 * typical:
        index = int(gaps.argmax())
        names = f"{_named(slices[index])} and {_named(slices[index + 1])}"
        raise VolumeError(
            f"{place}: slices are missing between {names} ({gaps.max():.2f} mm apart, {typical:.2f} mm elsewhere)"
        )
    if np.abs(gaps - typical).max() > 0.02 * typical + 0.01:
        warnings.warn(
            f"{place}: slice spacing varies from {gaps.min():.2f} to {gaps.max():.2f} mm; taken as even", stacklevel=3
        )


def _named(header: DicomSlice) -> str:
    return f"frame {header.frame + 1} of {header.path.name}" if header.frame else header.path.name


def _decoded(path: Path) -> tuple[np.ndarray, bool]:
    """Voxels (frames, rows, columns) of a file, and whether they are rescaled to HU already."""
    data = read_dicom(path)
    check_pixel_data(path, data)
    try:
        voxels = data.pixel_array
    except (RuntimeError, AttributeError, ValueError) as error:
        return _decoded_by_itk(path, data, error), True
    return voxels.reshape(-1, *voxels.shape[-2:]), False


def _decoded_by_itk(path: Path, data: pydicom.Dataset, error: Exception) -> np.ndarray:
    """SimpleITK decodes compressed slices for which pydicom has no decoder here; it rescales by itself."""
    syntax = data.file_meta.get("TransferSyntaxUID")
    if syntax is None or not syntax.is_compressed:
        raise VolumeError(f"{path}: damaged or truncated DICOM slice ({error})") from error
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    try:
        return sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError:
        raise VolumeError(f"{path}: no decoder for DICOM {syntax.name}; decompress the series first") from error

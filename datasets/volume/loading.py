"""Any CT file to a float32 array with its geometry, and masks back onto the source grid.

`load_volume` gives what the encoder sees (oriented, cropped, normalised) and a geometry; with that, `save_mask` writes
a mask that lies on the source file voxel by voxel.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.volume.axis_order import laid_out
from datasets.volume.geometry import (
    AS_STORED,
    VolumeError,
    VolumeGeometry,
    affine_of_axes,
    foreground_box,
)
from datasets.volume.guards import slice_doubts, unit_doubts
from datasets.volume.mask_rules import check_grid, whole_numbers
from datasets.volume.nifti_files import nifti_header, save_nifti
from datasets.volume.normalisation import known_change, normalised_in_place
from datasets.volume.plausible import check_affine, check_values
from datasets.volume.preprocessing import Preprocessing, SourceSteps
from datasets.volume.readers import ARRAY_KINDS, SLICE_FOLDER, RawVolume, file_kind, read_raw

log = logging.getLogger(__name__)
MaskPaths = str | Path | Sequence[str | Path] | Mapping[str, str | Path]
MaskValues = Sequence[int | Sequence[int] | None]
SPACE_FIELDS = ("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
                "sform_code", "srow_x", "srow_y", "srow_z")  # fmt: skip


_NO_GEOMETRY = {
    "assumption": "an array without geometry, its axes are taken as RAS; say with --array_axes what they are (as LPS, "
    "or as_stored where that is not known).  Its spacing is taken as 1 mm",
    "slices": "slices as images: rows are taken to run to the back, columns to the left, slices upwards, 1 mm apart; "
    "say with --array_axes what they are (as PLI, or as_stored where that is not known)",
    "m3d_shape": "an array of M3D's shape, 32 x 256 x 256, without geometry: its slices are taken as the first axis, "
    "from above, and its pictures as axial (IPL); say otherwise with --array_axes.  Its spacing is taken as 1 mm",
    "format": "RadChestCT's arrays do not hold their spacing, it is taken as 1 mm",
}
_warned: set[str] = set()  # each of these is said once a process


def read_volume(
    path: str | Path, orientation: str = "RAS", array_axes: str | None = None, hu_offset: float = 0.0
) -> tuple[np.ndarray, VolumeGeometry]:
    """A CT in its stored units (HU): array (1, H, W, D) float32, oriented as asked, not cropped; and its geometry.

    path: NIfTI, NRRD, MHA/MHD, .npy, .npz, or a folder with one DICOM series, or with slices as PNG or JPEG.
    `orientation` is three axis codes or "as_stored".  Arrays and slices carry no affine: RadChestCT's (.npz with key
    ``ct``) have known axes, those of others are `array_axes`, without which RAS (of slices PLS) is assumed, with a
    warning; "as_stored" says that they are not known, and keeps them.  hu_offset is added to what the file holds.

    Raises VolumeError where the file is missing, empty, damaged, not 3D, larger than is read, or where its voxels or
    their place are no CT's; warns of what is unlikely for one.  The rule is in docs/data.md.
    """
    raw = _checked(path, array_axes, hu_offset, integers=orientation != AS_STORED)
    geometry = _geometry(path, raw, orientation)
    array = geometry.from_source(raw.array)
    # as stored it is the array that was read: a copy of a large one would take gigabytes for nothing
    array = array.astype(np.float32, copy=False) if geometry.orientation == AS_STORED else laid_out(array)
    return array[None], geometry


def load_volume(
    path: str | Path,
    orientation: str = "RAS",
    crop_foreground: bool = True,
    *,
    preprocessing: Preprocessing | None = None,
    array_axes: str | None = None,
    hu_offset: float = 0.0,
) -> tuple[np.ndarray, VolumeGeometry]:
    """A CT as the encoder sees it: oriented, cropped to the bounding box of voxels > 0, normalised.

    preprocessing: of a model; it decides by the kind of file, in place of `orientation` and `crop_foreground`.
    array_axes, hu_offset: as `read_volume` takes them.
    Returns array (1, H, W, D) float32 and the geometry of the crop; raises as `read_volume`.
    """
    raw = _checked(path, array_axes, hu_offset, integers=True)
    if preprocessing is None:
        steps = SourceSteps(orientation, crop="foreground" if crop_foreground else "none")
    else:
        steps = preprocessing.steps(raw.source)
    geometry = _geometry(path, raw, steps.orientation)
    in_units = steps.normalisation != "none"  # an array that is taken as it is was prepared elsewhere
    doubts = (*slice_doubts(geometry.shape[2]), *(unit_doubts(raw.array) if in_units else ()))
    geometry = replace(geometry, doubts=doubts)
    if steps.crop != "none":
        geometry = geometry.cropped(*foreground_box(geometry.from_source(raw.array)))
    if isinstance(steps.crop, tuple):
        geometry = geometry.narrowed(steps.crop)
    try:
        change = known_change(geometry.from_source(raw.array), steps)
        array = laid_out(geometry.from_source(raw.array), change)[None]
        del raw  # the source array may be as large as the result; percentiles need the room
        return array if change is not None else normalised_in_place(array, steps), geometry
    except VolumeError as error:
        raise VolumeError(f"{path}: {error}") from error


def read_mask(path: MaskPaths, geometry: VolumeGeometry, values: MaskValues | None = None) -> np.ndarray:
    """Masks uint8 (n, H, W, D) on the grid of a loaded volume.

    path: one multi-label file, from which `values` picks one mask each (an int, or a list of ints to join); without
    `values`, one mask of all voxels that are not 0.  A list, or a mapping in its order, of files: one mask a file, of
    its `values[i]` if given; where that is None, of all voxels that are not 0.  Files may be stored in another
    orientation, but must lie on the source's grid.
    """
    if isinstance(path, str | Path):
        labels = read_label_map(path, geometry)
        picks = [labels != 0] if values is None else [_pick(labels, value) for value in values]
        return np.stack(picks).astype(np.uint8) if picks else np.zeros((0, *geometry.shape), dtype=np.uint8)
    paths = list(path.values()) if isinstance(path, Mapping) else list(path)
    if values is not None and len(values) != len(paths):
        raise VolumeError(f"{geometry.source}: {len(paths)} mask files but {len(values)} mask values; give as many")
    masks = np.zeros((len(paths), *geometry.shape), dtype=np.uint8)
    for index, single in enumerate(paths):
        labels = read_label_map(single, geometry)
        masks[index] = labels != 0 if values is None else _pick(labels, values[index])
    return masks


def read_label_map(path: str | Path, geometry: VolumeGeometry) -> np.ndarray:
    """Labels (H, W, D) of a mask file on the grid of a loaded volume.

    A file that is stored along other axes is moved to the source's first.  One whose header places it less than half a
    voxel off, as rounding leaves it, is taken voxel by voxel, with a warning.  VolumeError where it is on another grid
    or holds anything but whole numbers, up to the rounding of a stored slope.  The mask of an array without geometry
    may be one too: of the same shape, it lies on the array voxel by voxel.
    """
    raw = read_raw(path)
    affine = check_affine(_mask_affine(raw, geometry), str(path))
    stored = VolumeGeometry.of_source(str(path), raw.array.shape, affine, geometry.source_orientation)
    check_grid(path, stored, geometry)
    return geometry.from_source(stored.from_source(whole_numbers(path, raw)))


def restore_to_source(mask: np.ndarray, geometry: VolumeGeometry) -> np.ndarray:
    """A mask (H, W, D) of the loaded grid on the source grid, 0 outside the crop; exact, nothing is resampled."""
    return geometry.to_source(np.asarray(mask))


def save_mask(mask: np.ndarray, geometry: VolumeGeometry, path: str | Path) -> Path:
    """Write a mask (H, W, D), bool or labels 0..255, as uint8 NIfTI with shape, affine and orientation of the source.

    For a DICOM, NRRD or MHA source that is its array as read, with the affine turned to RAS; for .npy and .npz the
    array as stored, (z, y, x) of RadChestCT, without a channel axis.  The file is there whole or not at all.  Returns
    the path.
    """
    path, mask = Path(path), np.asarray(mask)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise VolumeError(f"{path}: a mask is written as NIfTI; end its name in .nii.gz or .nii")
    with np.errstate(invalid="ignore"):  # a NaN is refused on the next line
        labels = mask.astype(np.uint8)
    if not np.array_equal(labels, mask):
        raise VolumeError(f"{path}: a mask holds whole numbers from 0 to 255, got {mask.min():g} to {mask.max():g}")
    affine = np.asarray(geometry.source_affine)
    image = nib.Nifti1Image(restore_to_source(labels, geometry), affine)
    _copy_space(image, geometry)
    return save_nifti(image, path)


def _checked(
    path: str | Path, array_axes: str | None = None, hu_offset: float = 0.0, integers: bool = False
) -> RawVolume:
    raw = read_raw(path, array_axes, integers)
    low, high = raw.array.min(), raw.array.max()  # NaN passes through both, so no mask of the whole volume is needed
    check_values(float(low) + hu_offset, float(high) + hu_offset, str(path))
    origin = raw.kind if raw.kind == SLICE_FOLDER and raw.axes_from == "assumption" else raw.axes_from
    if origin in _NO_GEOMETRY and origin not in _warned:
        _warned.add(origin)
        log.warning("%s: %s", path, _NO_GEOMETRY[origin])
    array = np.add(raw.array, hu_offset, dtype=np.float32) if hu_offset else raw.array
    return replace(raw, array=array, affine=check_affine(raw.affine, str(path)))


def _geometry(path: str | Path, raw: RawVolume, orientation: str) -> VolumeGeometry:
    """Of the whole volume; axes that are not known cannot be brought to any others."""
    orientation = AS_STORED if raw.axes_from == "nobody" else orientation
    return VolumeGeometry.of_source(str(path), raw.array.shape, raw.affine, orientation, raw.axes_from)


def _mask_affine(raw: RawVolume, geometry: VolumeGeometry) -> np.ndarray:
    """Where a mask lies: by its own affine, or where its volume lies if one of the two has no place of its own.

    A NIfTI mask that was saved for an array under --array_axes has the affine of those axes; read without the option,
    the array is assumed to have others, and the mask's voxels are the array's all the same.
    """
    source_affine = np.asarray(geometry.source_affine)
    if geometry.axes_from == "file":
        return raw.affine
    if raw.kind in ARRAY_KINDS:
        return source_affine
    unknown = geometry.axes_from in ("assumption", "nobody", "m3d_shape") and raw.array.shape == geometry.source_shape
    codes = "".join(code or "" for code in nib.aff2axcodes(raw.affine))
    if unknown and len(codes) == 3 and np.array_equal(raw.affine, affine_of_axes(codes, raw.array.shape)):
        return source_affine
    return raw.affine


def _pick(labels: np.ndarray, value: int | Sequence[int] | None) -> np.ndarray:
    return labels != 0 if value is None else np.isin(labels, np.atleast_1d(value))


def _copy_space(image: nib.Nifti1Image, geometry: VolumeGeometry) -> None:
    """Give the mask the source's own qform and sform: viewers differ in which of the two they follow."""
    source = _source_header(geometry)
    if source is None:
        image.set_qform(geometry.source_affine, code="scanner")
        image.set_sform(geometry.source_affine, code="scanner")
    else:
        for field in SPACE_FIELDS:
            image.header[field] = source[field]
        image.header["pixdim"][:4] = source["pixdim"][:4]
    image.header.set_xyzt_units("mm")


def _source_header(geometry: VolumeGeometry) -> nib.Nifti1Header | None:
    """Header of a NIfTI source that is still there and still has the grid that was read."""
    path = Path(geometry.source)
    try:
        if not path.is_file() or file_kind(path) != "NIfTI":
            return None
        header = nifti_header(path)
    except (VolumeError, OSError, nib.filebasedimages.ImageFileError):
        return None
    unchanged = np.array_equal(header.get_best_affine(), geometry.source_affine)
    return header if unchanged and header.get_data_shape()[:3] == geometry.source_shape else None

"""The published layout of preprocessed crops, as the SAT-DS collection of segmentation data keeps it.

    renorm_image             .npy, .npz or NIfTI: a crop with normalised intensities, (1, h, w, d) or (h, w, d)
    chwd                     [1, h, w, d], its shape
    renorm_segmentation_dir  folder with one mask a label: <label>.npy, .npz, .nii.gz or .nii
    renorm_y1x1z1_y2x2z2     a box of the crop for each label (see `datasets.mask_files`): the label's mask file holds
                             this box alone.  false: the label is absent, without a file.

A mask file as large as the crop is taken as it is, with or without a box.  A single box counts for every label.
The crop goes to the encoder as it is: it is neither normalised nor cropped again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from datasets.mask_files import mask_file
from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.loading import read_label_map, read_volume
from datasets.volume.readers import file_kind, read_raw

ARRAYS = ("npy", "npz")  # files without an affine


def load_crop(path: str | Path, orientation: str = "RAS") -> tuple[np.ndarray, VolumeGeometry]:
    """A crop (1, h, w, d) float32 with its own intensities, and its geometry; only a NIfTI has an orientation.

    Raises VolumeError where it is missing, damaged, not 3D, constant, or has NaN or infinite voxels.
    """
    path = Path(path)
    if file_kind(path) not in ARRAYS:
        return read_volume(path, orientation)
    array = _array(path)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3 or array.size == 0:
        raise VolumeError(f"{path}: holds an array of shape {array.shape}; a crop is (1, h, w, d)")
    array = np.ascontiguousarray(array, dtype=np.float32)
    if not np.isfinite(array).all() or array.min() == array.max():
        raise VolumeError(f"{path}: the crop is constant, or has NaN or infinite voxels")
    return array[None], VolumeGeometry.of_source(str(path), array.shape, np.eye(4), orientation)


def check_shape(chwd: Sequence[int] | None, geometry: VolumeGeometry) -> None:
    """VolumeError where the record's `chwd` is not the shape of its crop."""
    if chwd is not None and tuple(chwd) != (1, *geometry.source_shape):
        shape = (1, *geometry.source_shape)
        raise VolumeError(f"{geometry.source}: has shape {shape}, but chwd of its record is {tuple(chwd)}")


def crop_masks(
    folder: str, labels: Sequence[str], boxes: Sequence[Sequence[int] | None] | None, geometry: VolumeGeometry
) -> Iterator[np.ndarray]:
    """For each label its mask (h, w, d) bool on the loaded crop.

    Raises VolumeError for a mask that has the size neither of the crop nor of its box.
    """
    for index, label in enumerate(labels):
        box = boxes[index] if boxes else (0, 0, 0, *geometry.source_shape)
        yield boxed_mask(mask_file(folder, label), box, geometry)


def boxed_mask(path: str, box: Sequence[int] | None, geometry: VolumeGeometry) -> np.ndarray:
    """A mask (h, w, d) bool on the loaded volume, from a file that holds its box of the stored array, or the whole.

    box: first voxel and one past the last along the stored array's axes; None where the label is absent, without file.
    Raises VolumeError for a mask that has the size neither of the stored array nor of its box.
    """
    if box is None:
        return np.zeros(geometry.shape, dtype=bool)
    kind = file_kind(Path(path))
    if kind == "NIfTI" and (mask := read_raw(path).array).shape == geometry.source_shape:
        return read_label_map(path, geometry) > 0
    mask = _array(Path(path)) if kind in ARRAYS else read_raw(path).array
    mask = mask[0] if mask.ndim == 4 and mask.shape[0] == 1 else mask
    whole = np.zeros(geometry.source_shape, dtype=bool)
    boxed = whole[tuple(slice(a, b) for a, b in zip(box[:3], box[3:], strict=True))]
    if mask.shape == whole.shape:
        whole[:] = mask > 0
    elif mask.shape == boxed.shape and boxed.shape == tuple(b - a for a, b in zip(box[:3], box[3:], strict=True)):
        boxed[:] = mask > 0  # a view of `whole`
    else:
        raise VolumeError(
            f"{path}: has shape {mask.shape}; it fits neither the crop {geometry.source_shape} nor the label's box "
            f"{list(box)} (first voxel, and one past the last)"
        )
    return geometry.from_source(whole)


def _array(path: Path) -> np.ndarray:
    """The array of an .npy, or of an .npz the one named arr_0 or the only one."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content as arrays:
            name = "arr_0" if "arr_0" in arrays.files or len(arrays.files) != 1 else arrays.files[0]
            return np.asarray(arrays[name])
    except KeyError as error:
        raise VolumeError(f"{path}: expected an array named arr_0, or a single array") from error
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise VolumeError(f"{path}: cannot be read as an array, damaged or truncated? ({error})") from error

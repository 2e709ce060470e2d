"""The published layout of preprocessed crops, as the SAT-DS collection of segmentation data keeps it.

    renorm_image             .npy, .npz or NIfTI: a crop with normalised intensities, (1, h, w, d) or (h, w, d)
    chwd                     [1, h, w, d], its shape
    renorm_segmentation_dir  folder with one mask a label: <label>.npy, .npz, .nii.gz or .nii
    renorm_y1x1z1_y2x2z2     a box of the crop for each label, in its axes' order, first voxel and one past the last:
                             the label's mask file holds this box alone.  false: the label is absent, without a file.

A mask file as large as the crop is taken as it is, with or without a box.  A single box counts for every label.
The crop goes to the encoder as it is: it is neither normalised nor cropped again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from datasets.volume.geometry import VolumeError, VolumeGeometry
from datasets.volume.loading import read_label_map, read_volume
from datasets.volume.readers import file_kind, read_raw

MASK_EXTENSIONS = (".npy", ".npz", ".nii.gz", ".nii")


def load_crop(path: str | Path, orientation: str = "RAS") -> tuple[np.ndarray, VolumeGeometry]:
    """A crop (1, h, w, d) float32 with its own intensities, and its geometry; only a NIfTI has an orientation.

    Raises VolumeError where it is missing, damaged, not 3D, constant, or has NaN or infinite voxels.
    """
    path = Path(path)
    if file_kind(path) != "npy":
        return read_volume(path, orientation)
    array = _npy(path)
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


def mask_file(folder: str, label: str) -> str:
    """The mask of a label, whichever of its names exists."""
    names = [f"{folder}/{label}{extension}" for extension in MASK_EXTENSIONS]
    return next((name for name in names if Path(name).exists()), names[0])


def crop_masks(
    folder: str, labels: Sequence[str], boxes: Sequence[Sequence[int] | None] | None, geometry: VolumeGeometry
) -> Iterator[np.ndarray]:
    """For each label its mask (h, w, d) bool on the loaded crop.

    Raises VolumeError for a mask that has the size neither of the crop nor of its box.
    """
    for index, label in enumerate(labels):
        box = boxes[index] if boxes else (0, 0, 0, *geometry.source_shape)
        if box is None:
            yield np.zeros(geometry.shape, dtype=bool)
            continue
        path = Path(mask_file(folder, label))
        if file_kind(path) == "NIfTI" and (mask := read_raw(path).array).shape == geometry.source_shape:
            yield read_label_map(path, geometry) > 0
            continue
        mask = _npy(path) if file_kind(path) == "npy" else read_raw(path).array
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
                f"{list(box)}"
            )
        yield geometry.from_source(whole)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise VolumeError(f"{path}: cannot be read as npy, damaged or truncated? ({error})") from error

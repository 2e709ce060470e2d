"""Masks that do not lie on their image as they are, written anew as NIfTI on the image's own grid.

    rotated_matlab    FUMPE's `Mask`, (rows, columns, slices) of MATLAB.  The known rule turns it by -90 degrees in
                      plane (`np.rot90(mask, -1)`), onto slices whose first axis runs along the columns and whose second
                      runs along the rows from the last to the first; so a mask's row and column are those of the DICOM
                      slice, and its k-th slice is the k-th from the feet.
    reversed_slices   Pancreas-CT's labels: where the label's affine places it on the image's grid, as it is; else its
                      array, slices reversed, lies on the DICOM slices sorted from feet to head.
    resample          a mask on another grid, to the image's by the nearest voxel (--resample_masks).

The first two rules are checked by the image: another arrangement of the array is taken, with a warning, where by it the
mask stands out from what is around it, and by the rule it does not.

Values stay as they are.  A target that is there, and is not older than its mask, is not made again.
"""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.processing import resample_from_to
from scipy.io import loadmat
from scipy.ndimage import binary_dilation

from datasets.prepare.case import Case, Mask
from datasets.volume.geometry import VolumeError, VolumeGeometry, corner_offset
from datasets.volume.mask_rules import GRID_TOLERANCE, whole_numbers
from datasets.volume.readers import RawVolume, read_raw
from datasets.whole_files import written_whole

log = logging.getLogger(__name__)
MATLAB_NAME = "Mask"
WINDOW = (-300.0, 600.0)  # HU that are told apart: not lung from air, nor bone from metal
AROUND = 2  # voxels


def convert(mask: Mask, image: Path, case: Case, target: Path) -> Path:
    """Write a mask of one file to `target` (.nii.gz) by the rule `mask.conversion`; gives `target`.

    Raises VolumeError where mask or image cannot be read, or the two have different sizes.
    """
    (source,) = mask.files
    if _is_made(source, target):
        return target
    volume = read_raw(image)
    if mask.conversion == "rotated_matlab":
        labels = _from_matlab(source, volume)
    elif mask.conversion == "reversed_slices":
        labels = _with_reversed_slices(source, volume)
    else:
        raise VolumeError(f"{source}: {mask.conversion!r} of {case.id} is no known conversion of masks")
    return _write(labels, volume.affine, target)


def resample(mask: Path, image: Path, target: Path) -> Path:
    """Write a mask to `target` (.nii.gz) on the grid of its image, each voxel from the nearest of the mask.

    Raises VolumeError for a mask of other than whole numbers, a file without a place in the patient, and a mask that
    has voxels, but none of them on the image.
    """
    if _is_made(mask, target):
        return target
    volume, labels = read_raw(image), read_raw(mask)
    for path, raw in ((image, volume), (mask, labels)):
        if raw.axes_from != "file":
            raise VolumeError(f"{path}: does not say where its voxels lie, so that nothing can be resampled")
    whole = _labels(labels, mask)
    moved = resample_from_to(
        nib.Nifti1Image(whole.astype(np.int16), labels.affine), (volume.array.shape, volume.affine), order=0
    )
    resampled = np.asarray(moved.dataobj)
    if whole.any() and not resampled.any():
        raise VolumeError(f"{mask}: lies nowhere on {image}; is it the mask of another image?")
    return _write(resampled, volume.affine, target)


def _is_made(source: Path, target: Path) -> bool:
    if not source.is_file():
        raise VolumeError(f"{source}: no such file")
    return target.is_file() and target.stat().st_mtime >= source.stat().st_mtime


def _from_matlab(path: Path, volume: RawVolume) -> np.ndarray:
    """Labels (columns, rows, slices) of a MATLAB mask."""
    mask = read_matlab_mask(path)
    columns, rows, slices = volume.array.shape
    fitting = [labels for labels in _arrangements(mask) if labels.shape == (columns, rows, slices)]
    if not fitting:
        raise VolumeError(
            f"{path}: {MATLAB_NAME} has shape {mask.shape}, but its series has {rows} rows, {columns} columns and "
            f"{slices} slices; is it the mask of another series, or a slice lost?"
        )
    return _seen(fitting, volume.array, path)


def read_matlab_mask(path: Path) -> np.ndarray:
    """FUMPE's `Mask` (rows, columns, slices) as stored; VolumeError where the file has none."""
    try:
        mask = loadmat(path)[MATLAB_NAME]
    except KeyError as error:
        raise VolumeError(f"{path}: has no variable {MATLAB_NAME}") from error
    except Exception as error:  # scipy's reader raises whatever a damaged file makes it meet
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VolumeError(f"{path}: cannot be read as a MATLAB file, damaged or truncated? ({reason})") from error
    if mask.ndim != 3:
        raise VolumeError(f"{path}: {MATLAB_NAME} has {mask.ndim} axes; a mask has rows, columns and slices")
    return np.asarray(mask)


def _arrangements(mask: np.ndarray) -> Iterator[np.ndarray]:
    """A MATLAB mask as an array (columns, rows, slices), in the way that is known, then in others."""
    turned = np.rot90(mask, -1)
    for ordered in (turned, turned[:, :, ::-1]):
        yield ordered[:, ::-1]  # rows from the last to the first, as the known rule leaves them
        yield ordered.transpose(1, 0, 2)  # turned onto rows and columns
        yield ordered
        yield ordered[::-1]


def _with_reversed_slices(path: Path, volume: RawVolume) -> np.ndarray:
    """Labels (columns, rows, slices) of a label file, by its affine, or by the rule of its data set."""
    raw = read_raw(path)
    labels = _labels(raw, path)
    geometry = VolumeGeometry.of_source("", volume.array.shape, volume.affine)
    stored = VolumeGeometry.of_source("", labels.shape, raw.affine, geometry.source_orientation)
    placed = []
    if corner_offset(geometry.source_shape, geometry.source_affine, stored.shape, stored.affine) < GRID_TOLERANCE:
        placed = [stored.from_source(labels)]
    elif labels.shape != volume.array.shape:
        raise VolumeError(
            f"{path}: has shape {labels.shape}, but its series has shape {volume.array.shape}; is it the mask of "
            "another series, or a slice lost?"
        )
    array = placed[0] if placed else labels
    for slices in (array[:, :, ::-1], array):
        placed += [slices, slices[:, ::-1], slices[::-1], slices[::-1, ::-1]]
    return _seen(placed, volume.array, path)


def _seen(arrangements: Sequence[np.ndarray], hu: np.ndarray, path: Path) -> np.ndarray:
    """The first arrangement of a mask, by the rule; or another that the image shows, where it does not show this."""
    contrasts = [_contrast(labels > 0, hu) for labels in arrangements]
    best = int(np.argmax(contrasts))
    if contrasts[best] <= 2 * contrasts[0] + 0.3:
        return arrangements[0]
    log.warning(
        "%s: where the rule of its data set places it, the image shows nothing; turned or flipped to where it does "
        "(contrast %.2f instead of %.2f)", path, contrasts[best], contrasts[0]
    )  # fmt: skip
    return arrangements[best]


def _contrast(mask: np.ndarray, hu: np.ndarray) -> float:
    """How far apart the HU of a mask and of what is around it are, in their spreads (and 10 HU for the noise)."""
    where = np.nonzero(mask)
    if not len(where[0]):
        return 0.0
    box = tuple(slice(max(int(axis.min()) - AROUND, 0), int(axis.max()) + 1 + AROUND) for axis in where)
    inside, values = mask[box], np.clip(hu[box], *WINDOW)
    around = binary_dilation(inside, iterations=AROUND) & ~inside
    if not around.any():
        return 0.0
    within, beyond = values[inside], values[around]
    return float(abs(within.mean() - beyond.mean()) / (within.std() + beyond.std() + 10))


def _labels(raw: RawVolume, path: Path) -> np.ndarray:
    labels = whole_numbers(path, raw)
    if labels.min() < 0 or labels.max() >= 2**15:
        raise VolumeError(f"{path}: holds values from {labels.min():g} to {labels.max():g}; labels are 0 to 32767")
    return labels


def _write(labels: np.ndarray, affine: np.ndarray, target: Path) -> Path:
    kind = np.uint8 if labels.max() < 2**8 else np.uint16
    image = nib.Nifti1Image(np.ascontiguousarray(labels.astype(kind)), affine)
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    image.header.set_xyzt_units("mm")
    with written_whole([target]) as (part,):
        part.write_bytes(_gzipped(image.to_bytes()))
    return target


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=6, mtime=0)  # the same bytes at each run

"""The record of how a loaded volume lies in its source file, and the lossless moves between the two grids.

Reorientation permutes and flips axes only (the closest axes of an oblique affine); no voxel is ever resampled, so a
mask can be written back onto the source grid exactly.  Affines map voxel indices to RAS+ millimetres, as in NIfTI.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel import orientations

from datasets.errors import InputError

AS_STORED = "as_stored"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Size3 = tuple[int, int, int]
Affine = tuple[tuple[float, float, float, float], ...]
# Who says where the voxels lie: the file itself; the format (RadChestCT's arrays: axes, no spacing); the option
# --array_axes; the shape, which M3D's preparation gives every volume; nobody, so that RAS is assumed; or nobody, and
# the option has the array taken as it is.
AxesFrom = Literal["file", "format", "option", "m3d_shape", "assumption", "nobody"]


class VolumeError(InputError):
    """A volume or mask file cannot be used."""


@dataclass(frozen=True)
class VolumeGeometry:
    """From the source grid to the loaded array: reorient to `orientation`, then crop to [crop_start, crop_stop).

    shape, affine and spacing (mm) describe the loaded array, after both steps; the crop box counts voxels of the
    oriented array.  `source_orientation` is the file's axis codes, `orientation` what was asked for.  Where
    `axes_from` is not "file" the spacing is not known: 1 mm by convention.  `doubts` is what about the volume is
    unlikely for a CT (`datasets.volume.guards`).
    """

    source: str
    source_shape: Size3
    source_affine: Affine
    source_orientation: str
    orientation: str
    shape: Size3
    affine: Affine
    spacing: tuple[float, float, float]
    crop_start: Size3
    crop_stop: Size3
    axes_from: AxesFrom = "file"
    doubts: tuple[str, ...] = ()

    @classmethod
    def of_source(
        cls,
        source: str,
        shape: Sequence[int],
        affine: np.ndarray,
        orientation: str = "RAS",
        axes_from: AxesFrom = "file",
    ) -> VolumeGeometry:
        """Geometry of a whole volume of `shape` (3 ints) and `affine` (4, 4), brought to `orientation`."""
        moves = reorientation(affine, orientation)
        oriented_shape = _size3(_moved_shape(shape, moves))
        oriented_affine = affine @ orientations.inv_ornt_aff(moves, shape)
        return cls(
            source=source,
            source_shape=_size3(shape),
            source_affine=_as_tuples(affine),
            source_orientation="".join(nib.aff2axcodes(affine)),
            orientation=orientation,
            shape=oriented_shape,
            affine=_as_tuples(oriented_affine),
            spacing=_spacing(oriented_affine),
            crop_start=(0, 0, 0),
            crop_stop=oriented_shape,
            axes_from=axes_from,
        )

    def cropped(self, start: Size3, stop: Size3) -> VolumeGeometry:
        """Geometry after a further crop to [start, stop), counted in voxels of this geometry's array."""
        shift = np.eye(4)
        shift[:3, 3] = start
        return VolumeGeometry(
            source=self.source,
            source_shape=self.source_shape,
            source_affine=self.source_affine,
            source_orientation=self.source_orientation,
            orientation=self.orientation,
            shape=_size3(b - a for a, b in zip(start, stop, strict=True)),
            affine=_as_tuples(np.asarray(self.affine) @ shift),
            spacing=self.spacing,
            crop_start=_size3(c + a for c, a in zip(self.crop_start, start, strict=True)),
            crop_stop=_size3(c + b for c, b in zip(self.crop_start, stop, strict=True)),
            axes_from=self.axes_from,
            doubts=self.doubts,
        )

    def narrowed(self, widest_mm: Sequence[float]) -> VolumeGeometry:
        """Geometry after a crop around the middle: of the patient's width and depth no more than these mm are kept.

        At least one voxel is.  Raises VolumeError where the source does not tell its millimetres.
        """
        if self.axes_from != "file":
            raise VolumeError(
                f"{self.source}: the file has no spacing, and the model sees {widest_mm[0]:g} x {widest_mm[1]:g} mm "
                "of a slice; save the CT as NIfTI with its spacing, or train with --field_of_view none"
            )
        start, stop = [0, 0, 0], list(self.shape)
        worlds = orientations.io_orientation(np.asarray(self.affine))[:, 0]  # 0 runs along the width, 1 the depth
        for axis, world in enumerate(worlds):
            if world < len(widest_mm):
                kept = min(max(round(widest_mm[int(world)] / self.spacing[axis]), 1), self.shape[axis])
                start[axis] = (self.shape[axis] - kept) // 2
                stop[axis] = start[axis] + kept
        return self.cropped(_size3(start), _size3(stop))

    @property
    def crop_box(self) -> tuple[slice, slice, slice]:
        """The box of the oriented array that the loaded array is."""
        first, second, third = (slice(a, b) for a, b in zip(self.crop_start, self.crop_stop, strict=True))
        return first, second, third

    def from_source(self, array: np.ndarray) -> np.ndarray:
        """View of an array on the source grid as the loaded array: reoriented, then cropped."""
        moves = reorientation(np.asarray(self.source_affine), self.orientation)
        return orientations.apply_orientation(array, moves)[self.crop_box]

    def to_source(self, array: np.ndarray) -> np.ndarray:
        """Array of the loaded grid on the source grid, zero outside the crop; VolumeError for another shape."""
        if array.shape != self.shape:
            raise VolumeError(f"{self.source}: a mask for it has shape {self.shape}, got {array.shape}")
        moves = reorientation(np.asarray(self.source_affine), self.orientation)
        whole = np.zeros(_moved_shape(self.source_shape, moves), dtype=array.dtype)
        whole[self.crop_box] = array
        back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), moves)  # "RAS" is the identity here
        return np.ascontiguousarray(orientations.apply_orientation(whole, back))

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, fit for JSON; `from_dict` gives an equal record."""
        return {name: _as_lists(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VolumeGeometry:
        """What `to_dict` gave, also after a way through JSON; an older record lacks `axes_from` and `doubts`."""
        values = {"axes_from": "file", "doubts": (), **values}
        return cls(**{name: _frozen(values[name]) for name in cls.__dataclass_fields__})


def are_axis_codes(text: str) -> bool:
    """Whether these are three letters, one each of L/R, P/A and I/S, as "LPS"."""
    return len(text) == 3 and all(sum(code in pair for code in text) == 1 for pair in ("LR", "PA", "IS"))


def reorientation(affine: np.ndarray, orientation: str) -> np.ndarray:
    """nibabel's orientation array (3, 2) that takes an array with `affine` to `orientation` (codes or "as_stored")."""
    if orientation == AS_STORED:
        return orientations.axcodes2ornt("RAS")
    if not are_axis_codes(orientation):
        raise VolumeError(f"orientation is {orientation!r}; give three axis codes such as RAS or LPS, or {AS_STORED}")
    return orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt(orientation))


def affine_of_axes(codes: str, shape: Sequence[int]) -> np.ndarray:
    """Affine (4, 4) of an array of `shape` whose axes run along `codes`, as "LPS": voxels of 1 mm, and the voxel
    nearest to the left, back and bottom at the origin.  "as_stored" names no axes: the identity, as for "RAS"."""
    if codes == AS_STORED:
        return np.eye(4)
    if not are_axis_codes(codes):
        raise VolumeError(f"array axes are {codes!r}; give three axis codes such as RAS or LPS, or {AS_STORED}")
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    for axis, (world, direction) in enumerate(orientations.axcodes2ornt(codes)):
        affine[int(world), axis] = direction
        affine[int(world), 3] = shape[axis] - 1 if direction < 0 else 0
    return affine


def foreground_box(array: np.ndarray) -> tuple[Size3, Size3]:
    """Start and stop of the bounding box of voxels > 0 in (H, W, D), the semantics of MONAI's CropForeground.

    Without any such voxel the box is the whole array, since there is nothing to tell from background.
    """
    along = int(np.argmax(np.abs(array.strides)))  # one way through memory for the two other axes
    planes = np.moveaxis(array, along, 0)
    seen = planes.max(axis=0) > 0
    if not seen.any():
        return (0, 0, 0), _size3(array.shape)
    places = range(len(planes))
    first = next(place for place in places if planes[place].max() > 0)
    last = next(place for place in reversed(places) if planes[place].max() > 0)
    ends = [(first, last), *(tuple(np.flatnonzero(seen.any(axis=axis))[[0, -1]]) for axis in (1, 0))]
    ends.insert(along, ends.pop(0))
    return _size3(start for start, _ in ends), _size3(end + 1 for _, end in ends)


def corner_offset(
    shape_a: Sequence[int], affine_a: np.ndarray | Affine, shape_b: Sequence[int], affine_b: np.ndarray | Affine
) -> float:
    """How far two grids are apart: the most that a corner of `b` lies off the same corner of `a` along an axis, in
    voxels of `a`; infinity where the shapes differ.  Below 0.5 every voxel of one is nearest to the same of the other.
    """
    if tuple(shape_a) != tuple(shape_b):
        return float("inf")
    extent = np.asarray(shape_a) - 1
    corners = np.array(list(product((0, extent[0]), (0, extent[1]), (0, extent[2]), (1,))), dtype=float).T
    moved = np.linalg.solve(np.asarray(affine_a), np.asarray(affine_b) @ corners)
    return float(np.abs(moved - corners).max())


def _size3(sizes: Iterable[int]) -> Size3:
    first, second, third = (int(n) for n in sizes)
    return first, second, third


def _moved_shape(shape: Sequence[int], moves: np.ndarray) -> np.ndarray:
    moved = np.empty(3, dtype=int)
    moved[moves[:, 0].astype(int)] = shape
    return moved


def _spacing(affine: np.ndarray) -> tuple[float, float, float]:
    first, second, third = (float(s) for s in nib.affines.voxel_sizes(affine))
    return first, second, third


def _as_tuples(affine: np.ndarray) -> Affine:
    return tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)


def _as_lists(value: Any) -> Any:
    return [_as_lists(v) for v in value] if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value

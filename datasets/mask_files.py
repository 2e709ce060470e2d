"""Where the masks of the published layouts lie: one file a label in a folder, holding the label's box alone.

A box is [y1, x1, z1, y2, x2, z2]: the first voxel and one past the last along the stored array's three axes, in their
order (half-open, so y2 - y1 voxels along the first axis).  SAT-DS, which writes these files, names them so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

BOX_FIELD = "renorm_y1x1z1_y2x2z2"
MASK_EXTENSIONS = (".npy", ".npz", ".nii.gz", ".nii")
Box = tuple[int, int, int, int, int, int]
MaskValue = int | list[int] | None  # the value or values of a label in its file; None: all voxels that are not 0


def mask_file(folder: str, label: str, base: Path | None = None) -> str:
    """The mask of a label in a folder, whichever of its names exists; the first name where none does.

    base: what `folder` is relative to, where that is not the working directory; the name stays relative.
    """
    names = [f"{folder}/{label}{extension}" for extension in MASK_EXTENSIONS]
    return next((name for name in names if (base / name if base else Path(name)).exists()), names[0])


def is_box(value: Any) -> bool:
    """Whether a value is six whole numbers, all stops above their starts, no start below 0."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 6
        and all(type(number) is int for number in value)
        and all(0 <= start < stop for start, stop in zip(value[:3], value[3:], strict=True))
    )


def is_absent(value: Any) -> bool:
    """Whether a value stands for a label that is not in the volume, so that it has no box: false, null or []."""
    return value is None or value is False or value == []


def boxes_by_file(value: Any) -> Any:
    """A box, or a list of boxes, for each mask, as a manifest has them: as lists, with None where a label is absent."""
    if not isinstance(value, list):
        return value
    masks = [[entry] if is_box(entry) or is_absent(entry) else entry for entry in value]
    return [[None if is_absent(box) else box for box in entry] if isinstance(entry, list) else entry for entry in masks]


def check_boxes(boxes: Sequence[Sequence[Box | None]], files: Sequence[int]) -> None:
    """ValueError where there are not `files[k]` boxes for the k-th mask, or one is no box."""
    if [len(entry) for entry in boxes] != list(files):
        raise ValueError(f"mask_boxes: {[len(entry) for entry in boxes]} boxes for {list(files)} files of mask_path")
    if bad := [box for entry in boxes for box in entry if box is not None and not is_box(box)]:
        raise ValueError(f"mask_boxes: {list(bad[0])} is no box; give [y1, x1, z1, y2, x2, z2] with y1 < y2 and so on")


def all_values(values: Sequence[MaskValue]) -> MaskValue:
    """One value or list of values as it is; of several the values of all, None where one of them is None."""
    if len(values) == 1:
        return values[0]
    if None in values:
        return None
    return [
        single for value in values for single in (value if isinstance(value, list) else [value]) if single is not None
    ]


def values_by_file(structures: Sequence[str], files: int, values: Mapping[str, Any]) -> list[MaskValue]:
    """What counts in each of the `files` of a mask that is the union of `structures`.

    As many files as structures are one a structure; one file holds them all; several files of one structure are read
    alike.  ValueError where values are given and it is not told which file they belong to.
    """
    given: list[MaskValue] = [values.get(name) for name in structures]
    if files == len(structures):
        return given
    if files == 1:
        return [all_values(given)]
    if len(structures) == 1 or not any(name in values for name in structures):
        return [given[0] if len(structures) == 1 else None] * files
    raise ValueError(
        f"mask_values: {files} files for the {len(structures)} structures {', '.join(structures)}; give a file "
        "for each of them in the same order, or one file"
    )


def refuse_values_of_others(values: Iterable[str], labels: Sequence[str]) -> None:
    """ValueError where a value is given for a label that is not there: a misspelt one would be without its value."""
    if unknown := [name for name in values if name not in labels]:
        near = get_close_matches(unknown[0], labels, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"labels are {', '.join(labels)}"
        raise ValueError(f"mask_values: {unknown[0]!r} is not among the labels; {hint}")


class MaskSource(NamedTuple):
    """Where one true mask is: the union of `paths`.

    values: the label value or values of a multi-label file; None: all voxels that are not 0.
    by_file: the same for each path, where the paths differ in it; None where `values` is for all of them.
    boxes: for each path the box of the stored array that the file holds, None where its label is absent (the file then
    need not exist); `boxes` itself is None where the files are whole volumes.
    """

    paths: list[str]
    values: MaskValue = None
    boxes: list[Box | None] | None = None
    by_file: list[MaskValue] | None = None

    @classmethod
    def of_files(cls, paths: list[str], values: list[MaskValue], boxes: list[Box | None] | None = None) -> MaskSource:
        """With the values of each path; equal ones are said once."""
        if all(value == values[0] for value in values):
            return cls(paths, values[0], boxes)
        return cls(paths, None, boxes, values)

    @property
    def file_values(self) -> list[MaskValue]:
        """The value or values of each path."""
        return self.by_file if self.by_file is not None else [self.values] * len(self.paths)

    @property
    def needed(self) -> list[str]:
        """The files that have to exist."""
        if self.boxes is None:
            return self.paths
        return [path for path, box in zip(self.paths, self.boxes, strict=True) if box is not None]

"""The voxels of a few masks of a data set: whole numbers, known values, and not all of them empty.

Headers do not tell whether a mask of 0 and 255 is asked for value 1.  So the masks of some cases, evenly spread, are
read; where all of these are empty, those of more, until one is not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.prepare.case import Case
from datasets.prepare.mask_conversion import read_matlab_mask
from datasets.prepare.processes import in_processes
from datasets.prepare.progress import shown
from datasets.sampling import portions
from datasets.volume.geometry import VolumeError
from datasets.volume.mask_rules import whole_numbers
from datasets.volume.readers import read_raw

FILES = 64  # masks that are read of a data set
FEWEST = 2  # cases, where one alone has that many files
_SHOWN = 8  # values that a line names


@dataclass
class MaskVoxels:
    """faults: by case, a line each.  problem: what is wrong with all masks, or empty.  notes: what is odd."""

    faults: dict[str, list[str]] = field(default_factory=dict)
    problem: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Values:
    """Of a case's mask files: their values but 0, and what is wrong with them."""

    by_file: Mapping[Path, frozenset[int]]
    faults: tuple[str, ...]


def look_at_masks(cases: Sequence[Case], workers: int = 1, title: str = "voxels of some masks") -> MaskVoxels:
    """Read the masks of some cases.

    A file that is no mask is a fault of its case, and so is a value that is no label, unless most files have it.
    """
    found = MaskVoxels()
    with_masks = [case for case in cases if case.masks and case.record is None]
    seen: list[tuple[Case, _Values]] = []
    for portion in _portions(with_masks):
        values = shown(zip(portion, in_processes(_values_of, portion, workers), strict=True), len(portion), title)
        for case, read in values:
            if read.faults:
                found.faults[case.id] = list(read.faults)
            else:
                seen.append((case, read))
        if not seen or any(_present(case, read) for case, read in seen):
            break
    if seen:
        _judge_empty(seen, found)
    _judge_values(seen, found)
    return found


def mask_values(path: Path) -> frozenset[int]:
    """The values but 0 of a mask file (NIfTI, NRRD, MetaImage, MATLAB); raises VolumeError where it is no mask."""
    if path.suffix == ".mat":
        labels = read_matlab_mask(path)
    else:
        labels = whole_numbers(path, read_raw(path))
    low, high = labels.min(), labels.max()
    if low < 0 or high >= 2**16:
        raise VolumeError(f"{path}: holds values from {low:g} to {high:g}; a mask needs labels from 0 to {2**16 - 1}")
    counts = np.bincount(labels.astype(np.uint16).ravel())  # np.unique would sort
    return frozenset(np.flatnonzero(counts).tolist()) - {0}


def _portions(cases: Sequence[Case]) -> Iterator[list[Case]]:
    """Some cases, evenly spread; then the others in doubling numbers."""
    if not cases:
        return
    files = max(1, len({path for mask in cases[0].masks.values() for path in mask.files}))
    size = max(FEWEST, FILES // files)
    for places in portions(len(cases), size):
        yield [cases[place] for place in places]


def _values_of(case: Case) -> _Values:
    by_file: dict[Path, frozenset[int]] = {}
    faults: list[str] = []
    for path in dict.fromkeys(path for mask in case.masks.values() for path in mask.files):
        try:
            by_file[path] = mask_values(path)
        except InputError as error:
            faults.append(str(error))
    return _Values(by_file, tuple(faults))


def _present(case: Case, read: _Values) -> set[str]:
    """The labels that have a voxel."""
    return {
        label
        for label, mask in case.masks.items()
        for path in mask.files
        if (read.by_file[path] if mask.values is None else read.by_file[path] & set(mask.values))
    }


def _judge_empty(seen: Sequence[tuple[Case, _Values]], found: MaskVoxels) -> None:
    """A problem where nothing is labelled anywhere; else notes on cases and labels of which that is so."""
    present = {case.id: _present(case, read) for case, read in seen}
    if not any(present.values()):
        found.problem = _all_empty(seen)
        return
    empty = [read for case, read in seen if not present[case.id]]
    if empty:
        path = next(iter(empty[0].by_file))
        found.notes.append(f"nothing is labelled in {len(empty)} of {len(seen)} cases that were looked at, as {path}")
    absent = dict.fromkeys(label for case, _ in seen for label in case.masks)
    for labels in present.values():
        absent = {label: None for label in absent if label not in labels}
    if absent:
        found.notes.append(f"no mask of the {len(seen)} cases that were looked at has a voxel of {_named(absent)}")


def _all_empty(seen: Sequence[tuple[Case, _Values]]) -> str:
    path = next(path for _, read in seen for path in read.by_file)
    asked = {value for case, _ in seen for mask in case.masks.values() for value in mask.values or ()}
    held = {value for _, read in seen for values in read.by_file.values() for value in values}
    line = f"{path}: in this mask and those of all other cases nothing is labelled"
    wanted, there = _named(sorted(asked)), _named(sorted(held))
    return line + (f": the labels are {wanted}, but the files hold {there}" if held else "")


def _judge_values(seen: Sequence[tuple[Case, _Values]], found: MaskVoxels) -> None:
    """Values that are no label of their file: of most files a note, else a fault of the case."""
    unknown: dict[int, list[tuple[Case, Path, set[int]]]] = defaultdict(list)
    files: Counter[bool] = Counter()
    for case, read in seen:
        for path, held in read.by_file.items():
            labels = _labels_of(case, path)
            files[labels is not None] += 1
            for value in held - labels if labels is not None else ():
                unknown[value].append((case, path, labels or set()))
    for value, places in sorted(unknown.items()):
        case, path, labels = places[0]
        if found.problem:
            continue
        if len(places) > 1 and 2 * len(places) > files[True]:
            found.notes.append(f"value {value} of {len(places)} masks, as {path}, is no label, and is not used")
            continue
        for case, path, labels in places:
            line = (
                f"{path}: holds {value}, which is no label (its labels are {_named(sorted(labels))}); get the mask "
                "again, or leave the case out by --skip_bad"
            )
            found.faults.setdefault(case.id, []).append(line)


def _labels_of(case: Case, path: Path) -> set[int] | None:
    """The values that a file may hold; None where it may hold any."""
    labels: set[int] = set()
    for mask in case.masks.values():
        if path in mask.files:
            if mask.values is None or mask.others is None:
                return None
            labels |= {*mask.values, *mask.others}
    return labels


def _named(values: Iterable[object]) -> str:
    shown_values = [str(value) for value in values]
    return ", ".join(shown_values[:_SHOWN]) + (f", ... {shown_values[-1]}" if len(shown_values) > _SHOWN else "")

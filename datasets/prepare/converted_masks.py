"""Masks that have to be written anew: turned by a rule of their data set, or resampled to their image."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Case, Mask
from datasets.prepare.mask_conversion import convert, resample
from datasets.prepare.processes import in_processes
from datasets.prepare.progress import shown


@dataclass(frozen=True)
class _Job:
    case: Case
    mask: Mask  # with one file
    target: Path

    def run(self) -> str:
        """Empty, or what is wrong; raises WriteError of a full disk, which is no fault of the case."""
        try:
            if self.mask.conversion:
                convert(self.mask, self.case.image, self.case, self.target)
            else:
                resample(self.mask.files[0], self.case.image, self.target)
        except InputError as error:
            return str(error)
        return ""


def with_converted_masks(
    cases: Sequence[Case], elsewhere: Mapping[str, Collection[str]], folder: Path, workers: int = 1
) -> tuple[list[Case], dict[str, list[str]]]:
    """The cases with the masks that were written to `folder` in place of the data set's; and faults, by case.

    elsewhere: by case the mask files that are to be resampled.  A mask that is there already is not made again.
    """
    jobs = [job for case in cases for job in _jobs(case, elsewhere.get(case.id, ()), folder)]
    faults: dict[str, list[str]] = {}
    made: dict[tuple[str, Path], Path] = {}
    for job, fault in shown(
        zip(jobs, in_processes(_Job.run, jobs, workers), strict=True), len(jobs), "masks to convert"
    ):
        if fault:
            faults.setdefault(job.case.id, []).append(fault)
        made[job.case.id, job.mask.files[0]] = job.target
    return [_with(case, made) for case in cases], faults


def _jobs(case: Case, elsewhere: Collection[str], folder: Path) -> Iterator[_Job]:
    """One for each file, whose values stay as they are."""
    place = folder / re.sub(r"[^\w.-]", "_", case.id)
    seen: dict[Path, Path] = {}
    for mask in case.masks.values():
        for path in mask.files:
            if path in seen or not (mask.conversion or str(path) in elsewhere):
                continue
            stem = re.sub(r"(\.nii\.gz|\.[^.]+)$", "", path.name)
            names = {target.name for target in seen.values()}
            name = next(n for n in _names(stem) if n not in names)
            seen[path] = place / name
            yield _Job(case, replace(mask, files=(path,)), place / name)


def _names(stem: str) -> Iterator[str]:
    yield f"{stem}.nii.gz"
    number = 2
    while True:
        yield f"{stem}_{number}.nii.gz"
        number += 1


def _with(case: Case, made: Mapping[tuple[str, Path], Path]) -> Case:
    masks = {
        label: replace(
            mask,
            files=tuple(made.get((case.id, path), path) for path in mask.files),
            conversion="" if all((case.id, path) in made for path in mask.files) else mask.conversion,
        )
        for label, mask in case.masks.items()
    }
    return replace(case, masks=masks)

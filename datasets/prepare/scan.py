"""The files of all cases looked at by their headers, many at once: are they there, whole, and on one grid?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

from datasets.cores import usable_cores
from datasets.errors import InputError
from datasets.mask_files import mask_file
from datasets.prepare.case import Case
from datasets.prepare.headers import FileHeader, corner_distance, read_header
from datasets.prepare.processes import in_processes
from datasets.prepare.progress import shown
from datasets.volume.geometry import VolumeError
from datasets.volume.mask_rules import GRID_TOLERANCE

EXACT = 0.05  # below it two grids are one
_CHUNK = 32


@dataclass(frozen=True)
class CaseFiles:
    """What the headers of one case's files say.

    faults: one line each.  off: masks that lie less than `GRID_TOLERANCE` off their image, with the distance; they
    are used as they are.  elsewhere: masks on a grid of their own; they have to be resampled.
    notes: what may be right, but a person should know.  files: how many were looked at.
    """

    case: str
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    off: tuple[tuple[str, float], ...] = ()
    elsewhere: tuple[str, ...] = ()
    files: int = 0


@dataclass
class Scan:
    """What was found in the files of all cases, by case where something was."""

    faults: dict[str, tuple[str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    off: dict[str, float] = field(default_factory=dict)  # by mask file
    elsewhere: dict[str, tuple[str, ...]] = field(default_factory=dict)
    files: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Files a second."""
        return self.files / max(self.seconds, 1e-6)


def scan(cases: Sequence[Case], workers: int = 1, resample_masks: bool = False, title: str = "headers") -> Scan:
    """Look at the image and the masks of each case, with a bar and the time that is left.

    resample_masks: a mask on another grid than its image is no fault; it comes back in `elsewhere`.
    """
    start = perf_counter()
    found = Scan()
    for files in shown(in_processes(scan_case, cases, workers, _CHUNK), len(cases), title):
        faults = files.faults
        if not resample_masks:
            faults += tuple(f"{line}; resample it by --resample_masks, or leave it out by --skip_bad"
                            for line in files.elsewhere)  # fmt: skip
        elif files.elsewhere:
            found.elsewhere[files.case] = tuple(line.partition(": not on the grid")[0] for line in files.elsewhere)
        if faults:
            found.faults[files.case] = faults
        found.off.update(files.off)
        found.notes += files.notes
        found.files += files.files
    found.seconds = perf_counter() - start
    return found


def scan_case(case: Case) -> CaseFiles:
    """The headers of one case's files."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        files = _record_files(case) if case.record is not None else _case_files(case)
    notes = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    return replace(files, notes=tuple(dict.fromkeys(notes)))


def _case_files(case: Case) -> CaseFiles:
    faults: list[str] = []
    off: list[tuple[str, float]] = []
    elsewhere: list[str] = []
    image = _header(case.image, faults)
    conversions: dict[Path, str] = {}
    for mask in case.masks.values():
        conversions.update(dict.fromkeys(mask.files, mask.conversion))
    for path, conversion in conversions.items():
        mask_header = _header(path, faults)
        if image is None or mask_header is None or conversion:
            continue
        try:
            apart = corner_distance(image, mask_header)
        except VolumeError as error:
            faults.append(str(error))
            continue
        if apart is None or apart >= GRID_TOLERANCE:
            elsewhere.append(f"{path}: {_difference(case.image, image, mask_header, apart)}")
        elif apart > EXACT:
            off.append((str(path), round(apart, 3)))
    return CaseFiles(case.id, tuple(faults), (), tuple(off), tuple(elsewhere), 1 + len(conversions))


def _record_files(case: Case) -> CaseFiles:
    """Of a record that is ready: its files exist and are not empty; its masks are in boxes, without a grid."""
    record = dict(case.record or {})
    paths = [case.image]
    if folder := record.get("renorm_segmentation_dir"):
        labels, boxes = record.get("labels") or [], record.get("renorm_y1x1z1_y2x2z2") or []
        boxes = boxes if len(boxes) == len(labels) else [True] * len(labels)
        paths += [Path(mask_file(folder, label)) for label, box in zip(labels, boxes, strict=True) if box]
    else:
        masks = record.get("mask_path") or []
        paths += [Path(name) for name in ([masks] if isinstance(masks, str) else masks) if isinstance(name, str)]
    faults: list[str] = []
    for path in paths:
        header = _header(path, faults)
        wanted = record.get("chwd") if path == case.image else None
        if header is not None and header.shape is not None and wanted and tuple(wanted[-3:]) != header.shape:
            faults.append(f"{path}: has shape {header.shape}, but its chwd is {list(wanted)}; prepare the line again")
    return CaseFiles(case.id, tuple(faults), files=len(paths))


def _header(path: Path, faults: list[str]) -> FileHeader | None:
    try:
        return read_header(path)
    except InputError as error:
        faults.append(str(error))
        return None


def _difference(image_path: Path, image: FileHeader, mask: FileHeader, apart: float | None) -> str:
    if apart is None:
        shapes = [" x ".join(map(str, header.shape or ())) for header in (mask, image)]
        return f"not on the grid of {image_path}: {shapes[0]} voxels instead of {shapes[1]}"
    off = f"{apart:.2f} voxels off at the furthest corner, less than {GRID_TOLERANCE} is accepted"
    return f"not on the grid of {image_path}: {off}"


def default_workers() -> int:
    """As many as this process may use cores, at most 16: more only wait for the disk."""
    return min(usable_cores(), 16)

"""The voxels of masks: which are empty, and which values are asked for that no file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.manifest_check.needs import MaskNeed, RecordNeeds
from datasets.manifest_check.report import LabelVoxels, ManifestReport
from datasets.prepare.progress import shown
from datasets.sampling import portions
from datasets.volume.mask_rules import label_values

MOST_VALUES = 6  # of a file that a note names


def look_at_masks(needs: Mapping[int, RecordNeeds], report: ManifestReport, workers: int, count: int) -> None:
    """Read the masks of `count` records, evenly spread; of more, where all of these are empty, until one is not.

    A file that cannot be read is a fault of its row; that every mask is empty is one of the manifest.
    """
    with_masks = [(row, need) for row, need in needs.items() if need.masks]
    if not with_masks:
        return
    title = f"{Path(report.where).name}: masks"
    for chosen in portions(len(with_masks), count):
        part = [with_masks[place] for place in chosen]
        with ThreadPoolExecutor(max(workers, 1)) as pool:
            found = shown(pool.map(lambda item: _values_of(item[1]), part), len(part), title)
            for (row, need), (values, faults) in zip(part, found, strict=True):
                report.faults += [(row, fault) for fault in faults]
                if not faults:
                    _count(need.masks, values, report.voxels)
        if any(label.empty < label.looked_at for label in report.voxels.values()):
            break
    report.records -= len({row for row, _ in report.faults} & set(needs))
    _judge(report, len(with_masks))


def _values_of(need: RecordNeeds) -> tuple[dict[str, set[int]], list[str]]:
    """The values in each mask file of a record, and what is wrong with the files."""
    values: dict[str, set[int]] = {}
    faults: list[str] = []
    for path in dict.fromkeys(mask.path for mask in need.masks):
        try:
            values[path] = label_values(path)
        except InputError as error:
            faults.append(f"field mask_path: {error}")
    return values, faults


def _count(masks: Sequence[MaskNeed], values: Mapping[str, set[int]], voxels: dict[str, LabelVoxels]) -> None:
    by_label: dict[str, list[MaskNeed]] = {}
    for mask in masks:
        by_label.setdefault(mask.label, []).append(mask)
    for label, files in by_label.items():
        seen = voxels.setdefault(label, LabelVoxels())
        found = False
        for mask in files:
            held = values[mask.path] - {0}
            asked = set(np.atleast_1d(mask.values).tolist()) if mask.values is not None else set()
            found = found or bool(held & asked if asked else held)
            seen.asked |= asked
            seen.held.update(held)
        seen.looked_at += 1
        seen.empty += not found


def _judge(report: ManifestReport, records: int) -> None:
    """Notes on labels that were never found and values that no file holds; a fault where every mask is empty."""
    looked_at = sum(label.looked_at for label in report.voxels.values())
    if looked_at and all(label.empty == label.looked_at for label in report.voxels.values()):
        label, seen = next(iter(report.voxels.items()))
        report.faults.append((-1, f"all {looked_at} masks of its {records} records are empty; {_told(label, seen)}"))
        return
    for label, seen in report.voxels.items():
        unused = sorted(seen.asked - set(seen.held))
        if seen.empty == seen.looked_at or unused:
            report.notes.append(_told(label, seen))


def _told(label: str, seen: LabelVoxels) -> str:
    held = sorted(seen.held)
    shown_values = ", ".join(map(str, held[:MOST_VALUES])) + (", ..." if len(held) > MOST_VALUES else "")
    holds = f"their files hold {shown_values or 'nothing but 0'}"
    if not seen.asked:
        return f"{label!r}: {seen.empty} of {seen.looked_at} masks that were looked at are empty"
    unused = ", ".join(map(str, sorted(seen.asked - set(seen.held))))
    text = f"{label!r}: {seen.empty} of {seen.looked_at} masks that were looked at are empty; "
    text += f"value {unused} of mask_values occurs in none, " if unused else ""
    text += holds
    return text + (" (write 255, or leave mask_values out of a list of files)" if held == [255] else "")

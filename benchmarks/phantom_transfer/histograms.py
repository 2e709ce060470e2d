"""HU of organs, phantoms beside real CT.

    python -m benchmarks.phantom_transfer.histograms --phantoms runs/people --open_kbp OPEN_KBP_FOLDER

OPEN_KBP_FOLDER holds OpenKBP as NIfTI: patients.json, train/ and validation/.

For each organ the 5th, 50th and 95th percentile of its voxels' HU, mean over volumes, with the standard deviation of
the median from volume to volume; and how much of the two histograms of all voxels lies over each other (the sum of the
smaller of the two shares, in bins of 10 HU).  A last row compares the voxels of whole volumes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.phantom_transfer.real_truth import check_folders, open_kbp_cases, real_ct_cases
from datasets.errors import InputError, OneLineError
from datasets.phantom.people.structures import read_structures

EDGES = np.arange(-1030, 3080, 10)
WHOLE = "whole volume, without air"
FEWEST_VOXELS = 30
AIR_HU = -900

Volume = tuple[np.ndarray, dict[str, np.ndarray]]


@dataclass
class Tally:
    """What is known of an organ. percentiles: 5, 50, 95 of each volume. shares: histogram over EDGES, summed."""

    percentiles: list[np.ndarray] = field(default_factory=list)
    shares: np.ndarray = field(default_factory=lambda: np.zeros(len(EDGES) - 1))

    def add(self, hu: np.ndarray) -> None:
        """Count the voxels of one volume, each volume alike."""
        self.percentiles.append(np.percentile(hu, (5, 50, 95)))
        self.shares += np.histogram(np.clip(hu, EDGES[0], EDGES[-1] - 1), EDGES)[0] / len(hu)

    def overlap(self, other: Tally) -> float:
        """Common area of two histograms, 0 to 1."""
        return float(np.minimum(self.shares / self.shares.sum(), other.shares / other.shares.sum()).sum())


def tallies(volumes: Iterable[Volume]) -> dict[str, Tally]:
    """By organ, of organs with at least FEWEST_VOXELS in a volume, and of the whole volumes."""
    found: dict[str, Tally] = {}
    for hu, masks in volumes:
        for name, mask in {**masks, WHOLE: hu > AIR_HU}.items():
            if np.count_nonzero(mask) >= FEWEST_VOXELS:
                found.setdefault(name, Tally()).add(hu[mask])
    return found


def phantom_volumes(folder: Path) -> Iterator[Volume]:
    """The person phantoms of a folder; raises InputError for a folder of another kind."""
    values = read_structures(folder)
    if values is None or not (folder / "cases.json").is_file():
        raise InputError(f"{folder}: no person phantoms; python -m datasets.phantom --style people writes them")
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        labels = np.asarray(nib.Nifti1Image.from_filename(folder / case["structures_path"]).dataobj)
        hu = np.asarray(nib.Nifti1Image.from_filename(folder / case["image_path"]).dataobj)
        yield hu, {name: np.isin(labels, value) for name, value in values.items()}


def real_volumes(real_ct: Path | None, open_kbp: Path | None, patients: int) -> Iterator[Volume]:
    """The slab of TotalSegmentator's example and OpenKBP's first validation patients, of the folders that are given."""
    cases = [] if real_ct is None else [next(real_ct_cases(real_ct))]
    if open_kbp is not None:
        cases += list(open_kbp_cases(open_kbp, patients))
    for case in cases:
        yield np.asarray(nib.Nifti1Image.from_filename(case.image).dataobj).astype(np.int16), dict(case.masks)


def table(phantoms: dict[str, Tally], real: dict[str, Tally]) -> str:
    """Markdown, the organs that both know."""
    lines = [
        "| Organ | Real: 5, 50, 95 % | Phantom: 5, 50, 95 % | Volumes | Overlap |",
        "| :--- | ---: | ---: | ---: | ---: |",
    ]
    for name in sorted(real, key=lambda name: (name == WHOLE, name)):
        if name not in phantoms:
            continue
        cells = []
        for tally in (real[name], phantoms[name]):
            low, middle, high = np.mean(tally.percentiles, axis=0)
            spread = np.std([row[1] for row in tally.percentiles])
            cells.append(f"{low:.0f}, {middle:.0f} ± {spread:.0f}, {high:.0f}")
        counts = f"{len(real[name].percentiles)} / {len(phantoms[name].percentiles)}"
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {counts} | {real[name].overlap(phantoms[name]):.2f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.phantom_transfer.histograms")
    parser.add_argument("--phantoms", type=Path, required=True, help="a folder of person phantoms")
    parser.add_argument("--real_ct", type=Path, help="folder of TotalSegmentator's example files")
    parser.add_argument("--open_kbp", type=Path, help="folder of OpenKBP; one of the two, or both")
    parser.add_argument("--patients", type=int, default=33, help="validation patients of OpenKBP")
    values = parser.parse_args(arguments)
    try:
        check_folders(values.real_ct, values.open_kbp)
        real = tallies(real_volumes(values.real_ct, values.open_kbp, values.patients))
        print(table(tallies(phantom_volumes(values.phantoms)), real))
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

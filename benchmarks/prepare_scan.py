"""How many files a second `datasets.prepare check` looks at.

    python -m benchmarks.prepare_scan --files 2000 --workers 2
    python -m benchmarks.prepare_scan --files 50000 --workers 8

Writes a tree of small NIfTI volumes, each with a mask, to a temporary folder and scans it with one worker and with
several.  Figures of a local disk: a network file system takes longer, and gains more from workers.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.prepare.case import Case, Mask
from datasets.prepare.scan import default_workers, scan


def write_tree(folder: Path, files: int) -> list[Case]:
    """`files` files of 8 x 8 x 8 voxels, half of them masks, 100 volumes a folder; the cases that they make."""
    volume, mask = folder / "volume.nii.gz", folder / "mask.nii.gz"
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(-1000, 1000, (8, 8, 8)).astype(np.int16), np.eye(4)), volume)
    nib.save(nib.Nifti1Image(rng.integers(0, 2, (8, 8, 8)).astype(np.uint8), np.eye(4)), mask)
    cases = []
    for number in range(files // 2):
        place = folder / f"{number // 100:04d}"
        place.mkdir(exist_ok=True)
        image, label = place / f"{number:06d}.nii.gz", place / f"{number:06d}_mask.nii.gz"
        shutil.copyfile(volume, image)
        shutil.copyfile(mask, label)
        cases.append(Case(f"{number:06d}", f"{number:06d}", image, masks={"liver": Mask((label,), (1,))}))
    return cases


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.prepare_scan", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=default_workers())
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        cases = write_tree(Path(folder), options.files)
        for workers in sorted({1, options.workers}):
            found = scan(cases, workers)
            print(f"{workers} workers: {found.files} files in {found.seconds:.1f} s, {found.rate:.0f} files a second")


if __name__ == "__main__":
    main()

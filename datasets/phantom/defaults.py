"""The phantoms that a tiny run makes for itself at its first start, where no data are named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets.cores import usable_cores
from datasets.phantom.dataset import DatasetOptions, write_dataset

DEFAULT_PHANTOMS = "runs/phantoms"  # the folder they go to
DEFAULT_COUNT = 48


def ensure_phantoms(folder: str | Path, manifests: Sequence[str]) -> None:
    """Write phantoms to ``folder`` if one of ``manifests`` is to be found there and is not."""
    folder = Path(folder)
    wanted = [Path(name) for name in manifests if Path(name).parent == folder]
    if wanted and not all(path.is_file() for path in wanted):
        print(f"no manifest in {folder} yet: writing {DEFAULT_COUNT} phantom CTs there", flush=True)
        write_dataset(DatasetOptions(folder, DEFAULT_COUNT), workers=usable_cores())

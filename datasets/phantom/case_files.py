"""A folder of phantoms of any style: its cases, built by processes, their splits, and the manifests of all."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from datasets.errors import InputError
from datasets.whole_files import write_whole_text

SPLITS = ("train", "val", "test")
GOLDEN_RATIO = 0.6180339887498949


def split_of(index: int, split: Sequence[float]) -> str:
    """The split of a case, from its index alone: the shares are kept closely in every run of consecutive cases.

    The fractional parts of index * golden ratio fill [0, 1) evenly (a low-discrepancy sequence).
    """
    position = (index * GOLDEN_RATIO) % 1.0
    return SPLITS[0] if position < split[0] else SPLITS[1] if position < split[0] + split[1] else SPLITS[2]


def write_json(path: Path, content: object) -> None:
    """Write JSON as people read it, with an end of line, whole or not at all."""
    write_whole_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_cases(
    out: Path, count: int, write_case: Callable[[int], dict], pretraining: Sequence[str], workers: int
) -> list[dict]:
    """Write the cases 0 to count - 1 and their manifests; gives the truth of every case, as in cases.json.

    write_case: writes a case's volume and masks, gives "truth", "instruction" and "pretraining" of it; picklable.
    pretraining: kinds of pretraining records that a case has.
    Raises InputError for less than one worker.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: give the number of processes, at least 1")
    for folder in ("volumes", "masks", "pretraining"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    bar = partial(tqdm, total=count, desc="phantoms", unit="case", disable=None)
    if workers > 1:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            cases = list(bar(pool.imap(write_case, range(count), chunksize=2)))
    else:
        cases = list(bar(map(write_case, range(count))))
    for split in SPLITS:
        chosen = [case for case in cases if case["truth"]["split"] == split]
        write_json(out / f"{split}.json", [record for case in chosen for record in case["instruction"]])
        for kind in pretraining:
            records = [record for case in chosen for record in case["pretraining"][kind]]
            write_json(out / "pretraining" / f"{kind}_{split}.json", records)
    truths = [case["truth"] for case in cases]
    write_json(out / "cases.json", truths)
    return truths

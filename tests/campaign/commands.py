"""Damaged files through whole commands: exit status 0 and the undamaged result, or 2 and one line."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.campaign.forked import Ended, prepare_to_fork
from tests.campaign.jobs import ASK, CONVERT, EVALUATE, LOAD, PREPARE, Job, make_place
from tests.campaign.mutations import mutated
from tests.campaign.verdicts import (
    CRASH,
    DIFFERENT,
    FOLLOWED,
    HANG,
    NOISE,
    REFUSED,
    SAME,
    TRACEBACK,
    UNCLEAR,
    Verdict,
)

JOBS = (ASK, EVALUATE, LOAD, PREPARE, CONVERT)


def damaged_runs(count: int, seed: int) -> Iterator[Verdict]:
    """`count` runs with one damaged file each, spread over the commands."""
    prepare_to_fork()
    with tempfile.TemporaryDirectory() as folder:
        place = make_place(Path(folder) / "place")
        for number, job in enumerate(JOBS):
            share = count // len(JOBS) + (number < count % len(JOBS))
            yield from _damaged(job, place, Path(folder) / "output", share, seed)


def _damaged(job: Job, place: Path, output: Path, count: int, seed: int) -> Iterator[Verdict]:
    undamaged = job.run(place, output)
    expected = job.result(output)
    assert undamaged.status == 0 and expected is not None, undamaged
    for number in range(count):
        shutil.rmtree(output, ignore_errors=True)
        random = np.random.default_rng([seed, number, *job.name.encode()])
        name = job.damaged[number % len(job.damaged)]
        path = place / name
        content = path.read_bytes()
        path.write_bytes(mutated(content, random, 1000))
        try:
            ended = job.run(place, output)
        finally:
            path.write_bytes(content)
        outcome, detail = judged(ended, job.result(output), expected, name in job.unprotected)
        yield Verdict(job.name, number, outcome, f"{name}: {detail}")


def judged(ended: Ended, found: Any, expected: Any, may_follow: bool = False) -> tuple[str, str]:
    """Outcome and detail of a command's end; may_follow: what was damaged has no checksum, any bytes may be meant."""
    lines = ended.error_lines
    if ended.status is None:
        return HANG, ended.errors[-300:]
    if ended.status < 0:
        return CRASH, f"signal {-ended.status}: {ended.errors[-300:]}"
    if "Traceback (most recent" in ended.errors:
        return TRACEBACK, " / ".join(lines[-3:])[-500:]
    if ended.status != 0:
        errors = [line for line in lines if not _is_warning(line)]
        clear = ended.status == 2 and len(errors) == 1 and errors[0].startswith("error: ")
        return (REFUSED if clear else UNCLEAR), " / ".join(lines)[-500:]
    if noise := [line for line in lines if not _is_warning(line)]:
        return NOISE, " / ".join(noise)[-500:]
    if found == expected:
        return SAME, ""
    return (FOLLOWED if may_follow else DIFFERENT), f"{str(found)[:200]} for {str(expected)[:200]}"


def _is_warning(line: str) -> bool:
    """The project's own warnings name what they are about behind this word; the bar of an evaluation is no noise."""
    return line.startswith(("warning: ", "WARNING", "answering questions:"))

"""Damaged files through the readers: for each the undamaged answer, one clear line, or what the file now says."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import InputError
from tests.campaign.fork_server import PeakMemory, served
from tests.campaign.mutations import mutated
from tests.campaign.targets import TARGETS, Target, Unusable
from tests.campaign.verdicts import DIFFERENT, FOLLOWED, MEMORY, REFUSED, SAME, TRACEBACK, UNCLEAR, Verdict

SLACK = 48 * 2**20  # bytes that reading the smallest file may take beside its voxels


def damaged_files(count: int, seed: int, targets: Sequence[Target] = TARGETS) -> Iterator[Verdict]:
    """`count` damaged files, spread over the targets."""
    for place, target in enumerate(targets):
        share = count // len(targets) + (place < count % len(targets))
        with tempfile.TemporaryDirectory() as folder:
            yield from served(target.name, share, _Reading(target, Path(folder), seed))


class _Reading:
    """Writes a damaged file, reads it, and judges."""

    def __init__(self, target: Target, folder: Path, seed: int) -> None:
        self.target, self.folder, self.seed = target, folder, seed
        self.path = target.write(folder)
        self.content = self.path.read_bytes()
        self.expected: Any = None
        self.memory = PeakMemory()

    def __call__(self, number: int) -> Verdict:
        if self.expected is None:
            _silence(self.folder)
            self.path.write_bytes(self.content)
            self.expected = self.target.read(self.folder)
        random = np.random.default_rng([self.seed, number, *self.target.name.encode()])
        self.path.write_bytes(mutated(self.content, random, self.target.header))
        self.memory.reset()
        outcome, detail, answer = self._read()
        size = _size(self.expected if answer is None else answer)
        if (grown := self.memory.grown()) > SLACK + 3 * size:
            outcome, detail = MEMORY, f"{grown / 2**20:.0f} MiB"
        elif answer is not None:
            outcome, detail = (SAME, "") if _equal(answer, self.expected) else self._other(answer)
        return Verdict(self.target.name, number, outcome, detail)

    def _read(self) -> tuple[str, str, Any]:
        """Outcome and detail where there is no answer, else the answer."""
        try:
            return "", "", self.target.read(self.folder)
        except Unusable as error:
            return REFUSED, str(error), None
        except InputError as error:
            said = str(error)
            clear = "\n" not in said and str(self.folder) in said and len(said) < 800
            return (REFUSED if clear else UNCLEAR), said, None
        except BaseException as error:
            return TRACEBACK, f"{type(error).__name__}: {error}"[:400], None

    def _other(self, answer: Any) -> tuple[str, str]:
        """Of an answer that is not the undamaged one."""
        if self.target.agrees is None:
            return DIFFERENT, "the format has a checksum"
        try:
            agrees = self.target.agrees(self.folder, answer)
        except Exception as error:
            return DIFFERENT, f"a second reader refuses the file ({type(error).__name__}: {error})"[:400]
        return (FOLLOWED, "") if agrees else (DIFFERENT, "a second reader finds something else")


def _silence(folder: Path) -> None:
    """The project's own warnings name their file; what is left on stderr is noise of libraries."""
    logging.disable(logging.CRITICAL)
    show = warnings.showwarning

    def shown(message: Warning | str, *rest: Any, **more: Any) -> None:
        if not str(message).startswith(str(folder)):
            show(message, *rest, **more)  # type: ignore[arg-type]

    warnings.showwarning = shown
    warnings.simplefilter("always", append=True)  # after what Python and the project pass over


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other, equal_nan=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    return bool(one == other)


def _size(answer: Any) -> int:
    """Bytes of the volume, as it is handed out."""
    return answer["voxels"].nbytes if isinstance(answer, dict) and "voxels" in answer else 0

"""The fault campaign tells every kind of fault from what is survived, and a small part of it finds none."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datasets.errors import InputError
from datasets.manifest import load_manifest
from tests.campaign import fork_server
from tests.campaign.commands import judged
from tests.campaign.forked import Ended
from tests.campaign.mutations import mutated
from tests.campaign.readers import _Reading, damaged_files
from tests.campaign.targets import QUESTIONS, TARGETS, Target
from tests.campaign.verdicts import Verdict, table


def test_a_small_campaign() -> None:
    """Ten files of each kind; the campaign by itself takes two hundred of each."""
    verdicts = list(damaged_files(10 * len(TARGETS), seed=1))
    assert [verdict.line() for verdict in verdicts if not verdict.survived] == []
    assert len(verdicts) == 10 * len(TARGETS)
    assert len({verdict.outcome for verdict in verdicts}) == 3  # and none of the three for want of the others


@pytest.mark.slow
def test_a_campaign() -> None:
    verdicts = list(damaged_files(2040, seed=2))
    assert [verdict.line() for verdict in verdicts if not verdict.survived] == []


def test_damage_comes_from_the_seed_alone() -> None:
    content = bytes(range(256)) * 8
    made = [mutated(content, np.random.default_rng([0, number]), 300) for number in range(200)]
    assert made == [mutated(content, np.random.default_rng([0, number]), 300) for number in range(200)]
    assert content not in made and len(set(made)) > 190


def _allocate() -> bytes:
    return b"x" * (200 * 2**20)


def _refuse(message: str) -> Any:
    raise InputError(message)


def _key_error() -> Any:
    raise KeyError("a")


def _noise(answer: Any) -> Any:
    os.write(2, b"library: something odd\n")
    return answer


FAULTS: dict[str, Callable[[Path], Any]] = {
    "same": lambda folder: 1,
    "refused": lambda folder: _refuse(f"{folder}/a: damaged"),
    "unclear": lambda folder: _refuse("damaged"),
    "traceback": lambda folder: _key_error(),
    "different": lambda folder: 2,
    "noise": lambda folder: _noise(1),
    "memory": lambda folder: len(_allocate()) and 1,
    "hang": lambda folder: time.sleep(60),
    "crash": lambda folder: os._exit(3),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_reader_with_a_fault_is_found_out(fault: str, tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        (folder / "a").write_bytes(b"0123456789")
        return folder / "a"

    def read(folder: Path) -> Any:
        return 1 if (folder / "a").read_bytes() == b"0123456789" else FAULTS[fault](folder)

    work = _Reading(Target("reader", write, read), tmp_path, seed=0)
    (verdict, another) = fork_server.served("reader", 2, work, seconds=1.0 if fault == "hang" else 20.0)
    assert verdict.outcome == another.outcome == fault


def test_another_answer_needs_a_second_reader(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        (folder / "a").write_bytes(b"0123456789")
        return folder / "a"

    def read(folder: Path) -> Any:
        return (folder / "a").read_bytes()

    for agrees, outcome in ((lambda folder, answer: True, "followed"), (lambda folder, answer: False, "different")):
        work = _Reading(Target("reader", write, read, agrees), tmp_path, seed=0)
        assert {verdict.outcome for verdict in fork_server.served("reader", 3, work)} == {outcome}


@pytest.mark.parametrize(
    ("ended", "found", "outcome"),
    [
        (Ended(0, "", ""), "answer", "same"),
        (Ended(0, "", ""), "other", "different"),
        (Ended(0, "", "library: odd\n"), "answer", "noise"),
        (Ended(2, "", "error: a.nii: damaged\n"), None, "refused"),
        (Ended(2, "", "error: a.nii: damaged\nerror: b\n"), None, "unclear"),
        (Ended(1, "", "error: a.nii: damaged\n"), None, "unclear"),
        (Ended(1, "", "Traceback (most recent call last):\nKeyError: 1\n"), None, "traceback"),
        (Ended(-11, "", ""), None, "crash"),
        (Ended(None, "", ""), None, "hang"),
    ],
)
def test_the_end_of_a_command(ended: Ended, found: str | None, outcome: str) -> None:
    assert judged(ended, found, "answer")[0] == outcome


def test_the_table_adds_up() -> None:
    outcomes = [("a", "same"), ("a", "crash"), ("a", "not struck"), ("b", "refused")]
    lines = table(Verdict(target, number, outcome) for number, (target, outcome) in enumerate(outcomes)).splitlines()
    assert lines[0] == "| what | tried | survived | same | refused | followed | not struck | faults |"
    assert lines[2:] == [
        "| a | 3 | 1 | 1 | 0 | 0 | 1 | 1 crash |",
        "| b | 1 | 1 | 0 | 1 | 0 | 0 | none |",
        "| **all** | 4 | 2 | 1 | 1 | 0 | 1 | 1 crash |",
    ]


_FIELDS = sorted({name for question in QUESTIONS for name in question} | {"targets", "mask_boxes", "choices"})
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    row=st.integers(0, len(QUESTIONS) - 1),
    field=st.sampled_from(_FIELDS),
    value=_VALUES,
)
def test_any_value_of_a_field_is_read_or_refused(row: int, field: str, value: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([q | {field: value} if n == row else q for n, q in enumerate(QUESTIONS)]))
    try:
        records = load_manifest(path, check_files=False)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert len(records) == len(QUESTIONS)

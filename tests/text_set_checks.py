"""What the tests of sets with labels, reports and questions share: cases against the truth of a replica."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.prepare.case import Case, Findings, Question
from datasets.prepare.data_set import DataSet
from datasets.volume.loading import read_volume
from tests.replicas.truth import Truth


def read_set(data_set: DataSet, folder: Path, **settings: str) -> tuple[list[Case], Findings]:
    findings = Findings()
    return data_set.read(folder, settings, findings), findings


def in_words(question: Question) -> tuple[str, str]:
    """A question with its answer; a letter is the choice that it stands for."""
    return question.text, (question.choices or {}).get(question.answer, question.answer)


def assert_true(cases: list[Case], truth: Truth, findings: Findings) -> None:
    """Every case of the truth and no other, with its patient, split, classes, report and questions; no problem."""
    assert findings.problems == []
    assert sorted(case.id for case in cases) == sorted(truth.cases)
    for case in cases:
        expected = truth.cases[case.id]
        assert (case.id, case.patient, case.split) == (case.id, expected.patient, expected.split)
        classes = dict(case.classes) if isinstance(case.classes, Mapping) else case.classes
        wanted = dict(expected.classes) if isinstance(expected.classes, Mapping) else expected.classes
        assert classes == wanted, case.id
        assert case.report == expected.report, case.id
        assert tuple(map(in_words, case.questions)) == tuple(expected.questions), case.id
    assert set(truth.excluded) <= set(findings.excluded)


def assert_voxels(cases: list[Case], truth: Truth) -> None:
    """Every volume comes through the loader as it was made, in RAS, in HU."""
    for case in cases:
        array, _ = read_volume(case.image)
        assert np.array_equal(array[0] + case.hu_offset, truth.cases[case.id].hu), case.id


def problems_of(data_set: DataSet, folder: Path, **settings: str) -> list[str]:
    """The lines that a person would read; each is one line."""
    _, findings = read_set(data_set, folder, **settings)
    assert all("\n" not in line for line in findings.problems)
    return findings.problems

"""What is true of a replica: everything that was put into its files, known without reading them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class CaseTruth:
    """One volume of a replica.

    hu: (X, Y, Z) in HU along RAS axes, and where it lies in the patient; None where the set knows no HU.
    masks: by the task's label, bool along the same axes.
    classes, report, questions: as `datasets.prepare.case.Case` has them; a question is (text, answer).
    split: the official one.
    """

    patient: str
    hu: np.ndarray | None = None
    affine: np.ndarray | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    classes: str | Mapping[str, int | None] | None = None
    report: str = ""
    questions: tuple[tuple[str, str], ...] = ()
    split: str | None = None


@dataclass
class Truth:
    """Of a whole replica: its cases by id, and the ids that must be left out."""

    cases: dict[str, CaseTruth] = field(default_factory=dict)
    excluded: tuple[str, ...] = ()

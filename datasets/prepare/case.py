"""What a reader of a data set gives: its examinations with all that is known of them, and what it found on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from datasets.vocabulary import Task

Split = Literal["train", "val", "test"]
# How a mask's voxels come to lie on its volume's: by the affines of both, as of any other mask; or, where a data set's
# files say something else, by a rule of `datasets.prepare.mask_conversion`, which writes a new mask file.
MaskConversion = Literal["", "rotated_matlab", "reversed_slices"]


@dataclass(frozen=True)
class Mask:
    """Where one structure is: the union over `files` of the voxels with one of `values`, or (None) of all but 0.

    others: values of nothing that the tasks know, which the files may hold too; None: they may hold anything.
    """

    files: tuple[Path, ...]
    values: tuple[int, ...] | None = None
    conversion: MaskConversion = ""
    others: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Question:
    """One question about a volume, with its answer.

    task: None where the answer tells it (yes/no) or choices do.  choices: by letter; the answer is then one of them, or
    its letter.  labels: of the case's masks, one for each `<SEG>` of the answer.  kind: what is asked for, as a part of
    an id; of questions that a data set measures.
    """

    text: str
    answer: str
    choices: Mapping[str, str] | None = None
    task: Task | None = None
    labels: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True)
class Case:
    """One volume (or 2D image) of a data set, and everything that the data set says of it.

    id: unique in the data set, and the same at each run.
    patient: whose volume it is, by the data set's own name; one patient is never in two splits.
    image: a file, or the folder of a DICOM series.
    split: the official one; None leaves it to the seeded split by patient.
    classes: of a task that knows one class a volume its label; of others {label: 1, 0 or None (unknown)}.
    masks: by the task's label; a structure that is not listed was not annotated, an empty mask says that it is absent.
    hu_offset: added to the stored values to get HU (-1000 where a data set stores HU + 1000).
    record: a pretraining record that the data set ships ready to use (SAT-DS's lines), with absolute paths.
    tasks: the tasks (of either stage) and benchmarks that take the case; empty for all of its data set.
    facts: what else the data set says of it, for the questions that it measures.
    """

    id: str
    patient: str
    image: Path
    split: Split | None = None
    classes: str | Mapping[str, int | None] | None = None
    report: str = ""
    masks: Mapping[str, Mask] = field(default_factory=dict)
    questions: tuple[Question, ...] = ()
    hu_offset: float = 0.0
    record: Mapping[str, Any] | None = None
    tasks: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Findings:
    """What was met while a data set was read.

    problems: one line each, which names the file (and its row and column) and what to do; with any of them nothing is
    written, unless the case alone is bad and the user said --skip_bad.
    warnings: what may be right, but a person should know: a setting that nobody has pinned, an odd file.
    excluded: why a case was left out, by its id; rules of the data set (not chest, misaligned), not faults.
    tables: every table, list and JSON that was read, for their checksums.
    version: of the data set as found ("v2"), where its files tell.
    facts: anything worth keeping in prepared.json.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    tables: list[Path] = field(default_factory=list)
    version: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def reasons(self) -> Counter[str]:
        """How many cases were left out for each reason."""
        return Counter(self.excluded.values())

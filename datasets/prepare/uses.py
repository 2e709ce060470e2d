"""What cases are made into: the pretraining and tuning tasks and the benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from datasets.catalog import PretrainingTask, published_tasks
from datasets.errors import InputError
from datasets.label_descriptions import canonical
from datasets.mixture import published_weights
from datasets.prepare.case import Case
from datasets.vocabulary import Kind, diagnosis_facts, diseases_of

QuestionKind = Literal["diagnosis", "segmentation", "report", "questions", "open_questions"]
_PRETRAINING_ENDS: dict[str, Kind] = {
    "image_text": "image_text",
    "classification": "classification",
    "segmentation": "segmentation",
}
_QUESTION_ENDS: dict[str, QuestionKind] = {
    "_Diagnosis": "diagnosis",
    "_Seg": "segmentation",
    "_Caption": "report",
    "_Question_Answer": "questions",
}
_ABDOMEN = ("liver", "kidney", "spleen", "pancreas")
_CT_ORG = ("liver", "urinary bladder", "lung", "kidney", "bone", "brain")
# TotalSegmentator_Organs of SAT-DS, which the published benchmark is named after: 20 classes and 4 unions.
_TOTAL_SEGMENTATOR_ORGANS = (
    *("left adrenal gland", "right adrenal gland", "colon", "duodenum", "esophagus", "gallbladder", "left kidney"),
    *("right kidney", "liver", "left lung lower lobe", "right lung lower lobe", "right lung middle lobe"),
    *("left lung upper lobe", "right lung upper lobe", "pancreas", "small bowel", "spleen", "stomach", "trachea"),
    *("urinary bladder", "adrenal gland", "kidney", "lung lower lobe", "lung upper lobe"),
)


@dataclass(frozen=True)
class QuestionTask:
    """A tuning task or a benchmark: what is asked, of which label set, about which structures (empty: any)."""

    name: str
    kind: QuestionKind
    label_set: str | None = None
    structures: tuple[str, ...] = ()

    def takes(self, structure: str) -> bool:
        """Whether a structure is asked for."""
        return not self.structures or canonical(structure) in {canonical(name) for name in self.structures}


BENCHMARKS = {
    task.name: task
    for task in (
        QuestionTask("RadChestCT", "diagnosis", "RadChestCT"),
        QuestionTask("CT-RATE-diagnosis", "diagnosis", "CT-RATE"),
        QuestionTask("AbdomenCT-1K", "segmentation", structures=_ABDOMEN),
        QuestionTask("CT-ORG", "segmentation", structures=_CT_ORG),
        QuestionTask("TotalSegmentator", "segmentation", structures=_TOTAL_SEGMENTATOR_ORGANS),
        QuestionTask("CT-RATE-VQA", "questions"),
        QuestionTask("M3D-Cap", "report"),
        QuestionTask("M3D-VQA", "open_questions"),
    )
}
_LABEL_SETS = {"RadChest_Binary_Diagnosis": "RadChestCT", "CTRATE_Diagnosis": "CT-RATE"}
_STRUCTURES = {
    "AbdomenCT1K_Seg": _ABDOMEN,
    "CTORG_Seg": _CT_ORG,
    "TotalSegmentator_Organ_Seg": _TOTAL_SEGMENTATOR_ORGANS,
}


def pretraining_task(name: str) -> PretrainingTask:
    """A published task, or one of another data set, whose kind is how its name ends and which has no fixed labels."""
    for task in published_tasks():
        if task.name == name:
            return task
    kind = next((kind for end, kind in _PRETRAINING_ENDS.items() if name.endswith(end)), None)
    if kind is None:
        raise InputError(f"{name!r} is no pretraining task; end it in {', '.join(_PRETRAINING_ENDS)}")
    return PretrainingTask(name, kind, 1.0, f"{name}_{{split}}.json")


def question_task(name: str, cases: Sequence[Case] = ()) -> QuestionTask:
    """A tuning task, of which kind its name's end tells.

    cases: of another data set than the published; their labels tell the label set, if they are of one.
    """
    kind = next((kind for end, kind in _QUESTION_ENDS.items() if name.endswith(end)), None)
    if kind is None:
        raise InputError(f"{name!r} is no tuning task; end it in {', '.join(_QUESTION_ENDS)}")
    label_set = _LABEL_SETS.get(name)
    if kind == "diagnosis" and name not in published_weights():
        label_set = label_set_of(labels_of(cases))
    return QuestionTask(name, kind, label_set, _STRUCTURES.get(name, ()))


def labels_of(cases: Sequence[Case]) -> list[str]:
    """Every label of the cases' classes, each once, in the order in which they are met."""
    return list(dict.fromkeys(label for case in cases for label in classes_of(case)))


def classes_of(case: Case) -> Mapping[str, int | None]:
    """{label: 1, 0 or None} of a case."""
    if isinstance(case.classes, str):
        return {case.classes: 1}
    return case.classes or {}


def label_set_of(labels: Sequence[str]) -> str | None:
    """The label set of diagnosis that has all these labels; None where none has.

    Of two that have them, the one that spells them so counts; otherwise the case of letters does not matter.
    """
    for spelled in (str, canonical):
        given = {spelled(label) for label in labels}
        for name in diagnosis_facts():
            if given and given <= {spelled(disease) for disease in diseases_of(name)}:
                return name
    return None


def taken_by(case: Case, name: str) -> bool:
    """Whether a case goes to a task or benchmark of its data set."""
    return not case.tasks or name in case.tasks

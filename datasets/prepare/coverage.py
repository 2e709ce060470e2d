"""Which data sets make each published task and benchmark, and which facts about them nobody has published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from datasets.catalog import published_tasks
from datasets.mixture import published_weights
from datasets.prepare.data_set import DataSet
from datasets.prepare.uses import BENCHMARKS

_MEDICAL_MATERIAL = 'which of RadChestCT\'s labels make up "medical material"'
_SPLIT = "which split the paper's figures are of"
# By task or benchmark what no publication, code or file tells; `prepare` then takes a documented default.
UNKNOWN_FACTS = {
    "RadImageNet_disease_classification": "the exact class names in its tables, but for two",
    "RadChestCT_disease_classification": _MEDICAL_MATERIAL,
    "RP3D_image_text": "the release's own file of volumes and texts; RadFM's public one is taken",
    "ATM22_structure_segmentation": "a split: SAT-DS has none",
    "RibFrac_disease_segmentation": "a split of SAT-DS; the official one is taken",
    "RadChest_Binary_Diagnosis": _MEDICAL_MATERIAL,
    "RadChestCT": _MEDICAL_MATERIAL,
    "AbdomenCT-1K": _SPLIT,
    "CT-ORG": _SPLIT,
    "TotalSegmentator": _SPLIT,
    "CT-RATE-VQA": "which of the validation questions the paper's figures are of, and how many",
    "M3D-Cap": "how many test cases the paper's figures are of",
    "M3D-VQA": "how many test questions the paper's figures are of",
}


@dataclass(frozen=True)
class Covered:
    """task: its name.  stage: "pretraining", "tuning" or "benchmark".  data_sets: those that make it, by name."""

    task: str
    stage: str
    data_sets: tuple[str, ...]

    @property
    def unknown(self) -> str:
        """The fact that nobody has published; empty where all are known."""
        return UNKNOWN_FACTS.get(self.task, "")


def coverage(data_sets: Iterable[DataSet]) -> list[Covered]:
    """The 39 pretraining tasks, the 8 tuning tasks and the 8 benchmarks, in the paper's order."""
    known = list(data_sets)
    stages = {
        "pretraining": [task.name for task in published_tasks()],
        "tuning": list(published_weights()),
        "benchmark": list(BENCHMARKS),
    }
    return [
        Covered(name, stage, tuple(found.name for found in known if name in _tasks(found, stage)))
        for stage, names in stages.items()
        for name in names
    ]


def _tasks(data_set: DataSet, stage: str) -> tuple[str, ...]:
    return {"pretraining": data_set.pretraining, "tuning": data_set.instruction, "benchmark": data_set.benchmarks}[
        stage
    ]

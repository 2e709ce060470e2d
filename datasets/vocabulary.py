"""The words that data, models and evaluation share: special tokens, tasks, label sets, marks of the unknown."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

# The order of NEW_TOKENS is that of the released checkpoints: it fixes which embedding row belongs to which token.
SEGMENTATION = "<SEG>"
DISEASE_CONFIDENCE = "<disease_confidence>"
TASK_TOKENS = {
    "yes_no": "<binary_answer>",
    "multiple_choice": "<multiple_choice>",
    "report_generation": "<report_generation>",
    "segmentation": "<segmentation>",
    "diagnosis": "<diagnosis>",
}
NEW_TOKENS = (SEGMENTATION, *TASK_TOKENS.values(), DISEASE_CONFIDENCE)

IMAGE_START = "<|vision_start|>"
IMAGE = "<|image_pad|>"
IMAGE_END = "<|vision_end|>"
IMAGE_MARKUP = IMAGE_START + IMAGE + IMAGE_END

Task = Literal["open_vqa", "yes_no", "multiple_choice", "report_generation", "segmentation", "diagnosis"]
TASKS: tuple[Task, ...] = get_args(Task)  # of instruction tuning and evaluation

Kind = Literal["image_text", "classification", "segmentation"]
KINDS: tuple[Kind, ...] = get_args(Kind)  # of pretraining

IGNORED_VOXEL = -1  # of a mask: padding, or not known; no loss is taken there
IGNORED_TOKEN = -100  # of the language model's targets: no loss is taken there
UNKNOWN_CLASS = -100  # of a target of one class a volume; where a volume may have several, NaN

_DIAGNOSIS_HEADS = Path(__file__).resolve().parents[1] / "data" / "diagnosis_heads.json"


@lru_cache(maxsize=1)
def diagnosis_facts() -> dict[str, tuple[tuple[str, float], ...]]:
    """For each label set, its (disease, positive weight) pairs in the order of the released heads."""
    facts = json.loads(_DIAGNOSIS_HEADS.read_text(encoding="utf-8"))
    return {name: tuple((row["disease"], float(row["pos_weight"])) for row in rows) for name, rows in facts.items()}


def diseases_of(label_set: str) -> list[str]:
    """The diseases of a label set ("CT-RATE", "RadChestCT"), in head order."""
    return [disease for disease, _ in diagnosis_facts()[label_set]]

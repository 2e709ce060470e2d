"""Parity with the figures of the published evaluator.

Each error is named by the vector's key, so that a test sees that none is left out.  Figures have no spread of their
own: a difference of 1e-6 is the most that passes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from evaluation.metrics.release_protocol import dice_release_protocol, release_diagnosis_metrics, release_text_metrics
from tests.parity import TOLERANCE, Errors, register, relative_error

FIGURE_SPREAD = 1e-6 / TOLERANCE  # makes a difference of 1e-6 meet the common tolerance


@register("release_dice_*.npz")
def check_dice(file: Path) -> Errors:
    """Dice of mask logits on the padded grid."""
    vector = np.load(file)
    dice = dice_release_protocol(torch.from_numpy(vector["logits"]), torch.from_numpy(vector["target"]))
    return {"dice": relative_error(dice, vector["dice"], FIGURE_SPREAD)}


@register("release_diagnosis_*.npz")
def check_diagnosis_figures(file: Path) -> Errors:
    """All figures of each disease, and the means and the deviation over diseases."""
    vector = np.load(file)
    names = [f"disease {column}" for column in range(vector["truth"].shape[1])]
    of_disease, means = release_diagnosis_metrics(vector["truth"].tolist(), vector["probabilities"].tolist(), names)

    def figures(key: str) -> list[float]:
        return [of_disease[name][f"{key}_release_protocol"] for name in names]

    computed: dict[str, object] = {key: figures(key) for key in ("auc", "f1", "threshold", "accuracy", "precision")}
    computed |= {f"mean_{key}": means[f"{key}_release_protocol"]["value"] for key in ("auc", "f1")}
    computed["std_f1"] = means["f1_release_protocol"]["std"]
    return {key: relative_error(value, vector[key], FIGURE_SPREAD) for key, value in computed.items()}


@register("release_text.json")
def check_text_figures(file: Path) -> Errors:
    """BLEU-1 and ROUGE-1 of each answer, their means, and the deviation of BLEU-1."""
    vector = json.loads(file.read_text(encoding="utf-8"))
    rows = vector["rows"]
    alone = [release_text_metrics([row["prediction"]], [row["reference"]]) for row in rows]
    all_rows = release_text_metrics([row["prediction"] for row in rows], [row["reference"] for row in rows])
    errors: Errors = {}
    for key in ("bleu_1", "rouge_1"):
        computed = [one[f"{key}_release_protocol"]["value"] for one in alone]
        errors[key] = relative_error(computed, [row[key] for row in rows], FIGURE_SPREAD)
        mean = all_rows[f"{key}_release_protocol"]["value"]
        errors[f"mean_{key}"] = relative_error(mean, vector[f"mean_{key}"], FIGURE_SPREAD)
    errors["std_bleu_1"] = relative_error(
        all_rows["bleu_1_release_protocol"]["std"], vector["std_bleu_1"], FIGURE_SPREAD
    )
    return errors

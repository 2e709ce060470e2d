"""Parity with the figures of the published evaluator, as far as this project reproduces them.

Each error is named by the vector's key, so that what is not compared can be listed.  Figures have no spread of their
own: a difference of 1e-6 is the most that passes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from evaluation.metrics.diagnosis import diagnosis_metrics
from evaluation.metrics.text import sentence_scores
from tests.parity import TOLERANCE, Errors, register, relative_error

FIGURE_SPREAD = 1e-6 / TOLERANCE  # makes a difference of 1e-6 meet the common tolerance


@register("release_diagnosis_*.npz")
def check_diagnosis_figures(file: Path) -> Errors:
    """AUC and the best F1 of each disease; "auc" of those that have both classes, for it is undefined for the rest."""
    vector = np.load(file)
    names = [f"disease {column}" for column in range(vector["truth"].shape[1])]
    figures = diagnosis_metrics(vector["truth"], vector["probabilities"], names, resamples=1)
    diseases = [figures["diseases"][name] for name in names]
    both = [disease["positives"] > 0 and disease["negatives"] > 0 for disease in diseases]
    auc = [disease["auc"]["value"] for disease, defined in zip(diseases, both, strict=True) if defined]
    f1 = [disease["f1_release_protocol"]["value"] for disease in diseases]
    return {
        "auc": relative_error(auc, vector["auc"][both], FIGURE_SPREAD),
        "f1": relative_error(f1, vector["f1"], FIGURE_SPREAD),
        "mean_f1": relative_error(np.mean(f1), vector["mean_f1"], FIGURE_SPREAD),
    }


@register("release_text.json")
def check_text_figures(file: Path) -> Errors:
    """ROUGE-1 of each answer, and its mean."""
    vector = json.loads(file.read_text(encoding="utf-8"))
    rows = vector["rows"]
    rouge = [sentence_scores(row["prediction"], row["reference"])["rouge_1"] for row in rows]
    return {
        "rouge_1": relative_error(rouge, [row["rouge_1"] for row in rows], FIGURE_SPREAD),
        "mean_rouge_1": relative_error(np.mean(rouge), vector["mean_rouge_1"], FIGURE_SPREAD),
    }

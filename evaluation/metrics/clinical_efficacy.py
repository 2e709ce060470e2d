"""Clinical efficacy of reports: the findings that the prediction states against those that the reference states."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from evaluation.metrics.bootstrap import RESAMPLES, PatientBootstrap, make_estimate, ratio
from evaluation.metrics.diagnosis import threshold_metrics
from evaluation.metrics.report_labels import FINDINGS

SCORES = ("f1", "accuracy", "precision", "recall")


def crg_score(true_positive: Any, false_positive: Any, false_negative: Any, decisions: Any) -> np.ndarray:
    """CRG, the report-generation score of the VLM3D challenge, from counts pooled over all reports and findings.

    Hamamci et al., "CRG Score: A Distribution-Aware Clinical Metric for Radiology Report Generation", MIDL 2025
    (arXiv:2505.17167). With X decisions (reports x findings) and A positives in the references, r = (X - A) / (2 A),
    S_max = A r = (X - A) / 2, s = r TP - r FN - FP and CRG = S_max / (2 S_max - s): 1 for a perfect set, 1/2 at s =
    0, 1/3 when nothing is ever reported. True negatives earn nothing.

    Returns NaN where no finding, or every finding, is positive: no weight can then be set.
    """
    tp, fp, fn, x = (
        np.asarray(count, dtype=np.float64) for count in (true_positive, false_positive, false_negative, decisions)
    )
    positives = tp + fn
    weight = ratio(x - positives, 2 * positives)
    best = (x - positives) / 2
    return ratio(best, 2 * best - (weight * tp - weight * fn - fp))


def clinical_efficacy(
    predicted: Sequence[Mapping[str, int]],
    true: Sequence[Mapping[str, int]],
    patients: Sequence[Hashable | None] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Micro and macro F1, precision and recall over the 18 CT-RATE findings, and CRG.

    Args:
        predicted, true: {finding: 0 or 1} of each report, from one labeller for both.
        patients: keys for the bootstrap.
    Returns:
        "metrics": {"micro_f1", "micro_precision", "micro_recall", "macro_f1", ..., "crg": Estimate};
        "findings": {name: {"f1", ..., "positives", "predicted"}}; "notes". Macro is over the findings for which a
        figure is defined: those that a reference or a prediction holds.
    """
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predicted label sets for {len(true)} references")
    n, d = len(true), len(FINDINGS)
    said = np.array([[row[name] for name in FINDINGS] for row in predicted], dtype=np.float64).reshape(n, d)
    held = np.array([[row[name] for name in FINDINGS] for row in true], dtype=np.float64).reshape(n, d)
    counts = np.stack(
        [said * held, said * (1 - held), (1 - said) * held, (1 - said) * (1 - held)], axis=-1
    )  # (n, d, 4)
    bootstrap = PatientBootstrap(patients if patients is not None else [None] * n, resamples, seed)
    point, drawn = bootstrap.sums(counts.reshape(n, d * 4))
    sums = np.concatenate([point[None], drawn]).reshape(-1, d, 4)
    by_finding = threshold_metrics(*np.moveaxis(sums, -1, 0))  # (1 + resamples, d, 4)
    micro = threshold_metrics(*sums.sum(1).T)
    macro = ratio(np.nansum(by_finding, axis=1), np.isfinite(by_finding).sum(1).astype(np.float64))
    tp, fp, fn, _ = sums.sum(1).T
    crg = crg_score(tp, fp, fn, sums.sum((1, 2)))

    def estimate(column: np.ndarray, reason: str) -> dict[str, Any]:
        return make_estimate(column[0], column[1:], n, bootstrap.patients, reason)

    metrics = {}
    for index, name in enumerate(SCORES):
        if name == "accuracy":
            continue  # most findings are absent from most reports: accuracy rewards saying nothing
        metrics[f"micro_{name}"] = estimate(micro[:, index], "no finding in any report")
        metrics[f"macro_{name}"] = estimate(macro[:, index], "no finding in any report")
    metrics["crg"] = estimate(crg, "no finding, or every finding, is positive in the references")
    details: dict[str, dict[str, Any]] = {
        finding: {
            name: estimate(by_finding[:, column, index], "not in any report") for index, name in enumerate(SCORES)
        }
        | {"positives": int(held[:, column].sum()), "predicted": int(said[:, column].sum())}
        for column, finding in enumerate(FINDINGS)
    }
    undefined = [name for name in FINDINGS if details[name]["f1"]["value"] is None]
    notes = (
        [f"Macro over {d - len(undefined)} of {d} findings; the others are in no reference and no prediction."]
        if undefined
        else []
    )
    return {"metrics": metrics, "findings": details, "notes": notes}

"""The runs of one or several starts as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Scores = Mapping[str, float]


def scores_table(rows: Mapping[str, Sequence[Scores]]) -> str:
    """A row for each start: mean and standard deviation of AUC, accuracy and F1 over its runs, and each run's AUC."""
    lines = ["| Start | Runs | AUC | Accuracy | F1 | AUC of each |", "| :--- | ---: | ---: | ---: | ---: | :--- |"]
    for name, runs in rows.items():
        cells = [mean_and_deviation([run[figure] for run in runs]) for figure in ("auc", "accuracy", "f1")]
        each = ", ".join(f"{run['auc']:.3f}" for run in runs)
        lines.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {each} |")
    return "\n".join(lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """0.812 ± 0.010, the deviation with n - 1; of a single value, that alone."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"

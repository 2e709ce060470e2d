"""The learning rate as a closed-form function of the step: warm-up, then half a cosine."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate_factor(
    step: int, total: int, warmup: int, min_ratio: float = 0.0, shape: Literal["linear", "log"] = "linear"
) -> float:
    """Share of the peak learning rate that optimiser step `step` (counted from 0) uses.

    Warm-up, for step < warmup: (step + 1) / warmup, or log(step + 1) / log(warmup) for shape "log" (that of DeepSpeed's
    `WarmupCosineLR`, whose first step has rate 0).  The last warm-up step has the peak rate.  Then, with
    t = (step - warmup + 1) / (total - warmup), min_ratio + (1 - min_ratio) * (1 + cos(pi t)) / 2, which reaches
    min_ratio on the last step and stays there.  A run shorter than its warm-up ends inside it.
    """
    if step < warmup:
        if shape == "log" and warmup > 1:
            return math.log(step + 1) / math.log(warmup)
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup + 1) / max(1, total - warmup))
    return min_ratio + (1.0 - min_ratio) * 0.5 * (1.0 + math.cos(math.pi * progress))

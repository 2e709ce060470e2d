"""Losses far above those before them, told with the samples that they are of: most often these are what is wrong."""

from __future__ import annotations

import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from statistics import median

LOSSES = 100  # of a task, that a new one is compared with
FEWEST = 50  # before anything is said: the first losses of a run fall fast
DEVIATIONS = 10.0
SIGMA = 1.4826  # a normal distribution's deviation over its median absolute one
BEYOND_HIGHEST = 0.5  # as a share of the highest of them: a task that is mostly learned has high ones now and then
LEAST_DEVIATION = 0.05  # as a share of the median: losses that hardly vary make no spikes of a little


class LossSpikes:
    """What each task's last losses on this rank were, of the micro-batches since the start."""

    def __init__(self) -> None:
        self.losses: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=LOSSES))

    def add(self, step: int, task: str, loss: float, sample_ids: Sequence[str]) -> None:
        """Count a micro-batch's loss; where it is a spike, say so on stderr.

        A spike is more than `DEVIATIONS` robust deviations (1.4826 times the median absolute one) above the median, and
        more than half as high again as any of the losses before it.
        """
        before = self.losses[task]
        if len(before) >= FEWEST:
            middle = median(before)
            deviation = SIGMA * median(abs(value - middle) for value in before)
            usual = middle + DEVIATIONS * max(deviation, LEAST_DEVIATION * abs(middle))
            highest = max(before)
            if loss > max(usual, highest + BEYOND_HIGHEST * abs(highest)):
                print(
                    f"step {step}: the loss of {task} is {loss:.4g}, of the {len(before)} before it the median is "
                    f"{middle:.4g}: samples {', '.join(sample_ids)}",
                    file=sys.stderr,
                    flush=True,
                )
        before.append(loss)

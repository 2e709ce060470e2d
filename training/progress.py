"""What a run shows and records: a progress bar or plain lines, TensorBoard scalars, and a history as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

import torch

from datasets.whole_files import write_whole_text
from training import distributed
from training.device_values import Span, copied, read
from training.wandb_log import WandbLog


class Averages:
    """Means of named values since the last report, over micro-steps and ranks.

    A tensor is kept where it lies, so that nothing waits for it; `settle` reads all of them at once.
    """

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._names: list[str] = []
        self._values: list[torch.Tensor] = []
        self._spans: list[tuple[str, Span]] = []

    def add(self, name: str, value: float | torch.Tensor | Span) -> None:
        """Count one more value, a number, a tensor of one number, or seconds that may not be over yet."""
        if isinstance(value, torch.Tensor):
            self._names.append(name)
            self._values.append(copied(value))
        elif isinstance(value, Span):
            self._spans.append((name, value))
        else:
            entry = self.sums[name]
            entry[0] += value
            entry[1] += 1

    def settle(self) -> None:
        """Read what still lies on the device, for which it has to be through with it; order does not matter."""
        for name, value in zip(self._names, read(self._values), strict=True):
            self.add(name, value)
        for name, span in self._spans:
            self.add(name, span.seconds())
        for kept in (self._names, self._values, self._spans):
            kept.clear()

    def take(self) -> dict[str, float]:
        """The means over all ranks, which all call this and may know different names; starts afresh."""
        self.settle()
        merged: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for sums in distributed.all_gather_object(dict(self.sums)):
            for name, (total, count) in sums.items():
                merged[name][0] += total
                merged[name][1] += count
        self.sums.clear()
        return {name: total / count for name, (total, count) in sorted(merged.items())}


class Progress:
    """The log of one run.  On ranks other than the main one every method does nothing.

    Writes `tensorboard/` and `history.jsonl` in the run folder; wandb, where it is given, gets the same scalars.  On a
    terminal it draws a bar with the time left, else it prints a line a report.
    """

    def __init__(self, run_dir: Path, total: int, start: int, main: bool, wandb: WandbLog | None = None) -> None:
        self.wandb = wandb
        self.main, self.total, self.start, self.begun = main, total, start, time.monotonic()
        self.bar: Any = None
        self.writer: Any = None
        self.history: Any = None
        if not main:
            return
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        run_dir.mkdir(parents=True, exist_ok=True)
        # what lies beyond the step that the run goes on from is of a history that was left
        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
        self.history = _history_up_to(run_dir / "history.jsonl", start)
        if sys.stdout.isatty():
            self.bar, self.task = _terminal_bar(total, start)

    def report(self, step: int, scalars: dict[str, float]) -> None:
        """Record the means of the steps since the last report; `train/loss` and `train/learning_rate` are shown."""
        if not self.main:
            return
        self._record(step, scalars)
        done = step - self.start
        left = (self.total - step) * (time.monotonic() - self.begun) / max(1, done)
        losses = [
            f"{name.removesuffix('/loss')} {value:.4f}" for name, value in scalars.items() if name.endswith("/loss")
        ]
        shown = "  ".join(losses) + f"  lr {scalars.get('train/learning_rate', 0.0):.2e}"
        if self.bar is not None:
            self.bar.update(self.task, shown=shown)
        else:
            eta = timedelta(seconds=round(left))
            print(
                f"step {step}/{self.total}  {shown}  {scalars.get('train/seconds', 0.0):.2f} s/step  eta {eta}",
                flush=True,
            )

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self.bar is not None:
            self.bar.update(self.task, completed=step)

    def evaluation(self, step: int, scores: dict[str, float]) -> None:
        """Record and show an evaluation's scores."""
        if self.main:
            named = {name if "/" in name else f"evaluation/{name}": float(value) for name, value in scores.items()}
            self._record(step, named)
            self.say(f"step {step}/{self.total}  " + "  ".join(f"{name} {value:.4f}" for name, value in named.items()))

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self.bar is not None:
            self.bar.console.print(message, markup=False, highlight=False)
        elif self.main:
            print(message, flush=True)

    def close(self) -> None:
        """Flush everything; the last call."""
        if self.bar is not None:
            self.bar.stop()
        if self.main:
            self.writer.close()
            if self.wandb is not None:
                self.wandb.close()
            self.history.close()

    def _record(self, step: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            self.writer.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.record(step, scalars)
        self.history.write(json.dumps({"step": step, **scalars}) + "\n")


def _history_up_to(path: Path, step: int) -> TextIO:
    """Open the history for writing behind its rows up to `step`; a row cut short by a kill is dropped."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_whole_text(path, "".join(kept))
    return path.open("a", buffering=1)


def _terminal_bar(total: int, start: int) -> tuple[Any, Any]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        MofNCompleteColumn(),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    bar.start()
    return bar, bar.add_task("training", total=total, completed=start, shown="")

"""Counting what makes a process wait: for its device, where a value is read, and for other ranks, in collectives.

Started as a script under the launcher, it trains the toy model for 3 and for 6 steps of 1 and of 4 micro-steps, and
each rank prints as JSON how many collectives `training/` calls a step, with --time also the seconds of a micro-step:
deepspeed --num_accelerators 2 tests/waits.py FOLDER [--time]
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests import toy_task
from training.script import run_script

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal", "aten::masked_select")
INDEXING = ("aten::index", "aten::index_put_", "aten::index_put")  # by a mask, whose places have to be counted
METHODS = ("tolist", "numpy")  # these leave no operation behind on the CPU
COLLECTIVES = ("all_reduce", "all_gather_object", "all_gather", "barrier", "broadcast", "reduce_scatter_tensor")


class Reads(TorchDispatchMode):
    """Counts the operations after which a device has to be waited for, and calls of `METHODS`, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.name().split(".")[0]
        self.count += name in READS or (name in INDEXING and any(_is_mask(index) for index in args[1]))
        return operation(*args, **(kwargs or {}))

    def __enter__(self) -> Reads:
        self._methods = {name: getattr(torch.Tensor, name) for name in METHODS}
        for name, method in self._methods.items():
            setattr(torch.Tensor, name, self._counted(method))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        for name in self._methods:
            delattr(torch.Tensor, name)  # what is inherited is there again
        super().__exit__(*error)

    def _counted(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return method(*args, **kwargs)

        return call


def _is_mask(index: torch.Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)


@contextmanager
def collectives() -> Iterator[Counter[str]]:
    """Inside, what modules of `training` call of torch.distributed is counted by name; what DeepSpeed does is not."""
    count: Counter[str] = Counter()
    originals = {name: getattr(torch.distributed, name) for name in COLLECTIVES}

    def counted(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            count[name] += sys._getframe(1).f_globals["__name__"].startswith("training.")
            return originals[name](*args, **kwargs)

        return call

    for name in COLLECTIVES:
        setattr(torch.distributed, name, counted(name))
    try:
        yield count
    finally:
        for name, original in originals.items():
            setattr(torch.distributed, name, original)


def train(run_dir: Path, steps: int, accumulation: int) -> None:
    """The toy model without a checkpoint or a line of the log before the end, and without reads of its own."""
    options = ["--max_iters", str(steps), "--accumulation_steps", str(accumulation), "--micro_batch", "2"]
    toy_task.main(["--run_dir", str(run_dir), *options, "--log_interval", "1000", "--save_interval", "0"])


@contextmanager
def mixed_batches() -> Iterator[None]:
    """Inside, the toy model takes its batches for mixed ones, for which it reads no head's number."""
    collate = toy_task.collate
    toy_task.collate = lambda samples: replace(collate(samples), task="mixed")
    try:
        yield
    finally:
        toy_task.collate = collate


def main() -> None:
    """What the module's first lines say."""
    folder = Path(next(given for given in sys.argv[1:] if not given.startswith("--")))
    found: dict[str, float] = {}
    with mixed_batches():
        for accumulation in (1, 4):
            totals = []
            for steps in (3, 6):
                with collectives() as count:
                    train(folder / f"{accumulation}_{steps}", steps, accumulation)
                totals.append(sum(count.values()))
            found[str(accumulation)] = (totals[1] - totals[0]) / 3
        if "--time" in sys.argv:
            begun = time.monotonic()
            train(folder / "short", 10, 4)
            middle = time.monotonic()
            train(folder / "long", 110, 4)
            found["seconds"] = (time.monotonic() - middle - (middle - begun)) / 400
    print("collectives " + json.dumps(found), flush=True)


if __name__ == "__main__":
    run_script(main)

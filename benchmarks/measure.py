"""Time, memory and floating-point operations of a piece of code, and the limit that the machine sets to them."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from models.precision import AnswerPrecision, answer_dtype

GIB = 2**30
GEMM_SIZE = {"cpu": 2048, "cuda": 8192}


@dataclass
class Row:
    """One line of the table.

    seconds: the best of the repeats.  gflop: counted matrix products and convolutions, or None where they do not
    matter.  limit_seconds: how long the machine's own matrix product takes for as many.  peak_gib: most memory held so
    far by the stage's process, or by the allocator on CUDA.  voxels: size of the volume, for the plot.  note: a figure
    of this stage alone, in words.
    """

    stage: str
    seconds: float
    gflop: float | None = None
    limit_seconds: float | None = None
    peak_gib: float | None = None
    voxels: int | None = None
    note: str = ""

    @property
    def over_limit(self) -> float | None:
        """Measured time over the limit; 1 is the speed of a matrix product."""
        return self.seconds / self.limit_seconds if self.limit_seconds else None


def known(figure: float | None) -> float:
    """A figure of a row of which it was measured."""
    assert figure is not None
    return figure


@dataclass
class Aim:
    """A ratio of two measured figures beside what it should be: at most `target`, or at least where `at_least`."""

    name: str
    value: float
    target: float
    at_least: bool = False
    unit: str = "×"

    @property
    def met(self) -> bool:
        """Whether the figure is on the right side of its target."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def device() -> torch.device:
    """The accelerator if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_chosen: AnswerPrecision = "auto"


def choose_precision(precision: AnswerPrecision) -> None:
    """What `precision` resolves from now on; each stage has a process of its own."""
    global _chosen
    _chosen = precision


def precision() -> torch.dtype:
    """What the model computes in on this device: by default what it answers in."""
    return answer_dtype(_chosen, device())


Clock = Literal["wall", "cpu"]
_clock: Clock = "wall"


def choose_clock(clock: Clock) -> None:
    """What `now` reads from now on.  cpu: processor time over threads, where others compute on the same cores."""
    global _clock
    _clock = clock


def now() -> float:
    """Seconds on a clock, after the accelerator has done what it was given."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() if _clock == "wall" else process_time() / torch.get_num_threads()


def best_seconds(function: Callable[[], Any], repeats: int = 3, warm_up: bool = True) -> float:
    """Shortest wall time of `function` over the repeats; noise of a busy machine only ever adds."""
    if warm_up:
        function()
    times = []
    for _ in range(repeats):
        begun = now()
        function()
        times.append(now() - begun)
    return min(times)


def gemm_flops_per_second(dtype: torch.dtype | None = None) -> float:
    """Operations a second of a square matrix product: in the model's precision the limit that stages are held to."""
    size = GEMM_SIZE[device().type]
    left, right = (torch.randn(size, size, device=device(), dtype=dtype or precision()) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: left @ right, repeats=7)


def count_gflop(function: Callable[[], Any]) -> float:
    """10^9 floating-point operations of matrix products, convolutions and attention (two for a multiply-add)."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        function()
    return counter.get_total_flops() / 1e9


def peak_gib() -> float:
    """Peak memory so far: of the process, or of the accelerator's allocator."""
    if device().type == "cuda":
        return torch.cuda.max_memory_allocated() / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def forget_peak() -> None:
    """Have the accelerator's peak begin anew; that of a process cannot."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def measured(
    stage: str,
    function: Callable[[], Any],
    repeats: int = 3,
    voxels: int | None = None,
    count: Callable[[], float] | None = None,
) -> Row:
    """A row with time, memory, operations and limit of `function`, in this order.

    Counting the operations, which runs it once more, comes last: it takes fused operations apart and holds more memory.
    `count` gives them (in GFLOP) where there is not enough for that.
    """
    seconds = best_seconds(function, repeats, warm_up=repeats > 2)
    peak = peak_gib()
    gflop = count() if count else count_gflop(function)
    return Row(stage, seconds, gflop, gflop * 1e9 / gemm_flops_per_second() if gflop else None, peak, voxels)


def _cpu_attention_flop(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


_CPU_ATTENTION = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_attention_flop}

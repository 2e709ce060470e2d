"""What figures were measured on: its maker's figures, its own matrix products, and a line about both."""

from __future__ import annotations

import re
from typing import NamedTuple

import torch

from benchmarks.measure import GIB, device, gemm_flops_per_second, precision

# TFLOP/s of dense bf16 products with float32 sums, from the makers' data sheets; the first that fits a name counts
_NOMINAL = (
    (r"B200", 2250.0),
    (r"H200 NVL|H100 NVL", 835.0),
    (r"H100 PCIe", 756.0),
    (r"GH200|H200|H100|H800", 989.0),
    (r"A100|A800", 312.0),
    (r"L40S", 362.0),
    (r"A40", 150.0),
    (r"A30", 165.0),
    (r"A10G", 70.0),
    (r"A10", 125.0),
    (r"L4", 121.0),
    (r"RTX 4090", 165.0),
    (r"RTX 3090", 71.0),
)


def nominal_flops(name: str) -> float | None:
    """Operations a second in bf16 of the card with this name, by its maker; None for a card that is not listed."""
    for pattern, teraflops in _NOMINAL:
        if re.search(rf"\b(?:{pattern})\b", name):
            return teraflops * 1e12
    return None


def device_name() -> str:
    """The accelerator's, or "CPU"."""
    return torch.cuda.get_device_name() if device().type == "cuda" else "CPU"


def memory_gib() -> float | None:
    """All memory of the accelerator; None on a CPU."""
    return torch.cuda.get_device_properties(device()).total_memory / GIB if device().type == "cuda" else None


class Machine(NamedTuple):
    """A line on it, and its operations a second in what models answer in: of a matrix product, and by its maker."""

    line: str
    flops: float
    nominal: float | None


def about() -> Machine:
    """This machine, by matrix products that are timed now."""
    used = precision()
    speeds = {dtype: gemm_flops_per_second(dtype) for dtype in {torch.float32, torch.bfloat16, used}}
    products = " and ".join(f"{_rate(speeds[dtype])} in {_word(dtype)}" for dtype in sorted(speeds, key=_word))
    nominal = nominal_flops(device_name())
    by_maker = f", by its maker {_rate(nominal)} in bfloat16" if nominal else ""
    memory, threads = memory_gib(), torch.get_num_threads()
    line = f"{device_name()}, " + (f"{memory:.0f} GiB" if memory else f"{threads} thread{'s' if threads > 1 else ''}")
    versions = f"torch {torch.__version__}" + (f", CUDA {torch.version.cuda}" if memory else "")
    line += f": matrix product {products}{by_maker}; {versions}; answers in {_word(used)}"
    return Machine(line, speeds[used], nominal)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _rate(flops: float) -> str:
    return f"{flops / 1e12:.3g} TFLOP/s" if flops >= 1e12 else f"{flops / 1e9:.0f} GFLOP/s"

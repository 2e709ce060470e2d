"""The accelerator: what its maker says of its matrix products, and one line about it."""

from __future__ import annotations

import re

import torch

from benchmarks.measure import device, gemm_flops_per_second, precision

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


def name() -> str:
    """Of the accelerator, or "CPU"."""
    return torch.cuda.get_device_name() if device().type == "cuda" else "CPU"


def memory_gib() -> float | None:
    """All memory of the accelerator; None on a CPU."""
    return torch.cuda.get_device_properties(device()).total_memory / 2**30 if device().type == "cuda" else None


def about() -> tuple[str, float, float | None]:
    """A line on what is measured on, and its operations a second: measured by a matrix product, and nominal."""
    measured, nominal = gemm_flops_per_second(), nominal_flops(name())
    said = f", by its maker {nominal / 1e12:.0f}" if nominal else ""
    memory = f", {memory_gib():.0f} GiB" if memory_gib() else f", {torch.get_num_threads()} threads"
    line = f"{name()}{memory}: matrix product {measured / 1e12:.3g} TFLOP/s in {precision()}{said}"
    return f"{line}; torch {torch.__version__}, CUDA {torch.version.cuda}", measured, nominal

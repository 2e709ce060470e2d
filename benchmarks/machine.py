"""What figures were measured on, in a line."""

from __future__ import annotations

import torch

from benchmarks.measure import device, gemm_flops_per_second, precision


def machine() -> str:
    """The device, its matrix product's speed, torch, and the precision that models answer in."""
    if device().type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        threads = torch.get_num_threads()
        name = f"CPU, {threads} thread{'s' if threads > 1 else ''}"
    speeds = [
        f"{gemm_flops_per_second(dtype) / 1e9:.0f} GFLOP/s in {dtype}" for dtype in (torch.float32, torch.bfloat16)
    ]
    return f"{name}, matrix product {' and '.join(speeds)}, torch {torch.__version__}; answers in {precision()}"

"""The type that a model answers in: bf16 where the processor multiplies it faster than float32, else float32.

In bf16 all weights are of that type.  Autocast over float32 weights takes as long and keeps both in memory: it turns
every weight over anew for each part of a volume.  Sums, softmax and norms are float32 inside torch's own kernels; what
is compared with a threshold is made float32 before (confidences, mask logits).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch

AnswerPrecision = Literal["auto", "bf16", "fp32"]
# Of x86.  Others may multiply bf16 too, but with what gain for convolutions has not been measured.
_MATRIX_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")


def answer_dtype(
    precision: AnswerPrecision | Literal["autocast"], device: torch.device | str, quantized: bool = False
) -> torch.dtype:
    """Of the weights of a model that answers.

    precision: auto is bf16 on CUDA, for a quantised language model, and where `cpu_multiplies_bf16`; autocast leaves
    the weights in float32.
    """
    if precision != "auto":
        return torch.bfloat16 if precision == "bf16" else torch.float32
    if quantized or torch.device(device).type == "cuda" or cpu_multiplies_bf16():
        return torch.bfloat16
    return torch.float32


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bf16, and torch a oneDNN that uses them.

    oneDNN by itself says yes to any AVX-512, where it computes bf16 by float32, slower than float32 is.
    """
    # an older torch of one's own does not tell
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(found.get(name, False) for name in _MATRIX_INSTRUCTIONS) and torch.ops.mkldnn._is_mkldnn_bf16_supported()

"""Attention of a search for answers in bf16 on a CPU: each step has one query a head.

torch's attention kernel for CPUs takes a bf16 query of one row by a matrix product that is made for many, five to eight
times as long as in float32.  So a step's query, keys and values are brought to float32 first; of prompts they are not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from models.language.lora import LanguageModel

NAME = "steps_in_float32"


def attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """transformers' SDPA attention: query (B, heads, n, C), key and value (B, heads, m, C) -> (B, n, heads, C).

    In training, on other devices, in other types and for n > 1 it is that and nothing else.
    """
    one_row = query.shape[2] == 1 and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if not one_row or torch.is_grad_enabled():
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    output, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **options)
    return output.to(query.dtype), None


ALL_ATTENTION_FUNCTIONS.register(NAME, attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def use_step_attention(model: LanguageModel) -> None:
    """Let a model in bf16 on a CPU take `attend` in place of SDPA attention; one that has another keeps it."""
    weight = next(model.parameters())
    if weight.dtype != torch.bfloat16 or weight.device.type != "cpu":
        return
    if model.config.get_text_config()._attn_implementation == "sdpa":
        model.set_attn_implementation(NAME)

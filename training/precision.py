"""The type that weights and activations have in training, and the loss scale that fp16 needs."""

from __future__ import annotations

from typing import Any

import torch

from datasets.errors import InputError
from training.settings import TrainingSettings

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "autocast": torch.float32}
_SCALER_STATE = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")  # of DeepSpeed's dynamic loss scale


def resolve_precision(settings: TrainingSettings, device: torch.device) -> str:
    """ "fp16", "bf16", "fp32" or "autocast"; raises InputError for a combination that DeepSpeed cannot train."""
    precision: str = settings.precision
    if precision == "auto":
        precision = settings.cuda_precision if device.type == "cuda" else "fp32"
    if precision in ("fp16", "bf16") and settings.zero_stage == 0:
        other = "" if settings.optimizer == "Muon" else "--zero_stage 1 or "
        raise InputError(f"--zero_stage 0 keeps no float32 copy of {precision} weights: use {other}--precision fp32")
    return precision


def cast_model(model: torch.nn.Module, precision: str) -> None:
    """Cast float32 weights in place, and those buffers that are saved with them.

    Saved ones are such as the statistics of a batch norm: torch's norms take one type for both.  Derived constants,
    such as rotary frequencies, keep their float32.
    """
    if TYPES[precision] == torch.float32:
        return
    saved = model.state_dict().keys()
    tensors = [*model.parameters(), *(buffer for name, buffer in model.named_buffers() if name in saved)]
    for tensor in tensors:
        if tensor.dtype == torch.float32:
            tensor.data = tensor.data.to(TYPES[precision])


class LossScale:
    """The factor of fp16: gradients too large for the type are expected now and then.

    DeepSpeed then skips the update and halves the factor.  Only where there is nothing left to halve is it an error.
    """

    def __init__(self, engine: Any) -> None:
        scaler = getattr(engine.optimizer, "loss_scaler", None)
        self.scaler: Any = scaler if getattr(scaler, "dynamic", False) else None
        if self.scaler is not None:
            self.scaler.raise_error_at_min_scale = False  # `update_weights` raises, and names the samples

    @property
    def is_dynamic(self) -> bool:
        """False in fp32 and bf16, and in fp16 with a fixed factor."""
        return self.scaler is not None

    @property
    def value(self) -> float:
        """The present factor; 1 where it is not dynamic."""
        return float(self.scaler.cur_scale) if self.is_dynamic else 1.0

    def can_fall(self) -> bool:
        """Whether a skipped update may make the next one possible."""
        return self.is_dynamic and self.value > self.scaler.min_scale

    def state(self) -> dict[str, float]:
        """Plain numbers for a checkpoint."""
        return {name: getattr(self.scaler, name) for name in _SCALER_STATE} if self.is_dynamic else {}

    def restore(self, state: dict[str, float]) -> None:
        """Inverse of `state`."""
        for name, value in state.items():
            setattr(self.scaler, name, value)

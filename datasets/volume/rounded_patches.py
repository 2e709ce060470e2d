"""Patches in half their bytes, for the cache: whole numbers of 16 bits times a step that fits the volume's range.

Why int16, and not fp16 or bf16: a normalised CT goes from about -2 to 4 deviations and has no small numbers that matter
more than others, so even steps lose least.  docs/data.md has the errors of all three.
"""

from __future__ import annotations

import torch

ERROR = 1 / 128_000  # of a volume's range, 0 included: the most by which a voxel moves
WIDEST = 64.0  # range above which patches stay float32, so that no voxel moves by more than 1/2,000
_STEPS = 65_534  # with one to spare, since both ends of the range are rounded
_LOWEST = -32_768


def rounded(patches: torch.Tensor) -> dict[str, torch.Tensor] | None:
    """Codes int16 of float32 patches, with the step (1,) float32 and the code of 0 (1,) int32 that `restored` takes.

    0, which the padding is made of, comes back as 0.  None where the range is wider than `WIDEST` or not finite.
    """
    low, high = min(patches.min().item(), 0.0), max(patches.max().item(), 0.0)
    if not high - low <= WIDEST:
        return None
    step = torch.tensor([(high - low) / _STEPS or 1.0], dtype=torch.float32)
    zero = _LOWEST - round(low / step.item())
    codes = patches.contiguous() / step
    codes = codes.round_().add_(zero).clamp_(_LOWEST, -_LOWEST - 1).to(torch.int16)
    return {"codes": codes, "step": step, "zero": torch.tensor([zero], dtype=torch.int32)}


def restored(codes: torch.Tensor, step: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """Float32 patches of what `rounded` gave, each at most `ERROR` of their range from what it was."""
    return codes.to(torch.float32).sub_(zero).mul_(step)

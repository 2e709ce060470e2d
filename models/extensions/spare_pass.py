"""Running the parts of CTInstruct that no sample of a batch asks for, so that all ranks run the same ones.

DeepSpeed's ZeRO-2 joins gradients into buckets in the order in which they arrive.  So where samples of several kinds
are mixed, each rank must run the same modules in the same order whatever its samples ask for: a part that none needs
runs on zeros, or on any volume at hand, and its result is multiplied by 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.vocabulary import diseases_of
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume


def spare_volume(model: CTInstruct, encoded: Sequence[Sequence[EncodedVolume]]) -> EncodedVolume:
    """Any volume of the batch, or one slice of zeros."""
    for row in encoded:
        if row:
            return row[0]
    c0, c1, _ = model.config.crop_size
    weight = model.vision.bridger[0].weight
    with batch_statistics_kept(model.vision):
        return model.vision.encode(weight.new_zeros(1, c0, c1, 1), weight.new_ones(1, 1), (1, 1, 1))


def spare_visual_tokens(model: CTInstruct, spare: EncodedVolume) -> Tensor:
    """0, with a gradient of 0 for projector and encoder."""
    return 0 * model.vision.llm_tokens(spare).sum()


def spare_diagnosis(model: CTInstruct, hidden: Tensor, label_set: str) -> Tensor:
    """0, with a gradient of 0 for the heads of a label set; hidden (B, L, width)."""
    idle = hidden.new_zeros(len(diseases_of(label_set)), hidden.shape[-1])
    return 0 * model.diagnosis_heads(idle, label_set).sum()


def spare_masks(model: CTInstruct, spare: EncodedVolume, hidden: Tensor) -> Tensor:
    """0, with a gradient of 0 for the mask decoder and all before it; hidden (B, L, width)."""
    with batch_statistics_kept(model.vision):
        logits = model.vision.decode_masks(spare.excerpt(), hidden[:1, -1], only_real_slices=False)
    return 0 * logits.sum()


@contextmanager
def batch_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it, batch normalisation uses its running statistics and leaves them alone."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()

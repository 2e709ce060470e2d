"""Running the parts of CTInstruct that no sample of a batch asks for, so that all ranks run the same ones.

A part that no sample needs runs on zeros, or on any volume at hand, and its result is multiplied by 0: the loss stays
as it is, and every parameter of the part gets a gradient of 0.

DeepSpeed's ZeRO-2 needs that where samples of several kinds are mixed.  It joins gradients into buckets in the order in
which they arrive, and ranks whose backward passes run different modules would add up buckets that do not match.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.vocabulary import diseases_of
from models.ctinstruct import CTInstruct, EncodedRows
from models.encoders.contract import EncodedVolume


def spare_volume(model: CTInstruct, encoded: EncodedRows) -> EncodedVolume:
    """The first volume of the batch, or one slice of zeros where it has none."""
    for row in encoded:
        if row:
            return row[0]
    c0, c1, _ = model.config.crop_size
    weight = next(model.vision.bridger.parameters())
    with batch_statistics_kept(model.vision):
        return model.vision.encode(weight.new_zeros(1, c0, c1, 1), weight.new_ones(1, 1), (1, 1, 1))


def spare_visual_tokens(model: CTInstruct, spare: EncodedVolume) -> Tensor:
    """(): 0, through projector and encoder, which get a gradient of 0."""
    return 0 * model.vision.llm_tokens(spare).sum()


def spare_diagnosis(model: CTInstruct, states: Tensor, label_set: str) -> Tensor:
    """(): 0, through the heads of a label set; hidden states (n, width) give device and type."""
    idle = states.new_zeros(len(diseases_of(label_set)), states.shape[-1])
    return 0 * model.diagnosis_heads(idle, label_set).sum()


def spare_masks(model: CTInstruct, spare: EncodedVolume, hidden: Tensor) -> Tensor:
    """(): 0, through the mask decoder and all before it; hidden (B, L, width), the language model's last states.

    The query is one of these and not zeros: ZeRO-3 counts the modules that the backward pass goes through.
    """
    with batch_statistics_kept(model.vision):
        logits = model.vision.decode_masks(spare.excerpt(), hidden[:1, -1], only_real_slices=False)
    return 0 * logits.sum()


@contextmanager
def batch_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it, batch normalisation uses its running statistics and does not update them."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()

"""Where the projector to the language model begins: at pretraining's own projection of tokens to the space of texts."""

from __future__ import annotations

import torch
from torch import nn

from models.vision import VisionModel


def projector_layers(vision: VisionModel) -> tuple[nn.Linear, nn.Linear]:
    """The two linear layers of the projector, which stands between the encoder's tokens and the language model."""
    first, second = (layer for layer in vision.bridger if isinstance(layer, nn.Linear))
    return first, second


@torch.no_grad()
def start_projector(vision: VisionModel, tokens_to_texts: nn.Linear) -> None:
    """Copy pretraining's projection of tokens into the projector's first layer, in as many channels as both have.

    The layer then takes off what all tokens share, and turns the rest to the space of texts.  With random weights
    tokens hardly differ behind it: what they share is many times as large as what tells them apart.

    tokens_to_texts: as `models.checkpoints.pretrained_vision.tokens_to_texts` reads it.
    """
    first, _ = projector_layers(vision)
    rows = min(tokens_to_texts.out_features, first.out_features)
    first.weight[:rows] = tokens_to_texts.weight[:rows]
    first.bias[:rows] = tokens_to_texts.bias[:rows]

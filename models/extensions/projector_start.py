"""Where the projector to the language model begins: at pretraining's own projection of tokens to the space of texts."""

from __future__ import annotations

import torch
from torch import nn

from models.vision import VisionModel


@torch.no_grad()
def start_projector(vision: VisionModel, tokens_to_texts: nn.Linear) -> None:
    """Give the projector's first layer, in as many channels as both have, pretraining's projection.

    It then gives the tokens less what all of them share, turned to the texts' space.  From torch's start a token is
    hardly told from any other: what they share is many times as large as what tells them apart.

    tokens_to_texts: as of `models.checkpoints.pretrained_vision.tokens_to_texts`.
    """
    first = vision.bridger[0]
    rows = min(tokens_to_texts.out_features, first.out_features)
    first.weight[:rows] = tokens_to_texts.weight[:rows]
    first.bias[:rows] = tokens_to_texts.bias[:rows]

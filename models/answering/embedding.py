"""What the encoder makes of a CT, for searches and classifiers of one's own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.answering.study import Study
from models.encoders.contract import EncodedVolume, as_volume
from models.pretraining import masked_mean


@dataclass(frozen=True, eq=False)
class VolumeEmbedding:
    """Tokens of the encoder, and means of them, in float32.

    volume: (C,), the mean of all tokens outside the padding.
    patches: (P, C), the same of each patch that holds something, in z-major order.
    tokens: (z, x, y, C), those of the whole volume in their places.
    valid: (z, x, y) bool, False for tokens of padding.
    """

    volume: np.ndarray
    patches: np.ndarray
    tokens: np.ndarray
    valid: np.ndarray


@torch.inference_mode()
def embed(study: Study) -> VolumeEmbedding:
    """The embedding of the study's first volume."""
    return embedding_of(study.encoded()[0])


@torch.inference_mode()
def embedding_of(encoded: EncodedVolume) -> VolumeEmbedding:
    """The embedding of a volume that an encoder has seen."""
    tokens, valid = encoded.tokens.float(), encoded.valid
    means = [masked_mean(tokens[i : i + 1], valid[i : i + 1]) for i in range(len(tokens)) if valid[i].any()]
    in_place = (as_volume(values, encoded.patch_grid, encoded.token_shape) for values in (tokens, valid))
    whole = (masked_mean(tokens, valid), torch.stack(means), *in_place)
    volume, patches, placed, real = (values.cpu().numpy() for values in whole)
    return VolumeEmbedding(volume, patches, placed, real)

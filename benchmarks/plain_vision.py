"""The published way to run the 2D1D network, for comparison: the same weights, without this project's savings.

Every slice is repeated to three channels and goes through the ResNet, padding or not; layouts are torch's default;
batch norms are modules of their own; each question about a volume encodes it again.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from models.encoders.contract import VolumePatches
from models.encoders.hybrid_2d1d import EncodedSlices, Encoder2D1D
from models.encoders.positions import sinusoidal_positions
from models.masks.slice_decoder import PixelDecoder
from models.vision import VisionModel

SLICES_PER_CHUNK = 32  # of mask decoding; all of a large volume at once would not fit


@torch.inference_mode()
def encode(model: VisionModel, volume: VolumePatches) -> EncodedSlices:
    """As `VisionModel.encode`."""
    encoder = model.encoder
    assert isinstance(encoder, Encoder2D1D)
    network = encoder.resnet2D
    slices = rearrange(volume.patches, "p h w d -> (p d) 1 h w").repeat(1, 3, 1, 1)
    skips = [network.get_submodule("conv1")(slices)]
    features = skips[0]
    for name in ("bn1", "act1", "maxpool"):
        features = network.get_submodule(name)(features)
    for name in ("layer1", "layer2", "layer3", "layer4"):
        features = network.get_submodule(name)(features)
        skips.append(features)
    valid = volume.slice_marks > 0
    rows = torch.arange(valid.numel()).view(valid.shape)
    tokens = encoder._attend(features.mean(dim=(2, 3))[rows], valid, volume.patch_grid)
    return EncodedSlices(tokens=tokens, valid=valid, skips=tuple(skips), slice_rows=rows, patch_grid=volume.patch_grid)


@torch.inference_mode()
def decode_masks(model: VisionModel, encoded: EncodedSlices, queries: Tensor) -> Tensor:
    """Logits (slices, n, c0, c1) of all slices, padding too; queries (n, llm width)."""
    decoder, config, queries = model.decoder, model.config, model.qwen2biolord(queries)
    assert isinstance(decoder, PixelDecoder)
    blocks = (decoder.decoder_vit, decoder.decoder1, decoder.decoder2, decoder.decoder3, decoder.decoder4)
    tokens, rows, parts = encoded.tokens.flatten(0, 1), encoded.slice_rows.flatten(), []
    positions = sinusoidal_positions(config.inplane_grid, config.query_width)
    for start in range(0, len(rows), SLICES_PER_CHUNK):
        chunk = rows[start : start + SLICES_PER_CHUNK]
        features = tokens[start : start + SLICES_PER_CHUNK, :, None, None]
        for block, skip in zip(blocks, reversed(encoded.skips), strict=True):
            features = block(features, skip[chunk])
        pooled = [torch.nn.functional.adaptive_avg_pool2d(skip[chunk], config.inplane_grid) for skip in encoded.skips]
        memory = model.projection_layer(torch.cat(pooled, dim=1).flatten(2).transpose(1, 2))
        asked = queries.expand(len(memory), -1, -1)
        embeddings = model.mask_embed_proj(model.transformer_decoder(asked, memory, positions.to(memory)))
        parts.append(torch.einsum("snc,schw->snhw", embeddings, decoder.transp_conv(features)))
    return torch.cat(parts)

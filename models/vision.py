"""The vision model: one encoder, the projector to the language model and the mask decoder, on shared features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from datasets.volume.preprocessing import Preprocessing
from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume, VolumeEncoder, VolumePatches, as_grid, as_volume
from models.encoders.hybrid_2d1d import Encoder2D1D
from models.encoders.recompute import recomputed
from models.encoders.resnet3d import EncoderResNet3D
from models.encoders.vit3d import EncoderViT3D
from models.masks.cube_decoders import UNetDecoder3D, UNETRDecoder3D
from models.masks.mask_decoder import PADDING_LOGIT as PADDING_LOGIT
from models.masks.mask_decoder import MaskDecoder, MaskPart
from models.masks.query_decoder import QueryDecoder
from models.masks.slice_decoder import PixelDecoder


class EncoderParts(NamedTuple):
    """An encoder and the mask decoder that reads its feature maps; both are built from a VisionConfig."""

    encoder: Callable[[VisionConfig], VolumeEncoder]
    mask_decoder: Callable[[VisionConfig], MaskDecoder]


ENCODERS: dict[str, EncoderParts] = {
    "2D1D": EncoderParts(Encoder2D1D, PixelDecoder),
    "ViT3D": EncoderParts(EncoderViT3D, UNETRDecoder3D),
    "ResNet3D": EncoderParts(EncoderResNet3D, UNetDecoder3D),
}


class VisionModel(nn.Module):
    """Encode a volume once, then ask for language-model tokens and for masks, in any order and as often as needed.

    With 2D1D, names of parameters are those of the published weights (`visual.*` there).  `preprocessing` says how the
    volumes that it was trained on were prepared, and every checkpoint keeps it.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        parts = ENCODERS[config.encoder]
        self.config = config
        self.preprocessing = Preprocessing.standard(config.crop_size, config.patch_max)
        self.encoder: VolumeEncoder = parts.encoder(config)
        self.bridger = nn.Sequential(
            nn.Linear(config.token_width, config.llm_width),
            nn.GELU(),
            nn.Linear(config.llm_width, config.llm_width),
            nn.GELU(),
        )
        self.decoder: MaskDecoder = parts.mask_decoder(config)
        self.projection_layer = nn.Sequential(
            nn.Linear(self.decoder.memory_width, config.query_width),
            nn.GELU(),
            nn.Linear(config.query_width, config.query_width),
            nn.GELU(),
        )
        self.transformer_decoder = QueryDecoder(config)
        self.qwen2biolord = nn.Linear(config.llm_width, config.query_width)
        # A hidden state has about unit variance, and the text embeddings that pretraining asks with have length 1: from
        # torch's own start a query would be many times as long, and the pretrained mask decoder would not know it.
        nn.init.normal_(self.qwen2biolord.weight, std=(config.llm_width * config.query_width) ** -0.5)
        nn.init.zeros_(self.qwen2biolord.bias)
        self.mask_embed_proj = nn.Sequential(
            nn.Linear(config.query_width, config.mask_hidden),
            nn.GELU(),
            nn.Linear(config.mask_hidden, config.mask_width),
            nn.GELU(),
        )

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Trade time for memory in training: blocks of encoder and mask decoder are computed again for the gradient."""
        self.encoder.gradient_checkpointing_enable(enabled)
        self.decoder.gradient_checkpointing = enabled

    def encode(self, patches: Tensor, slice_marks: Tensor, patch_grid: Sequence[int]) -> EncodedVolume:
        """patches (P, c0, c1, d), P = z*x*y in z-major order; slice marks (P, d), 0 for padding; grid (z, x, y).

        Raises ValueError where they do not fit each other.
        """
        return self.encode_many([VolumePatches(patches, slice_marks, as_grid(patch_grid))])[0]

    def encode_many(self, volumes: Sequence[VolumePatches]) -> list[EncodedVolume]:
        """Encode several volumes, of any grids, as one batch."""
        return list(self.encoder.encode_many(volumes))

    def llm_tokens(self, encoded: EncodedVolume) -> Tensor:
        """-> (product of `llm_grid`, llm width): the visual tokens in the order (slices, x, y) of the whole volume."""
        return self.bridger(pooled_tokens(encoded, self.config.llm_pooling).flatten(0, 2))

    def llm_grid(self, encoded: EncodedVolume) -> tuple[int, int, int]:
        """(slices, x, y): the grid that `llm_tokens` runs through, last axis fastest; 2D1D's is (z*d, x, y)."""
        return self.config.token_grid(encoded.patch_grid, encoded.slices)

    def decode_masks(
        self, encoded: EncodedVolume, queries: Tensor, project: bool = True, only_real_slices: bool = True
    ) -> Tensor:
        """Mask logits (n, x*c0, y*c1, z*d) of n queries.

        queries: hidden states of the language model (n, llm width), or with `project=False` label embeddings
        (n, query width) of the text encoder.  `only_real_slices` leaves slices marked as padding at PADDING_LOGIT.
        Raises ValueError for queries of another shape.
        """
        queries = self._queries(queries, project)
        masks, places_of_masks = self.decoder.blank_masks(encoded, len(queries))
        if not len(queries):
            return masks
        parts = self.decoder.parts(encoded, only_real_slices)
        decoded: Iterable[tuple[Tensor, Tensor]] = ((part.places, self._part_logits(part, queries)) for part in parts)
        if torch.is_grad_enabled():  # in one write, for the backward pass of each copies the gradient of all masks
            decoded = _joined(decoded)
        for places, logits in decoded:
            places_of_masks[places.unbind(1)] = logits.to(masks.dtype)
        return masks

    def decode_parts(self, encoded: EncodedVolume, queries: Tensor, project: bool = True) -> Tensor:
        """The same logits for training: (S, n, *voxels of a part), cut as `EncodedVolume.part_masks` cuts masks.

        A loss of them costs what the parts cost, however few of the volume's slices are valid.
        """
        if not self.config.masks_by_slice:  # a patch of padding is a part as well
            return encoded.part_masks(self.decode_masks(encoded, queries, project))
        queries = self._queries(queries, project)
        logits = [self._part_logits(part, queries) for part in self.decoder.parts(encoded)]
        return torch.cat(logits) if len(logits) > 1 else logits[0]

    def _part_logits(self, part: MaskPart, queries: Tensor) -> Tensor:
        """Mask logits (S, n, *voxels) of the part's S slices or patches: what queries found, times features."""
        recompute = self.decoder.recomputes
        embeddings = recomputed(recompute, self.decoder, self._mask_embeddings, part, queries)
        features = self.decoder.features(part)
        return self.decoder.logits(part, features, embeddings)

    def _mask_embeddings(self, part: MaskPart, queries: Tensor) -> Tensor:
        """Each query (n, query width) looks at the positions of each slice or patch -> (S, n, mask width)."""
        values, positions, padding = self.decoder.memory(part)
        values = self.projection_layer(values)
        repeated = queries.expand(len(values), -1, -1)
        return self.mask_embed_proj(self.transformer_decoder(repeated, values, positions.to(values), padding))

    def _queries(self, queries: Tensor, project: bool) -> Tensor:
        expected = self.config.llm_width if project else self.config.query_width
        if queries.ndim != 2 or queries.shape[1] != expected:
            raise ValueError(f"queries {tuple(queries.shape)}: expected (n, {expected}) with project={project}")
        queries = queries.to(self.qwen2biolord.weight)
        return self.qwen2biolord(queries) if project else queries


def _joined(decoded: Iterable[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Places and logits of all parts, in their order, as those of one; none where there is none."""
    pairs = list(decoded)
    if len(pairs) < 2:
        return pairs
    places, logits = zip(*pairs, strict=True)
    return [(torch.cat(places), torch.cat(logits))]


def pooled_tokens(encoded: EncodedVolume, factor: int) -> Tensor:
    """Tokens of each patch averaged over cubes of `factor`^3 -> (slices, x, y, C), the whole volume's.

    Only valid tokens count; a cube without any gives 0, and one that reaches beyond its patch is cut there.
    """
    grid, shape = encoded.patch_grid, encoded.token_shape
    if factor == 1:
        return as_volume(encoded.tokens, grid, shape)

    def cube_sums(values: Tensor) -> Tensor:
        d, h, w = (-size % factor for size in shape)
        filled = F.pad(values.unflatten(1, shape), (0, 0, 0, w, 0, h, 0, d))
        return reduce(filled, "p (d i) (h j) (w k) c -> p d h w c", "sum", i=factor, j=factor, k=factor)

    counted = encoded.valid[..., None].to(encoded.tokens.dtype)
    means = cube_sums(encoded.tokens * counted) / cube_sums(counted).clamp_min(1)
    return as_volume(means.flatten(1, 3), grid, means.shape[1:4])

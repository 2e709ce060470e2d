"""ViT3D, an ablation encoder: a vision transformer on cubes of voxels (Dosovitskiy et al. 2021), of timm's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from einops import rearrange
from timm.models.vision_transformer import Block, init_weights_vit_timm
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.contract import VolumeEncoder, VolumePatches, as_grid
from models.encoders.cubes import EncodedCubes, cells_with_content, voxel_cubes
from models.encoders.positions import sinusoidal_positions
from models.encoders.recompute import recomputed


class EncoderViT3D(VolumeEncoder):
    """All tokens of a volume attend to each other, across its patches, as they do in 2D1D.

    Positions are fixed sines of the token's place in the whole volume, so any grid of patches will do.  Tokens of
    padding are never computed: they are left out of the sequence, which is what masking them as keys amounts to, and
    stand as zeros in what is given out.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        self.patch_embed = nn.Linear(config.vit_patch**3, config.vit_width)
        self.blocks = nn.ModuleList(
            Block(config.vit_width, config.vit_heads, qkv_bias=True) for _ in range(config.vit_depth)
        )
        self.norm = nn.LayerNorm(config.vit_width)
        self.blocks.apply(init_weights_vit_timm)

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """Keep only the inputs of the transformer layers for the backward pass, and compute the rest again."""
        self.gradient_checkpointing = enabled

    def encode_many(self, volumes: Sequence[VolumePatches]) -> list[EncodedCubes]:
        """Encode volumes of any grids, one after the other.

        Feature maps of the result: the voxels (P, 1, c0, c1, D), hidden states after equal shares of the layers (3, 6
        and 9 of 12), and the tokens.  Raises ValueError where a volume's shapes do not fit.
        """
        return [self._encode(volume) for volume in volumes]

    def _encode(self, volume: VolumePatches) -> EncodedCubes:
        edge, weight = self.config.vit_patch, self.patch_embed.weight
        voxels, marks, slice_marks = voxel_cubes(volume, self.config, weight.device)
        shape = tuple(size // edge for size in (voxels.shape[4], *voxels.shape[2:4]))
        valid = cells_with_content(marks, shape)
        cubes = rearrange(voxels, "p 1 (h a) (w b) (d c) -> p (d h w) (a b c)", a=edge, b=edge, c=edge)
        positions = self._positions(volume.patch_grid, shape).to(weight.device)

        hidden = (self.patch_embed(cubes[valid].to(weight.dtype)) + positions[valid].to(weight.dtype))[None]
        states = []
        interval = len(self.blocks) // self.config.decoder_levels
        for number, block in enumerate(self.blocks, start=1):
            hidden = recomputed(self.gradient_checkpointing and self.training, block, block, hidden)
            if number % interval == 0:
                states.append(hidden)
        states[-1] = self.norm(hidden)

        filled = [_scatter(state[0], valid) for state in states]
        d, h, w = shape
        maps = [rearrange(tokens, "p (d h w) c -> p c h w d", d=d, h=h, w=w) for tokens in filled]
        return EncodedCubes(
            tokens=filled[-1],
            valid=valid,
            skips=(voxels.to(weight.dtype), *maps),
            slice_marks=slice_marks,
            patch_grid=as_grid(volume.patch_grid),
        )

    def _positions(self, patch_grid: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Of the tokens by their place in the volume -> (P, n, C)."""
        whole = tuple(int(patches) * tokens for patches, tokens in zip(patch_grid, shape, strict=True))
        (z, x, y), (d, h, w) = patch_grid, shape
        positions = sinusoidal_positions(whole, self.config.vit_width).unflatten(0, whole)
        return rearrange(positions, "(z d) (x h) (y w) c -> (z x y) (d h w) c", z=z, x=x, y=y, d=d, h=h, w=w)


def _scatter(values: Tensor, valid: Tensor) -> Tensor:
    """Rows (v, C) to where `valid` (P, n) is True -> (P, n, C), zeros elsewhere."""
    filled = values.new_zeros(*valid.shape, values.shape[-1])
    filled[valid] = values
    return filled

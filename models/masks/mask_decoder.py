"""What `VisionModel` asks of a mask decoder, the same for slices and for cubes.

A mask is the dot product, at each voxel, of an embedding of the query and features of the voxel.  A decoder cuts the
volume into parts, says what the queries may look at in a part, and makes the features; the queries' own layers are
those of `VisionModel`, which goes through the parts and joins the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from models.configuration import VisionConfig
from models.encoders.contract import EncodedVolume

# Quirk: the published decoder computes the slices of padding as well.  Ours leaves them at this logit: surely
# background, and finite in every float type.
PADDING_LOGIT = -100.0


@dataclass(frozen=True, kw_only=True)
class MaskPart:
    """What is decoded together: S slices of a volume, or one patch of it (S = 1).

    places (S, axes): where each of the S goes in the second result of `MaskDecoder.blank_masks`.
    """

    places: Tensor


class Memory(NamedTuple):
    """What queries look at in each of the S slices or patches of a part.

    values (S, m, memory width) at m positions (m, query width); padding (S, m), True where not to look, or None.
    """

    values: Tensor
    positions: Tensor
    padding: Tensor | None = None


Encoded = TypeVar("Encoded", bound=EncodedVolume)
Part = TypeVar("Part", bound=MaskPart)


class MaskDecoder(nn.Module, ABC, Generic[Encoded, Part]):
    """Base of the mask decoders; each is for what its encoder gives, `Encoded`, and cuts it into parts of its own kind.

    `memory_width` is the number of channels that queries look at.  A subclass has `transp_conv`, the last step of the
    features, to `mask_width` channels at full resolution; its kernel is as large as its stride.
    """

    transp_conv: Convolution

    def __init__(self, config: VisionConfig, memory_width: int) -> None:
        super().__init__()
        self.config = config
        self.memory_width = memory_width
        self.gradient_checkpointing = False

    @property
    def recomputes(self) -> bool:
        """Whether activations are not kept for the backward pass, but computed again."""
        return self.gradient_checkpointing and self.training

    @abstractmethod
    def parts(self, encoded: Encoded, only_real_slices: bool = True) -> Iterator[Part]:
        """The volume's parts, one after the other, as small as evaluation wants them and training allows.

        `only_real_slices` leaves out what is padding and nothing else.
        """

    @abstractmethod
    def memory(self, part: Part) -> Memory:
        """The encoder's feature maps of a part, averaged to the crop / 32 positions that queries look at."""

    @abstractmethod
    def features(self, part: Part) -> Tensor:
        """Features (S, C, *cells) of a part, one step before full resolution: what `transp_conv` takes."""

    @abstractmethod
    def logits(self, part: Part, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (S, C, *cells), embeddings of queries (S, n, mask width) -> mask logits (S, n, *voxels)."""

    @abstractmethod
    def blank_masks(self, encoded: Encoded, queries: int) -> tuple[Tensor, Tensor]:
        """Masks (n, x*c0, y*c1, z*d) of n queries, all `PADDING_LOGIT`, and a view of them to write parts to.

        The view has the axes of `MaskPart.places` first, then those of a part's logits, (n, *voxels).
        """

    def products(self, features: Tensor, embeddings: Tensor) -> Tensor:
        """features (S, C, *cells) of `features`, embeddings (S, n, mask width) -> dot products (S, n, *voxels)."""
        return upsampled_products(features, embeddings, self.transp_conv.get_parameter("conv.weight"))


def patch_places(patches: Tensor, patch_grid: tuple[int, int, int]) -> Tensor:
    """Numbers of patches (S,) in z-major order -> their places (z, x, y) in the grid, (S, 3)."""
    _, x, y = patch_grid
    return torch.stack([patches // (x * y), patches // y % x, patches % y], dim=1)


def upsampled_products(features: Tensor, embeddings: Tensor, kernel: Tensor) -> Tensor:
    """Dot products of embeddings and the transposed convolution of features by a kernel that does not overlap itself.

    features (S, C, *sizes), embeddings (S, n, M), kernel (C, M, *factors) -> (S, n, *sizes times factors).  Each query
    is brought through the kernel in place of each voxel: the large map of M channels is never held.
    """
    factors, sizes = kernel.shape[2:], features.shape[2:]
    weights = torch.einsum("snm,cmk->snkc", embeddings.to(kernel.dtype), kernel.flatten(2))
    logits = (weights.flatten(1, 2) @ features.flatten(2)).unflatten(-1, sizes)
    logits = logits.unflatten(1, (embeddings.shape[1], *factors))
    axes = len(factors)
    pairs = [axis for i in range(axes) for axis in (2 + axes + i, 2 + i)]
    full = [size * factor for size, factor in zip(sizes, factors, strict=True)]
    return logits.permute(0, 1, *pairs).reshape(*logits.shape[:2], *full)

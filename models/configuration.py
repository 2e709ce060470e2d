"""Every width, depth and size of the vision network, and its named presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import Any

from datasets.errors import InputError

ENCODER_NAMES = ("2D1D", "ViT3D", "ResNet3D")
BOTTLENECK_EXPANSION = 4
MOST = 2**16  # of any size or width; a larger one in a file is damage
INPLANE_STRIDE = 32  # of the last ResNet stage: a slice ends as a (c0 / 32, c1 / 32) map
VIT_PATCHES = (4, 8, 16, 32)  # the mask decoder doubles the resolution, and looks at crop / 32 positions


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the encoder, of the mask decoder and of the projector to the language model.

    `crop_size` is one patch in voxels (in-plane x, in-plane y, slices).  `resnet_channels` are bottleneck widths: a
    stage gives four times as many channels; `stem_width` is of 2D1D's first convolution alone.
    `llm_pooling` joins so many tokens of a patch along each axis to one for the language model.  The `resnet` fields
    are shared by 2D1D and ResNet3D, `vit` ones are of ViT3D alone, with `vit_patch` voxels along each axis of a token.
    Defaults are the published 2D1D model beside a 7B language model.
    """

    encoder: str = "2D1D"
    crop_size: tuple[int, int, int] = (256, 256, 32)
    patch_max: int = 6
    resnet_layers: tuple[int, int, int, int] = (3, 4, 6, 3)
    resnet_channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    stem_width: int = 64
    attention_heads: int = 8
    attention_head_width: int = 64
    spatial_depth: int = 4
    temporal_depth: int = 4
    position_bias_width: int = 2048
    vit_width: int = 768
    vit_depth: int = 12
    vit_heads: int = 12
    vit_patch: int = 16
    vit_decoder_width: int = 32
    query_width: int = 768
    query_layers: int = 6
    query_heads: int = 8
    query_feedforward: int = 2048
    query_dropout: float = 0.1
    mask_hidden: int = 256
    mask_width: int = 64
    llm_width: int = 3584
    llm_pooling: int = 1

    def __post_init__(self) -> None:
        for name in ("crop_size", "resnet_layers", "resnet_channels"):  # a JSON file holds lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.encoder not in ENCODER_NAMES:
            raise InputError(f"encoder {self.encoder!r} is not known; choose one of {', '.join(ENCODER_NAMES)}")
        flat = self.encoder == "2D1D"
        if len(self.crop_size) != 3 or any(size % INPLANE_STRIDE for size in self.crop_size[: 2 if flat else 3]):
            which = "the two in-plane ones" if flat else "all of them"
            raise InputError(
                f"crop_size {self.crop_size}: it needs three sizes, and {which} must be multiples of {INPLANE_STRIDE}"
            )
        if self.query_width % 4 or self.query_width % self.query_heads:
            raise InputError(f"query_width {self.query_width} must divide by 4 and by query_heads {self.query_heads}")
        if self.encoder == "ViT3D" and (
            self.vit_patch not in VIT_PATCHES or self.vit_depth % self.decoder_levels or self.vit_width % self.vit_heads
        ):
            raise InputError(
                f"vit_patch {self.vit_patch} must be one of {VIT_PATCHES}, vit_depth {self.vit_depth} a multiple of "
                f"its binary logarithm and vit_width {self.vit_width} of vit_heads {self.vit_heads}"
            )
        if self.llm_pooling < 1:
            raise InputError(f"llm_pooling {self.llm_pooling} must be at least 1")

    @property
    def skip_channels(self) -> tuple[int, int, int, int, int]:
        """Channels of the five ResNet feature maps, finest first."""
        stem = self.resnet_channels[0] if self.encoder == "ResNet3D" else self.stem_width  # MONAI ties it to the next
        first, second, third, fourth = (BOTTLENECK_EXPANSION * width for width in self.resnet_channels)
        return stem, first, second, third, fourth

    @property
    def token_width(self) -> int:
        """Channels of a token: those of the transformer or of the last ResNet stage."""
        return self.vit_width if self.encoder == "ViT3D" else self.skip_channels[-1]

    @property
    def deep_widths(self) -> tuple[int, ...]:
        """Channels of the feature maps between the finest one and the tokens."""
        if self.encoder == "ViT3D":
            return (self.vit_width,) * (self.decoder_levels - 1)
        return self.skip_channels[1:] if self.encoder == "2D1D" else self.skip_channels[1:-1]

    @property
    def decoder_levels(self) -> int:
        """How often ViT3D's mask decoder doubles the resolution, from tokens to voxels."""
        return self.vit_patch.bit_length() - 1

    @property
    def masks_by_slice(self) -> bool:
        """Whether the mask decoder works slice by slice, so that masks can be learned on some slices of a volume.

        2D1D's does.  Those of the 3D encoders take whole patches: for them a training option that samples slices
        (`mask_slices`) means nothing, and has to be refused.
        """
        return self.encoder == "2D1D"

    @property
    def inplane_grid(self) -> tuple[int, int]:
        """Size of a slice's coarsest feature map."""
        return self.crop_size[0] // INPLANE_STRIDE, self.crop_size[1] // INPLANE_STRIDE

    @property
    def token_voxels(self) -> tuple[int, int, int]:
        """What one token of a patch stands for, in voxels (slices, x, y)."""
        if self.encoder == "2D1D":
            return 1, self.crop_size[0], self.crop_size[1]
        edge = self.vit_patch if self.encoder == "ViT3D" else INPLANE_STRIDE
        return edge, edge, edge

    def token_grid(self, patch_grid: tuple[int, int, int], depth: int) -> tuple[int, int, int]:
        """Visual tokens of a volume with patch grid (z, x, y) and `depth` slices a patch, seen as a volume.

        They are the language model's tokens, after pooling, along (slices, x, y).  A 2D image (depth 1) has one layer.
        """
        sizes = zip(patch_grid, (depth, *self.crop_size[:2]), self.token_voxels, strict=True)
        slices, x, y = (patches * ceil(ceil(size / edge) / self.llm_pooling) for patches, size, edge in sizes)
        return slices, x, y

    def to_dict(self) -> dict[str, Any]:
        """All fields, as a JSON file takes them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> VisionConfig:
        """Inverse of `to_dict`; fields left out keep their default.

        Raises InputError for an unknown name, and for a value that is not of its field's kind.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"vision configuration: unknown field {', '.join(unknown)}; remove it or correct its name")
        for field in fields(cls):
            if field.name in values and (wanted := _unlike(values[field.name], field.default)):
                raise InputError(f"vision configuration: {field.name} is {values[field.name]!r:.80}, not {wanted}")
        return cls(**values)


def _unlike(value: Any, default: Any) -> str:
    """What a value of the default's kind is, in words, where this one is none; else nothing."""
    if isinstance(default, str):
        return "" if isinstance(value, str) else "a name"
    if isinstance(default, float):
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1
        return "" if fits else "a number from 0 up to 1"
    sizes = list(value) if isinstance(value, (list, tuple)) else [value]
    many = len(default) if isinstance(default, tuple) else 1
    if (
        isinstance(value, (list, tuple)) == isinstance(default, tuple)
        and len(sizes) == many
        and all(type(size) is int and 0 < size <= MOST for size in sizes)
    ):
        return ""
    return f"{'a whole number' if many == 1 else f'{many} whole numbers'} from 1 to {MOST}"


_ON_TWO_CORES: dict[str, Any] = {  # all but the slices' network and how a volume is cut
    "stem_width": 32,
    "attention_heads": 4,
    "attention_head_width": 32,
    "spatial_depth": 1,
    "temporal_depth": 2,
    "position_bias_width": 64,
    "query_width": 128,
    "query_layers": 2,
    "query_heads": 4,
    "query_feedforward": 256,
    "mask_hidden": 128,
    "mask_width": 64,
    "llm_width": 128,
}
_OF_REAL_SLICES: dict[str, Any] = {
    "resnet_layers": (1, 2, 2, 1),
    "resnet_channels": (16, 16, 32, 64),
    **_ON_TWO_CORES,
}

VISION_PRESETS: dict[str, VisionConfig] = {
    "full": VisionConfig(),
    # for one GPU and a language model of 135M to 2B: the published slices, patches and ResNet, half the attention
    "small": VisionConfig(spatial_depth=2, temporal_depth=2, query_layers=3, llm_width=576),
    # for real CT on two CPU cores: slices whole, at 3 to 4 mm a pixel, so that the midline is no seam; half the ResNet
    "compact": VisionConfig(crop_size=(128, 96, 32), patch_max=4, **_OF_REAL_SLICES),
    # the same for a field of view half as wide, as of a neck
    "narrow": VisionConfig(crop_size=(64, 96, 32), patch_max=4, **_OF_REAL_SLICES),
    "tiny": VisionConfig(
        # A patch for each half of the body, 4 mm a voxel for a small adult.  A token is the mean of a slice of its
        # patch: in a single patch, left and right are one token; quarters cut findings more often than a few hundred
        # volumes can teach.
        crop_size=(32, 64, 48),
        patch_max=2,
        resnet_layers=(1, 1, 1, 1),
        resnet_channels=(16, 32, 48, 48),
        **_ON_TWO_CORES,
    ),
}


def _cubes_of_real_ct(crop_size: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """Two blocks along the body, as large in plane as the slices of 2D1D."""
    vit = {"vit_width": 128, "vit_depth": 6, "vit_heads": 4, "vit_patch": 8, "vit_decoder_width": 8, "llm_pooling": 4}
    return {
        "ViT3D": {"crop_size": crop_size, "patch_max": 2, **vit},
        "ResNet3D": {"crop_size": crop_size, "patch_max": 2, "resnet_channels": (32, 32, 64, 64)},
    }


_CUBES: dict[str, dict[str, dict[str, Any]]] = {  # what a 3D encoder changes in a preset
    "full": {
        "ViT3D": {"crop_size": (128, 128, 128), "llm_pooling": 2},
        "ResNet3D": {"crop_size": (128, 128, 128)},
    },
    "small": {
        "ViT3D": {"crop_size": (128, 128, 128), "vit_width": 384, "vit_depth": 8, "vit_heads": 6, "llm_pooling": 2},
        "ResNet3D": {"crop_size": (128, 128, 128), "resnet_channels": (32, 64, 128, 256)},
    },
    "compact": _cubes_of_real_ct((128, 96, 64)),
    "narrow": _cubes_of_real_ct((64, 96, 64)),
    "tiny": {  # a cube is wider and deeper than a 2D1D patch, for it is cut in no other way
        "ViT3D": {
            "crop_size": (64, 64, 64),
            "patch_max": 2,
            "vit_width": 128,
            "vit_depth": 6,
            "vit_heads": 4,
            "vit_patch": 8,
            "vit_decoder_width": 8,
            "llm_pooling": 2,
        },
        "ResNet3D": {"crop_size": (64, 64, 64), "patch_max": 2, "resnet_channels": (32, 32, 64, 64)},
    },
}


def vision_preset(size: str, encoder: str = "2D1D") -> VisionConfig:
    """The preset `size`, one of VISION_PRESETS, of an encoder; raises InputError for an unknown name of either."""
    if size not in VISION_PRESETS:
        raise InputError(f"vision preset {size!r} is not known; choose one of {', '.join(VISION_PRESETS)}")
    return replace(VISION_PRESETS[size], encoder=encoder, **_CUBES[size].get(encoder, {}))

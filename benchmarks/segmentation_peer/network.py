"""MONAI's DynUNet, the network of nnU-Net, planned for a patch."""

from __future__ import annotations

from monai.networks.nets import DynUNet
from torch import nn

from datasets.errors import InputError

LEAST_EDGE = 4  # voxels of the coarsest feature map, nnU-Net's rule
LEAST_STAGES = 3  # DynUNet's
MOST_CHANNELS = 320  # nnU-Net's limit for 3D


def stages_of(patch: tuple[int, int, int]) -> int:
    """Stages of the network: each but the first halves all axes, as long as no edge falls below `LEAST_EDGE`.

    nnU-Net halves an axis alone only where voxels are more than twice as long along another; planning CT of 4 x 4 x
    2.5 mm is not so.  Raises InputError for an edge that cannot be halved that often, or that is too small.
    """
    stages = 1
    while min(patch) // 2**stages >= LEAST_EDGE:
        stages += 1
    step = 2 ** (stages - 1)
    if stages < LEAST_STAGES or any(edge % step for edge in patch):
        least = LEAST_EDGE * 2 ** (LEAST_STAGES - 1)
        raise InputError(f"--patch {patch}: each edge must be a multiple of {step} and at least {least}")
    return stages


def build_network(
    patch: tuple[int, int, int], width: int, organs: int, deep_supervision: int, slicewise: bool = False
) -> nn.Module:
    """The network for patches (b, 1, w, h, d); in training it gives (b, 1 + deep_supervision, organs, w, h, d) logits,
    the finest first, in evaluation (b, organs, w, h, d).

    width: channels of the first stage; each further one has twice as many, up to 320.  Kernels are 3 x 3 x 3, two
    convolutions a stage, instance norm and leaky ReLU, as nnU-Net plans for voxels that are nearly cubes.  slicewise:
    kernels are 3 x 3 x 1 and no stage halves the third axis, so a slice sees its neighbours by the norms alone.
    """
    stages = stages_of(patch)
    if not 0 <= deep_supervision <= stages - 2:
        raise InputError(f"--deep_supervision {deep_supervision}: a patch {patch} allows 0 to {stages - 2}")
    kernel, halves = ((3, 3, 1), (2, 2, 1)) if slicewise else ((3, 3, 3), (2, 2, 2))
    strides = [(1, 1, 1)] + [halves] * (stages - 1)
    return DynUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=organs,
        kernel_size=[kernel] * stages,
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=[min(width * 2**stage, MOST_CHANNELS) for stage in range(stages)],
        norm_name=("INSTANCE", {"affine": True}),
        deep_supervision=deep_supervision > 0,
        deep_supr_num=max(deep_supervision, 1),
    )


def parameter_count(network: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in network.parameters())

"""Stages of the vision network at full size: encoding, masks, their memory, and what sharing work saves."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks import plain_vision
from benchmarks.measure import (
    Aim,
    Row,
    best_seconds,
    count_gflop,
    device,
    gemm_flops_per_second,
    known,
    measured,
    peak_gib,
    precision,
)
from models.configuration import vision_preset
from models.encoders.contract import VolumePatches
from models.masks.losses import mask_loss
from models.precision import cpu_multiplies_bf16
from models.vision import VisionModel

MANY_LABELS = 60


def full_model(size: str = "full", training: bool = False) -> VisionModel:
    """A preset, by default the published size, with random weights, on the accelerator if there is one."""
    torch.manual_seed(0)
    with device():  # where a billion random numbers are soonest drawn
        model = VisionModel(vision_preset(size))
    return model.to(device(), precision()).train(training)


def volume_of(patches: int, padded_slices: int = 0, size: str = "full") -> VolumePatches:
    """A volume of a preset's patches along z, by default of the published size, whose last slices are padding."""
    width, height, depth = vision_preset(size).crop_size
    marks = torch.ones(patches * depth)
    marks[patches * depth - padded_slices :] = 0
    marks = marks.view(patches, depth)
    voxels = torch.randn(patches, width, height, depth) * marks[:, None, None, :]
    return VolumePatches(voxels.to(device(), precision()), marks.to(device()), (patches, 1, 1))


def queries_of(model: VisionModel, count: int) -> torch.Tensor:
    """Hidden states of so many <SEG> tokens."""
    return torch.randn(count, model.config.llm_width, device=device(), dtype=precision())


def encode_and_mask(patches: int, size: str = "full") -> tuple[list[Row], list[Aim]]:
    """Encoding a volume, and one mask on it."""
    model, volume = full_model(size), volume_of(patches, size=size)
    voxels, aims = volume.patches.numel(), []
    with torch.inference_mode():
        rows = [measured(f"encode, {patches} patch(es)", partial(model.encode, *volume), voxels=voxels)]
        if patches == 1:
            plain = best_seconds(partial(plain_vision.encode, model, volume), repeats=2)
            rows[0].note = f"published way {plain:.2f} s"
            aims = [
                Aim("encoder forward over the matrix product of its operations", known(rows[0].over_limit), 1.35),
                Aim("encoder, faster than the published way", plain / rows[0].seconds, 1.0, at_least=True),
            ]
        encoded = model.encode(*volume)
        decode = partial(model.decode_masks, encoded, queries_of(model, 1))
        rows.append(measured(f"one mask, {patches} patch(es)", decode, repeats=2, voxels=voxels))
        if patches == 1:
            aims.append(Aim("one mask over the matrix product of its operations", known(rows[1].over_limit), 1.35))
    return rows, aims


def shared_work(size: str = "full") -> tuple[list[Row], list[Aim]]:
    """One answer with a mask on a volume of which half is padding, beside the published way of answering it.

    On a CPU the published way is in float32, as the release runs there; where bf16 is faster, so should we be, beyond
    what work is saved.  There a pass takes so long that a first one's own work does not count; on CUDA both sides are
    warmed up.
    """
    model, on_cuda = full_model(size), device().type == "cuda"
    volume = volume_of(2, model.config.crop_size[2], size)
    queries = queries_of(model, 1)
    theirs_in = precision() if on_cuda else torch.float32
    gain = 1.0 if theirs_in == precision() else gemm_flops_per_second() / gemm_flops_per_second(theirs_in)

    def ours() -> None:
        encoded = model.encode(*volume)
        model.llm_tokens(encoded)
        model.decode_masks(encoded, queries)

    def published(model: VisionModel, volume: VolumePatches, queries: torch.Tensor) -> None:
        model.llm_tokens(plain_vision.encode(model, volume))
        plain_vision.decode_masks(model, plain_vision.encode(model, volume), queries)

    with torch.inference_mode():
        row = measured("answer and mask, 2 patches, half padding", ours, repeats=3 if on_cuda else 2)
        whole = volume_of(2, size=size)
        full = best_seconds(partial(model.encode, *whole), repeats=3)
        half = best_seconds(partial(model.encode, *volume), repeats=3)
        # last, since the model's type changes with it
        plain = volume._replace(patches=volume.patches.to(theirs_in))
        way = partial(published, model.to(theirs_in), plain, queries.to(theirs_in))
        theirs = best_seconds(way, repeats=3 if on_cuda else 1, warm_up=on_cuda)
    row.note = f"published way {theirs:.1f} s in {theirs_in}"
    name = "encode + one mask, faster than encoding twice and decoding all slices"
    if gain > 1:
        name += f", over {gain:.1f} times for the type"
    return [row], [
        Aim(name, theirs / row.seconds / gain, 1.9, at_least=True),
        Aim("encoding a half-padded volume, of a full one", half / full, 0.6),
    ]


def many_labels(patches: int) -> tuple[list[Row], list[Aim]]:
    """Masks of 1 and of 60 labels on one encoded volume."""
    model = full_model()
    with torch.inference_mode():
        encoded = model.encode(*volume_of(patches))
        one = best_seconds(partial(model.decode_masks, encoded, queries_of(model, 1)), repeats=1)
        many = partial(model.decode_masks, encoded, queries_of(model, MANY_LABELS))
        seconds = best_seconds(many, repeats=1, warm_up=False)
    row = Row(f"{MANY_LABELS} masks, {patches} patch(es)", seconds, peak_gib=peak_gib(), note=f"one mask {one:.1f} s")
    aims = [Aim(f"{MANY_LABELS} masks, of the time of one, {patches} patch(es)", seconds / one, 2.0)]
    if patches == 6:
        aims.append(Aim(f"memory of {MANY_LABELS} masks on 6 patches", known(row.peak_gib), 12, unit=" GiB"))
    return [row], aims


def backward(patches: int, size: str = "full") -> tuple[list[Row], list[Aim]]:
    """Forward and backward of encoder and one mask, with gradient checkpointing.

    On a CPU with bf16 instructions, 4 patches are also measured with products in bf16 over the same float32 weights.
    """
    model = full_model(size, training=True)
    model.gradient_checkpointing_enable()
    queries = queries_of(model, 1)

    def step(volume: VolumePatches, in_bf16: bool = False) -> None:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            masks = model.decode_masks(model.encode(*volume), queries)
            target = torch.zeros_like(masks, dtype=torch.int8)
            target[:, masks.shape[1] // 4 : -masks.shape[1] // 4, masks.shape[2] // 4 : -masks.shape[2] // 4] = 1
            cross_entropy, dice = mask_loss(masks, target)
        (cross_entropy + dice).backward()

    def gflop() -> float:
        """Of one patch, times the patches: what is not linear, attention along the slices, is below a thousandth."""
        return count_gflop(partial(step, volume_of(1, size=size))) * patches

    volume = volume_of(patches, size=size)
    row = measured(f"forward + backward, {patches} patch(es)", partial(step, volume), 1, volume.patches.numel(), gflop)
    if patches != 4:
        return [row], []
    rows, aims = [row], [Aim("memory of forward + backward on 4 patches", known(row.peak_gib), 24, unit=" GiB")]
    if device().type == "cpu" and cpu_multiplies_bf16():
        seconds = best_seconds(partial(step, volume, in_bf16=True), 1, warm_up=False)
        gain = gemm_flops_per_second(torch.bfloat16) / gemm_flops_per_second(torch.float32)
        rows.append(Row(f"forward + backward, {patches} patch(es), products in bf16", seconds))
        name = f"forward + backward with products in bf16, faster than in float32, over {gain:.1f} times for the type"
        aims.append(Aim(name, row.seconds / seconds / gain, 0.48, at_least=True))
    return rows, aims

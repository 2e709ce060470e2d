"""Parity of the loader, the patches and the mask loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from datasets.volume.anyres import patchify, place_mask, select_grid
from datasets.volume.loading import load_volume
from models.masks.losses import mask_loss
from tests.parity import Errors, InputAbsent, exact, register, relative_error
from tests.shared_data import EXAMPLE_CT, SHARED, SHARED_VARIABLE

CROP_SIZE = (256, 256, 32)


@register("anyres_*.npz")
def check_anyres(file: Path) -> Errors:
    """Grid, resize, padding and split of a random volume, and of its mask where there is one."""
    vector = np.load(file)
    shape, patch_max = tuple(vector["shape"]), int(vector["patch_max"])
    random = np.random.default_rng(int(vector["seed"]))
    image = random.standard_normal(shape, dtype=np.float32)
    patched = patchify(torch.from_numpy(image), CROP_SIZE, patch_max)
    spread = float(vector["patches_std"])
    errors = {
        "grid": exact(select_grid(shape[1:], CROP_SIZE, patch_max), vector["best"]),
        "resized shape": exact(patched.placement.resized_shape, vector["resized"][1:]),
        "patch grid": exact(patched.patch_grid, vector["patch_grid"]),
        "patches shape": exact(patched.patches.shape, vector["patches_shape"][1:]),
        "marks": exact(patched.slice_marks, vector["marks"][0]),
        "patches": relative_error(patched.patches[:, ::16, ::16, ::4], vector["patches_sub"][0], spread),
        "patches mean": relative_error(patched.patches.double().mean(), vector["patches_mean"], spread),
        "patches std": relative_error(patched.patches.double().std(correction=0), vector["patches_std"], spread),
    }
    if "mask_shape" in vector:
        mask = torch.from_numpy((random.random(shape) > 0.5).astype(np.uint8))
        placed = place_mask(mask, patched.placement)
        errors |= {
            "mask shape": exact(placed.shape, vector["mask_shape"]),
            "mask": exact(placed[:, ::16, ::16, ::4], vector["mask_sub"]),
            "mask voxels": exact((placed == 1).sum(), vector["mask_sum_pos"]),
            "mask padding": exact((placed == -1).sum(), vector["mask_pad"]),
        }
    return errors


@register("load_example_ct_sm.npz")
def check_loader(file: Path) -> Errors:
    """The loader on a real CT, in stored order as the published one reads it."""
    vector = np.load(file)
    path = SHARED / EXAMPLE_CT
    if not path.exists():
        raise InputAbsent(f"{path} is absent; set {SHARED_VARIABLE} to the folder that holds {EXAMPLE_CT}")
    array, _ = load_volume(path, orientation="as_stored")
    spread = float(vector["std"])
    summary = {"mean": array.mean(), "std": array.std(), "min": array.min(), "max": array.max()}
    return {
        "shape": exact(array.shape, vector["shape"]),
        "values": relative_error(array[:, ::8, ::8, ::4], vector["sub"], spread),
        **{name: relative_error(value, vector[name], spread) for name, value in summary.items()},
    }


@register("seg_loss.npz")
def check_mask_loss(file: Path) -> Errors:
    """Both terms; each relative to its own value."""
    vector = np.load(file)
    bce, dice = mask_loss(torch.from_numpy(vector["logits"]), torch.from_numpy(vector["target"]))
    return {
        "bce": relative_error(bce, vector["bce"], float(vector["bce"])),
        "dice": relative_error(dice, vector["dice"], float(vector["dice"])),
    }

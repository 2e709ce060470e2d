"""Parity of the encoder, the projector and the mask decoder, at the published size."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from models.configuration import VISION_PRESETS
from models.vision import VisionModel
from tests.parity import Errors, exact, register, relative_error
from tests.parity_weights import rule_state_dict


@lru_cache(maxsize=1)
def reference_model(shapes_file: Path) -> VisionModel:
    """The full model under the rule's weights, in evaluation mode; 3.3 GB."""
    with torch.device("meta"):
        model = VisionModel(VISION_PRESETS["full"])
    model.load_state_dict(rule_state_dict(json.loads(shapes_file.read_text())), strict=True, assign=True)
    return model.eval()


@register("vision_*.npz")
def check_vision(file: Path) -> Errors:
    """Tokens, skip maps, language-model tokens and mask logits of random patches."""
    vector = np.load(file)
    z, x, y = grid = tuple(int(size) for size in vector["patch_grid"])
    depth, masked = int(vector["depth"]), int(vector["masked_slices"])
    random = np.random.default_rng(int(vector["seed"]))
    image = random.standard_normal((z * x * y, 256, 256, depth), dtype=np.float32)
    queries = random.standard_normal((int(vector["n_queries"]), 3584), dtype=np.float32)
    checksum = image.sum(dtype=np.float64)
    marks = torch.ones(z * x * y, depth)
    if masked:
        marks[-x * y :, -masked:] = 0

    model = reference_model(file.parent / "reference_state_dict_shapes.json")
    encoded = model.encode(torch.from_numpy(image), marks, grid)
    # The published decoder computes padding slices as well.
    logits = model.decode_masks(encoded, torch.from_numpy(queries), only_real_slices=False)[None]
    skips = [skip[encoded.slice_rows.flatten()].double() for skip in encoded.skips]
    skip_stds, logits_std = vector["skip_stds"], float(vector["mask_logits_std"])
    return {
        "image checksum": relative_error(checksum, vector["image_checksum"], 1.0),
        "encoder tokens": relative_error(encoded.tokens, vector["encoder_tokens"]),
        "llm tokens": relative_error(model.llm_tokens(encoded), vector["llm_tokens"]),
        "skip means": relative_error([skip.mean() for skip in skips], vector["skip_means"], float(skip_stds.min())),
        "skip stds": relative_error([skip.std() for skip in skips], skip_stds, float(skip_stds.min())),
        "mask shape": exact(logits.shape, vector["mask_logits_shape"]),
        "mask logits": relative_error(logits[..., ::8, ::8, :], vector["mask_logits_stride8"], logits_std),
        "mask mean": relative_error(logits.double().mean(), vector["mask_logits_mean"], logits_std),
        "mask std": relative_error(logits.double().std(), logits_std, logits_std),
    }

"""Dice of a pretrained encoder's masks on real CT, on the CT's own grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.phantom_transfer.real_truth import RealCase
from datasets.volume.anyres import patchify
from datasets.volume.loading import load_volume
from datasets.volume.restore import restore_masks
from evaluation.metrics.segmentation import dice
from models.checkpoints.pretrained_vision import load_pretraining
from models.checkpoints.run_folder import resolve_model_folder
from models.pretraining import PretrainingModel
from models.text.label_embeddings import label_embeddings

UNIONS = {"lungs": ("left lung", "right lung"), "kidneys": ("left kidney", "right kidney")}


@torch.no_grad()
def find_masks(model: PretrainingModel, texts: str, image: Path, labels: Sequence[str]) -> dict[str, np.ndarray]:
    """Boolean masks of ``labels`` on the grid of the file, outside the crop of the loader empty.

    texts: the text encoder that the model was pretrained with.  Raises InputError where a file cannot be read.
    """
    preprocessing = model.vision.preprocessing
    array, geometry = load_volume(image, preprocessing=preprocessing)
    config = model.vision.config
    volume = patchify(array, config.crop_size, config.patch_max, preprocessing.resize)
    embeddings = label_embeddings(texts, labels, config.query_width)
    queries = torch.stack([embeddings[label] for label in labels])
    logits = model.vision.decode_masks(model.encode([volume])[0], queries, project=False)
    restored = restore_masks(logits.float(), volume.placement).numpy().astype(np.uint8)
    return {label: geometry.to_source(mask) > 0 for label, mask in zip(labels, restored, strict=True)}


def score_cases(run: Path, cases: Iterable[RealCase], known: Sequence[str]) -> dict[str, dict[str, float]]:
    """{case: {organ: Dice}} of the model in a run folder, for the organs that it was taught.

    known: labels of its phantoms.  Both lungs, and both kidneys, are also scored together.
    """
    model = load_pretraining(resolve_model_folder(run)).eval()
    texts = str(run / "text_encoder")
    scores: dict[str, dict[str, float]] = {}
    for case in cases:
        truth = dict(case.masks)
        for name, parts in UNIONS.items():
            if name not in truth and all(part in truth for part in parts):
                truth[name] = truth[parts[0]] | truth[parts[1]]
        asked = [label for label in truth if label in known]
        if asked:
            found = find_masks(model, texts, case.image, asked)
            scores[case.name] = {
                label: round(dice(found[label][..., case.slices], truth[label][..., case.slices]), 4) for label in asked
            }
    return scores


def mean_by_organ(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """{data set and organ: mean Dice}: of the open_kbp patients together, of the others each by itself."""
    found: dict[str, list[float]] = {}
    for case, organs in scores.items():
        group = "open_kbp" if case.startswith("open_kbp") else case
        for organ, value in organs.items():
            found.setdefault(f"{group}: {organ}", []).append(value)
    return {name: round(float(np.mean(values)), 3) for name, values in sorted(found.items())}

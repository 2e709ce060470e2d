"""A tiny pretraining model and random batches of the three kinds."""

from __future__ import annotations

from typing import Any

import torch

from datasets.pretraining_batch import PretrainingBatch
from datasets.volume.anyres import patchify, place_mask
from models.extensions.pretraining import pretraining_model
from models.extensions.settings import PretrainingExtensions
from models.pretraining import PretrainingModel
from models.vision import VisionModel
from tests.tiny_model import VISION

TEXT_WIDTH = VISION.query_width


def tiny_pretraining(seed: int = 0, queue_size: int = 16, **extensions: Any) -> PretrainingModel:
    torch.manual_seed(seed)
    return pretraining_model(VisionModel(VISION), PretrainingExtensions(**extensions), queue_size)


def make_batch(kind: str, indices: list[int]) -> PretrainingBatch:
    """kind: "image_text", "CE", "BCE" or "segmentation"; sample i is the same in whatever batch it is."""
    volumes, texts, classes, diseases, queries, masks = [], [], [], [], [], []
    labels = torch.randn(4, TEXT_WIDTH, generator=torch.Generator().manual_seed(77))
    for index in indices:
        generator = torch.Generator().manual_seed(index)
        shape = (40 + 7 * (index % 3), 50, 12 + 9 * (index % 2))
        volumes.append(patchify(torch.randn(1, *shape, generator=generator), VISION.crop_size, 2))
        texts.append(torch.randn(TEXT_WIDTH, generator=generator))
        classes.append(torch.randint(4, (), generator=generator))
        diseases.append((torch.rand(4, generator=generator) > 0.5).float())
        structures = 1 + index % 3
        queries.append(labels[:structures])
        truth = torch.rand((structures, *shape), generator=generator) > 0.7
        masks.append(place_mask(truth.to(torch.int8), volumes[-1].placement))
    batch = PretrainingBatch(
        kind if kind in ("image_text", "segmentation") else "classification",
        f"task_{kind}",
        [f"sample-{index}" for index in indices],
        volumes,
    )
    if kind == "image_text":
        batch.text_embeddings = torch.stack(texts)
    elif kind == "segmentation":
        batch.query_embeddings, batch.masks = queries, masks
    else:
        batch.label_embeddings, batch.loss = labels, kind
        batch.targets = torch.stack(classes if kind == "CE" else diseases)
    return batch

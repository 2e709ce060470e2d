"""Models that embed CTs: a whole CTInstruct, or what pretraining left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datasets.volume.cache import VolumeLoader
from evaluation.answering.run_record import describe_checkpoint
from models.answering.embedding import VolumeEmbedding, embedding_of
from models.checkpoints.folder import read_config
from models.checkpoints.pretrained import PretrainedCTInstruct
from models.checkpoints.pretrained_vision import FORMAT, load_pretraining
from models.checkpoints.run_folder import resolve_model_folder
from models.precision import AnswerPrecision, answer_dtype


@dataclass(frozen=True)
class Embedder:
    """embed: the path of a CT to its embedding; raises InputError for one that cannot be read.

    made_with: what embeddings depend on, beside the file.
    """

    embed: Callable[[str], VolumeEmbedding]
    made_with: dict[str, Any]


def load_embedder(
    checkpoint: str,
    device: torch.device | str = "cpu",
    array_axes: str | None = None,
    precision: AnswerPrecision = "auto",
) -> Embedder:
    """Of a run, a model folder or a hub name of CTInstruct, or of a run of pretraining or its model folder.

    array_axes: what the axes of .npy and .npz volumes are.  precision: of the weights; embeddings are float32 in any.
    Raises InputError where it is no complete checkpoint.
    """
    folder = resolve_model_folder(checkpoint)
    dtype = answer_dtype(precision, device)
    made_with = {"checkpoint": describe_checkpoint(folder), "array_axes": array_axes, "precision": str(dtype)}
    if read_config(folder).get("format") == FORMAT:
        return Embedder(_pretraining(folder, device, array_axes, dtype), made_with)
    model = PretrainedCTInstruct.from_pretrained(folder, device, dtype)
    model.array_axes = array_axes
    return Embedder(model.embed, made_with)


def _pretraining(
    folder: Path, device: torch.device | str, array_axes: str | None, dtype: torch.dtype
) -> Callable[[str], VolumeEmbedding]:
    model = load_pretraining(folder).to(device, dtype)
    loader = VolumeLoader(model.vision.preprocessing, array_axes=array_axes)

    @torch.inference_mode()
    def embed(image: str) -> VolumeEmbedding:
        return embedding_of(model.encode([loader.volume(image)[0]])[0])

    return embed

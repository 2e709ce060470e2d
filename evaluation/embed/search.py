"""CTs found by words: how near the embeddings of volumes are to those of texts, in pretraining's space of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from datasets.errors import InputError
from evaluation.embed.embeddings import Embeddings
from models.checkpoints.folder import read_config
from models.checkpoints.pretrained_vision import knows_texts, labels_to_texts, load_pretrained_vision, tokens_to_texts
from models.checkpoints.run_folder import resolve_model_folder
from models.text.text_encoder import TextEncoder
from models.vision import VisionModel

PUBLISHED_ENCODER = "FremyCompany/BioLORD-2023"
_OWN_ENCODER = "text_encoder"  # of a run that made one, beside its checkpoints


@dataclass(frozen=True)
class Hit:
    """A CT, and the cosine of its angle to the text."""

    image: str
    similarity: float


def search(
    embeddings: Embeddings, texts: Sequence[str], pretraining: str = "", text_encoder: str = ""
) -> dict[str, list[Hit]]:
    """All CTs for each text, the nearest first.

    pretraining: a run of pretraining, or its model folder, whose projections are used; without one the checkpoint that
    made the embeddings, if it is one.  text_encoder: of that run; without one, what is known of it.

    Raises InputError where there are no projections, or where they are of another width than the embeddings.
    """
    if not all(text.strip() for text in texts):
        raise InputError("--search: a text is empty; write what to look for")
    folder = _with_projections(embeddings, pretraining)
    config, _ = load_pretrained_vision(folder)
    with torch.device("meta"):
        vision = VisionModel(config)  # for its widths alone
    to_texts, from_texts = tokens_to_texts(vision, folder), labels_to_texts(vision, folder)
    if to_texts.in_features != embeddings.volumes.shape[1]:
        raise InputError(
            f"{folder}: its encoder gives {to_texts.in_features} numbers, these embeddings have "
            f"{embeddings.volumes.shape[1]}; name the pretraining of the model that made them by --pretraining"
        )
    encoder = TextEncoder.load(text_encoder or _encoder_of(folder))
    if encoder.width != from_texts.in_features:
        raise InputError(
            f"--text_encoder gives {encoder.width} numbers and {folder} takes {from_texts.in_features}; name the one "
            "that it was pretrained with"
        )
    with torch.inference_mode():
        volumes = F.normalize(to_texts(torch.from_numpy(embeddings.volumes).float()), dim=-1)
        words = F.normalize(from_texts(encoder.encode(list(texts))), dim=-1)
        similarities = words @ volumes.T
    return {
        text: [Hit(embeddings.images[int(place)], float(row[place])) for place in row.argsort(descending=True)]
        for text, row in zip(texts, similarities, strict=True)
    }


def _with_projections(embeddings: Embeddings, pretraining: str) -> Path:
    if pretraining:
        folder = resolve_model_folder(pretraining)
    elif embeddings.checkpoint:
        folder = Path(embeddings.checkpoint)
    else:
        raise InputError("--search: the file does not say which model made it; name its pretraining by --pretraining")
    if not knows_texts(folder):
        raise InputError(
            f"{folder}: has no projections to texts, which a run of pretraining alone keeps; embed with that run as "
            "--checkpoint, or name it by --pretraining"
        )
    return folder


def _encoder_of(folder: Path) -> str:
    """The encoder that a run made for itself, or that its record names, or the published one."""
    for place in folder.parents[:3]:
        if (place / _OWN_ENCODER).is_dir():
            return str(place / _OWN_ENCODER)
    departures = (read_config(folder).get("training") or {}).get("departures") or {}
    return str(departures.get("text_encoder", {}).get("this_run", PUBLISHED_ENCODER))

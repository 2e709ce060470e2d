"""Samples to answers: how they are searched for, in which groups, and their masks on the loaded grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from transformers.generation.streamers import BaseStreamer
from typing_extensions import TypedDict, Unpack

from datasets.instruction import InstructionCollator, InstructionSample
from datasets.volume.restore import restore_masks
from models.answering.recent_volumes import RecentEncodings
from models.ctinstruct import CTInstruct
from models.extensions.shared_prefix import can_share_prefix
from models.generation import Prediction, SearchProtocol, generate, generation_config, is_sampled, search_settings


class SearchChanges(TypedDict, total=False):
    """Fields of `GenerationOptions`, any of them."""

    num_beams: int
    max_new_tokens: int
    protocol: SearchProtocol
    seed: int


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are searched for, see `models.generation`; numbers are the published ones."""

    num_beams: int = 5
    max_new_tokens: int = 4096
    protocol: SearchProtocol = "beams"
    seed: int = 42  # of what is drawn where answers are sampled

    def with_changes(self, **changes: Unpack[SearchChanges]) -> GenerationOptions:
        """The same options but for those that are named."""
        return replace(self, **changes)


@dataclass(frozen=True)
class SampleAnswer:
    """A prediction with its masks (H, W, D) uint8 on the loaded grid of its volume, one for each ``<SEG>``."""

    prediction: Prediction
    masks: list[np.ndarray]


def predict(
    model: CTInstruct,
    samples: Sequence[InstructionSample],
    options: GenerationOptions,
    encodings: RecentEncodings | None = None,
    streamer: BaseStreamer | None = None,
) -> list[SampleAnswer]:
    """Answer samples together, as far as they are searched for in one way; `encodings` are kept from batch to batch by
    the caller.

    A sampled answer is drawn by itself: then it depends on its id and the seed, and not on who shares the batch.
    `streamer` is given the tokens of one sample as they are found.
    """
    encodings = encodings or RecentEncodings(model)
    encoded = encodings.encode(samples)
    shares = can_share_prefix(model.language_model.config.get_text_config())
    prefixes = encodings.prefixes if shares else None
    device = next(model.vision.bridger.parameters()).device
    collate = InstructionCollator(model.tokenizer.pad_token_id)
    found: dict[int, Prediction] = {}
    for rows in _searched_together(model, samples, options):
        batch = collate([samples[row] for row in rows]).to(device)
        search = (options.num_beams, options.max_new_tokens, [encoded[row] for row in rows])
        predictions = generate(model, batch, *search, options.protocol, options.seed, streamer, prefixes)
        found |= dict(zip(rows, predictions, strict=True))
    return [SampleAnswer(found[row], _restored(found[row].mask_logits, sample)) for row, sample in enumerate(samples)]


def _searched_together(
    model: CTInstruct, samples: Sequence[InstructionSample], options: GenerationOptions
) -> list[list[int]]:
    """Places of the samples, in groups that `generate` answers as one batch."""
    config = generation_config(model)
    groups: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        search = search_settings(options.protocol, sample.task, config, options.num_beams)
        key = f"sampled {row}" if is_sampled(search, config) else str(search)
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def _restored(mask_logits: Tensor | None, sample: InstructionSample) -> list[np.ndarray]:
    """Masks on the loaded grid of the sample's volume, from logits (s, X, Y, Z) on its padded grid."""
    if mask_logits is None:
        return []
    return list(restore_masks(mask_logits.float(), sample.volumes[sample.mask_image].placement).cpu().numpy())

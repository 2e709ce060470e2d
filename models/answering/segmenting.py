"""Masks of many labels for little more than one: every label is asked for by itself, and all of them at once.

Each label has its own question and the answer that training gives it, up to ``<SEG>``, whose hidden state asks the mask
decoder.  The questions share the volume: it is encoded once, its tokens pass through the language model once, with all
questions behind them, and the mask decoder answers all queries together.  No token is searched for.  So a label's mask
is the same in any company.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from datasets.errors import InputError
from datasets.instruction import InstructionCollator, InstructionSample
from datasets.label_descriptions import canonical
from datasets.vocabulary import SEGMENTATION
from datasets.volume.restore import restore_masks
from models.answering.answer import Answer, Mask
from models.answering.study import Study
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume
from models.extensions.packed_attention import use_packed_attention
from models.extensions.packed_rows import packed_rows, read_packed
from models.extensions.shared_prefix import can_share_prefix

QUESTION = "Where is the {label}? Please output segmentation mask."
ANSWER = f"It is {SEGMENTATION}"
_TOGETHER = 64  # labels a pass: at full size their masks take 3 GB on the padded grid

log = logging.getLogger(__name__)


@torch.inference_mode()
def segment(study: Study, labels: Sequence[str], on_mask: Callable[[Mask], None] | None = None) -> Answer:
    """A mask for each label, of the study's first volume; a label that the volume lacks may have an empty one.

    on_mask: is given each mask as soon as it is there.

    Raises InputError where there is no volume or no label, or where a label is empty.
    """
    labels = list(dict.fromkeys(labels))
    if study.source is None or not labels:
        raise InputError("segment: name a CT and at least one label, as in model.segment('ct.nii.gz', ['liver'])")
    _warn_of_unknown(labels, study.labels)
    forced = study.model.tokenizer(ANSWER, add_special_tokens=False)["input_ids"]
    samples = []
    for label in labels:
        if not label.strip():
            raise InputError("segment: one of the labels is empty; leave it out")
        samples.append(study.sample(QUESTION.format(label=label.replace("_", " ")), answer_ids=forced))
    volumes, masks = study.encoded(), {}
    for start in range(0, len(labels), _TOGETHER):
        queries = mask_queries(study.model, samples[start : start + _TOGETHER], volumes)
        logits = study.model.vision.decode_masks(volumes[0], queries)
        for label, one in zip(labels[start:], logits.split(1), strict=False):  # each by itself: float takes its room
            restored = restore_masks(one.float(), study.volumes[0].placement)[0]
            masks[label] = Mask(label, restored.cpu().numpy(), study.geometries[0])
            if on_mask:
                on_mask(masks[label])
    text = ", ".join(f"{label} {SEGMENTATION}" for label in labels)
    return Answer(text, {}, masks, volume=study.source, warnings=study.warnings)


def mask_queries(model: CTInstruct, samples: Sequence[InstructionSample], volumes: list[EncodedVolume]) -> Tensor:
    """Hidden states (n, hidden) at the last token of n questions about the same volumes, with their answers' ids."""
    device = next(model.vision.bridger.parameters()).device
    batch = InstructionCollator(model.tokenizer.pad_token_id)(samples).to(device)
    encoded = [volumes] * len(samples)
    layout = model.layout(batch)
    can_share = can_share_prefix(model.language_model.config.get_text_config())
    if can_share and (packed := packed_rows(batch, layout, model.image_id)):
        use_packed_attention(model.language_model)
        hidden = read_packed(model, batch, encoded, packed)[1]
        return hidden[packed.shared.group[:, -1], packed.shared.column[:, -1]]
    embeddings, positions = model.input_embeddings(batch, encoded)
    return model.read(embeddings, layout.answers, position_ids=positions, attention_mask=batch.attention_mask)[1][:, -1]


def _warn_of_unknown(labels: Sequence[str], known: Sequence[str]) -> None:
    """Say which labels the model was not trained to find, where its checkpoint tells which it was."""
    spelled = {canonical(label): label for label in known}
    unknown = [label for label in labels if canonical(label) not in spelled] if known else []
    if unknown:
        close = difflib.get_close_matches(canonical(unknown[0]), spelled, n=3)
        hint = f"; did you mean {' or '.join(spelled[name] for name in close)}?" if close else ""
        more = f" and {len(unknown) - 1} more are" if len(unknown) > 1 else " is"
        log.warning("segment: %r%s not among the %d labels of training%s", unknown[0], more, len(known), hint)

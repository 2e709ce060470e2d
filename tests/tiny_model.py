"""A CTInstruct of the tiny preset and hand-made samples of every kind, for tests."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import torch

from datasets.conversation import Conversation
from datasets.instruction import InstructionCollator, InstructionSample
from datasets.manifest import QuestionPart
from datasets.vocabulary import DISEASE_CONFIDENCE, diseases_of
from datasets.volume.anyres import patchify, place_mask
from models.checkpoints.folder import build_ctinstruct
from models.configuration import VISION_PRESETS, VisionConfig
from models.ctinstruct import CTInstruct
from models.extensions.settings import TuningExtensions
from models.extensions.tuning import tuning_model
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer

VISION = replace(VISION_PRESETS["tiny"], crop_size=(64, 64, 16), patch_max=4)  # several patches, as at full size
ANSWERS = {
    "open_vqa": "On the left side.",
    "yes_no": "Yes.",
    "segmentation": "It is <SEG>.",
    "two_structures": "The liver is <SEG> and the spleen <SEG>.",
    "diagnosis": " ".join(f"{name} {DISEASE_CONFIDENCE}" for name in diseases_of("CT-RATE")),
    "diagnosis_16": " ".join([DISEASE_CONFIDENCE] * 16),
    "two_volumes": "It grew.",
    "text_only": "Hounsfield units.",
}


def tiny_tokenizer():
    return train_tokenizer([*ANSWERS.values(), "Where is the liver? What changed?"] * 2, vocabulary=500)


def tiny_ctinstruct(seed: int = 0, tokenizer=None, vision: VisionConfig = VISION, **extensions: Any) -> CTInstruct:
    torch.manual_seed(seed)
    tokenizer = tokenizer or tiny_tokenizer()
    make = tuning_model(TuningExtensions(**extensions))
    return build_ctinstruct(vision, build_tiny_language_model(tokenizer, layers=2), tokenizer, make)


def with_varied_queries(**options: Any) -> CTInstruct:
    """`tiny_ctinstruct`, untrained, with queries that differ more from word to word than small random weights would."""
    model = tiny_ctinstruct(**options).eval()
    with torch.no_grad():
        model.vision.bridger[2].weight *= 300
        model.vision.qwen2biolord.weight *= 300
    return model


def extended(model: CTInstruct, **extensions: Any) -> CTInstruct:
    """A model with extensions around the very parts of another, in the same mode."""
    other = tuning_model(TuningExtensions(**extensions))(model.vision, model.language_model, model.tokenizer)
    other.diagnosis_heads = model.diagnosis_heads
    return other.train(model.training)


def make_sample(
    kind: str, tokenizer, seed: int = 0, answered: bool = True, vision: VisionConfig = VISION
) -> InstructionSample:
    """A sample of a kind of ``ANSWERS`` with random volumes whose sizes depend on the seed."""
    generator = torch.Generator().manual_seed(seed)
    images = {"two_volumes": 2, "text_only": 0}.get(kind, 1)
    shapes = [(1, 40 + 7 * (seed % 3), 50, 12 + 9 * ((seed + k) % 2)) for k in range(images)]
    volumes = [patchify(torch.randn(shape, generator=generator), vision.crop_size, 2) for shape in shapes]
    conversation = Conversation(tokenizer)
    parts = [QuestionPart(type="image")] * images + [QuestionPart(type="text", text="What changed?")]
    counts = [prod(vision.token_grid(volume.patch_grid, volume.patches.shape[-1])) for volume in volumes]
    sample = InstructionSample(
        id=f"{kind}-{seed}",
        task=kind,
        prompt_ids=conversation.prompt(parts, counts),
        answer_ids=conversation.answer(ANSWERS[kind]) if answered else [],
        volumes=volumes,
        volume_keys=[f"{kind}-{seed}, volume {number}" for number in range(images)],
    )
    if kind.startswith("diagnosis"):
        sample.label_set = "RadChestCT" if kind.endswith("16") else "CT-RATE"
        targets = (torch.rand(len(diseases_of(sample.label_set)), generator=generator) > 0.5).float()
        targets[3] = float("nan")
        sample.targets = targets if answered else None
    if answered and "<SEG>" in ANSWERS[kind]:
        masks = torch.rand((ANSWERS[kind].count("<SEG>"), *shapes[0][1:]), generator=generator) > 0.7
        sample.masks = place_mask(masks.to(torch.int8), volumes[0].placement)
    return sample


def collate(samples, tokenizer):
    return InstructionCollator(tokenizer.pad_token_id)(samples)


def assert_equal_models(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

"""Tokens a second of answers from a language model of 2B shapes, and bf16 beside float32 with the same weights.

    python -m benchmarks.gpu.answers [--rehearsal]

Weights are random, so that the likeliest token leads the next by little: answers in the two types differ as early as
they ever will.  They are rounded to bf16 in both, so that only arithmetic differs; float32 is without TF32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.gpu.random_language import language_folder
from benchmarks.gpu.scale import Given, given
from benchmarks.machine import about
from benchmarks.measure import device, forget_peak, now, peak_gib
from benchmarks.same_tokens import first_difference
from datasets.conversation import Conversation
from datasets.instruction import InstructionBatch, InstructionCollator, InstructionSample
from datasets.manifest import QuestionPart
from datasets.volume.anyres import patchify
from models.checkpoints.folder import build_ctinstruct
from models.configuration import vision_preset
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.language.loading import load_language_model
from training.script import run_script

BEAMS = 5
COMPARED_TOKENS = 32
ORGANS = ("liver", "spleen", "heart", "stomach", "left kidney", "right lung", "aorta", "bladder")
ASKED = ("Where is the {}?", "Describe the {} of this patient in a report.")


def model_of(run: Given) -> CTInstruct:
    """The vision preset before the random language model, in bf16."""
    language_model, tokenizer = load_language_model(str(language_folder(run.work, run.scale)), torch.bfloat16)
    torch.manual_seed(0)
    with device():
        model = build_ctinstruct(vision_preset(run.scale.vision), language_model, tokenizer)
    return model.to(device(), torch.bfloat16).eval()


def question(model: CTInstruct, number: int, patches: int) -> InstructionBatch:
    """A question about a volume of random voxels, the `number`-th of many; both differ from one to the next."""
    crop = model.config.crop_size
    noise = torch.randn(1, *crop[:2], crop[2] * patches, generator=torch.Generator().manual_seed(number))
    volume = patchify(noise.bfloat16().float(), crop, patches)
    count = torch.Size(model.config.token_grid(volume.patch_grid, volume.patches.shape[-1])).numel()
    text = ASKED[number // len(ORGANS) % len(ASKED)].format(ORGANS[number % len(ORGANS)])
    parts = [QuestionPart(type="image"), QuestionPart(type="text", text=text)]
    sample = InstructionSample(
        id=str(number),
        task="open_vqa",
        prompt_ids=Conversation(model.tokenizer).prompt(parts, [count]),
        answer_ids=[],
        volumes=[volume],
        volume_keys=[str(number)],
    )
    return InstructionCollator(model.tokenizer.pad_token_id)([sample]).to(device())


def speed(run: Given, model: CTInstruct) -> None:
    """Seconds of the prompt and tokens a second, greedily and by beams."""
    for beams in (1, BEAMS):
        found = rate(run, model, beams)
        run.figures.add(f"tokens of an answer {how(beams)}", found.tokens_a_second, "/s", note=found.note)


def how(beams: int) -> str:
    """The search in words."""
    return "greedily" if beams == 1 else f"by {beams} beams"


class Rate(NamedTuple):
    """Of one answer; the first token, which the prompt is read for, is not in tokens_a_second."""

    tokens_a_second: float
    tokens: list[int]
    note: str


def rate(run: Given, model: CTInstruct, beams: int) -> Rate:
    """How fast the tokens of an answer come, which may not stop early."""
    batch = question(model, 0, run.scale.patches)
    ends = model.tokenizer.eos_token
    model.tokenizer.eos_token = model.tokenizer.pad_token
    try:
        with torch.inference_mode():
            encoded = model.encode(batch)
            forget_peak()  # of what came before
            first = _seconds(model, batch, encoded, beams, 1)[0]
            seconds, tokens = _seconds(model, batch, encoded, beams, run.scale.new_tokens)
    finally:
        model.tokenizer.eos_token = ends
    note = f"{len(tokens)} tokens in {seconds:.2f} s, to the first {first:.3f} s, peak {peak_gib():.1f} GiB"
    return Rate((len(tokens) - 1) / max(seconds - first, 1e-9), tokens, note)


def _seconds(
    model: CTInstruct, batch: InstructionBatch, encoded: list, beams: int, tokens: int
) -> tuple[float, list[int]]:
    """(seconds, tokens written) of one answer, after one to warm up."""
    generate(model, batch, beams, min(tokens, 4), encoded)
    begun = now()
    written = generate(model, batch, beams, tokens, encoded)
    return now() - begun, written[0].token_ids.tolist()


@torch.inference_mode()
def outputs(
    model: CTInstruct, batches: Sequence[InstructionBatch]
) -> tuple[list[Tensor], list[Tensor], list[list[int]]]:
    """Encoded tokens and mask logits of each volume, and the greedy answer's token ids."""
    width = model.config.llm_width
    query = torch.randn(1, width, generator=torch.Generator().manual_seed(0)).to(device())
    tokens, masks, answers = [], [], []
    for batch in batches:
        encoded = model.encode(batch)
        tokens.append(encoded[0][0].tokens.float().cpu())
        masks.append(model.vision.decode_masks(encoded[0][0], query.to(torch.bfloat16)).float().cpu())
        answers.append(generate(model, batch, 1, COMPARED_TOKENS, encoded)[0].token_ids.tolist())
    return tokens, masks, answers


def relative_error(values: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """Norm of all differences over the norm of all exact values."""
    difference = torch.stack([(one - other).square().sum() for one, other in zip(values, exact, strict=True)]).sum()
    return float((difference / torch.stack([other.square().sum() for other in exact]).sum()).sqrt())


def precisions(run: Given, model: CTInstruct) -> None:
    """bf16 beside float32; the model is float32 afterwards."""
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    batches = [question(model, number, 1) for number in range(run.scale.questions)]
    tokens, masks, answers = outputs(model, batches)
    exact_tokens, exact_masks, exact_answers = outputs(model.float(), batches)
    run.figures.add("bf16, relative error of encoded tokens", 100 * relative_error(tokens, exact_tokens), "%")
    flipped = [float(((one > 0) != (other > 0)).float().mean()) for one, other in zip(masks, exact_masks, strict=True)]
    note = f"{100 * sum(flipped) / len(flipped):.2g} % of the voxels change sides"
    run.figures.add("bf16, relative error of mask logits", 100 * relative_error(masks, exact_masks), "%", note=note)
    places = [first_difference(one, other) for one, other in zip(answers, exact_answers, strict=True)]
    differ = [place for place in places if place is not None]
    note = f"of {len(places)}, greedy, random weights"
    note += f"; the first token that differs is number {min(differ) + 1} or later" if differ else ""
    run.figures.add("bf16, answers that differ from those in float32", len(differ), note=note)


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    run, _ = given("answers", __doc__)
    run.figures.keep(machine=about().line)
    model = model_of(run)
    speed(run, model)
    precisions(run, model)


if __name__ == "__main__":
    run_script(main)

"""Questions about one volume share what was read of it: the answers are those of questions that are asked apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from datasets.instruction import InstructionSample
from models.answering.predicting import GenerationOptions, predict
from models.answering.recent_volumes import RecentEncodings
from models.ctinstruct import CTInstruct
from models.generation import generate
from models.prompt_prefixes import HeldPrefixes
from tests.test_any_language_model import FAMILIES
from tests.test_prompt_cache import answers, of_family, of_smollm2, read_once_a_beam
from tests.tiny_model import collate, make_sample, tiny_ctinstruct

WORDS = ("", "Where is the liver?", "Hounsfield units. Where is it? Yes.")  # questions of three lengths


def asked(model: CTInstruct, kind: str, seed: int, words: str, before: bool = False) -> InstructionSample:
    """A question of `make_sample`, with these words before it, or before its volume."""
    sample = make_sample(kind, model.tokenizer, seed, answered=False)
    ids = sample.prompt_ids
    last = len(ids) - ids[::-1].index(model.image_id) if model.image_id in ids else 0
    place = 1 if before else last + 1
    own = model.tokenizer(words, add_special_tokens=False)["input_ids"]
    return replace(sample, id=f"{sample.id} {words}", prompt_ids=ids[:place] + own + ids[place:])


def mixed(model: CTInstruct) -> list[InstructionSample]:
    """Three questions about one volume, one about it with words before it, two about another, of two, and none."""
    return [
        *(asked(model, "open_vqa", 3, words) for words in WORDS),
        asked(model, "open_vqa", 3, WORDS[1], before=True),
        asked(model, "yes_no", 4, WORDS[0]),
        asked(model, "two_volumes", 5, WORDS[2]),
        asked(model, "text_only", 6, WORDS[1]),
    ]


@contextmanager
def passes(model: CTInstruct) -> Iterator[list[tuple[int, int]]]:
    """Rows and columns of each pass of the decoder, while they happen."""
    seen: list[tuple[int, int]] = []

    def note(_: object, __: object, options: dict) -> None:
        given = options.get("inputs_embeds")
        seen.append(tuple((options["input_ids"] if given is None else given).shape[:2]))

    handle = model.language_model.model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("build", [lambda: tiny_ctinstruct().eval(), *(lambda n=n: of_family(n) for n in FAMILIES)])
def test_answers_are_those_of_whole_prompts(build, beams) -> None:
    model = build()
    samples = mixed(model)
    batch = collate(samples, model.tokenizer)
    encoded = model.encode(batch)
    expected = read_once_a_beam(model, batch, beams, 8)
    assert answers(model, batch, beams, 8) == expected and len({tuple(tokens) for tokens in expected}) > 3
    held = HeldPrefixes()
    for _ in range(2):  # read, then held
        found = generate(model, batch, beams, 8, encoded, prefixes=held)
        assert [answer.token_ids.tolist() for answer in found] == expected
    one_by_one = RecentEncodings(model)
    apart = [predict(model, [sample], GenerationOptions(beams, 8), one_by_one)[0].prediction for sample in samples]
    assert [answer.token_ids.tolist() for answer in apart] == expected


def forced(model: CTInstruct, tokens: Sequence[int]) -> None:
    search = model.language_model.generate
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [tokens[len(given) % len(tokens)]]
    )


@pytest.mark.parametrize("beams", [1, 2])
def test_an_answer_does_not_depend_on_what_was_asked_before(beams) -> None:
    model = tiny_ctinstruct().eval()
    forced(model, [model.segmentation_id, 20])
    samples = [asked(model, "segmentation", 3, words) for words in WORDS]
    options = GenerationOptions(beams, 2)
    (fresh,) = predict(model, samples[2:], options)
    encodings = RecentEncodings(model)
    *_, held = [predict(model, [sample], options, encodings)[0] for sample in samples]
    assert fresh.prediction.mask_logits is not None
    assert torch.equal(held.prediction.mask_logits, fresh.prediction.mask_logits), "to the last bit"


def test_a_volume_is_read_once_for_questions_in_a_row_and_again_after_another_volume() -> None:
    model = tiny_ctinstruct().eval()
    options = GenerationOptions(3, 2)
    first, second = asked(model, "open_vqa", 3, WORDS[0]), asked(model, "open_vqa", 3, WORDS[2])
    other = asked(model, "open_vqa", 4, WORDS[0])
    prefix = len(first.prompt_ids) - first.prompt_ids[::-1].index(model.image_id)
    assert first.prompt_ids[:prefix] == second.prompt_ids[:prefix]
    encodings = RecentEncodings(model)

    def read(*samples: InstructionSample) -> list[tuple[int, int]]:
        with passes(model) as seen:
            predict(model, samples, options, encodings)
        return seen[:-1]  # the last is of the new token

    rest = len(second.prompt_ids) - prefix
    assert read(first) == [(1, prefix), (1, len(first.prompt_ids) - prefix - 1), (3, 1)]
    assert read(second) == [(1, rest - 1), (3, 1)]
    assert read(first, second, first) == [(3, rest - 1), (9, 1)]
    assert read(other)[0][0] == 1 and read(second)[0] == (1, prefix)


def test_a_prompt_that_ends_in_its_volume_is_read_whole() -> None:
    model = tiny_ctinstruct().eval()
    sample = make_sample("open_vqa", model.tokenizer, 3, answered=False)
    last = len(sample.prompt_ids) - sample.prompt_ids[::-1].index(model.image_id)
    batch = collate([replace(sample, prompt_ids=sample.prompt_ids[:last])], model.tokenizer)
    found = generate(model, batch, 2, 4, prefixes=HeldPrefixes())
    assert [answer.token_ids.tolist() for answer in found] == read_once_a_beam(model, batch, 2, 4)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_answers_of_smollm2_are_those_of_whole_prompts() -> None:
    model = of_smollm2()
    batch = collate(mixed(model), model.tokenizer)
    found = generate(model, batch, 3, 12, prefixes=HeldPrefixes())
    assert [answer.token_ids.tolist() for answer in found] == read_once_a_beam(model, batch, 3, 12)

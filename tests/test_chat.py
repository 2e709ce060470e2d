"""Questions in turn, and answers word by word."""

from __future__ import annotations

import threading

import pytest

from datasets.conversation import Conversation, Turn
from datasets.errors import InputError
from datasets.manifest import QuestionPart
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from tests.test_asking import IMAGE, counting, saying
from tests.tiny_model import ANSWERS, tiny_ctinstruct, tiny_tokenizer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = save_checkpoint(tiny_ctinstruct().eval(), tmp_path_factory.mktemp("model"))
    return CTInstruct.from_pretrained(folder)


def test_a_chat_reads_the_volume_once_and_shows_what_was_said(model):
    with counting(model) as counts, saying(model, "On the left side.") as prompts:
        chat = model.chat(IMAGE, num_beams=1)
        first, second = chat.ask("Where is the liver?"), chat.ask("What changed?")
        alone = model.ask(IMAGE, "What changed?", num_beams=1)
    assert first.text == second.text == alone.text == "On the left side."
    assert counts["volumes"] == 2, "one for the chat, one for the question outside of it"
    assert chat.history == [Turn("Where is the liver?", first.text), Turn("What changed?", second.text)]
    turn = model.tokenizer("<|im_start|>user\nWhere is the liver?<|im_end|>\n<|im_start|>assistant\n" + first.text)
    grown = prompts[1].shape[1] - prompts[2].shape[1]
    assert abs(grown - len(turn["input_ids"])) <= 4


def test_a_dialogue_is_the_chat_template_of_all_turns():
    tokenizer = tiny_tokenizer()
    conversation = Conversation(tokenizer)
    ids = conversation.dialogue("And now?", [3], "q", [Turn("Where?", "It is <SEG>."), Turn("Why?", "Yes.")])
    expected = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>Where?<|im_end|>\n"
        "<|im_start|>assistant\nIt is <SEG>.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(ids) == expected
    parts = [QuestionPart(type="image"), QuestionPart(type="text", text="And now?")]
    assert conversation.dialogue("And now?", [3]) == conversation.prompt(parts, [3])


def test_the_oldest_turns_go_where_a_dialogue_is_too_long(caplog):
    tokenizer = tiny_tokenizer()
    turns = [Turn("one " * 40, "first"), Turn("two", "second")]
    whole = Conversation(tokenizer).dialogue("three", [2], "q", turns)
    kept = Conversation(tokenizer, max_length=len(whole) - 1).dialogue("three", [2], "q", turns)
    assert kept == Conversation(tokenizer).dialogue("three", [2], "q", turns[1:])
    assert "1 earlier turns left out" in caplog.text
    with pytest.raises(InputError, match="marks a volume"):
        Conversation(tokenizer).dialogue("<|image_pad|>", [2], "q", turns)


def test_words_come_as_they_are_found(model):
    pieces: list[str] = []
    with saying(model, ANSWERS["two_structures"]):
        answer = model.ask(IMAGE, "Where?", on_text=pieces.append)
        stream = model.stream(IMAGE, "Where?")
        assert [piece for piece in stream] == pieces and list(stream) == []
    assert "".join(pieces) == answer.text == stream.answer.text == ANSWERS["two_structures"]
    assert len(pieces) > 3 and len(stream.answer.masks) == 2


def test_a_chat_streams(model):
    chat = model.chat(IMAGE)
    with saying(model, "Hounsfield units."):
        assert "".join(chat.stream("What?")) == "Hounsfield units." == chat.history[0].answer


def test_a_stream_that_is_closed_ends_the_search(model):
    words = "liver " * 30
    with counting(model) as counts, saying(model, words):
        stream = model.stream(IMAGE, "Where?")
        next(iter(stream))
        stream.close()
        stopped = counts["passes"]
    assert 0 < stopped < len(model.tokenizer(words)["input_ids"])
    with pytest.raises(RuntimeError, match="closed before"):
        _ = stream.answer


def test_an_error_of_a_stream_reaches_its_reader(model):
    stream = model.stream(IMAGE, "<|image_pad|>")
    with pytest.raises(InputError, match="marks a volume"):
        list(stream)
    with pytest.raises(InputError, match="marks a volume"):
        _ = stream.answer
    assert threading.active_count() < 10

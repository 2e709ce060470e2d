"""Questions and answers as token ids: the language model's chat template, with image tokens in place."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from datasets.errors import InputError
from datasets.manifest import QuestionPart
from datasets.vocabulary import IMAGE, IMAGE_MARKUP

MAX_LENGTH = 8192  # ours: twice the longest answer, so that such an answer still leaves room for its question
MAX_ANSWER_TOKENS = 4096  # published
MOST_REMEMBERED = 1 << 14  # texts whose ids are kept, with the texts some 10 MB; of reports of a page each 100

log = logging.getLogger(__name__)


class Turn(NamedTuple):
    """A question that was asked, and what was answered."""

    question: str
    answer: str


class Conversation:
    """Turns one question (and its answer) into token ids.

    Args:
        tokenizer: of the language model, after ``add_special_tokens``.
        max_length: most tokens of question and answer together; a longer question is cut, with a warning.
        max_answer_tokens: most tokens of an answer, its end token among them; a longer one is cut, with a warning.
        remembers: keep the ids of the last texts: training asks in the same words again and again.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = MAX_LENGTH,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
        remembers: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.max_answer_tokens = max_answer_tokens
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE)
        self.remembers = remembers
        self._known: dict[Hashable, array[int]] = {}

    def prompt(
        self, parts: Sequence[QuestionPart], visual_tokens: Sequence[int], name: str = "", room: int | None = None
    ) -> list[int]:
        """Ids of the question up to where the answer begins.

        Args:
            parts: the question; its k-th image part becomes ``visual_tokens[k]`` image tokens between the markers.
            visual_tokens: how many tokens each of the question's volumes takes.
            name: of the sample, for warnings and errors.
            room: most ids, what the answer leaves of ``max_length``; None for all of it.  The last text is cut from its
                end, never an image.

        Raises:
            InputError: the volumes alone do not fit, or a text holds the image token.
        """
        room = self.max_length if room is None else room
        texts = [part.text for part in parts if part.text]
        if any(IMAGE in text for text in texts):
            raise InputError(f"{name}: the question's text has {IMAGE}, which marks a volume; make it an image part")
        ids = self._render(parts, texts, visual_tokens)
        if len(ids) <= room:
            return ids
        dropped = 0
        for index in reversed(range(len(texts))):
            tokens = self.tokenizer(texts[index], add_special_tokens=False)["input_ids"]
            # Cutting can split a word into more tokens than it had, so step down until it fits.
            keep = max(len(tokens) - (len(ids) - room), 0)
            while True:
                texts[index] = str(self.tokenizer.decode(tokens[:keep]))
                ids = self._render(parts, texts, visual_tokens)
                if len(ids) <= room or keep == 0:
                    break
                keep -= 1
            dropped += len(tokens) - keep
            if len(ids) <= room:
                log.warning(
                    "%s: question cut by %d tokens: %d of max_length %d are left for it",
                    name, dropped, room, self.max_length,
                )  # fmt: skip
                return ids
        raise InputError(
            f"{name}: {sum(visual_tokens)} image tokens and the chat template need {len(ids)} tokens, but {room} of "
            f"max_length {self.max_length} are left for the question; raise max_length, or lower patch_max or "
            "max_answer_tokens"
        )

    def dialogue(
        self, question: str, visual_tokens: Sequence[int], name: str = "", earlier: Sequence[Turn] = ()
    ) -> list[int]:
        """Ids of a question about volumes, which stand before its text, or before that of the first earlier turn.

        Args:
            earlier: turns that are over.  The oldest are left out, with a warning, where all would be longer than
                ``max_length``.
            visual_tokens, name: as `prompt` takes them.

        Raises:
            InputError: as `prompt`.
        """
        images = [QuestionPart(type="image") for _ in visual_tokens]
        for first in range(len(earlier)):
            turns = earlier[first:]
            if any(IMAGE in text for text in (question, *(turn.question for turn in turns))):
                break  # `prompt` refuses it
            messages = [message for turn in turns for message in _messages(turn)] + [_user(question)]
            messages[0] = _user(IMAGE_MARKUP * len(images) + messages[0]["content"])
            ids = self._ids(messages, visual_tokens)
            if len(ids) <= self.max_length:
                if first:
                    log.warning("%s: %d earlier turns left out, to fit max_length %d", name, first, self.max_length)
                return ids
        return self.prompt([*images, QuestionPart(type="text", text=question)], visual_tokens, name)

    def answer(self, text: str, name: str = "") -> list[int]:
        """Ids of an answer and of the end token; cut to ``max_answer_tokens``, with a warning.

        A cut answer has no end token, so that nobody learns to stop in the middle of a sentence.
        """
        ids = [*self._remembered(text, lambda: text), self.tokenizer.eos_token_id]
        if len(ids) > self.max_answer_tokens:
            log.warning("%s: answer cut from %d to max_answer_tokens %d", name, len(ids), self.max_answer_tokens)
        return ids[: self.max_answer_tokens]

    def _render(self, parts: Sequence[QuestionPart], texts: Sequence[str], visual_tokens: Sequence[int]) -> list[int]:
        remaining = iter(texts)
        content = "".join(IMAGE_MARKUP if part.type == "image" else next(remaining) for part in parts)
        return self._ids([_user(content)], visual_tokens)

    def _ids(self, messages: list[dict[str, str]], visual_tokens: Sequence[int]) -> list[int]:
        def render() -> str:
            return str(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

        counts = iter(visual_tokens)
        ids: list[int] = []
        for token in self._remembered(tuple((one["role"], one["content"]) for one in messages), render):
            ids.extend([token] * next(counts) if token == self.image_id else [token])
        return ids

    def _remembered(self, key: Hashable, text: Callable[[], str]) -> array[int]:
        """Ids of a text, which is made where `key`, that it follows from, was not met lately."""
        ids = self._known.get(key)
        if ids is None:
            ids = array("i", self.tokenizer(text(), add_special_tokens=False)["input_ids"])
            if self.remembers:
                if len(self._known) >= MOST_REMEMBERED:
                    self._known.clear()
                self._known[key] = ids
        return ids


def _user(content: str) -> dict[str, str]:
    return {"role": "user", "content": content}


def _messages(turn: Turn) -> list[dict[str, str]]:
    return [_user(turn.question), {"role": "assistant", "content": turn.answer}]

"""Questions and answers as token ids: the language model's chat template, with image tokens in place."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from datasets.errors import InputError
from datasets.manifest import QuestionPart
from datasets.vocabulary import IMAGE, IMAGE_MARKUP

log = logging.getLogger(__name__)


class Conversation:
    """Turns one question (and its answer) into token ids.

    Args:
        tokenizer: of the language model, after ``add_special_tokens``.
        max_length: most tokens of prompt and answer together; longer questions are cut, with a warning.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 4096):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.image_id = tokenizer.convert_tokens_to_ids(IMAGE)

    def prompt(
        self, parts: Sequence[QuestionPart], visual_tokens: Sequence[int], name: str = "", room: int | None = None
    ) -> list[int]:
        """Ids of the question up to where the answer begins.

        Args:
            parts: the question; its k-th image part becomes ``visual_tokens[k]`` image tokens between the markers.
            name: of the sample, for warnings and errors.
            room: most ids; None for ``max_length``.  The last text is cut from its end, never an image.

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
                texts[index] = self.tokenizer.decode(tokens[:keep])
                ids = self._render(parts, texts, visual_tokens)
                if len(ids) <= room or keep == 0:
                    break
                keep -= 1
            dropped += len(tokens) - keep
            if len(ids) <= room:
                log.warning("%s: question cut by %d tokens to fit max_length %d", name, dropped, self.max_length)
                return ids
        raise InputError(
            f"{name}: {sum(visual_tokens)} image tokens and the chat template need {len(ids)} tokens, but {room} are "
            "left for the question; raise max_length or lower patch_max"
        )

    def answer(self, text: str, name: str = "") -> list[int]:
        """Ids of an answer and of the end token; cut to half of ``max_length``, with a warning."""
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        limit = self.max_length // 2
        if len(ids) > limit:
            log.warning("%s: answer cut from %d to %d tokens (max_length %d)", name, len(ids), limit, self.max_length)
            ids = ids[:limit]
        return ids

    def _render(self, parts: Sequence[QuestionPart], texts: Sequence[str], visual_tokens: Sequence[int]) -> list[int]:
        remaining = iter(texts)
        content = "".join(IMAGE_MARKUP if part.type == "image" else next(remaining) for part in parts)
        rendered = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        counts = iter(visual_tokens)
        ids: list[int] = []
        for token in self.tokenizer(rendered, add_special_tokens=False)["input_ids"]:
            ids.extend([token] * next(counts) if token == self.image_id else [token])
        return ids

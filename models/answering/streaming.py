"""Answers word by word: a callback while they are found, or an iterator over the words."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator

import torch
from transformers import PreTrainedTokenizerBase, TextStreamer

from models.answering.answer import Answer

OnText = Callable[[str], None]


class TextCallback(TextStreamer):
    """Hands finished words to `on_text`, with the special tokens of an answer but without those that end it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int], on_text: OnText) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=False)
        self._ends = frozenset(ends)
        self._on_text = on_text

    def put(self, value: torch.Tensor) -> None:
        """Take the next token, or the prompt, which comes first."""
        if self.next_tokens_are_prompt or int(value) not in self._ends:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece that will not change any more."""
        if text:
            self._on_text(text)


class AnswerStream:
    """The words of an answer as they are found; `answer` is the whole of it, with masks, once they are all there.

    for piece in stream:
        print(piece, end="", flush=True)
    stream.answer.masks

    The work goes on in a thread of its own.  `close` ends it early; a stream that is no longer iterated does not end
    by itself.
    """

    def __init__(self, run: Callable[[OnText], Answer]) -> None:
        self._pieces: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[str]:
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # whoever iterates again finds the end as well
        self._raise_error()

    @property
    def answer(self) -> Answer:
        """The whole answer; waits for it.  Raises what answering raised, or RuntimeError where it was closed."""
        self._thread.join()
        self._raise_error()
        if self._answer is None:
            raise RuntimeError("the stream was closed before the answer was whole")
        return self._answer

    def close(self) -> None:
        """Stop answering at the next word, and wait until it has stopped."""
        self._stopped.set()
        self._thread.join()

    def _work(self, run: Callable[[OnText], Answer]) -> None:
        try:
            self._answer = run(self._take)
        except _Closed:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self._pieces.put(None)

    def _take(self, text: str) -> None:
        if self._stopped.is_set():
            raise _Closed
        self._pieces.put(text)

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


class _Closed(Exception):
    """Whoever read the stream has gone."""

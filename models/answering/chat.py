"""Several questions in turn about the same volumes, each with the ones before it in view."""

from __future__ import annotations

from collections.abc import Callable

from datasets.conversation import Turn
from models.answering.answer import Answer
from models.answering.predicting import GenerationOptions
from models.answering.streaming import AnswerStream, OnText
from models.answering.study import Study


class Chat:
    """Holds the volumes' encodings, and what was said; the oldest turns go where the prompt would grow too long.

    CTInstruct is trained on single questions: how well one is answered after others is not known.

    history: the turns so far, which may be changed or cleared.
    """

    def __init__(self, study: Study, options: GenerationOptions, label_set: str) -> None:
        self._study = study
        self._options = options
        self._label_set = label_set
        self.history: list[Turn] = []

    def ask(self, question: str, on_text: OnText | None = None) -> Answer:
        """The next question; `on_text` is given each word as it is found, and the search then has one beam.

        Raises InputError as `Study.ask`; the history is then as it was.
        """
        answer = self._study.ask(question, self._options, self._label_set, tuple(self.history), on_text)
        self.history.append(Turn(question, answer.text))
        return answer

    def stream(self, question: str) -> AnswerStream:
        """The next question, with its answer word by word; ask no other before the stream has ended."""
        run: Callable[[OnText], Answer] = lambda on_text: self.ask(question, on_text)  # noqa: E731
        return AnswerStream(run)

"""Searches of two threads, of which one has compiled steps: each answer is that of a search by itself."""

from __future__ import annotations

import threading

from models.answering.predicting import GenerationOptions, predict
from models.compiled_steps import MOST_CACHES, compile_steps, compiled_steps
from models.ctinstruct import CTInstruct
from tests.test_compiled_steps import AS_TRACED, nothing_compiled, tiny  # noqa: F401 (a fixture of every test)
from tests.test_prompt_cache import KINDS, answers, questions
from tests.tiny_model import make_sample

OPTIONS = GenerationOptions(1, 8)


class Paused:
    """A streamer that waits at its fourth token until it may go on."""

    def __init__(self) -> None:
        self.reached, self.may_go_on, self.count = threading.Event(), threading.Event(), 0

    def put(self, value) -> None:
        self.count += 1
        if self.count == 4:
            self.reached.set()
            assert self.may_go_on.wait(60)

    def end(self) -> None:
        pass


def tokens_of(model: CTInstruct, kind: str, streamer=None) -> list[int]:
    samples = [make_sample(kind, model.tokenizer, 3, answered=False)]
    (answer,) = predict(model, samples, OPTIONS, streamer=streamer)
    return answer.prediction.token_ids.tolist()


def test_a_search_that_begins_in_the_middle_of_another_takes_nothing_from_it() -> None:
    model = tiny()
    first, second = KINDS[:2]
    expected = tokens_of(model, first), tokens_of(model, second)
    assert len(expected[0]) >= 4 and expected[0] != expected[1]
    compile_steps(model.language_model, AS_TRACED)
    streamer, found = Paused(), []
    thread = threading.Thread(target=lambda: found.append(tokens_of(model, first, streamer)))
    thread.start()
    assert streamer.reached.wait(60)
    meanwhile = tokens_of(model, second)
    streamer.may_go_on.set()
    thread.join(60)
    assert (found, meanwhile) == ([expected[0]], expected[1])
    assert tokens_of(model, second) == expected[1], "the next search has compiled steps again"
    steps = compiled_steps(model.language_model)
    assert steps is not None and steps.compiled


def test_few_caches_are_kept() -> None:
    model = tiny()
    compile_steps(model.language_model, AS_TRACED)
    steps = compiled_steps(model.language_model)
    assert steps is not None
    for rows in range(1, MOST_CACHES + 3):
        answers(model, questions(model, *[KINDS[0]] * rows), 1, 2)
    assert [rows for rows, *_ in steps._caches] == list(range(3, MOST_CACHES + 3)), "the latest"

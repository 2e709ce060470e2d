"""`benchmarks.memory_report` with a trainer whose memory is a closed form: what runs out loses nothing else."""

from __future__ import annotations

from pathlib import Path
from time import monotonic
from types import SimpleNamespace

import pytest
import torch

from benchmarks import memory_report
from benchmarks.gpu.figures import Figure, FigureFile
from benchmarks.gpu.scale import FULL, Given
from benchmarks.memory_search import DoesNotFit

CARDS = [10.0, 20.0, 28.0]
GIB_A_GB = 1e9 / 2**30  # GiB


class Trainer:
    """2 GiB, and a quarter of one a patch; more than `room` runs out, and is the end of all steps."""

    settings = SimpleNamespace(accumulation_steps=2)

    def __init__(self, room: float) -> None:
        self.room, self.broken = room, False

    def step(self, patches: int, volumes: int = 1) -> tuple[float, float]:
        assert not self.broken, "a step after memory ran out within one"
        peak = 2 + patches * volumes / 4
        if peak > self.room:
            self.broken = True
            raise DoesNotFit("out of memory")
        return 1.0, peak

    def tokens(self, patches: int) -> tuple[int, int]:
        return 10 * patches, 10 * patches + 20


def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: float, seconds: float = 600.0) -> dict[str, Figure]:
    """The figures by their names, with so many GiB for steps on a card of 29 GiB."""
    figures = FigureFile(tmp_path / "figures.json", "tuning")
    run = Given(FULL, False, figures, tmp_path, seconds)
    monkeypatch.setattr(memory_report, "arguments", lambda run, lora: [])
    monkeypatch.setattr(memory_report, "prepared", lambda words: Trainer(room))
    monkeypatch.setattr(memory_report, "memory_gib", lambda: 29.0)
    memory_report.measure(run, False, CARDS, monotonic() + seconds)
    assert len({figure.name for figure in figures.figures}) == len(figures.figures)
    return {figure.name: figure for figure in figures.figures}


def of_card(figures: dict[str, Figure], what: str, card: float) -> tuple[float | None, str]:
    (figure,) = [one for name, one in figures.items() if name.startswith(what) and name.endswith(f"{card:g} GB")]
    return figure.value, figure.note


def fits(card: float, patches: int) -> int:
    return int(((card - memory_report.BESIDE) * GIB_A_GB - 2) * 4 // patches)


def test_what_fits_is_that_of_the_closed_form(monkeypatch, tmp_path) -> None:
    figures = measured(monkeypatch, tmp_path, room=100.0)
    for card in CARDS:
        assert of_card(figures, "largest volume", card) == (fits(card, 1), "")
        assert of_card(figures, "largest micro-batch", card) == (fits(card, FULL.patches), "")


def test_memory_that_runs_out_at_the_largest_limit_does_not_lose_the_others(monkeypatch, tmp_path) -> None:
    figures = measured(monkeypatch, tmp_path, room=20.0)
    for card in CARDS[:2]:
        assert of_card(figures, "largest volume", card) == (fits(card, 1), "")
        assert of_card(figures, "largest micro-batch", card) == (fits(card, FULL.patches), "")
    value, note = of_card(figures, "largest volume", CARDS[2])
    assert fits(CARDS[1], 1) <= value <= (20 - 2) * 4 and note.startswith("at least")
    value, note = of_card(figures, "largest micro-batch", CARDS[2])
    assert fits(CARDS[1], FULL.patches) <= value <= (20 - 2) * 4 // FULL.patches and note.startswith("at least")


def test_what_was_never_tried_says_so(monkeypatch, tmp_path) -> None:
    figures = measured(monkeypatch, tmp_path, room=100.0, seconds=1.0)
    for card in CARDS:
        assert of_card(figures, "largest volume", card) == (None, "not tried")


def test_usual_volumes_that_do_not_fit_are_a_row(monkeypatch, tmp_path) -> None:
    figures = measured(monkeypatch, tmp_path, room=2.5)
    assert figures["step on volumes of 1 patch"].value == 1
    row = figures[f"step on volumes of {FULL.patches} patches"]
    assert row.value is None and row.note == "does not fit into this card's memory"
    assert of_card(figures, "largest volume", CARDS[0]) == (None, "not tried")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), None])
def test_a_model_that_does_not_fit_is_a_row_and_no_traceback(monkeypatch, tmp_path, error) -> None:
    def prepared(words: list[str]) -> Trainer:
        if error:
            raise error
        return Trainer(room=1.0)

    figures = FigureFile(tmp_path / "figures.json", "tuning")
    monkeypatch.setattr(memory_report, "arguments", lambda run, lora: [])
    monkeypatch.setattr(memory_report, "prepared", prepared)
    memory_report.measure(Given(FULL, False, figures, tmp_path, 9.0), False, CARDS, monotonic() + 9)
    (figure,) = figures.figures
    assert figure.value is None and figure.note == "does not fit into this card's memory"

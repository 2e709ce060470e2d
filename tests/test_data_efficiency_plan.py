"""Data efficiency: which runs there are, in which order, and which starts are asked for."""

from __future__ import annotations

import pytest

from benchmarks.data_efficiency.plan import OBJECTIVES, Start, chosen_starts, plan_runs, starts_of
from datasets.errors import InputError
from models.configuration import ENCODER_NAMES

STARTS = starts_of(OBJECTIVES)
COUNTS = (10, 25, 50, 100, 170)


def test_the_plan_has_each_run_once_and_the_most_informative_first() -> None:
    runs = plan_runs(ENCODER_NAMES, STARTS, COUNTS, (10, 25), 3)
    assert len(runs) == len(set(runs)) == 3 * 4 * (2 * 3 + 3)
    assert len({run.name for run in runs}) == len(runs)
    first = runs[:12]
    assert {(run.encoder, run.start.name) for run in first} == {("2D1D", "scratch"), ("2D1D", "segmentation")}
    assert {(run.patients, run.seed) for run in first} == {(count, seed) for count in (10, 25) for seed in range(3)}
    assert [run.seed for run in first] == [0] * 4 + [1] * 4 + [2] * 4
    assert {run.encoder for run in runs[:18]} == {"2D1D"} and {run.start.name for run in runs[54:]} == {
        "+classification",
        "+image_text",
    }
    assert [start.title for start in starts_of(("image_text", "segmentation"))] == [
        "from scratch",
        "segmentation",
        "segmentation + image and text",
    ]
    assert len(plan_runs(["2D1D", "2D1D"], STARTS[:1], (10, 10), (), 1)) == 1
    with pytest.raises(InputError, match="no masks"):
        starts_of(("image_text",))
    with pytest.raises(InputError, match="--encoders 4D: choose from 2D1D"):
        plan_runs(["4D"], STARTS, COUNTS, (), 1)


def test_starts_are_chosen_by_name_and_stay_in_their_order() -> None:
    assert chosen_starts(STARTS, None) == STARTS
    chosen = chosen_starts(STARTS, ["+image_text", "scratch"])
    assert [start.title for start in chosen] == ["from scratch", "segmentation + classification + image and text"]
    runs = plan_runs(["2D1D"], chosen_starts(STARTS, ["segmentation"]), (10, 25), (10,), 2)
    assert {run.start for run in runs} == {Start(("segmentation",))} and len(runs) == 3
    with pytest.raises(InputError, match=r"--starts classification: choose from scratch, segmentation, \+class"):
        chosen_starts(STARTS, ["classification"])

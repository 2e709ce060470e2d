"""Predictions go on with the settings that they were begun with."""

from __future__ import annotations

from pathlib import Path

import pytest

from datasets.errors import InputError
from evaluation.answering.run_record import check_run, record_run

BEFORE = {"precision": "torch.bfloat16"}  # as records have it that were written before there was an option to compile
COMPILED = {**BEFORE, "compile": True}


@pytest.mark.parametrize(("begun", "resumed"), [(BEFORE, COMPILED), (COMPILED, BEFORE)])
def test_compiled_and_other_steps_are_not_mixed(tmp_path: Path, begun: dict, resumed: dict) -> None:
    record_run(tmp_path, begun)
    (tmp_path / "predictions.rank0.jsonl").write_text("{}\n")
    check_run(tmp_path, begun)
    with pytest.raises(InputError, match="made with another compile"):
        check_run(tmp_path, resumed)

"""Writing, resuming and merging predictions, with a writer that is really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from evaluation.predictions import PredictionWriter, finished_ids, merge_predictions, read_predictions

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_merge_is_in_manifest_order_on_any_number_of_ranks(tmp_path: Path, ranks: int) -> None:
    ids = [f"sample {index}" for index in (5, 3, 9, 1, 7, 2, 8)]
    for rank in reversed(range(ranks)):
        with PredictionWriter(tmp_path, rank) as writer:
            for key in ids[rank::ranks]:
                writer.write({"id": key, "prediction": f"answer to {key}"})
    merged = merge_predictions(tmp_path, ids)
    assert [record["id"] for record in merged] == ids
    assert merged == [{"id": key, "prediction": f"answer to {key}"} for key in ids]
    assert read_predictions(tmp_path / "predictions.json") == merged


def test_each_record_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path)
    writer.write({"id": "a"})
    assert finished_ids(tmp_path) == {"a"}  # before any close
    writer.close()


def test_a_killed_run_resumes_where_it_stopped_on_other_ranks(tmp_path: Path) -> None:
    code = (
        "import sys, time; from evaluation.predictions import PredictionWriter\n"
        "writer = PredictionWriter(sys.argv[1], 1)\n"
        "for index in range(1000):\n    writer.write({'id': str(index)}); time.sleep(0.01)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    path = tmp_path / "predictions.rank1.jsonl"
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") >= 3):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = path.read_text().count("\n")
    assert finished >= 3
    with PredictionWriter(tmp_path, rank=0) as writer:
        assert writer.done == {str(index) for index in range(finished)}
        for index in range(finished, finished + 2):
            writer.write({"id": str(index)})
    ids = [str(index) for index in range(finished + 2)]
    assert [record["id"] for record in merge_predictions(tmp_path, ids)] == ids


def test_a_torn_last_line_is_dropped_and_its_sample_done_again(tmp_path: Path) -> None:
    path = tmp_path / "predictions.rank0.jsonl"
    path.write_text('{"id": "a", "prediction": "x"}\n{"id": "b", "predic')
    assert finished_ids(tmp_path) == {"a"}
    with PredictionWriter(tmp_path) as writer:
        assert writer.done == {"a"}
        writer.write({"id": "b", "prediction": "y"})
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text('{"id": "only half of the first line')
    assert PredictionWriter(tmp_path).done == set() and path.read_text() == ""


def test_failed_samples_are_kept_and_can_be_tried_again(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path) as writer:
        writer.write({"id": "a", "error": "cannot read a.nii.gz"})
        writer.write({"id": "b", "error": None})
    assert finished_ids(tmp_path) == {"a", "b"} and finished_ids(tmp_path, retry_failed=True) == {"b"}
    with PredictionWriter(tmp_path, rank=1, retry_failed=True) as writer:
        assert writer.done == {"b"}
        writer.write({"id": "a", "error": None, "prediction": "fine now"})
    assert merge_predictions(tmp_path, ["a"])[0]["prediction"] == "fine now"
    with PredictionWriter(tmp_path, rank=2) as writer:
        writer.write({"id": "b", "error": "out of memory"})  # a later failure does not hide a success
    assert merge_predictions(tmp_path, ["b"])[0]["error"] is None


def test_arrays_paths_and_numbers_that_json_lacks(tmp_path: Path) -> None:
    record = {
        "id": 7, "dice": np.float32(0.5), "n": np.int64(3), "hd95": float("inf"), "mask_path": tmp_path / "m.nii.gz",
        "rows": np.array([1.0, np.nan]), "seen": np.bool_(True), "text": "lésion ≥ 5 mm\nzwei",
    }  # fmt: skip
    with PredictionWriter(tmp_path) as writer:
        writer.write(record)
    merged = merge_predictions(tmp_path, ["7"])[0]
    assert merged == {
        "id": "7", "dice": 0.5, "n": 3, "hd95": None, "mask_path": str(tmp_path / "m.nii.gz"), "rows": [1.0, None],
        "seen": True, "text": "lésion ≥ 5 mm\nzwei",
    }  # fmt: skip


def test_records_of_another_manifest_are_left_out(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path) as writer:
        for key in ("a", "b", "c"):
            writer.write({"id": key})
    assert [record["id"] for record in merge_predictions(tmp_path, ["c", "a"])] == ["c", "a"]


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with PredictionWriter(tmp_path) as writer:
        with pytest.raises(InputError, match="no 'id'"):
            writer.write({"prediction": "x"})
        writer.write({"id": "a"})
    with pytest.raises(InputError, match="1 of 2 samples have no prediction, first 'b'"):
        merge_predictions(tmp_path, ["a", "b"])
    with pytest.raises(InputError, match="'a' stands twice"):
        merge_predictions(tmp_path, ["a", "a"])
    (tmp_path / "predictions.rank0.jsonl").write_text('{"id": "a"}\nnot json\n')
    with pytest.raises(InputError, match="line 2"):
        finished_ids(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_predictions(tmp_path / "absent.json")
    (tmp_path / "wrong.json").write_text('{"id": 1}')
    with pytest.raises(InputError, match="list of records"):
        read_predictions(tmp_path / "wrong.json")

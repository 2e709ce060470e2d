"""Figures of others: complete with protocol and source, and never in a row of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.errors import InputError
from evaluation.answering.benchmarks import find_benchmark
from evaluation.report.peer_tables import Peer, peer_tables, read_peers
from evaluation.report.result_tables import PUBLISHED_RESULTS

ROW = {
    "system": "A", "benchmark": "M3D-VQA", "task": "open_vqa", "figures": {"BLEU": 0.5},
    "protocol": "theirs", "source": "a paper",
}  # fmt: skip


def test_rows_of_the_file_are_of_known_benchmarks_and_their_tasks() -> None:
    peers = read_peers(PUBLISHED_RESULTS)
    assert {peer.benchmark for peer in peers} >= {"RadChestCT", "CT-RATE-diagnosis", "M3D-Cap", "TotalSegmentator"}
    for peer in peers:
        # closed questions of M3D-VQA are published beside the open ones, which alone are the benchmark
        closed = (peer.benchmark, peer.task) == ("M3D-VQA", "multiple_choice")
        assert closed or peer.task in find_benchmark(peer.benchmark).tasks
    figures = {(peer.system, peer.benchmark, peer.task): peer.figures for peer in peers}
    assert figures["M3D-LaMed", "M3D-Cap", "report_generation"]["METEOR"] == 0.1438
    assert figures["RadFinder", "RadChestCT", "diagnosis"] == {"AUC": 0.77}


def test_tables_are_by_task_and_of_the_benchmarks_that_were_run() -> None:
    peers = [
        Peer.model_validate(ROW),
        Peer.model_validate({**ROW, "system": "B", "figures": {"METEOR": 0.25}, "source": "a page"}),
        Peer.model_validate({**ROW, "benchmark": "M3D-Cap", "task": "report_generation"}),
    ]
    (table,) = peer_tables({"M3D-VQA": {}, "CT-ORG": {}}, peers)
    assert table.columns == ("Benchmark", "System", "Protocol", "Source", "BLEU", "METEOR")
    assert table.rows == (
        ("M3D-VQA", "A", "theirs", "a paper", "0.5", "–"),
        ("M3D-VQA", "B", "theirs", "a page", "–", "0.25"),
    )
    assert len(peer_tables({"M3D-VQA": {}, "M3D-Cap": {}}, peers)) == 2
    assert peer_tables({"M3D-VQA": {"run": {"control": "shuffled"}}}, peers) == []


@pytest.mark.parametrize("change", [{"source": ""}, {"protocol": ""}, {"figures": {"BLEU": 50}}, {"figures": {}}])
def test_a_row_that_cannot_be_looked_up_or_is_no_share_is_refused(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps({"paper": {}, "peers": [ROW, {**ROW, **change}]}), encoding="utf-8")
    with pytest.raises(InputError, match=f"peers, row 1, {next(iter(change))}"):
        read_peers(path)


def test_a_file_without_peers_has_none(tmp_path: Path) -> None:
    path = tmp_path / "published.json"
    path.write_text("{}", encoding="utf-8")
    assert read_peers(path) == []
    with pytest.raises(InputError, match="cannot read"):
        read_peers(tmp_path / "absent.json")

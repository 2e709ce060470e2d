"""Benchmarks without a manifest are named or skipped, and an evaluation of which nothing was answered does not pass."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets.errors import InputError
from evaluation.answering.benchmarks import benchmark_names, find_benchmarks, with_manifests
from evaluation.answering.runner import Job, plan_jobs, refuse_failed_jobs


def write_manifest(folder: Path, name: str, task: str) -> None:
    (folder / "ct.nii.gz").touch()
    row = {"question": "Is there gas?", "image_path": "ct.nii.gz", "answer": "Air.", "task": task}
    (folder / f"{name}.json").write_text(json.dumps([row]))


def test_all_missing_manifests_are_named_at_once(tmp_path):
    write_manifest(tmp_path, "M3D-VQA", "open_vqa")
    with pytest.raises(
        InputError, match=r"7 of 8 benchmarks have no manifest.*--skip_missing.*RadChestCT\.json.*M3D-Cap"
    ):
        plan_jobs("", ["all"], str(tmp_path), tmp_path / "out")
    with pytest.raises(InputError, match=r"CT-ORG\.json: no manifest of benchmark CT-ORG"):
        plan_jobs("", ["CT-ORG"], str(tmp_path), tmp_path / "out", skip_missing=True)
    (tmp_path / "M3D-VQA.json").unlink()
    with pytest.raises(InputError, match="8 of 8 benchmarks have no manifest; write one of them"):
        with_manifests(find_benchmarks(["all"]), tmp_path, skip_missing=True)


def test_benchmarks_without_a_manifest_are_skipped_and_the_others_keep_their_folders(tmp_path):
    write_manifest(tmp_path, "M3D-VQA", "open_vqa")
    write_manifest(tmp_path, "M3D-Cap", "report_generation")
    jobs = plan_jobs("", ["all"], str(tmp_path), tmp_path / "out", skip_missing=True)
    assert [job.folder for job in jobs] == [tmp_path / "out" / "M3D-Cap", tmp_path / "out" / "M3D-VQA"]
    (tmp_path / "M3D-Cap.json").unlink()
    (job,) = plan_jobs("", ["all"], str(tmp_path), tmp_path / "out", skip_missing=True)
    assert job.folder == tmp_path / "out" / "M3D-VQA" and job.name in benchmark_names()


def test_a_job_without_one_answer_is_refused_once_all_is_written(tmp_path):
    def job(name: str, *errors: str | None) -> Job:
        (tmp_path / name).mkdir()
        rows = [{"id": str(n), "task": "open_vqa", "prediction": "", "error": error} for n, error in enumerate(errors)]
        (tmp_path / name / "predictions.json").write_text(json.dumps(rows))
        return Job(name, tmp_path / name, tmp_path / "m.json", [])

    some, none = job("some", "a.npy: damaged", None), job("none", "b.npy: damaged", "c.npy: damaged")
    refuse_failed_jobs([some])
    with pytest.raises(InputError, match=r"none: none of 2 questions was answered; .* b\.npy: damaged"):
        refuse_failed_jobs([some, none])

"""The eight benchmark configurations, and phantom manifests of their shape against the truth of the cases."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError
from datasets.manifest import InstructionRecord, load_manifest
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from datasets.vocabulary import diseases_of
from datasets.volume.loading import read_mask, read_volume
from evaluation.answering.benchmarks import (
    BENCHMARKS,
    benchmark_names,
    check_manifest,
    find_benchmark,
    find_benchmarks,
    load_benchmark,
    resolve_benchmark,
)
from evaluation.metrics.summarize import TEXT_TASKS, summarize
from evaluation.phantom_benchmarks import main, radchest_targets, write_phantom_benchmarks
from evaluation.report.result_tables import ALL_TEXT, MATRICES, PUBLISHED_RESULTS, TASK_NAMES, read_published


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "phantoms"
    coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
    write_dataset(DatasetOptions(folder, count=3, split=(0.0, 0.0, 1.0), case=coarse))
    return folder


@pytest.fixture(scope="module")
def manifests(phantoms: Path) -> Path:
    folder = phantoms.parent / "elsewhere" / "benchmarks"
    write_phantom_benchmarks(phantoms, folder)
    return folder


def test_names_are_found_whatever_their_spelling():
    assert len(BENCHMARKS) == 8
    assert find_benchmark("ct_rate_vqa").name == "CT-RATE-VQA"
    assert find_benchmark("AbdomenCT1K").structures == ("liver", "kidney", "spleen", "pancreas")
    assert [b.name for b in find_benchmarks(["M3D-VQA", "all", "ctorg"])][:2] == ["M3D-VQA", "RadChestCT"]
    assert len(find_benchmarks(["all", "all"])) == 8


def test_unknown_name_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(InputError) as error:
        resolve_benchmark("LIDC")
    assert "LIDC" in str(error.value) and all(name in str(error.value) for name in benchmark_names())
    with pytest.raises(InputError, match=r"CT-ORG\.json.*--benchmark_dir"):
        resolve_benchmark("CT-ORG", tmp_path)


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=benchmark_names())
def test_phantom_manifest_is_valid_and_fits(benchmark, manifests: Path):
    records, found, path = load_benchmark(benchmark.name, manifests)
    assert found is benchmark and path == manifests / f"{benchmark.name}.json"
    assert records and records == load_manifest(path)
    assert len({record.patient_id for record in records}) == 3
    raw = json.loads(path.read_text())
    assert not any(Path(row["image_path"]).is_absolute() for row in raw), "manifests move with their phantoms"


def test_all_tasks_of_a_benchmark_are_asked(manifests: Path):
    tasks = {b.name: {r.task for r in load_benchmark(b.name, manifests)[0]} for b in BENCHMARKS}
    assert tasks["CT-RATE-VQA"] == {"open_vqa", "yes_no", "multiple_choice"}
    assert tasks["M3D-VQA"] == {"open_vqa"}, "it is open-ended"
    assert tasks["M3D-Cap"] == {"report_generation"}


def test_radchest_targets_follow_from_those_of_ctrate():
    absent = dict.fromkeys(diseases_of("CT-RATE"), 0)
    wall, coronary = "Arterial wall calcification", "Coronary artery wall calcification"
    assert list(radchest_targets(absent)) == diseases_of("RadChestCT")
    assert set(radchest_targets(absent).values()) == {0}
    union = {
        (values.get(wall), values.get(coronary)): radchest_targets({**absent, **values})["calcification"]
        for values in [
            {wall: a, coronary: b} for a in (0, 1, None) for b in (0, 1, None)
        ]
    }  # fmt: skip
    # three-valued "or"
    assert union == {
        (0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 1, (1, None): 1, (None, 1): 1, (0, None): None, (None, 0): None,
        (None, None): None,
    }  # fmt: skip
    assert radchest_targets({**absent, "Lung nodule": 1})["lung nodule"] == 1
    assert radchest_targets({"Lung nodule": 1})["cardiomegaly"] is None
    assert set(radchest_targets({**absent, "Mosaic attenuation pattern": 1}).values()) == {0}


def test_diagnosis_targets_are_the_cases(phantoms: Path, manifests: Path):
    cases = {case["id"]: case["targets"] for case in json.loads((phantoms / "cases.json").read_text())}
    for record in load_benchmark("CT-RATE-diagnosis", manifests)[0]:
        assert record.targets == cases[record.patient_id]
    for record in load_benchmark("RadChestCT", manifests)[0]:
        truth = cases[record.patient_id]
        assert record.targets["pleural effusion"] == truth["Pleural effusion"]
        assert record.targets["calcification"] == max(
            truth["Arterial wall calcification"], truth["Coronary artery wall calcification"]
        )


def test_masks_are_those_of_the_phantom(phantoms: Path, manifests: Path):
    """Label values written out by hand: 5 liver, 7 and 8 kidneys, 9 and 10 spine and ribs."""
    by_hand = {("AbdomenCT-1K", "kidney"): (7, 8), ("CT-ORG", "bone"): (9, 10), ("TotalSegmentator", "liver"): (5,)}
    for (benchmark, label), values in by_hand.items():
        record = next(r for r in load_benchmark(benchmark, manifests)[0] if r.labels == [label])
        _, geometry = read_volume(record.image_path[0])
        mask = read_mask(record.mask_path, geometry, [record.mask_values[label]])[0]
        stored, _ = read_volume(record.mask_path)
        np.testing.assert_array_equal(mask > 0, np.isin(stored[0], values))


def test_manifest_that_does_not_fit_is_refused():
    diagnosis = InstructionRecord(
        id="d1",
        question="Diagnose.",
        image_path="ct.nii.gz",
        answer="see targets",
        task="diagnosis",
        label_set="CT-RATE",
        targets={"Lung nodule": 1},
    )
    check_manifest(find_benchmark("CT-RATE-diagnosis"), [diagnosis])
    with pytest.raises(InputError, match=r"d1.*RadChestCT.*label_set: 'CT-RATE'"):
        check_manifest(find_benchmark("RadChestCT"), [diagnosis])
    with pytest.raises(InputError, match=r"mine\.json.*task: 'diagnosis'.*segmentation"):
        check_manifest(find_benchmark("CT-ORG"), [diagnosis], "mine.json")
    with pytest.raises(InputError, match="targets"):
        check_manifest(find_benchmark("CT-RATE-diagnosis"), [diagnosis.model_copy(update={"targets": {}})])
    with pytest.raises(InputError, match="no records"):
        check_manifest(find_benchmark("CT-ORG"), [])
    segmentation = InstructionRecord(
        id="s1", question="Where?", image_path="ct.nii.gz", answer="It is <SEG>.", labels=["Liver"], mask_path=["m.nii"]
    )
    check_manifest(find_benchmark("CT-ORG"), [segmentation])
    with pytest.raises(InputError, match=r"s1.*'pancreas' is not one of liver, urinary bladder"):
        check_manifest(find_benchmark("CT-ORG"), [segmentation.model_copy(update={"labels": ["pancreas"]})])


def test_command_line(phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["--phantoms", str(phantoms), "--out", str(tmp_path), "--cases", "1"]) == 0
    assert "RadChestCT: 1 records" in capsys.readouterr().out
    assert len(load_benchmark("CT-ORG", tmp_path)[0]) == 4
    assert main(["--phantoms", str(phantoms), "--out", str(tmp_path), "--split", "val"]) == 2
    assert "no case of the split 'val'" in capsys.readouterr().err
    assert main(["--phantoms", str(tmp_path / "none"), "--out", str(tmp_path)]) == 2


def test_published_figures_are_read_for_every_benchmark():
    published = read_published(PUBLISHED_RESULTS)
    assert set(published) == set(benchmark_names())
    for benchmark in BENCHMARKS:
        text = {ALL_TEXT} if set(benchmark.tasks) & set(TEXT_TASKS) else set()
        shown = {name for _, tasks, names in MATRICES if set(tasks) & ({*benchmark.tasks} | text) for name in names}
        assert set(published[benchmark.name]) <= shown, "each has its column in the benchmark's tables"
        for figure in published[benchmark.name].values():
            assert figure["source"] if figure["value"] is not None else figure["reason"]


def test_metrics_of_the_tables_are_ones_that_are_computed():
    """Each column against the keys of a summary of such records."""
    records = [
        {"id": "1", "task": "open_vqa", "answer": "a", "prediction": "a"},
        {"id": "2", "task": "report_generation", "answer": "Cardiomegaly.", "prediction": "Cardiomegaly."},
        {"id": "3", "task": "multiple_choice", "answer": "A", "prediction": "A", "choices": {"A": "x", "B": "y"}},
        {"id": "4", "task": "diagnosis", "label_set": "CT-RATE", "targets": {"x": 1}, "probabilities": {"x": 0.5}},
        {"id": "5", "task": "segmentation", "labels": ["liver"], "segmentation": []},
        {"id": "6", "task": "yes_no", "answer": "Yes.", "prediction": "Yes."},
    ]
    summary = summarize(records, resamples=10)
    tasks = summary["tasks"]
    assert set(tasks) == set(TASK_NAMES)
    computed = {task: result.get("metrics") for task, result in tasks.items()}
    computed[ALL_TEXT] = summary["release_protocol"]["text"]
    computed["diagnosis"] = tasks["diagnosis"]["label_sets"]["CT-RATE"]["metrics"]
    for _, asked, metrics in MATRICES:
        for metric in set(metrics) - {"meteor", "meteor_exact_stem"}:
            assert any(metric in computed[task] for task in asked), metric

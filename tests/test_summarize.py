"""From records to metrics: every task, failures, answers without a mask or a confidence, thresholds from validation."""

from __future__ import annotations

import json

import pytest

from datasets.errors import InputError
from evaluation.metrics.summarize import fit_thresholds_from_records, summarize

SCORES = {"dice": 0.8, "nsd": 0.9, "hd95": 3.0, "truth_ml": 5.0, "prediction_ml": 5.0}


def diagnosis(key: str, target: int | None, probability: float | None, **more: object) -> dict:
    return {
        "id": key,
        "patient_id": key,
        "task": "diagnosis",
        "label_set": "CT-RATE",
        "targets": {"Nodule": target},
        "probabilities": {"Nodule": probability},
        **more,
    }


def test_every_task_is_summarized_and_json_holds_it() -> None:
    records = [
        {"id": "1", "patient_id": "p", "task": "open_vqa", "answer": "liver", "prediction": "The liver."},
        {"id": "2", "patient_id": "p", "task": "yes_no", "answer": "Yes", "prediction": "yes"},
        {
            "id": "3",
            "patient_id": "p",
            "task": "multiple_choice",
            "answer": "B",
            "prediction": "B",
            "choices": {"A": "x", "B": "y"},
        },
        {
            "id": "4",
            "patient_id": "q",
            "task": "report_generation",
            "answer": "There is a nodule.",
            "prediction": "A nodule is seen. Emphysema.",
        },
        {
            "id": "5",
            "patient_id": "q",
            "task": "segmentation",
            "labels": ["liver"],
            "segmentation": [{"label": "liver", "mask_path": "m", **SCORES}],
            "dice_release_protocol": 0.99,
        },
        diagnosis("6", 1, 0.9),
        diagnosis("7", 0, 0.2),
        diagnosis("8", None, 0.3),
    ]
    result = summarize(records, resamples=20)
    json.dumps(result, allow_nan=False)
    tasks = result["tasks"]
    assert list(tasks) == ["open_vqa", "yes_no", "multiple_choice", "report_generation", "segmentation", "diagnosis"]
    assert tasks["open_vqa"]["metrics"]["exact_match"]["value"] == 1
    assert (
        tasks["yes_no"]["metrics"]["accuracy"]["value"] == tasks["multiple_choice"]["metrics"]["accuracy"]["value"] == 1
    )
    report = tasks["report_generation"]["metrics"]
    assert report["ce_micro_precision"]["value"] == 0.5 and report["ce_micro_recall"]["value"] == 1
    assert report["crg"]["value"] == pytest.approx(8.5 / (17 - (8.5 - 1)))  # X 18, A 1: weight 8.5, one hit, one false
    assert tasks["segmentation"]["metrics"]["dice"]["value"] == pytest.approx(0.8)
    assert tasks["segmentation"]["metrics"]["dice_release_protocol"]["value"] == pytest.approx(0.99)
    assert tasks["diagnosis"]["label_sets"]["CT-RATE"]["metrics"]["auc"]["value"] == 1
    all_text = result["release_protocol"]["text"]["rouge_1_release_protocol"]
    assert all_text["n"] == 4 and tasks["open_vqa"]["metrics"]["rouge_1_release_protocol"]["n"] == 1
    assert tasks["diagnosis"]["label_sets"]["CT-RATE"]["diseases"]["Nodule"]["unknown"] == 1
    assert result["counts"] == {"samples": 8, "patients": 5, "failed": 0, "failures": []}


def test_failed_samples_are_in_no_mean_and_are_named() -> None:
    records = [
        {"id": "good", "task": "open_vqa", "answer": "liver", "prediction": "liver"},
        {"id": "bad", "task": "open_vqa", "answer": "liver", "error": "bad.nii.gz: truncated file"},
    ]
    result = summarize(records, resamples=10)
    assert result["counts"]["failures"] == [{"id": "bad", "task": "open_vqa", "error": "bad.nii.gz: truncated file"}]
    task = result["tasks"]["open_vqa"]
    assert task["counts"] == {"samples": 2, "failed": 1, "scored": 1} and task["metrics"]["exact_match"]["value"] == 1
    assert any("1 of 2 samples failed" in note for note in task["notes"])


def test_an_answer_without_seg_counts_as_dice_zero() -> None:
    base = {"task": "segmentation", "answer": "It is <SEG>.", "prediction": "It is on the right."}
    records = [
        {"id": "1", "labels": ["liver"], "segmentation": [{"label": "liver", "mask_path": "m", **SCORES}], **base},
        {"id": "2", "labels": ["liver"], "segmentation": [], **base},
        {
            "id": "3",
            "labels": ["liver", "liver"],
            "segmentation": [{"label": "liver", "mask_path": "m", **SCORES}],
            **base,
        },
        {"id": "4", "labels": ["liver"], **base},
    ]
    records[0]["dice_release_protocol"] = 0.5
    result = summarize(records, resamples=10)["tasks"]["segmentation"]
    release = result["metrics"]["dice_release_protocol"]
    assert (release["value"], release["std"], release["n"]) == (0.5, 0, 1), "it leaves out what has no mask"
    assert any("3 of 4 samples have no <SEG>" in note for note in result["notes"])
    assert result["metrics"]["dice"]["value"] == pytest.approx(2 * 0.8 / 5) and result["without_mask"] == 3
    assert result["structures"]["liver"]["dice"]["n"] == 5 and result["metrics"]["hd95"]["n"] == 2


def test_an_answer_without_a_confidence_counts_as_probability_zero_and_is_said() -> None:
    records = [diagnosis("1", 1, None), diagnosis("2", 0, 0.4), diagnosis("3", None, None)]
    result = summarize(records, resamples=10)["tasks"]["diagnosis"]["label_sets"]["CT-RATE"]
    assert result["metrics"]["auc"]["value"] == 0 and result["without_confidence"] == 1
    assert result["metrics"]["accuracy_release_protocol"]["n"] == 1, "it leaves out what has no confidence"
    assert any("1 known targets" in note for note in result["notes"])


def test_thresholds_come_from_validation_and_not_from_the_test_set() -> None:
    validation = [diagnosis("v1", 1, 0.3), diagnosis("v2", 0, 0.2), diagnosis("v3", 1, 0.9, error="failed")]
    thresholds = fit_thresholds_from_records(validation)
    assert thresholds == {"CT-RATE": {"Nodule": 0.3}}
    test = [diagnosis("t1", 1, 0.35), diagnosis("t2", 0, 0.32), diagnosis("t3", 0, 0.1)]
    at = summarize(test, thresholds=thresholds, resamples=10)["tasks"]["diagnosis"]["label_sets"]["CT-RATE"]
    assert at["metrics"]["precision"]["value"] == 0.5 and at["metrics"]["precision_release_protocol"]["value"] == 1
    half = summarize(test, resamples=10)["tasks"]["diagnosis"]["label_sets"]["CT-RATE"]
    assert half["metrics"]["recall"]["value"] == 0


def test_a_labeller_can_be_given() -> None:
    from evaluation.metrics.report_labels import FINDINGS

    everything = lambda text: dict.fromkeys(FINDINGS, int("sick" in text))  # noqa: E731
    records = [
        {"id": "1", "task": "report_generation", "answer": "sick", "prediction": "sick"},
        {"id": "2", "task": "report_generation", "answer": "well", "prediction": "well"},
    ]
    result = summarize(records, report_labeller=everything, resamples=10)["tasks"]["report_generation"]
    assert result["metrics"]["crg"]["value"] == 1 and result["metrics"]["ce_macro_f1"]["value"] == 1


def test_no_records_and_bad_records() -> None:
    assert summarize([])["tasks"] == {}
    with pytest.raises(InputError, match="task 'vqa'"):
        summarize([{"id": "1", "task": "vqa"}])
    with pytest.raises(InputError, match="'liver' has no 'dice'"):
        summarize([{"id": "1", "task": "segmentation", "segmentation": [{"label": "liver", "mask_path": "m"}]}])

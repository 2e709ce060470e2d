"""From prediction records to one nested dictionary of metrics: what metrics.json holds and the tables show."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.vocabulary import TASKS
from evaluation.metrics.bootstrap import RESAMPLES
from evaluation.metrics.choices import multiple_choice_metrics, yes_no_metrics
from evaluation.metrics.clinical_efficacy import clinical_efficacy
from evaluation.metrics.diagnosis import diagnosis_metrics, fit_thresholds
from evaluation.metrics.release_protocol import (
    DICE,
    mean_and_deviation,
    release_diagnosis_metrics,
    release_text_metrics,
)
from evaluation.metrics.report_labels import label_report
from evaluation.metrics.segmentation import NO_MASK, segmentation_metrics
from evaluation.metrics.text import text_metrics

Record = Mapping[str, Any]
TEXT_TASKS = ("open_vqa", "yes_no", "multiple_choice", "report_generation")
RELEASE_NOTE = (
    "*_release_protocol is the published evaluator's figure, mean ± standard deviation, for comparison only: "
)


def _texts(records: Sequence[Record]) -> tuple[list[str], list[str], list[Any]]:
    return (
        [record.get("prediction") or "" for record in records],
        [record.get("answer") or "" for record in records],
        [record.get("patient_id") for record in records],
    )


def _summarize_segmentation(records: Sequence[Record], resamples: int, seed: int) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    without_mask = 0
    for record in records:
        given = list(record.get("segmentation") or [])
        without_mask += sum(not entry.get("mask_path", True) for entry in given)
        named = [entry["label"] for entry in given]
        for label in record.get("labels") or []:
            if label in named:
                named.remove(label)  # a label asked for twice needs two masks
            else:
                given.append({"label": label, **NO_MASK})
                without_mask += 1
        cases += [{**entry, "patient_id": record.get("patient_id")} for entry in given]
    if unscored := [case["label"] for case in cases if "dice" not in case]:
        raise InputError(
            f"summarize: the segmentation of '{unscored[0]}' has no 'dice'; store segmentation_scores with each mask"
        )
    summary = segmentation_metrics(cases, resamples, seed)
    summary["metrics"] = summary.pop("mean")
    by_sample = [record.get(DICE) for record in records]
    patients = [record.get("patient_id") for record in records]
    summary["metrics"][DICE] = mean_and_deviation(by_sample, patients, "no mask was scored so")
    summary["notes"].append(
        f"{RELEASE_NOTE}on the padded grid, the first mask against all labels that were asked for, mean over single "
        f"lines of voxels, an empty one counting 1; {sum(value is None for value in by_sample)} of {len(records)} "
        "samples have no <SEG> and are left out."
    )
    summary["without_mask"] = without_mask
    summary["notes"].append(
        f"{without_mask} of {len(cases)} requested masks were not given by the answer (no <SEG>); they count as Dice 0."
    )
    return summary


def _diagnosis_table(records: Sequence[Record]) -> tuple[list[str], list[list[Any]], list[list[float | None]], int]:
    """Diseases, targets (n, d), probabilities (n, d; None where the answer gave none), and how many known targets had
    no confidence in the answer."""
    diseases = list(dict.fromkeys(disease for record in records for disease in record.get("targets") or {}))
    targets, probabilities, missing = [], [], 0
    for record in records:
        target, probability = record.get("targets") or {}, record.get("probabilities") or {}
        targets.append([target.get(disease) for disease in diseases])
        probabilities.append([probability.get(disease) for disease in diseases])
        missing += sum(target.get(disease) is not None and probability.get(disease) is None for disease in diseases)
    return diseases, targets, probabilities, missing


def _none_is_zero(probabilities: Sequence[Sequence[float | None]]) -> list[list[float]]:
    return [[0.0 if value is None else value for value in row] for row in probabilities]


def _by_label_set(records: Iterable[Record]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.get("label_set") or "unnamed", []).append(record)
    return groups


def _summarize_diagnosis(
    records: Sequence[Record], thresholds: Mapping[str, Mapping[str, float]] | None, resamples: int, seed: int
) -> dict[str, Any]:
    label_sets = {}
    for label_set, group in _by_label_set(records).items():
        diseases, targets, probabilities, missing = _diagnosis_table(group)
        fitted = None if thresholds is None else thresholds.get(label_set)
        patients = [record.get("patient_id") for record in group]
        scores = _none_is_zero(probabilities)
        summary = diagnosis_metrics(targets, scores, diseases, patients, fitted, resamples, seed)
        of_disease, means = release_diagnosis_metrics(targets, probabilities, diseases)
        for disease, figures in of_disease.items():
            summary["diseases"][disease] |= figures
        summary["metrics"] = {**summary.pop("macro"), **means}
        summary["notes"].append(
            f"{RELEASE_NOTE}the threshold of best F1 on the test set itself, over all diseases, AUC 0 where a class is "
            "absent, samples without confidences left out."
        )
        summary["without_confidence"] = missing
        if missing:
            summary["notes"].append(
                f"{missing} known targets had no <disease_confidence> in the answer; they count as probability 0."
            )
        label_sets[label_set] = summary
    return {"label_sets": label_sets, "notes": []}


def fit_thresholds_from_records(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """{label set: {disease: threshold of best F1}} from the records of a *validation* split, for
    `summarize(thresholds=)`."""
    usable = [record for record in records if record.get("task") == "diagnosis" and record.get("error") is None]
    fitted = {}
    for label_set, group in _by_label_set(usable).items():
        diseases, targets, probabilities, _ = _diagnosis_table(group)
        fitted[label_set] = fit_thresholds(targets, _none_is_zero(probabilities), diseases)
    return fitted


def _summarize_task(
    task: str,
    records: Sequence[Record],
    bertscore_folder: str | Path | None,
    thresholds: Mapping[str, Mapping[str, float]] | None,
    labeller: Callable[[str], Mapping[str, int]],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    if task == "segmentation":
        return _summarize_segmentation(records, resamples, seed)
    if task == "diagnosis":
        return _summarize_diagnosis(records, thresholds, resamples, seed)
    predictions, references, patients = _texts(records)
    if task == "multiple_choice":
        choices = [record.get("choices") for record in records]
        return multiple_choice_metrics(predictions, references, choices, patients, resamples, seed)
    if task == "yes_no":
        return yes_no_metrics(predictions, references, patients, resamples, seed)
    summary = text_metrics(predictions, references, patients, bertscore_folder, resamples, seed)
    summary["metrics"] |= release_text_metrics(predictions, references, patients)
    summary["notes"].append(
        f"{RELEASE_NOTE}BLEU-1 keeps case, METEOR takes word_tokenize's words, bertscore repeats BLEU-1 and is none."
    )
    if task == "report_generation":
        predicted, true = ([labeller(text) for text in texts] for texts in (predictions, references))
        efficacy = clinical_efficacy(predicted, true, patients, resamples, seed)
        summary["metrics"] |= {f"ce_{name}": value for name, value in efficacy["metrics"].items() if name != "crg"}
        summary["metrics"]["crg"] = efficacy["metrics"]["crg"]
        summary["findings"] = efficacy["findings"]
        summary["notes"] += efficacy["notes"]
    return summary


def summarize(
    records: Iterable[Record],
    bertscore_folder: str | Path | None = None,
    thresholds: Mapping[str, Mapping[str, float]] | None = None,
    report_labeller: Callable[[str], Mapping[str, int]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics of every task among the records, with 95 % intervals by patient.

    Args:
        records: {id, patient_id, task, answer, prediction, label_set, targets, probabilities, choices, labels,
            segmentation, error}; what a task does not use may be absent. `segmentation` holds one entry a structure:
            label, mask_path (null where the answer gave no mask) and `segmentation_scores`; `dice_release_protocol`
            is of the whole answer, null where it has no mask.
        bertscore_folder: see `text_metrics`.
        thresholds: {label set: {disease: threshold}} from `fit_thresholds_from_records` on a validation split.
        report_labeller: text -> {finding: 0 or 1} for the 18 CT-RATE findings; the rule-based one by default.
    Returns:
        {"counts": {"samples", "patients", "failed", "failures": [{"id", "task", "error"}]}, "settings": {...},
        "tasks": {task: {"counts": {"samples", "failed", "scored"}, "metrics": {name: Estimate}, "notes": [...], and
        the task's own details}}, "release_protocol": {"text": {name: Estimate}}, over the answers of all text tasks
        together, as the published evaluator counts them, where there are any}. Diagnosis has "label_sets": {name:
        {"metrics", "diseases", "notes"}} in place of "metrics". Samples with an `error` are left out of every mean and
        counted.
    Raises:
        InputError: a record's task is unknown, or a mask has no scores.
    """
    rows = list(records)
    for row in rows:
        if row.get("task") not in TASKS:
            raise InputError(
                f"summarize: record '{row.get('id')}' has task {row.get('task')!r}; choose one of {', '.join(TASKS)}"
            )
    failures = [
        {"id": row["id"], "task": row["task"], "error": row["error"]} for row in rows if row.get("error") is not None
    ]
    tasks: dict[str, Any] = {}
    for task in TASKS:
        asked = [row for row in rows if row["task"] == task]
        if not asked:
            continue
        scored = [row for row in asked if row.get("error") is None]
        labeller = report_labeller or label_report
        tasks[task] = _summarize_task(task, scored, bertscore_folder, thresholds, labeller, resamples, seed)
        failed = len(asked) - len(scored)
        tasks[task]["counts"] = {"samples": len(asked), "failed": failed, "scored": len(scored)}
        if failed:
            tasks[task]["notes"].append(f"{failed} of {len(asked)} samples failed and are in no figure.")
    text = [row for row in rows if row["task"] in TEXT_TASKS and row.get("error") is None]
    patients = {row.get("patient_id") if row.get("patient_id") is not None else ("sample", row["id"]) for row in rows}
    return {
        "counts": {"samples": len(rows), "patients": len(patients), "failed": len(failures), "failures": failures},
        "settings": {"bootstrap_resamples": resamples, "bootstrap_seed": seed, "interval": "95 % by patient"},
        "tasks": tasks,
        "release_protocol": {"text": release_text_metrics(*_texts(text))} if text else {},
    }

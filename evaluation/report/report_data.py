"""What a report shows of evaluations, as plain values: headline matrices, cases of the gallery, questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.manifest import InstructionRecord, load_manifest
from datasets.vocabulary import NEW_TOKENS
from evaluation.metrics.choices import parse_letter, parse_yes_no
from evaluation.metrics.summarize import summarize
from evaluation.metrics.text import sentence_scores
from evaluation.predictions import read_predictions
from evaluation.report.mask_cases import Case, ranked_cases
from evaluation.report.result_tables import TASK_NAMES
from evaluation.report.tables import format_number

QUESTION_TASKS = ("report_generation", "open_vqa", "multiple_choice", "yes_no", "diagnosis", "segmentation")


@dataclass
class Evaluation:
    """What an output folder of evaluate_CTInstruct.py holds.

    Attributes:
        run: what is known of how it came about: checkpoint, manifest, benchmark, date; may be empty.
        mask_values: {(record id, label): label values of the true mask in its multi-label file}.
    """

    name: str
    folder: Path
    records: list[dict[str, Any]]
    summary: dict[str, Any]
    run: dict[str, Any]
    mask_values: dict[tuple[str, str], Any]

    def of_task(self, task: str) -> list[dict[str, Any]]:
        """The records of a task that did not fail."""
        return [r for r in self.records if r["task"] == task and r.get("error") is None]


def read_evaluation(source: str | Path, manifest: str | Path | None = None) -> Evaluation:
    """Read an evaluation's folder, or its predictions.json.

    metrics.json is computed where it is absent. Its optional entry "run" says checkpoint, benchmark, manifest, date.

    Args:
        manifest: the answered manifest; needed for outlines of true masks that share one file, unless predictions
            or metrics.json tell. Where the one of metrics.json cannot be read, they are left out, and the report says
            so.

    Raises:
        InputError: there are no predictions, `manifest` cannot be read, or a file is no JSON.
    """
    path = Path(source)
    path = path if path.suffix == ".json" else path / "predictions.json"
    folder = path.parent
    records = read_predictions(path)
    metrics = folder / "metrics.json"
    try:
        summary = json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else summarize(records)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{metrics}: not a JSON file ({error}); delete it to compute it again") from error
    if not isinstance(summary, dict) or not {"tasks", "counts"} <= set(summary):
        raise InputError(f"{metrics}: no 'tasks' and 'counts' in it; delete it to compute it again")
    run = dict(summary.get("run") or {})
    name = run.get("benchmark") or folder.resolve().name
    asked = load_manifest(manifest, check_files=False) if manifest else _recorded_manifest(run.get("manifest"))
    return Evaluation(name, folder, records, summary, run, _mask_values(records, asked))


def _recorded_manifest(manifest: str | None) -> list[InstructionRecord]:
    """Empty where it has been moved or changed since; the gallery says which outlines it lacks."""
    try:
        return load_manifest(manifest, check_files=False) if manifest else []
    except InputError:
        return []


def _mask_values(
    records: Sequence[Mapping[str, Any]], asked: Sequence[InstructionRecord]
) -> dict[tuple[str, str], Any]:
    values = {
        (record["id"], entry["label"]): entry["truth_values"]
        for record in records
        for entry in record.get("segmentation") or []
        if entry.get("truth_values") is not None
    }
    for record in asked:
        values |= {(record.id, label): value for label, value in (record.mask_values or {}).items()}
    return values


def dice_values(evaluation: Evaluation) -> dict[str, list[float]]:
    """{structure: Dice of every mask that was asked for}; a mask that was not given counts as 0."""
    values: dict[str, list[float]] = {}
    for record in evaluation.of_task("segmentation"):
        given = [(entry["label"], entry["dice"]) for entry in record.get("segmentation") or []]
        missing = list(record.get("labels") or [])
        for label, _ in given:
            if label in missing:
                missing.remove(label)
        for label, dice in [*given, *((label, 0.0) for label in missing)]:
            values.setdefault(label, []).append(float(dice))
    return values


def gallery_cases(
    evaluation: Evaluation, structures: int
) -> list[tuple[str, list[tuple[str, dict[str, Any], dict[str, Any]]]]]:
    """For the most frequent structures: (structure, [(rank, record, segmentation entry)]) with rank best, median and
    worst by Dice; fewer where there are fewer cases."""
    cases: dict[str, list[Case]] = {}
    for record in evaluation.of_task("segmentation"):
        for entry in record.get("segmentation") or []:
            cases.setdefault(entry["label"], []).append((record, entry))
    most_frequent = sorted(cases, key=lambda name: -len(cases[name]))[:structures]
    return [(label, ranked_cases(cases[label])) for label in most_frequent]


def judged(record: Mapping[str, Any]) -> bool | None:
    """Whether an answer is right, where that can be decided: parsed yes/no and letters; words only where they equal
    the reference. None where they would have to be weighed."""
    prediction, answer = record.get("prediction") or "", record.get("answer") or ""
    if record["task"] == "multiple_choice":
        truth = parse_letter(answer, record.get("choices"))
        return None if truth is None else parse_letter(prediction, record.get("choices")) == truth
    if record["task"] == "yes_no":
        truth = parse_yes_no(answer)
        return None if truth is None else parse_yes_no(prediction) == truth
    return True if sentence_scores(prediction, answer)["exact_match"] == 1 else None


def readable(text: str) -> str:
    """A question without the special tokens that tell the model its task."""
    for token in NEW_TOKENS:
        text = text.replace(token, "")
    return " ".join(text.split())


def _text_row(record: Mapping[str, Any]) -> dict[str, Any]:
    prediction, answer = record.get("prediction") or "", record.get("answer") or ""
    right = judged(record)
    overlap = format_number(sentence_scores(prediction, answer)["token_f1"])
    unparsed = record["task"] in ("multiple_choice", "yes_no") and right is None
    note = "the reference cannot be parsed" if unparsed else f"token F1 {overlap}" if right is None else ""
    return {"answer": answer, "prediction": prediction, "right": right, "note": note}


def _segmentation_row(record: Mapping[str, Any]) -> dict[str, Any]:
    scores = [f"{entry['label']}: Dice {format_number(entry['dice'])}" for entry in record.get("segmentation") or []]
    answer, prediction = record.get("answer") or "", record.get("prediction") or ""
    return {"answer": answer, "prediction": prediction, "right": None, "note": "; ".join(scores)}


def _diagnosis_row(record: Mapping[str, Any], thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The diseases that are there beside those called at the thresholds; right where the known ones agree."""
    targets = {name: value for name, value in (record.get("targets") or {}).items() if value is not None}
    given = {name: value for name, value in (record.get("probabilities") or {}).items() if value is not None}
    called = {name: p for name, p in given.items() if name in targets and p >= thresholds.get(name, 0.5)}
    present = [name for name, value in targets.items() if value == 1]
    said = [f"{name} {format_number(p)}" for name, p in sorted(called.items(), key=lambda item: -item[1])]
    nothing = "no disease" if given else "no confidence given"
    agree = sum((name in called) == bool(value) for name, value in targets.items())
    return {
        "answer": ", ".join(present) or "no disease",
        "prediction": ", ".join(said) or nothing,
        "right": bool(given) and agree == len(targets),
        "note": f"{agree} of {len(targets)} diseases agree",
    }


def question_groups(evaluation: Evaluation, limit: int) -> list[dict[str, Any]]:
    """Questions with the true and the given answer: at most ``limit`` a task, spread evenly over the evaluation, so
    that none is picked by hand.

    Returns:
        [{"task", "total", "long" (texts of several lines), "rows": [{"id", "question", "answer", "prediction",
        "right": bool or None, "note"}]}].
    """
    label_sets = evaluation.summary["tasks"].get("diagnosis", {}).get("label_sets", {})
    groups = []
    for task in QUESTION_TASKS:
        records = evaluation.of_task(task)
        count = min(limit, len(records))
        rows = []
        for record in (records[index * len(records) // count] for index in range(count)):
            if task == "diagnosis":
                diseases = label_sets.get(record.get("label_set") or "unnamed", {}).get("diseases", {})
                row = _diagnosis_row(record, {name: result["threshold"] for name, result in diseases.items()})
            else:
                row = _segmentation_row(record) if task == "segmentation" else _text_row(record)
            rows.append({"id": record["id"], "question": readable(record.get("question") or ""), **row})
        if rows:
            long = task == "report_generation"
            groups.append({"task": TASK_NAMES[task], "rows": rows, "total": len(records), "long": long})
    return groups

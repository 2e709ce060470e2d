"""Manifests shaped like the eight benchmarks, of phantoms: so that every benchmark can be run without a download.

    python -m datasets.phantom --out runs/phantoms --count 60
    python -m evaluation.phantom_benchmarks --phantoms runs/phantoms --out runs/phantom_benchmarks

The figures then say how well phantoms were learned, and nothing about the data sets whose names the manifests bear.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.commands import told
from datasets.errors import InputError
from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.phantom.case_files import SPLITS
from datasets.vocabulary import diseases_of
from evaluation.answering.benchmarks import BENCHMARKS, Benchmark, find_benchmark
from evaluation.predictions import write_json

QUESTION_TASKS = {
    "CT-RATE-VQA": ("open_vqa", "yes_no", "multiple_choice"),
    "M3D-Cap": ("report_generation",),
    "M3D-VQA": ("open_vqa",),
}
# What a benchmark calls a structure, and the phantom's label values.
SEGMENTATION_STRUCTURES: dict[str, dict[str, list[int]]] = {
    "AbdomenCT-1K": {"liver": [STRUCTURES["liver"]], "kidney": GROUPS["kidneys"], "spleen": [STRUCTURES["spleen"]]},
    "CT-ORG": {
        "liver": [STRUCTURES["liver"]],
        "lung": GROUPS["lungs"],
        "kidney": GROUPS["kidneys"],
        "bone": [STRUCTURES["spine"], STRUCTURES["ribs"]],
    },
    "TotalSegmentator": {
        name: [STRUCTURES[name]]
        for name in ("heart", "aorta", "trachea", "liver", "spleen", "left kidney", "right kidney")
    },
}
# RadChestCT knows one calcification where CT-RATE knows two; its other names differ by capitals only.
RADCHEST_SOURCES = {"calcification": ("Arterial wall calcification", "Coronary artery wall calcification")}
SEGMENTATION_QUESTION = "Where is the {}? Please output segmentation mask. <segmentation>"
DIAGNOSIS_QUESTION = "Which diseases does this chest CT show? Please give a confidence for each. <diagnosis>"


def radchest_targets(targets: Mapping[str, int | None]) -> dict[str, int | None]:
    """The 16 RadChestCT diseases from the 18 of CT-RATE; null where the truth does not follow.

    A disease that is the union of several is there if one of them is, absent if all are, else unknown.
    """
    known = {name.lower(): value for name, value in targets.items()}
    result: dict[str, int | None] = {}
    for disease in diseases_of("RadChestCT"):
        values = [known.get(source.lower()) for source in RADCHEST_SOURCES.get(disease, (disease,))]
        result[disease] = 1 if 1 in values else None if None in values else 0
    return result


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; python -m datasets.phantom writes it") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error


def _record(benchmark: Benchmark, case: Mapping[str, Any], name: str, text: str, answer: str, **fields: Any) -> dict:
    return {
        "id": f"{benchmark.name}_{case['id']}_{name}",
        "patient_id": case["id"],
        "task": benchmark.tasks[0],
        "question": [{"type": "image"}, {"type": "text", "text": text}],
        "image_path": case["image_path"],
        "answer": answer,
        **fields,
    }


def _diagnosis(benchmark: Benchmark, label_set: str, case: Mapping[str, Any]) -> dict:
    targets = case["targets"] if label_set == "CT-RATE" else radchest_targets(case["targets"])
    answer = ", ".join(f"{disease} <disease_confidence>" for disease in diseases_of(label_set)) + "."
    fields = {"label_set": label_set, "targets": dict(targets)}
    return _record(benchmark, case, "diagnosis", DIAGNOSIS_QUESTION, answer, **fields)


def _segmentation(benchmark: Benchmark, case: Mapping[str, Any]) -> list[dict]:
    return [
        _record(
            benchmark,
            case,
            label.replace(" ", "_"),
            SEGMENTATION_QUESTION.format(label),
            "It is <SEG>.",
            labels=[label],
            mask_path=case["structures_path"],
            mask_values={label: values},
        )
        for label, values in SEGMENTATION_STRUCTURES[benchmark.name].items()
    ]


def benchmark_records(name: str, cases: Sequence[Mapping[str, Any]], questions: Sequence[Mapping[str, Any]]) -> list:
    """Manifest records of one benchmark; paths stay as the phantom folder has them.

    Args:
        cases: entries of cases.json.
        questions: records of the split's manifest; those of other patients than ``cases`` are left out.
    """
    benchmark = find_benchmark(name)
    if benchmark.label_set:
        return [_diagnosis(benchmark, benchmark.label_set, case) for case in cases]
    if benchmark.name in SEGMENTATION_STRUCTURES:
        return [record for case in cases for record in _segmentation(benchmark, case)]
    patients = {case["id"] for case in cases}
    return [
        {**question, "id": f"{benchmark.name}_{question['id']}"}
        for question in questions
        if question["task"] in QUESTION_TASKS[benchmark.name] and question["patient_id"] in patients
    ]


def write_phantom_benchmarks(phantoms: Path, out: Path, split: str = "test", cases: int = 0) -> dict[str, Path]:
    """Write the eight manifests; gives {benchmark: path}.

    Args:
        phantoms: a folder of ``python -m datasets.phantom``.
        out: made if absent; paths in the manifests are relative to it.
        split: whose cases are taken.
        cases: the first so many of them; 0 takes all.
    Raises:
        InputError: the folder is no phantom folder, or the split is empty.
    """
    truths = [case for case in _read(phantoms / "cases.json") if case["split"] == split]
    if not truths:
        raise InputError(f"{phantoms}: no case of the split '{split}'; make more phantoms, or choose another split")
    questions = _read(phantoms / f"{split}.json")
    chosen = truths[: cases or None]
    prefix = os.path.relpath(phantoms.resolve(), out.resolve())

    def moved(record: dict) -> dict:
        paths = {key: os.path.join(prefix, record[key]) for key in ("image_path", "mask_path") if key in record}
        return {**record, **paths}

    written = {}
    for benchmark in BENCHMARKS:
        records = benchmark_records(benchmark.name, chosen, questions)
        written[benchmark.name] = write_json([moved(record) for record in records], out / benchmark.manifest)
    return written


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.phantom_benchmarks", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--phantoms", type=Path, required=True, help="folder of python -m datasets.phantom")
    parser.add_argument("--out", type=Path, required=True, help="folder for the eight manifests")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--cases", type=int, default=0, help="use the first so many cases; 0 uses all")
    values = parser.parse_args(arguments)
    written = write_phantom_benchmarks(values.phantoms, values.out, values.split, values.cases)
    for name, path in written.items():
        print(f"{name}: {len(_read(path))} records in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Details that pretraining learns of a finding, against the lesion masks and against the answers to questions."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets.catalog import load_records, phantom_tasks
from datasets.label_descriptions import describe
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from datasets.phantom.details import DETAILS, detail_targets
from datasets.phantom.lesions import DISEASES, Finding, lesion_parts, lesion_values
from datasets.phantom.sites import CORONARY_ARTERIES, STATIONS
from datasets.phantom.text import NUMBERS

QUESTIONS = {  # what is asked -> the label that its answer, in lower case, is part of
    "On which side is the": "{answer} {finding}",
    "How many lung nodules": "{answer} lung nodule",
    "Where is the largest lung nodule": "{answer} nodule",
    "How large is the largest lung nodule": "{answer} lung nodule",
    "How many enlarged lymph nodes": "{answer} enlarged lymph node",
    "How large is the pleural effusion": "{answer} pleural effusion",
    "Where is the consolidation": "{answer} consolidation",
    "Which medical device is seen": "{answer}",
    "How many coronary arteries": "{answer} calcified coronary arter",
    "How severe is the calcification of the aorta": "{answer} arterial wall calcification",
    "How severe is the emphysema": "{answer} emphysema",
    "How large is the pericardial effusion": "{answer} pericardial effusion",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("details")
    case = CaseOptions(prevalence=0.6, in_plane=(6.0, 7.0), between=(6.0, 7.0))
    write_dataset(DatasetOptions(out, count=12, seed=5, split=(1, 0, 0), questions_per_case=99, case=case))
    return out


@pytest.fixture(scope="module")
def details(folder: Path) -> dict[str, dict[str, int | None]]:
    """Of each case by its name."""
    rows = json.loads((folder / "pretraining" / "details_train.json").read_text())
    return {Path(row["image_path"]).name.removesuffix(".nii.gz"): row["disease_label"] for row in rows}


def test_sides_and_sites_are_those_of_the_masks(folder: Path, details) -> None:
    seen = {0: 0, 1: 0}
    for case in json.loads((folder / "cases.json").read_text()):
        found, own = set(np.unique(nib.load(folder / case["lesions_path"]).dataobj)), details[case["id"]]
        assert {name: own[name] for name in DISEASES} == case["targets"]
        for name in DISEASES:
            for part, values in lesion_parts(name).items():
                if not case["targets"][name]:
                    assert own[part] is None
                elif found.intersection(lesion_values(name)):  # not too small for any voxel
                    assert own[part] == bool(found.intersection(values)), (case["id"], part)
                    seen[own[part]] += 1
    assert min(seen.values()) > 10
    parts = {part for name in DISEASES for part in lesion_parts(name)}
    assert len(parts) == 2 * 9 + 4 + 5 + 3 and {f"{station} lymph node" for station in STATIONS} < parts


def test_each_value_of_a_written_lesion_map_belongs_to_one_finding() -> None:
    values = [value for name in DISEASES for value in lesion_values(name)]
    assert len(values) == len(set(values)) and min(values) == 1 and max(values) < 256


def test_what_questions_are_answered_with_holds(folder: Path, details) -> None:
    checked = set()
    for record in json.loads((folder / "train.json").read_text()):
        text, own = record["question"][1]["text"], details[record["patient_id"]]
        answer = record["answer"].rstrip(".").split(",")[0].lower()
        stem = next((stem for stem in QUESTIONS if text.startswith(stem)), None)
        if stem is None or record["task"] not in ("open_vqa", "multiple_choice") or answer == "none":
            continue
        finding = text.removeprefix(stem).split("?")[0].strip()
        for side in ("left", "right") if answer == "both sides" else [answer.removesuffix(" side")]:
            label = QUESTIONS[stem].format(answer=side, finding=finding)
            true = [name for name, value in own.items() if value == 1 and name.startswith(label)]
            assert len(true) == 1, (label, true)
            checked.add((stem, side))
    assert {stem for stem, _ in checked} == set(QUESTIONS)


def test_one_of_each_kind_of_detail_holds(details) -> None:
    kinds = {
        "Arterial wall calcification": ["mild", "severe"],
        "Emphysema": ["mild", "severe"],
        "Lung nodule": ["small", "medium", "large"],
        "Pleural effusion": ["small", "moderate", "large"],
        "Pericardial effusion": ["small", "large"],
    }
    groups = [(name, [f"{grade} {name.lower()}" for grade in grades]) for name, grades in kinds.items()]
    places = ["left upper", "left lower", "right upper", "right lower"]
    groups.append(("Lung nodule", [f"{place} zone nodule" for place in places]))
    groups.append(("Consolidation", [f"{place} zone consolidation" for place in places]))
    groups.append(("Lung nodule", ["one lung nodule", *(f"{n} lung nodules" for n in ("two", "three", "four"))]))
    nodes = [f"{number} enlarged lymph node{'s' * (number != 'one')}" for number in ("one", "two", "three", "four")]
    groups.append(("Lymphadenopathy", nodes))
    groups.append(("Medical material", ["pacemaker", "port catheter", "sternal wires", "spinal rods"]))
    for own in details.values():
        for name, labels in groups:
            assert [own[label] for label in labels].count(1) == own[name], labels


def test_nodes_and_vessels_are_at_as_many_sites_as_there_are(details) -> None:
    sites = {
        "Lymphadenopathy": ("enlarged lymph node", [f"{station} lymph node" for station in STATIONS]),
        "Coronary artery wall calcification": (
            "calcified coronary arter",
            [f"calcified {artery} artery" for artery in CORONARY_ARTERIES],
        ),
    }
    for own in details.values():
        for name, (counted, labels) in sites.items():
            numbers = [
                value
                for value, word in NUMBERS.items()
                if any(own[label] == 1 for label in own if label.startswith(f"{word} {counted}"))
            ]
            assert numbers == ([sum(own[label] for label in labels)] if own[name] else [])


def test_the_largest_nodule_is_at_one_of_the_sites(details) -> None:
    places = ["left upper", "left lower", "right upper", "right lower"]
    checked = 0
    for own in details.values():
        if not own["Lung nodule"]:
            continue
        checked += 1
        sites = {place for place in places if own[f"nodule in the {place} zone"]}
        assert next(place for place in places if own[f"{place} zone nodule"]) in sites
        for side in ("left", "right"):
            assert any(place.startswith(side) for place in sites) == bool(own[f"{side} lung nodule"])
        least = next(n for n, word in NUMBERS.items() if own[f"{word} lung nodule{'s' * (n > 1)}"])
        assert len(sites) <= least
    assert checked > 2


def test_what_an_absent_finding_would_look_like_is_unknown() -> None:
    assert set(detail_targets({}).values()) == {None}
    sites = ["left upper", "right lower"]
    nodules = Finding("Lung nodule", "both", 2, 30.0, "left upper", "medium", sites=sites)
    alone = detail_targets({"Lung nodule": nodules})
    known = {name: value for name, value in alone.items() if value is not None}
    assert {name for name, value in known.items() if value} == {
        "left lung nodule", "right lung nodule", "two lung nodules", "left upper zone nodule", "medium lung nodule",
        "nodule in the left upper zone", "nodule in the right lower zone",
    }  # fmt: skip
    assert len(known) == 2 + 4 + 4 + 4 + 3


def test_the_task_knows_diseases_and_details_and_each_has_a_description(folder: Path) -> None:
    task = next(task for task in phantom_tasks(folder) if task.name == "phantom_detail_classification")
    assert (task.kind, task.loss, task.weight) == ("classification", "BCE", 0)
    assert task.labels == (*(name.lower() for name in DISEASES), *DETAILS) and task.sided
    assert len({describe(label) for label in task.labels}) == len(task.labels)
    for record in load_records([task])[task.name]:
        assert list(record.disease_label) == list(task.labels)

"""The instruction manifest: what is read, and what is refused with file, row and field."""

from __future__ import annotations

import json
import math

import pytest

from datasets.manifest import InstructionRecord, ManifestError, load_manifest
from datasets.vocabulary import diseases_of

QUESTION = [{"type": "image"}, {"type": "text", "text": "Where is the liver?"}]
PLAIN = {"question": QUESTION, "image_path": "ct.nii.gz", "answer": "On the right."}
MASKED = {
    **PLAIN,
    "answer": "It is <SEG>.",
    "labels": ["liver"],
    "mask_path": "mask.nii.gz",
    "mask_values": {"liver": 3},
}
CONFIDENCES = " ".join(["<disease_confidence>"] * 18)


def write(folder, rows):
    (folder / "ct.nii.gz").touch()
    (folder / "mask.nii.gz").touch()
    path = folder / "train.json"
    path.write_text(json.dumps(rows))
    return path


def test_the_published_format_is_enough(tmp_path):
    record = load_manifest(write(tmp_path, [PLAIN]))[0]
    assert record.text == "Where is the liver?"
    assert record.image_path == [str(tmp_path / "ct.nii.gz")]
    assert record.id == "train/0" and record.task == "open_vqa"


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (PLAIN, "open_vqa"),
        (MASKED, "segmentation"),
        ({**PLAIN, "answer": CONFIDENCES, "label_set": "CT-RATE"}, "diagnosis"),
        ({**PLAIN, "choices": {"A": "left", "B": "right"}}, "multiple_choice"),
        ({**PLAIN, "task": "yes_no"}, "yes_no"),
        ({**PLAIN, "answer": "yes"}, "yes_no"),
        ({**PLAIN, "answer": "No, there is none."}, "yes_no"),
        ({**PLAIN, "answer": "No acute findings."}, "open_vqa"),
        ({**PLAIN, "answer": "Yes.", "task": "open_vqa"}, "open_vqa"),
        ({**PLAIN, "question": "Write the report. <report_generation>"}, "report_generation"),
        ({**PLAIN, "question": "Is there gas? <binary_answer>"}, "yes_no"),
    ],
)
def test_the_task_is_told_by_the_fields_unless_named(tmp_path, row, task):
    assert load_manifest(write(tmp_path, [row]))[0].task == task


def test_long_answers_without_a_task_are_counted(tmp_path, caplog):
    report = {**PLAIN, "question": "What do you see?", "answer": "The lungs are clear. " * 10}
    path = write(tmp_path, [PLAIN, report, {**report, "task": "open_vqa"}, {**report, "task": "report_generation"}])
    assert [record.task for record in load_manifest(path)] == ["open_vqa"] * 3 + ["report_generation"]
    assert "1 of the records without a task (the first is row 1)" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "near"), [("target", "targets"), ("mask_paths", "mask_path"), ("hu_offsett", "hu_offset")]
)
def test_a_field_that_no_record_has_is_named_with_the_nearest(tmp_path, wrong, near):
    with pytest.raises(ManifestError, match=f"field {wrong}: is not a known field; did you mean '{near}'"):
        load_manifest(write(tmp_path, [{**PLAIN, wrong: []}]))


def test_targets_come_in_head_order_with_nan_for_unknown():
    record = InstructionRecord.model_validate(
        {
            **PLAIN,
            "answer": CONFIDENCES,
            "label_set": "CT-RATE",
            "targets": {"Emphysema": 1, "Lung nodule": None, "Atelectasis": 0},
        }
    )
    vector = dict(zip(diseases_of("CT-RATE"), record.target_vector(), strict=True))
    assert vector["Emphysema"] == 1 and vector["Atelectasis"] == 0
    assert math.isnan(vector["Lung nodule"]) and math.isnan(vector["Cardiomegaly"])


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"question": QUESTION, "image_path": "ct.nii.gz"}, "field answer"),
        ({**PLAIN, "answer": "  "}, "field answer: is empty"),
        ({**PLAIN, "question": []}, "field question"),
        ({**PLAIN, "question": [{"type": "video"}]}, r"field question\.0\.type"),
        ({**PLAIN, "question": [{"type": "image"}, {"type": "text"}]}, r"question\.1: a part of type 'text'"),
        ({**PLAIN, "image_path": ["ct.nii.gz", "ct.nii.gz"]}, "question: 1 image parts for 2 image_path"),
        ({**PLAIN, "image_path": "gone.nii.gz"}, "image_path: no such file: .*gone"),
        ({**MASKED, "labels": []}, "labels: 0 entries for 1 <SEG>"),
        ({**MASKED, "mask_path": None}, "mask_path: needed"),
        ({**MASKED, "mask_path": ["mask.nii.gz"] * 2}, "mask_path: 2 files for 1 labels"),
        ({**MASKED, "mask_values": {"spleen": 1}}, "mask_values: no value for 'liver'"),
        ({**MASKED, "mask_image": 1}, "mask_image: 1 for 1 volumes"),
        ({**MASKED, "mask_path": "gone.nii.gz"}, "mask_path: no such file"),
        ({**PLAIN, "answer": "<disease_confidence>", "label_set": "CT-RATE"}, "answer: 1 <disease_confidence> for 18"),
        ({**PLAIN, "answer": CONFIDENCES}, "label_set: needed"),
        ({**PLAIN, "label_set": "NLST"}, "label_set: 'NLST' is not one of RadChestCT, CT-RATE"),
        ({**PLAIN, "label_set": "CT-RATE", "targets": {"Gout": 1}}, "targets: 'Gout' is not a disease"),
        ({**PLAIN, "label_set": "CT-RATE", "targets": {"Emphysema": 2}}, r"field targets\.Emphysema"),
        ({**PLAIN, "task": "poetry"}, "field task"),
    ],
)
def test_a_bad_row_is_named_with_its_field(tmp_path, row, complaint):
    path = write(tmp_path, [PLAIN, row])
    with pytest.raises(ManifestError, match=rf"train\.json: row 1, (field )?{complaint}"):
        load_manifest(path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("[]", "the list is empty"), ("{}", "JSON list"), ("[{", "not a JSON file"), ("[3]", "row 0")],
)
def test_a_bad_file_is_named(tmp_path, content, complaint):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(ManifestError, match=complaint):
        load_manifest(path)


def test_a_missing_manifest_and_double_ids_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such manifest"):
        load_manifest(tmp_path / "absent.json")
    with pytest.raises(ManifestError, match="row 1, id: 'a' was already given by row 0"):
        load_manifest(write(tmp_path, [{**PLAIN, "id": "a"}] * 2))

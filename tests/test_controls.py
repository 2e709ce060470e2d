"""Controls: who is asked about whom, whose voxels the answer is of, and that the truth stays the question's own."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import evaluate_CTInstruct
from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import InstructionRecord, load_manifest
from evaluation.answering.controls import questions_under, stretched
from evaluation.answering.runner import Job, Scoring, answer_jobs, plan_jobs, score_jobs
from evaluation.metrics.summarize import summarize
from evaluation.predictions import merge_predictions
from models.answering.predicting import GenerationOptions
from models.checkpoints.folder import save_checkpoint
from models.ctinstruct import CTInstruct
from tests.tiny_model import tiny_ctinstruct
from training.distributed import Ranks

CONTROLS = ("none", "shuffled", "no_image")


def question(name: str, patient: str, *volumes: str) -> InstructionRecord:
    parts = [*({"type": "image"} for _ in volumes), {"type": "text", "text": "What is it?"}]
    return InstructionRecord(question=parts, image_path=list(volumes), answer="It.", id=name, patient_id=patient)


def test_each_patient_is_shown_the_next_one_and_the_last_the_first():
    records = [question("1", "a", "A"), question("2", "b", "B"), question("3", "a", "A"), question("4", "c", "C")]
    asked = questions_under("shuffled", records)
    assert {name: record.image_path for name, record in asked.items()} == {
        "1": ["B"],
        "2": ["C"],
        "3": ["B"],
        "4": ["A"],
    }
    assert all(asked[r.id].model_copy(update={"image_path": r.image_path}) == r for r in records), (
        "nothing else changes"
    )
    assert questions_under("shuffled", records) == asked and questions_under("none", records) == {}


def test_the_kth_volume_of_a_patient_becomes_the_kth_of_the_other():
    asked = {"1": "A0 A1", "2": "B0", "3": "A1", "4": "B1", "5": "C0", "6": "D2 D0 D1"}
    records = [question(name, volumes[0].lower(), *volumes.split()) for name, volumes in asked.items()]
    shown = {name: record.image_path for name, record in questions_under("shuffled", records).items()}
    assert shown == {"1": ["B0", "B1"], "2": ["C0"], "3": ["B1"], "4": ["C0"], "5": ["D2"], "6": ["A0", "A1", "A0"]}


def test_questions_without_a_volume_stay_and_no_image_leaves_words_alone():
    records = [question("1", "a", "A", "B"), question("2", "t"), question("3", "b", "C")]
    assert set(questions_under("shuffled", records)) == set(questions_under("no_image", records)) == {"1", "3"}
    asked = questions_under("no_image", records)["1"]
    assert [part.text for part in asked.question] == ["What is it?"] and asked.image_path == []


def test_a_manifest_that_cannot_be_shuffled_is_refused():
    with pytest.raises(InputError, match=r"volumes of 1 patient\(s\)"):
        questions_under("shuffled", [question("1", "a", "A"), question("2", "a", "A"), question("3", "t")])
    with pytest.raises(InputError, match="patients 'a' and 'b' share the volume A"):
        questions_under("shuffled", [question("1", "a", "A"), question("2", "b", "A")])
    wordless = InstructionRecord(question=[{"type": "image"}], image_path=["A"], answer="It.", id="1")
    with pytest.raises(InputError, match="'1' has no text"):
        questions_under("no_image", [wordless])


def test_a_stretched_mask_keeps_relative_places():
    rng = np.random.default_rng(0)
    mask = (rng.random((3, 4, 5)) > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(stretched(mask, mask.shape), mask)
    doubled = stretched(mask, (6, 8, 10))
    np.testing.assert_array_equal(doubled, mask.repeat(2, 0).repeat(2, 1).repeat(2, 2))
    np.testing.assert_array_equal(stretched(doubled, (3, 4, 5)), mask)
    for old, new in ((7, 3), (3, 7), (5, 5), (1, 4), (100, 33)):
        line = np.arange(old).reshape(old, 1, 1)
        expected = [int((i + 0.5) / new * old) for i in range(new)]  # the voxel that holds the point
        assert stretched(line, (new, 1, 1)).ravel().tolist() == expected


# One model, three patients whose volumes differ in size, spacing and orientation, asked under every control.


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("manifest")
    rng, rows = np.random.default_rng(0), []
    for number, (shape, signs) in enumerate(
        (((40, 36, 12), (1, 1, 1)), ((30, 44, 16), (-1, 1, 1)), ((36, 36, 14), (1, -1, 1)))
    ):
        volume = rng.normal(100 * number, 200, shape).astype(np.int16)
        volume[[0, -1]] = volume[:, [0, -1]] = volume[:, :, [0, -1]] = 1  # the body fills the file
        mask = np.zeros(shape, np.uint8)
        mask[5:20, 5:20, 3:9] = 3
        affine = np.diag([*(np.array(signs) * (2.0, 2.0, 3.0)), 1.0])
        nib.save(nib.Nifti1Image(volume, affine), folder / f"v{number}.nii.gz")
        nib.save(nib.Nifti1Image(mask, affine), folder / f"m{number}.nii.gz")
        base = {"image_path": f"v{number}.nii.gz", "patient_id": f"p{number}"}
        masked = {"labels": ["liver"], "mask_path": f"m{number}.nii.gz", "mask_values": {"liver": 3}}
        rows += [
            {**base, **masked, "id": f"s{number}", "question": "Where is the liver?", "answer": "It is <SEG>."},
            {**base, "id": f"o{number}", "question": "What changed?", "answer": "liver"},
        ]
    (folder / "six.json").write_text(json.dumps(rows))
    return folder / "six.json"


@pytest.fixture(scope="module")
def model() -> CTInstruct:
    """Untrained, looking hard at the volume, made to answer with a mask and two words."""
    model = tiny_ctinstruct().eval()
    with torch.no_grad():
        model.vision.bridger[2].weight *= 300
    allowed = [model.segmentation_id, *model.tokenizer.encode("liver spleen", add_special_tokens=False)[:2]]
    generate = model.language_model.generate
    model.language_model.generate = lambda **options: generate(
        **{"prefix_allowed_tokens_fn": lambda *_: allowed, "no_repeat_ngram_size": 1, **options}
    )
    return model


@pytest.fixture(scope="module")
def answered(model, manifest, tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for control in CONTROLS:
        folders[control] = tmp_path_factory.mktemp(control)
        score_jobs(answer(model, manifest, folders[control], control), Scoring(), "tiny", folders[control])
    return folders


def answer(model: CTInstruct, manifest: Path, output: Path, control: str, limit: int = 0) -> list[Job]:
    dataset = InstructionDataset({}, model.tokenizer, model.config, with_answers=False)
    jobs = plan_jobs(str(manifest), (), None, output, limit, control)
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    answer_jobs(jobs, model, dataset, GenerationOptions(1, 3), ranks, {"checkpoint": {"folder": "tiny"}}, batch_size=2)
    merge_predictions(output, [record.id for record in jobs[0].records])
    return jobs


def rows_of(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads((folder / "predictions.json").read_text())}


def test_a_shuffled_question_has_the_words_and_the_mask_of_the_volume_that_is_shown(model, manifest, answered):
    none, shuffled = rows_of(answered["none"]), rows_of(answered["shuffled"])
    records = {record.id: record for record in load_manifest(manifest)}
    assert not any(row["error"] for row in [*none.values(), *shuffled.values()])
    masks = []
    for number in range(3):
        other = (number + 1) % 3
        row, straight = shuffled[f"s{number}"], none[f"s{other}"]
        assert row["image_shown"] == records[f"s{other}"].image_path and "image_shown" not in straight
        assert row["image_path"] == records[f"s{number}"].image_path  # what it is scored on
        assert row["prediction"] == straight["prediction"]  # all ask the same
        mask = nib.load(row["segmentation"][0]["mask_path"])
        own = nib.load(row["image_path"][0])
        assert mask.shape == own.shape and np.allclose(mask.affine, own.affine)
        seen = nib.as_closest_canonical(nib.load(straight["segmentation"][0]["mask_path"]))
        expected = stretched(np.asarray(seen.dataobj), nib.as_closest_canonical(own).shape)
        np.testing.assert_array_equal(np.asarray(nib.as_closest_canonical(mask).dataobj), expected)
        truth = np.asarray(nib.load(records[row["id"]].mask_path).dataobj) == 3
        both = np.asarray(mask.dataobj) > 0
        dice = 2 * (both & truth).sum() / (both.sum() + truth.sum())
        assert row["segmentation"][0]["dice"] == pytest.approx(dice) and 0 < both.mean() < 1
        masks.append(expected.mean())
    assert len(set(masks)) == 3, "masks that are all alike would prove nothing"


def test_without_an_image_no_visual_token_is_asked_with_and_no_mask_is_given(model, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(model, "encode_volumes", lambda volumes: pytest.fail("a volume was encoded"))
    seen = []
    embed = model.input_embeddings
    monkeypatch.setattr(
        model, "input_embeddings", lambda batch, encoded: seen.append(batch.input_ids) or embed(batch, encoded)
    )
    answer(model, manifest, tmp_path, "no_image")
    assert seen and not any((ids == model.image_id).any() for ids in seen)
    rows = rows_of(tmp_path)
    assert not any(row["error"] for row in rows.values())
    assert len({row["prediction"] for key, row in rows.items() if key[0] == "s"}) == 1, "the words are all alike"
    segmentation = summarize(rows.values())["tasks"]["segmentation"]
    assert segmentation["without_mask"] == 3 and segmentation["metrics"]["dice"]["value"] == 0
    assert all("<SEG>" in rows[f"s{number}"]["prediction"] for number in range(3))


def test_the_control_is_recorded_and_named(answered):
    for control, words in zip(CONTROLS, (None, "images of another patient", "no image"), strict=True):
        folder = answered[control]
        assert json.loads((folder / "run.json").read_text())["control"] == control
        assert json.loads((folder / "metrics.json").read_text())["run"]["control"] == control
        titles = [
            line
            for line in (folder / "tables" / "tables.md").read_text(encoding="utf-8").splitlines()
            if line[:1] == "#"
        ]
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert titles and all(("(control: " in title) == (words is not None) for title in titles)
        assert ("(control: " in page) == (words is not None)
        if words:
            assert all(f"(control: {words})" in title for title in titles)
            assert f"<h1>CTInstruct evaluation (control: {words})</h1>" in page


def test_a_limit_shows_the_same_volumes_and_another_control_is_not_mixed_in(model, manifest, answered, tmp_path):
    answer(model, manifest, tmp_path, "shuffled", limit=2)
    short, whole = rows_of(tmp_path), rows_of(answered["shuffled"])
    assert len(short) == 2 and all(row["image_shown"] == whole[key]["image_shown"] for key, row in short.items())
    with pytest.raises(InputError, match=r"another control \(shuffled, now none\)"):
        answer(model, manifest, tmp_path, "none")


def test_one_examination_has_no_control(monkeypatch):
    arguments = ("--checkpoint", "x", "--image", "a.nii.gz", "--question", "?", "--control", "shuffled")
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments])
    with pytest.raises(InputError, match="leave it out with --image"):
        evaluate_CTInstruct.main()


def test_several_controls_are_answered_one_after_the_other(monkeypatch, model, manifest, answered, tmp_path):
    run, output = tmp_path / "run", tmp_path / "evaluation"
    save_checkpoint(model, run)
    arguments = ["--checkpoint", str(run), "--manifest", str(manifest), "--output", str(output), "--num_beams", "1"]
    controls = ["--control", "none", "shuffled", "no_image", "--max_new_tokens", "6"]
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments, *controls])
    evaluate_CTInstruct.main()
    for control in CONTROLS:
        folder = output if control == "none" else tmp_path / f"evaluation_{control}"
        assert json.loads((folder / "run.json").read_text())["control"] == control
        shown, expected = (
            {key: row.get("image_shown") for key, row in rows_of(one).items()} for one in (folder, answered[control])
        )
        assert shown == expected


@pytest.mark.parametrize("controls", [("none", "none"), ("shuffled", "none", "shuffled")])
def test_a_control_is_named_once(controls):
    with pytest.raises(InputError, match="once at most"):
        evaluate_CTInstruct.folders_of(evaluate_CTInstruct.HyperParameters(control=controls))

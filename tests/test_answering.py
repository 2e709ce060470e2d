"""Answering a manifest: batches and ranks, one reading and one encoding a volume, failures, resuming."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import InstructionRecord, load_manifest
from datasets.volume.loading import read_mask
from evaluation.answering import inference
from evaluation.answering.batches import plan_batches, share
from evaluation.answering.runner import Job, Scoring, answer_jobs, score_jobs
from evaluation.predictions import PredictionWriter, merge_predictions
from models.answering import predicting
from models.answering.predicting import GenerationOptions
from models.ctinstruct import CTInstruct
from models.generation import Prediction
from tests.tiny_model import tiny_ctinstruct
from training import distributed
from training.distributed import Ranks

EXAMPLE = Path(__file__).resolve().parents[1] / "data" / "instruction_sft" / "VQA_CTRATE_example.json"
# The released protocol pairs one confidence with the first disease.
GREEDY = GenerationOptions(num_beams=1, max_new_tokens=4, protocol="release")
MADE_WITH = {"checkpoint": {"folder": "tiny"}, "num_beams": 1}


@pytest.fixture(scope="module")
def model() -> CTInstruct:
    """Untrained, held to saying four words in an order of its own, a mask and a confidence among them, and looking at
    the volume more than its small random weights would: masks and confidences differ from volume to volume."""
    model = tiny_ctinstruct().eval()
    words = model.tokenizer.encode("liver spleen", add_special_tokens=False)[:2]
    allowed = [model.segmentation_id, model.confidence_id, *words]
    with torch.no_grad():
        model.vision.bridger[2].weight *= 300
    generate = model.language_model.generate
    model.language_model.generate = lambda **options: generate(
        **{"prefix_allowed_tokens_fn": lambda *_: allowed, "no_repeat_ngram_size": 1, **options}
    )
    return model


def dataset_of(model: CTInstruct) -> InstructionDataset:
    return InstructionDataset({}, model.tokenizer, model.config, with_answers=False)


def rank(number: int = 0, ranks: int = 1) -> Ranks:
    return Ranks(number, ranks, number, torch.device("cpu"))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[InstructionRecord]:
    """Three questions of the example about each of three volumes, those of one volume not side by side."""
    folder = tmp_path_factory.mktemp("manifest")
    shutil.copytree(EXAMPLE.parent, folder, dirs_exist_ok=True)
    rows = {row["task"]: row for row in json.loads(EXAMPLE.read_text()) if len(row.get("labels") or [1]) == 1}
    copies = []
    for number in range(3):
        for row in (rows[task] for task in ("report_generation", "diagnosis", "segmentation")):
            path = Path(row["image_path"])
            copy = path.with_name(f"copy{number}_{path.name}")
            image = nib.load(folder / path)
            nib.save(nib.Nifti1Image(np.roll(np.asarray(image.dataobj), 9 * number, 0), image.affine), folder / copy)
            copies.append({**row, "id": f"{row['id']}_{number}", "image_path": str(copy)})
    order = [0, 3, 6, 1, 4, 7, 2, 5, 8]
    (folder / "nine.json").write_text(json.dumps([copies[index] for index in order]))
    return load_manifest(folder / "nine.json")


def run(model: CTInstruct, records: list[InstructionRecord], folder: Path, ranks: int = 1, batch_size: int = 2) -> list:
    """Predictions of so many ranks, each a thread, which wait for each other where processes would."""
    job, meeting = Job("nine", folder, EXAMPLE, records), threading.Barrier(ranks)

    def work(number: int) -> None:
        try:
            answer_jobs([job], model, dataset_of(model), GREEDY, rank(number, ranks), MADE_WITH, batch_size)
        except BaseException:
            meeting.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(ranks) as pool:
        patch.setattr(distributed, "barrier", meeting.wait)
        for finished in [pool.submit(work, number) for number in range(ranks)]:
            finished.result()
    merged = merge_predictions(folder, [record.id for record in records])
    return json.loads(json.dumps(merged).replace(str(folder), ""))


@pytest.fixture(scope="module")
def whole(model, records, tmp_path_factory) -> list:
    """What one rank writes that is not interrupted."""
    return run(model, records, tmp_path_factory.mktemp("whole"))


def test_batches_hold_the_questions_of_a_volume_side_by_side(records):
    batches = plan_batches(records, 4)
    flat = [record for batch in batches for record in batch]
    assert sorted(r.id for r in flat) == sorted(r.id for r in records) and [len(b) for b in batches] == [4, 4, 1]
    volumes = [record.image_path[0] for record in flat]
    assert [volumes.index(path) for path in dict.fromkeys(volumes)] == [0, 3, 6]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_ranks_share_every_batch_once_and_none_that_is_done(records, ranks):
    batches = plan_batches(records, 2)
    done = {record.id for record in batches[1]} | {batches[2][0].id}
    shared = [batch for number in range(ranks) for batch in share(batches, done, number, ranks)]
    assert shared == [batches[0], *batches[2:]]  # the third is half done and answered as a whole


def test_one_two_and_three_ranks_write_the_same_in_the_manifests_order(model, records, whole, tmp_path):
    one, (two, three) = whole, (run(model, records, tmp_path / str(ranks), ranks) for ranks in (2, 3))
    assert [row["id"] for row in one] == [record.id for record in records]
    assert one == two == three
    assert not any(row["error"] for row in one)
    different = {json.dumps([row["prediction"], row["probabilities"], row["segmentation"]]) for row in one}
    assert len(different) > 5, "answers that are all alike would prove nothing"
    assert any(row["probabilities"] for row in one) and any(e["mask_path"] for r in one for e in r["segmentation"])
    used = [path for path in (tmp_path / "3").glob("predictions.rank*.jsonl") if path.stat().st_size]
    assert len(used) == 3


def test_a_volume_is_read_and_encoded_once_for_all_its_questions(model, records, tmp_path, monkeypatch):
    read, encoded = [], []
    original = model.vision.encode_many
    monkeypatch.setattr(model.vision, "encode_many", lambda volumes: encoded.append(len(volumes)) or original(volumes))
    dataset = dataset_of(model)
    volume = dataset.loader.volume
    monkeypatch.setattr(dataset.loader, "volume", lambda path, *offset: read.append(str(path)) or volume(path, *offset))
    job = Job("nine", tmp_path, EXAMPLE, records)
    answer_jobs([job], model, dataset, GREEDY, rank(), MADE_WITH, batch_size=2)
    assert sorted(read) == sorted({record.image_path[0] for record in records})
    assert encoded == [1, 1, 1]


def test_a_sample_that_fails_is_recorded_and_the_others_go_on(model, records, tmp_path, monkeypatch):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(Path(records[0].image_path[0]).read_bytes()[:5000])  # a torn download
    bad = records[0].model_copy(update={"image_path": [str(broken)]})
    asked = [bad, *records[1:4]]
    stuck = records[2].id
    describe = inference._described

    def scored(record):
        if record.id == stuck and not scored.failed:
            scored.failed = True
            raise KeyError("no such structure")
        return describe(record)

    scored.failed = False
    monkeypatch.setattr(inference, "_described", scored)
    rows = {row["id"]: row for row in run(model, asked, tmp_path / "out", batch_size=4)}
    assert "broken.nii.gz" in rows[bad.id]["error"]
    assert rows[stuck]["error"] == "KeyError: 'no such structure'"
    assert [rows[record.id]["error"] for record in (records[1], records[3])] == [None, None]
    job = Job("four", tmp_path / "out", EXAMPLE, asked)
    score_jobs([job], Scoring(), "tiny", tmp_path / "out")
    metrics = json.loads((job.folder / "metrics.json").read_text())
    assert metrics["counts"]["failed"] == 2
    assert {failure["id"] for failure in metrics["counts"]["failures"]} == {bad.id, stuck}
    assert "2 failed and are in no figure" in (job.folder / "tables" / "tables.md").read_text(encoding="utf-8")


def test_a_batch_that_fails_is_answered_one_by_one(model, records, tmp_path, monkeypatch):
    generate = predicting.generate

    def only_single(model, batch, *arguments):
        if len(batch.sample_ids) > 1:
            raise torch.OutOfMemoryError("too large")
        return generate(model, batch, *arguments)

    monkeypatch.setattr(predicting, "generate", only_single)
    assert not any(row["error"] for row in run(model, records[:3], tmp_path, batch_size=3))


def test_a_lost_device_ends_the_run(model, records, tmp_path, monkeypatch):
    def lost(*_):
        raise torch.AcceleratorError("device-side assert")

    monkeypatch.setattr(predicting, "generate", lost)
    with pytest.raises(torch.AcceleratorError):
        run(model, records[:2], tmp_path)


def test_a_resumed_run_gives_what_an_uninterrupted_one_gives(model, records, whole, tmp_path):
    run(model, records[:5], tmp_path / "torn")
    path = tmp_path / "torn" / "predictions.rank0.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])  # killed in mid-line
    assert run(model, records, tmp_path / "torn", ranks=2) == whole
    written = [line for file in (tmp_path / "torn").glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(written) == len(records), "nothing is written twice"


def test_predictions_of_another_model_are_not_taken_over(model, records, tmp_path):
    run(model, records[:1], tmp_path)
    job = Job("nine", tmp_path, EXAMPLE, records[:2])
    other = {**MADE_WITH, "checkpoint": {"folder": "other"}}
    with pytest.raises(InputError, match=r"another checkpoint \(tiny, now other\).*--output"):
        answer_jobs([job], model, dataset_of(model), GREEDY, rank(), other)
    with pytest.raises(InputError, match="another manifest"):
        answer_jobs([replace(job, manifest=Path("other.json"))], model, dataset_of(model), GREEDY, rank(), MADE_WITH)
    answer_jobs([job], model, dataset_of(model), GREEDY, rank(), MADE_WITH)  # more of the same manifest is well


def test_a_mask_is_scored_as_it_is_and_one_that_is_not_given_as_nothing(model, tmp_path):
    record = next(record for record in load_manifest(EXAMPLE) if record.labels and len(record.labels) == 1)
    sample = dataset_of(model).sample(record)
    geometry = sample.geometries[0]
    answer = predicting.predict(model, [sample], GREEDY)[0]
    truth = read_mask(record.mask_path, geometry, [record.mask_values[record.labels[0]]])[0]
    assert truth.any() and not truth.all()

    def scored(masks: list[np.ndarray]) -> dict:
        (entry,) = inference._result(record, geometry, replace(answer, masks=masks), tmp_path)["segmentation"]
        return entry

    right, wrong, silent = scored([truth, np.ones_like(truth)]), scored([np.ones_like(truth)]), scored([])
    assert right["dice"] == 1 and wrong["dice"] < 0.9
    assert (silent["dice"], silent["mask_path"]) == (0, None)


def test_the_published_dice_is_of_the_first_mask_on_the_padded_grid_against_all_labels(model, tmp_path, monkeypatch):
    record = next(record for record in load_manifest(EXAMPLE) if len(record.labels) > 1)
    dataset = dataset_of(model)
    sample = dataset.sample(record)
    placed = dataset.loader.masks(
        record.mask_path, record.whole_values, sample.volumes[0].placement, sample.geometries[0]
    )
    union = (placed == 1).any(0)
    assert union.any() and (placed == -1).any(), "there is something to find, and padding to count"
    first, second = torch.where(union, 9.0, -9.0), torch.full(union.shape, 9.0)
    said: list[torch.Tensor | None] = [torch.stack([first, second]), torch.stack([second, first]), None]

    def answered(*_: object) -> list[Prediction]:
        return [Prediction("It is <SEG>.", torch.zeros(1), said[0], {})]

    monkeypatch.setattr(predicting, "generate", answered)
    rows = []
    while said:
        rows += run(model, [record], tmp_path / str(len(said)))
        said.pop(0)
    right, wrong, silent = (row["dice_release_protocol"] for row in rows)
    assert right == 1 and wrong < 0.9 and silent is None
    asked = {record.id: record}
    writer_folder = tmp_path / "controlled"
    with PredictionWriter(writer_folder) as writer:
        said.append(torch.stack([first, second]))
        list(inference.answer_batches(model, dataset, [[record]], writer, writer_folder, GREEDY, asked))
    assert merge_predictions(writer_folder, [record.id])[0]["dice_release_protocol"] is None


def test_volumes_unlike_those_of_training_are_told_once_each(model, tmp_path, monkeypatch, caplog):
    class Odd:
        """Knows volumes by nothing, and doubts every one."""

        def doubts(self, description: np.ndarray) -> list[str]:
            assert np.isfinite(description).all()
            return ["unlike"]

    records = load_manifest(EXAMPLE)
    monkeypatch.setattr(model, "familiarity", Odd(), raising=False)
    run(model, records, tmp_path / "all")
    told = [message.partition(": ")[0] for message in caplog.messages if message.endswith(": unlike")]
    assert told == [records[0].image_path[0]] and len(records) > 1, "all records are about one volume"
    caplog.clear()
    monkeypatch.setattr(model, "familiarity", None)
    run(model, records[:1], tmp_path / "one")
    assert not any("unlike" in message for message in caplog.messages)

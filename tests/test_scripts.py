"""The scripts as a user starts them: two ranks under the DeepSpeed launcher, plain python, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import evaluate_CTInstruct
from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import load_manifest
from evaluation.answering.single_volume import answer_question
from models import CTInstruct
from models.answering.predicting import GenerationOptions
from models.checkpoint import main as checkpoint_command
from models.checkpoints.loading import load_checkpoint
from tests.launch import REPOSITORY, kill_when_saved, run, run_well
from tests.tiny_model import tiny_ctinstruct
from training.checkpoint_store import latest_complete
from training.tuning.settings import loss_weights

EXAMPLE = REPOSITORY / "data" / "instruction_sft" / "VQA_CTRATE_example.json"
IMAGE = EXAMPLE.parent / "volumes" / "example_phantom.nii.gz"
TINY = ("--preset", "tiny", "--log_interval", "1", "--batch_size", "4", "--micro_batch", "2")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    """Two ranks train on the example manifest, are killed after the second step is saved, and go on to the fifth."""
    folder = tmp_path_factory.mktemp("run")
    command = ["train_CTInstruct.py", *TINY, "--manifests", str(EXAMPLE), "--run_dir", str(folder)]
    command += ["--max_iters", "5", "--save_interval", "2"]
    kill_when_saved(folder, 2, *command, ranks=2)
    assert latest_complete(folder).name != "step_000005"
    resumed = run(*command, "--resume", ranks=2)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed from {folder}" in resumed.stdout
    return folder


def test_two_ranks_train_and_log_each_task(run_dir):
    kept = sorted(path.name for path in (run_dir / "checkpoints").iterdir())
    assert kept == ["step_000002", "step_000004", "step_000005"], "all are kept"
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    names = events.Tags()["scalars"]
    tasks = {name.split("/")[0] for name in names if name.endswith("/language_loss")}
    assert len(tasks) >= 2 and "train/learning_rate" in names
    assert all(np.isfinite(event.value) for name in names for event in events.Scalars(name))


@pytest.mark.slow
def test_a_killed_and_resumed_run_is_the_uninterrupted_one(run_dir, tmp_path):
    command = ["train_CTInstruct.py", *TINY, "--manifests", str(EXAMPLE), "--run_dir", str(tmp_path)]
    run_well(*command, "--max_iters", "5", "--save_interval", "2", ranks=2)
    whole, parts = (load_checkpoint(latest_complete(folder) / "model").state_dict() for folder in (tmp_path, run_dir))
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []


def test_the_checkpoint_tells_what_departs_from_the_published_recipe(run_dir):
    checkpoint = latest_complete(run_dir)
    training = json.loads((checkpoint / "model" / "config.json").read_text())["training"]
    assert (training["recipe"], training["preset"]) == ("published", "tiny") and EXAMPLE.name in training["data"]
    assert training["labels"] == CTInstruct.from_pretrained(run_dir).labels() == ["aorta", "heart", "lungs"]
    assert training["departures"] == {
        "max_iters": {"published": 10_000, "this_run": 5},
        "precision": {"published": "bf16", "this_run": "fp32"},
        "orientation": {"published": "as_stored", "this_run": "RAS"},
        "batch_size": {"published": 64, "this_run": 4},
    }
    assert json.loads((checkpoint / "training" / "description.json").read_text())["training"] == training


@pytest.mark.slow
def test_one_and_three_ranks_give_the_same_predictions(run_dir, tmp_path):
    results = []
    for ranks in (1, 3):  # two are run in test_evaluation_script.py
        output = tmp_path / str(ranks)
        command = ["evaluate_CTInstruct.py", "--checkpoint", str(run_dir), "--manifest", str(EXAMPLE)]
        done = run(*command, "--output", str(output), "--num_beams", "2", "--max_new_tokens", "12", ranks=ranks)
        assert done.returncode == 0, done.stdout + done.stderr
        text = (output / "predictions.json").read_text().replace(str(output), "")
        results.append(json.loads(text))
        metrics = json.loads((output / "metrics.json").read_text())
        assert metrics["counts"]["failed"] == 0
        assert list((output / "tables").iterdir())
    assert results[0] == results[1]
    assert [row["id"] for row in results[0]] == [record.id for record in load_manifest(EXAMPLE)]


def test_lora_on_top_of_a_run_can_be_merged(run_dir, tmp_path):
    command = ["train_CTInstruct.py", *TINY, "--manifests", str(EXAMPLE), "--run_dir", str(tmp_path / "lora")]
    done = run(*command, "--initial_checkpoint", str(run_dir), "--lora", "--max_iters", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    adapted = latest_complete(tmp_path / "lora") / "model"
    assert checkpoint_command(["merge", str(adapted), str(tmp_path / "merged")]) == 0
    before, after = (load_checkpoint(folder).state_dict() for folder in (adapted, tmp_path / "merged"))
    for name, tensor in after.items():
        if not name.startswith("language_model."):
            assert torch.equal(tensor, before[name]), name


def test_one_question_about_one_file(run_dir, tmp_path):
    done = run(
        "evaluate_CTInstruct.py",
        *("--checkpoint", str(run_dir), "--image", str(IMAGE), "--question", "Where is the liver?"),
        *("--output", str(tmp_path), "--num_beams", "1", "--max_new_tokens", "8"),
    )
    assert done.returncode == 0, done.stderr
    assert "Question: Where is the liver?" in done.stdout and "Answer:" in done.stdout
    answer = done.stdout.split("Answer:")[1].splitlines()[0].strip()
    assert answer in (tmp_path / "answer.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--checkpoint", "{run}"], "give --manifest, --benchmark, --image with --question or --segment, or --images"),
        (["--manifest", str(EXAMPLE)], "--checkpoint is missing"),
        (["--checkpoint", "absent", "--manifest", str(EXAMPLE)], "absent"),
        (["--checkpoint", "{run}", "--image", "gone.nii.gz", "--question", "x"], "gone.nii.gz"),
        (["--checkpoint", "{run}", "--image", str(IMAGE), "--question", " "], "--question is empty"),
        (["--checkpoint", "{run}", "--images", "scans"], "--question is empty"),
        (["--checkpoint", "{run}", "--images", "gone", "--question", "x"], "gone: no such folder or list"),
        (
            ["--checkpoint", "{run}", "--images", "data", "--question", "x", "--output", "data/out"],
            "--output data/out lies in --images data",
        ),
        (["--checkpoint", "{run}", "--manifest", "gone.json"], "gone.json: no such manifest"),
        (
            ["--checkpoint", "{run}", "--manifest", str(EXAMPLE), "--num_beams", "0"],
            "--num_beams is 0: give a value from",
        ),
        (["--checkpoint", "{run}", "--manifest", str(EXAMPLE), "--limit", "-1"], "--limit is -1: give a value from 0"),
        (["--checkpoint", "{run}", "--benchmark", "LIDC"], "unknown benchmark 'LIDC'"),
        (
            ["--checkpoint", "{run}", "--manifest", str(EXAMPLE), "--bertscore_model", "gone"],
            "--bertscore_model gone: ",
        ),
        (["--checkpoint", "{run}", "--manifest", str(EXAMPLE), "--report_classifier", "gone"], "gone is no folder"),
    ],
)
def test_wrong_input_is_named(run_dir, monkeypatch, arguments, complaint):
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *(item.format(run=run_dir) for item in arguments)])
    with pytest.raises(InputError) as error:
        evaluate_CTInstruct.main()
    assert complaint in str(error.value) and "\n" not in str(error.value)


def test_wrong_input_ends_a_script_with_one_line_and_status_2():
    done = run("evaluate_CTInstruct.py", "--colour", "red")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "--colour" in errors[0], done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_row_stops_two_ranks_with_one_line(tmp_path):
    rows = json.loads(EXAMPLE.read_text())
    del rows[1]["answer"]
    manifest = tmp_path / "broken.json"
    manifest.write_text(json.dumps(rows))
    for row in rows:
        (tmp_path / row["image_path"]).parent.mkdir(exist_ok=True)
    done = run("train_CTInstruct.py", *TINY, "--manifests", str(manifest), "--run_dir", str(tmp_path / "run"), ranks=2)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    assert lines and all("broken.json: row" in line for line in lines)


def test_a_mask_lies_on_the_file_that_was_asked_about(tmp_path):
    """The path from answer to file, with a model that always says <SEG>."""
    model = tiny_ctinstruct().eval()
    forced = [*model.tokenizer("It is <SEG>.", add_special_tokens=False)["input_ids"], model.tokenizer.eos_token_id]
    original = model.language_model.generate
    model.language_model.generate = lambda **options: original(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[min(len(given), len(forced) - 1)]]
    )
    dataset = InstructionDataset({}, model.tokenizer, model.config, with_answers=False)
    earlier = tmp_path / "answer_mask_2.nii.gz"
    earlier.touch()  # an earlier answer had two masks
    answer = answer_question(
        model, dataset, [str(IMAGE)], "Where is the liver?", "CT-RATE", tmp_path, GenerationOptions(1, 10)
    )
    assert answer.answer.text == "It is <SEG>."
    source, mask = nib.load(IMAGE), nib.load(answer.mask_files[0])
    assert mask.shape == source.shape and mask.get_data_dtype() == np.uint8
    assert np.allclose(mask.affine, source.affine) and nib.aff2axcodes(mask.affine) == nib.aff2axcodes(source.affine)
    assert answer.overlay_file.read_bytes().startswith(b"\x89PNG")
    assert not earlier.exists()
    with pytest.raises(InputError, match=r"answer\.txt: cannot be made \(File exists\)"):
        answer_question(model, dataset, [str(IMAGE)], "?", "CT-RATE", tmp_path / "answer.txt", GenerationOptions(1, 10))


def test_loss_weights_are_read_and_bad_ones_named():
    assert loss_weights(["diagnosis=18", "query=0.5"]) == {"diagnosis": 18.0, "query": 0.5}
    for item in ("dice=1", "mask=much", "mask=nan", "mask=-1", "mask=inf", "mask"):
        with pytest.raises(InputError, match=f"--loss_weights {item}:"):
            loss_weights([item])

"""How answers are searched for: by the release's settings for each task, reproducible where they are sampled."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate_CTInstruct
from datasets.errors import CheckpointError
from datasets.manifest import load_manifest
from datasets.vocabulary import diseases_of
from evaluation.answering.release_output import release_entry
from models.answering.predicting import GenerationOptions, predict
from models.answering.study import task_of
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.released import save_released
from models.generation import generate
from tests.launch import REPOSITORY, run_well
from tests.tiny_model import collate, make_sample, tiny_ctinstruct

EXAMPLE = REPOSITORY / "data" / "instruction_sft" / "VQA_CTRATE_example.json"
OF_THE_RELEASE = {"do_sample": True, "top_k": 20, "top_p": 0.9, "temperature": 0.9, "eos_token_id": [2, 7]}
TASKS = ("open_vqa", "segmentation", "diagnosis", "yes_no")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A released folder that samples."""
    folder = tmp_path_factory.mktemp("released")
    save_released(tiny_ctinstruct().eval(), folder)
    values = {**OF_THE_RELEASE, "transformers_version": "4.48.0", "_from_model_config": True}
    (folder / "generation_config.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def model(folder: Path):
    return load_checkpoint(folder)


def questions(model, *tasks: str):
    return [make_sample(task, model.tokenizer, 3 + place, answered=False) for place, task in enumerate(tasks)]


def texts(model, samples, **options) -> list[list[int]]:
    chosen = GenerationOptions(2, 8, "release", **options)
    return [answer.prediction.token_ids.tolist() for answer in predict(model, samples, chosen)]


def test_the_generation_config_comes_with_the_weights(folder, tmp_path):
    config = load_checkpoint(folder).language_model.generation_config
    assert {name: getattr(config, name) for name in OF_THE_RELEASE} == OF_THE_RELEASE
    save_released(tiny_ctinstruct().eval(), tmp_path)
    assert not load_checkpoint(tmp_path).language_model.generation_config.do_sample
    for wrong, complaint in (("{", "not a JSON file"), ("[]", "must hold a JSON object")):
        (tmp_path / "generation_config.json").write_text(wrong)
        with pytest.raises(CheckpointError, match=f"generation_config.json: {complaint}"):
            load_checkpoint(tmp_path)


def asked_for(model, protocol: str, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What is handed to the language model for each of TASKS, all given as one batch."""
    handed: list[dict] = []
    search = model.language_model.generate
    names = ("num_beams", "do_sample", "top_k", "temperature", "eos_token_id")

    def note(**options):
        seen = {name: options[name] for name in names if name in options}
        handed.extend([seen] * len(options["attention_mask"]))
        return search(**options)

    monkeypatch.setattr(model.language_model, "generate", note)
    predict(model, questions(model, *TASKS), GenerationOptions(2, 2, protocol))
    return handed


def test_the_release_searches_by_task_and_otherwise_beams_are_for_all(model, monkeypatch):
    ends = {"eos_token_id": [2, 7]}
    text = {"num_beams": 2, "top_k": 50, "temperature": 0.7, **ends}
    assert asked_for(model, "release", monkeypatch) == [text, ends, ends, text]
    model.language_model.generation_config.do_sample = False  # beams alone, and tasks share batches again
    assert asked_for(model, "release", monkeypatch) == [{"num_beams": 2, **ends}] * 2 + [ends] * 2
    own = {"num_beams": 2, "do_sample": False, "eos_token_id": [model.tokenizer.eos_token_id]}
    assert asked_for(model, "beams", monkeypatch) == [own] * 4


def test_a_batch_is_searched_for_in_one_way(model):
    batch = collate(questions(model, "open_vqa", "segmentation"), model.tokenizer)
    with pytest.raises(ValueError, match="open_vqa, segmentation is not searched for in one way"):
        generate(model, batch, protocol="release")


def test_a_sampled_answer_depends_on_its_seed_and_not_on_its_company(model):
    samples = questions(model, *TASKS)
    together, state = texts(model, samples), torch.get_rng_state()
    assert together == [texts(model, [sample])[0] for sample in samples] == texts(model, samples[::-1])[::-1]
    assert torch.equal(torch.get_rng_state(), state), "nobody else's random numbers are moved"
    assert texts(model, samples, seed=1) != together
    model.language_model.generation_config.do_sample = False
    assert texts(model, samples) == texts(model, samples, seed=1)


def test_an_answer_ends_at_each_end_token_of_the_release(model):
    forced = [20, 21, 7, 22]
    search = model.language_model.generate
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[min(len(given), 3)]]
    )
    batch = collate(questions(model, "segmentation"), model.tokenizer)
    assert generate(model, batch, 1, 4, protocol="release")[0].token_ids.tolist() == [20, 21]
    assert generate(model, batch, 1, 4)[0].token_ids.tolist() == forced


def test_float32_weights_answer_under_autocast(model):
    """A mask and a confidence, which go through every part; near those of float32."""
    search = model.language_model.generate
    forced = [model.segmentation_id, model.confidence_id]
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [forced[len(given) % 2]]
    )
    sample = questions(model, "diagnosis")
    options = GenerationOptions(1, 2, "release")
    (exact,) = predict(model, sample, options)
    settings = evaluate_CTInstruct.HyperParameters(precision="autocast")
    with evaluate_CTInstruct.autocast(settings, SimpleNamespace(device=torch.device("cpu"))):
        assert model.language_model.lm_head(torch.zeros(1, 128)).dtype == torch.bfloat16
        (rounded,) = predict(model, sample, options)
    assert next(model.parameters()).dtype == torch.float32
    ours, theirs = exact.prediction, rounded.prediction
    assert ours.token_ids.tolist() == theirs.token_ids.tolist() == forced
    assert not torch.equal(ours.mask_logits, theirs.mask_logits.float())
    difference = (ours.mask_logits - theirs.mask_logits.float()).std() / ours.mask_logits.std()
    assert difference < 0.2
    assert theirs.confidences == pytest.approx(ours.confidences, abs=0.05)


def test_confidences_that_are_not_one_a_disease_go_by_the_names_before_them(model, caplog):
    diseases = diseases_of("CT-RATE")
    said = "Emphysema <disease_confidence>, <disease_confidence>, Lung nodule <disease_confidence>."
    forced = model.tokenizer(said, add_special_tokens=False)["input_ids"]
    search = model.language_model.generate
    model.language_model.generate = lambda **options: search(
        **options, prefix_allowed_tokens_fn=lambda _, given: [[*forced, model.tokenizer.eos_token_id][len(given)]]
    )
    sample = questions(model, "diagnosis")
    assert sample[0].label_set == "CT-RATE"
    (ours,) = predict(model, sample, GenerationOptions(1, len(forced) + 1))
    assert list(ours.prediction.confidences) == ["Emphysema", "Lung nodule"]
    assert "3 <disease_confidence> for 18 diseases of CT-RATE; 2 are paired with the disease named" in caplog.text
    (released,) = predict(model, sample, GenerationOptions(1, len(forced) + 1, "release"))
    assert list(released.prediction.confidences) == diseases[:3], "the release pairs by position"
    states = torch.randn(18, model.diagnosis_heads.heads["CT-RATE"].in_features)
    heads = [
        model.diagnosis_heads.of_disease(state, name, "CT-RATE") for state, name in zip(states, diseases, strict=True)
    ]
    torch.testing.assert_close(torch.stack(heads), model.diagnosis_heads(states, "CT-RATE"))


def test_a_question_tells_its_task_by_the_token_in_it():
    assert task_of("Where is the liver? <segmentation>") == "segmentation"
    assert task_of("Where is the liver?") == "open_vqa"


def test_what_is_released_is_told_by_its_config(folder, tmp_path):
    save_checkpoint(tiny_ctinstruct().eval(), tmp_path)

    def protocol(folder: Path, **settings: str) -> str:
        return evaluate_CTInstruct.generation_of(evaluate_CTInstruct.HyperParameters(**settings), folder).protocol

    assert (protocol(folder), protocol(tmp_path)) == ("release", "beams")
    assert (protocol(folder, generation="beams"), protocol(tmp_path, generation="release")) == ("beams", "release")


def test_an_entry_of_the_release_has_lists_in_head_order():
    record = {"task": "diagnosis", "image_path": ["a.nii"], "question": "?", "answer": "x", "prediction": "y"}
    diagnosis = {"label_set": "RadChestCT", "targets": {"emphysema": 1}, "probabilities": {"emphysema": 0.5}}
    entry = release_entry({**record, **diagnosis, "error": None})
    place = diseases_of("RadChestCT").index("emphysema")
    expected = [None] * 16
    assert entry["targets"] == [*expected[:place], 1, *expected[place + 1 :]]
    assert entry["probabilities"] == [*expected[:place], 0.5, *expected[place + 1 :]]
    mask = {"task": "segmentation", "labels": ["liver"], "dice_release_protocol": 0.9, "error": "gone"}
    entry = release_entry({**record, **mask})
    assert (entry["labels"], entry["dice"], entry["error"]) == (["liver"], 0.9, "gone")
    assert release_entry({**record, "task": "open_vqa"}) == {k: v for k, v in record.items() if k != "task"}


@pytest.mark.slow
def test_the_script_writes_the_answers_in_the_releases_form(folder, tmp_path):
    run_well(
        *("evaluate_CTInstruct.py", "--checkpoint", str(folder), "--manifest", str(EXAMPLE)),
        *("--output", str(tmp_path), "--precision", "autocast", "--num_beams", "2", "--max_new_tokens", "4"),
        *("--release_output", "mine"),
    )
    written = json.loads((tmp_path / "test_out" / "mine" / f"{EXAMPLE.stem}.json").read_text())
    predictions = json.loads((tmp_path / "predictions.json").read_text())
    assert not any(row["error"] for row in predictions)
    assert written == [release_entry(row) for row in predictions]
    assert [entry["question"] for entry in written] == [record.text for record in load_manifest(EXAMPLE)]
    made_with = json.loads((tmp_path / "run.json").read_text())
    assert (made_with["generation"], made_with["precision"]) == ("release", "torch.float32, autocast")

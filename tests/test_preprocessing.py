"""A model's preprocessing record: what it holds, where it is kept, and that nothing departs from it unasked."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import evaluate_CTInstruct
import train_CTInstruct
from datasets.errors import InputError
from datasets.volume.anyres import patchify
from datasets.volume.cache import VolumeLoader
from datasets.volume.geometry import foreground_box
from datasets.volume.preprocessing import Preprocessing, SourceSteps
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.preprocessing import read_preprocessing
from models.checkpoints.pretrained_vision import load_into, load_pretraining, save_pretraining
from models.configuration import VISION_PRESETS
from models.extensions.pretraining import pretraining_model
from models.extensions.settings import PretrainingExtensions
from models.vision import VisionModel
from tests.ct_files import as_orientation, write_nifti
from tests.launch import run
from tests.tiny_model import VISION, tiny_ctinstruct
from training.arguments import parse
from training.preprocessing import with_preprocessing
from training.tuning.model import preprocessing_of

STANDARD = Preprocessing.standard(VISION.crop_size, VISION.patch_max)
RELEASED = Preprocessing.released(VISION.crop_size, VISION.patch_max)


@pytest.mark.parametrize(
    "record",
    [
        STANDARD,
        RELEASED,
        STANDARD.with_orientation("LPS"),
        RELEASED.with_clip_hu((-250, 400)),
        STANDARD.with_field_of_view((240, 360)),
    ],
)
def test_a_record_survives_json(record):
    assert Preprocessing.from_dict(json.loads(json.dumps(record.to_dict())), "config.json") == record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, r"preprocessing.version is 2, this code reads 1"),
        ({"version": ...}, r"preprocessing.version is missing"),
        ({"resize": ...}, r"preprocessing.resize is missing"),
        ({"resize": "bilinear"}, r"preprocessing.resize is 'bilinear'; give one of published, isotropic"),
        ({"spacing": 1}, r"preprocessing.spacing is not known; its fields are version, crop_size"),
        ({"crop_size": [64, 64]}, r"preprocessing.crop_size is \[64, 64\]; give three whole numbers"),
        ({"patch_max": True}, r"preprocessing.patch_max is True"),
        ({"ct_file": {"orientation": "RAS"}}, r"preprocessing.ct_file.crop is missing"),
        (
            {"ct_file": {**vars(SourceSteps()), "crop": [64]}},
            r"preprocessing.ct_file.field of view is \[64\]; give most mm of width and depth",
        ),
        ({"ct_file": "RAS"}, r"preprocessing.ct_file is 'RAS', it has to be an object"),
        (
            {"array_as_is": {**vars(SourceSteps()), "orientation": "up"}},
            r"preprocessing.array_as_is.orientation is 'up'; give three axis codes",
        ),
        ({"ct_file": {**vars(SourceSteps()), "clip": "hu"}}, r"preprocessing.ct_file.clip is 'hu'; give one of perc"),
        (
            {"ct_file": {**vars(SourceSteps()), "clip": [400, -250]}},
            r"preprocessing.ct_file.clip is \[400, -250\]; give",
        ),
        ({"ct_file": {**vars(SourceSteps()), "clip": [0, float("inf")]}}, r"preprocessing.ct_file.clip is \[0, inf\]"),
        ({"ct_file": {**vars(SourceSteps()), "clip": [0]}}, r"preprocessing.ct_file.clip is \[0\]; give the lowest"),
    ],
)
def test_a_wrong_record_is_refused_with_file_and_field(change, message):
    values = {name: value for name, value in {**STANDARD.to_dict(), **change}.items() if value is not ...}
    with pytest.raises(InputError, match=f"^a/config.json: {message}"):
        Preprocessing.from_dict(values, "a/config.json")


def test_the_command_line_may_repeat_a_record_and_change_it_only_on_purpose():
    given = {"orientation": "as_stored", "resize": "published", "crop_size": list(VISION.crop_size), "patch_max": None}
    assert RELEASED.with_options("the model", False, given) == (RELEASED, [])
    with pytest.raises(InputError, match=r"^--orientation RAS: the model was trained with as_stored; .*--override"):
        RELEASED.with_options("the model", False, {"orientation": "RAS"})
    changed, lines = RELEASED.with_options("the model", True, {"orientation": "RAS", "resize": "isotropic"})
    assert (changed.orientation, changed.resize) == ("RAS", "isotropic")
    assert changed.array_as_is == replace(RELEASED.array_as_is, orientation="RAS"), "no more than was asked for"
    assert len(lines) == 2 and "RAS" in lines[0] and "as_stored" in lines[0] and "isotropic" in lines[1]


def test_patches_of_a_ct_file_are_what_they_were_before_there_were_records(tmp_path):
    """To the bit: orientation, crop, clip, z-score and patches, written out; and a cache of before is still found."""
    ct = np.random.default_rng(0).normal(0, 400, (40, 50, 12)).astype(np.float32)
    ct[:3] = -1024
    path = write_nifti(tmp_path / "ct.nii.gz", *as_orientation(ct, "LPS"))
    loader = VolumeLoader(STANDARD)
    given = loader.volume(path)[0]
    start, stop = foreground_box(ct)
    array = ct[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))].copy(order="C")
    np.clip(array, *np.percentile(array, (0.5, 99.5)), out=array)
    array -= np.float32(array.mean(dtype=np.float64))
    array /= np.float32(np.sqrt(np.mean([np.square(plane, dtype=np.float64).mean() for plane in array])))
    expected = patchify(array[None], VISION.crop_size, VISION.patch_max)
    assert torch.equal(given.patches, expected.patches) and torch.equal(given.slice_marks, expected.slice_marks)
    before = {"crop_size": VISION.crop_size, "patch_max": VISION.patch_max, "orientation": "RAS", "resize": "published"}
    assert loader._options(arrays=False) == before
    assert loader._options(arrays=True) != VolumeLoader(STANDARD, array_axes="LPS")._options(arrays=True)
    unclipped = replace(STANDARD, ct_file=SourceSteps(clip="none"))
    assert VolumeLoader(unclipped)._options(arrays=False) != before


def edit(folder, **entries):
    """Change config.json; an entry of None is taken out."""
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in {**config, **entries}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def as_stored_folder(tmp_path_factory):
    """A checkpoint of a model that was trained in stored order."""
    model = tiny_ctinstruct()
    model.vision.preprocessing = STANDARD.with_orientation("as_stored")
    return save_checkpoint(model, tmp_path_factory.mktemp("as_stored"))


def test_a_checkpoint_keeps_the_record_through_loading_and_conversion(as_stored_folder, tmp_path):
    record = STANDARD.with_orientation("as_stored")
    assert record.rad_chest_ct_array.orientation == "PLI", "as the release moves it"
    assert json.loads((as_stored_folder / "config.json").read_text())["preprocessing"] == record.to_dict()
    model = load_checkpoint(as_stored_folder)
    assert model.vision.preprocessing == record
    assert read_preprocessing(save_checkpoint(model, tmp_path / "again")) == record


def test_a_checkpoint_from_before_there_were_records_has_its_own(as_stored_folder, tmp_path):
    folder = save_checkpoint(load_checkpoint(as_stored_folder), tmp_path)
    edit(folder, preprocessing=None)
    assert read_preprocessing(folder) == load_checkpoint(folder).vision.preprocessing == STANDARD
    departures = {"orientation": {"published": "as_stored", "this_run": "LPS"}}
    edit(folder, training={"recipe": "published", "departures": departures})
    assert read_preprocessing(folder) == STANDARD.with_orientation("LPS")
    edit(folder, training={"recipe": "published", "departures": {}})
    assert read_preprocessing(folder) == STANDARD.with_orientation("as_stored")


def test_a_record_for_other_patches_than_the_encoders_is_refused(as_stored_folder, tmp_path):
    folder = save_checkpoint(load_checkpoint(as_stored_folder), tmp_path)
    edit(folder, preprocessing={**STANDARD.to_dict(), "patch_max": 5})
    with pytest.raises(InputError, match=r"config\.json: preprocessing\.patch_max is 5, but the vision network's is 4"):
        load_checkpoint(folder)
    edit(folder, preprocessing={**STANDARD.to_dict(), "version": 9})
    with pytest.raises(InputError, match=r"config\.json: preprocessing\.version is 9"):
        load_checkpoint(folder)


def test_pretraining_keeps_the_record_and_hands_it_on(tmp_path):
    model = pretraining_model(VisionModel(VISION), PretrainingExtensions())
    model.vision.preprocessing = STANDARD.with_orientation("as_stored").with_clip_hu((-250, 400))
    folder = save_pretraining(model, tmp_path / "vision")
    assert read_preprocessing(folder) == load_pretraining(folder).vision.preprocessing == model.vision.preprocessing
    vision = VisionModel(replace(VISION, patch_max=2, llm_width=96))
    load_into(vision, folder)
    assert vision.preprocessing == replace(model.vision.preprocessing, patch_max=2)

    def tuning(*more: str):
        script = train_CTInstruct
        line = ["--preset", "tiny", "--pretrained_vision", str(folder), "--run_dir", str(tmp_path / "run"), *more]
        return preprocessing_of(parse(script.HyperParameters, script.PRESETS, line, recipes=script.RECIPES))

    assert tuning() == (model.vision.preprocessing, [])
    settings = parse(train_CTInstruct.HyperParameters, train_CTInstruct.PRESETS, [], recipes=train_CTInstruct.RECIPES)
    shown = with_preprocessing(settings, tuning()[0])
    assert (shown.orientation, shown.resize, shown.clip_hu) == ("as_stored", "published", (-250, 400))
    with pytest.raises(InputError, match=r"--orientation RAS: .*vision was trained with as_stored"):
        tuning("--orientation", "RAS")
    with pytest.raises(InputError, match=r"--patch_max 2: .*vision was trained with 4"):
        tuning("--patch_max", "2")
    record, lines = tuning("--orientation", "RAS", "--patch_max", "2", "--override_preprocessing")
    assert record == replace(STANDARD, patch_max=2).with_clip_hu((-250, 400)) and len(lines) == 2


def test_tuning_from_a_released_file_takes_the_release_s_record(tmp_path):
    (tmp_path / "vision.pt").touch()
    script = train_CTInstruct
    line = ["--pretrained_vision", str(tmp_path / "vision.pt"), "--run_dir", str(tmp_path / "run")]
    settings = parse(script.HyperParameters, script.PRESETS, line, recipes=script.RECIPES)
    assert preprocessing_of(settings)[0] == Preprocessing.released()
    assert VISION_PRESETS["full"].crop_size == Preprocessing.released().crop_size


def test_an_evaluation_against_the_record_is_refused_before_weights_are_read(as_stored_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_CTInstruct, "load_checkpoint", lambda *a, **k: pytest.fail("weights were read"))
    ct = np.random.default_rng(0).normal(0, 400, (8, 8, 8)).astype(np.float32)
    path = write_nifti(tmp_path / "ct.nii.gz", ct, np.eye(4))
    line = ["evaluate_CTInstruct.py", "--checkpoint", str(as_stored_folder), "--image", str(path), "--question", "?"]
    monkeypatch.setattr(sys, "argv", [*line, "--orientation", "RAS"])
    with pytest.raises(InputError, match=r"^--orientation RAS: the checkpoint .* was trained with as_stored; leave"):
        evaluate_CTInstruct.main()


def test_the_release_layout_has_the_release_s_record_unless_it_holds_another(tmp_path):
    entries = {"model_type": "qwen2_vl", "ctinstruct_vision": VISION.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    assert read_preprocessing(tmp_path) == RELEASED
    edit(tmp_path, ctinstruct_vision=None)
    assert read_preprocessing(tmp_path) == Preprocessing.released()
    edit(tmp_path, ctinstruct_vision=VISION.to_dict(), ctinstruct_preprocessing=STANDARD.to_dict())
    assert read_preprocessing(tmp_path) == STANDARD


@pytest.mark.slow
def test_the_encoder_sees_in_evaluation_what_it_saw_in_training(tmp_path):
    """Two steps of training in stored order, then an evaluation without options, and one that overrides."""
    ct = np.random.default_rng(0).normal(0, 300, (60, 64, 40)).astype(np.float32)
    ct[:, :30] -= 600
    write_nifti(tmp_path / "ct.nii.gz", *as_orientation(ct, "PIR"))
    row = {"id": "1", "patient_id": "p", "task": "open_vqa", "image_path": ["ct.nii.gz"]}
    row |= {"question": "<image>What is it?", "answer": "A test."}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    done = run("-m", "tests.seen_patches", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert len(seen["training"]) == 1 and seen["evaluation"] == seen["training"]
    assert seen["overridden"] != seen["training"]
    assert "--orientation RAS:" in done.stdout and "was trained with as_stored; --override_preprocessing" in done.stdout

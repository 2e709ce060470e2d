"""Sizes, recipes, and what a run says about how it departs from the published recipe."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch

import train_CTInstruct
import train_encoder_2D1D
import train_encoder_ResNet3D
import train_encoder_ViT3D
from datasets.errors import InputError
from datasets.phantom.defaults import DEFAULT_PHANTOMS
from datasets.volume.augmentation import AugmentationOptions
from models.configuration import vision_preset
from models.text.text_encoder import PUBLISHED_TEXT_ENCODER
from training.arguments import parse
from training.departures import describe_run, print_run
from training.precision import resolve_precision
from training.preprocessing import with_preprocessing
from training.pretraining.data import check_manifest_names, with_default_phantoms
from training.pretraining.model import check_encoder, vision_config
from training.pretraining.model import preprocessing_of as pretraining_preprocessing
from training.pretraining.settings import in_updates
from training.schedule import learning_rate_factor
from training.tuning.model import preprocessing_of as tuning_preprocessing

ENCODERS = [train_encoder_2D1D, train_encoder_ViT3D, train_encoder_ResNet3D]
SCRIPTS = [train_CTInstruct, *ENCODERS]


def settings_of(script: Any, line: str = "") -> Any:
    return parse(script.HyperParameters, script.PRESETS, line.split(), recipes=script.RECIPES)


@pytest.mark.parametrize("script", ENCODERS)
def test_every_size_goes_with_every_recipe(script):
    for preset in script.PRESETS:
        for recipe in script.RECIPES:
            settings = settings_of(script, f"--preset {preset} --recipe {recipe}")
            settings.validate()
            check_encoder(settings, script.ENCODER)


@pytest.mark.parametrize("preset", train_CTInstruct.PRESETS)
def test_tuning_sizes_go_with_both_recipes(preset):
    settings_of(train_CTInstruct, f"--preset {preset}").validate()
    settings_of(train_CTInstruct, f"--preset {preset} --recipe phantom --query_text_encoder texts").validate()


@pytest.mark.parametrize("preset", train_CTInstruct.PRESETS)
@pytest.mark.parametrize("recipe", ["open_kbp", "people"])
def test_tuning_sizes_go_with_recipes_for_organs(preset, recipe):
    settings = settings_of(train_CTInstruct, f"--preset {preset} --recipe {recipe} --query_text_encoder texts")
    settings.validate()
    assert not settings.train_vision and settings.extensions(2).query_targets


@pytest.mark.parametrize("script", ENCODERS)
def test_patients_of_the_neck_are_seen_narrowly_and_people_whole(script):
    assert settings_of(script, "--preset narrow --recipe open_kbp").field_of_view == (240, 360)
    assert settings_of(script, "--preset compact --recipe people").field_of_view is None


@pytest.mark.parametrize("script", ENCODERS)
@pytest.mark.parametrize("size", ["full", "small", "compact", "narrow", "tiny"])
def test_a_size_is_that_of_the_vision_presets(script, size):
    settings = settings_of(script, f"--preset {size}")
    preset = vision_preset(size, script.ENCODER)
    assert vision_config(settings, script.ENCODER, preset.query_width) == preset


def test_the_three_encoder_scripts_differ_in_nothing_but_crop_and_folder():
    tables = [{field.name: field.default for field in dataclasses.fields(s.HyperParameters)} for s in ENCODERS]
    assert tables[0].keys() == tables[1].keys() == tables[2].keys()
    different = {name for name, value in tables[0].items() if any(table[name] != value for table in tables)}
    assert different == {"run_dir", "crop_size"}


def test_pretraining_as_published():
    settings = settings_of(train_encoder_2D1D)
    expected = {
        "crop_size": (256, 256, 32),
        "patch_max": 6,
        "labels_per_step": 60,
        "absent_labels": "all",
        "text_encoder": PUBLISHED_TEXT_ENCODER,
        "temperature": 0.07,
        "queue_size": 512,
        "max_iters": 100_000,
        "accumulation_steps": 8,
        "micro_batch": 2,
        "segmentation_micro_batch": 1,
        "optimizer": "AdamW",
        "learning_rate": 1e-4,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-4,
        "clip": 1.0,
        "zero_stage": 2,
        "loss_scale_power": 16,
        "loss_scale_window": 1000,
        "save_interval": 5000,
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.augmentation_options == AugmentationOptions(), "whose defaults are the published ones"
    assert resolve_precision(settings, torch.device("cuda")) == "fp16"
    assert resolve_precision(settings, torch.device("cpu")) == "fp32"


def test_the_published_schedule_ends_high():
    """100,000 draws are 12,500 updates of a cosine that is laid out over 100,000: it ends at 0.97 of the peak."""
    loop = in_updates(settings_of(train_encoder_2D1D))
    assert (loop.max_iters, loop.save_interval, loop.log_interval, loop.warmup_steps) == (12_500, 625, 10, 1000)

    def factor(step: int) -> float:
        return learning_rate_factor(step, loop.schedule_steps, loop.warmup_steps, loop.min_lr_ratio, loop.warmup_shape)

    assert factor(0) == 0 and factor(999) == 1
    assert factor(loop.max_iters - 1) == pytest.approx(0.967, abs=1e-3)


def test_an_update_that_is_begun_is_finished():
    loop = in_updates(settings_of(train_encoder_2D1D, "--max_iters 20 --save_interval 0 --log_interval 1"))
    assert (loop.max_iters, loop.save_interval, loop.log_interval) == (3, 0, 1)


def test_tuning_as_published():
    settings = settings_of(train_CTInstruct)
    expected = {
        "batch_size": 64,
        "max_iters": 10_000,
        "learning_rate": 2e-5,
        "vision_learning_rate": 2e-5,
        "weight_decay": 0.0,
        "warmup_steps": 1000,
        "min_lr_ratio": 0.0,
        "zero_stage": 2,
        "gradient_checkpointing": True,
        "train_vision": True,
        "max_answer_tokens": 4096,
        "save_interval": 2500,
        "keep_checkpoints": 0,
        "seed": 42,
        "lora": False,
        "lora_rank": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.1,
        "lora_modules": ("q_proj", "v_proj"),
    }
    assert {name: getattr(settings, name) for name in expected} == expected
    assert resolve_precision(settings, torch.device("cuda")) == "bf16"
    assert settings.extensions(1) == type(settings.extensions(1))()


def test_slices_and_attention_rates_are_of_2d1d_alone():
    for line in ("--mask_slices 4", "--attention_rate 0.5", "--muon_attention false"):
        settings = settings_of(train_encoder_ViT3D, line)
        with pytest.raises(InputError, match=f"{line}.*ViT3D"):
            check_encoder(settings, "ViT3D")
        check_encoder(settings, "2D1D")


def test_phantoms_are_made_only_where_no_data_are_named():
    made = with_default_phantoms(settings_of(train_encoder_2D1D, "--preset tiny"))
    assert (made.phantoms, made.cache) == (DEFAULT_PHANTOMS, f"{DEFAULT_PHANTOMS}/cache")
    for line in ("--preset tiny --manifest_dir mine", "--preset tiny --phantoms mine", ""):
        settings = settings_of(train_encoder_2D1D, line)
        assert with_default_phantoms(settings) == settings
    with pytest.raises(InputError, match="--phantoms a and --manifest_dir b exclude each other"):
        with_default_phantoms(settings_of(train_encoder_2D1D, "--phantoms a --manifest_dir b"))

    mine = settings_of(train_CTInstruct, "--preset tiny --manifests mine.json")
    assert train_CTInstruct.with_default_phantoms(mine) == mine


def test_a_folder_without_a_known_task_is_refused_with_the_nearest_names(tmp_path):
    known = ["ctrate_image_text", "ctrate_classification", "abdomen_segmentation"]
    check_manifest_names(tmp_path, known)  # that it is empty is said elsewhere
    (tmp_path / "ctrate_imagetext_train.json").touch()
    with pytest.raises(InputError, match=r"none of its 1 manifests is of a known.*ctrate_image_text_train\.json"):
        check_manifest_names(tmp_path, known)
    (tmp_path / "ctrate_classification_train.json").touch()
    check_manifest_names(tmp_path, known)


def test_departures_are_named_with_both_values(capsys):
    line = "--preset tiny --recipe phantom --run_dir elsewhere --seed 5 --log_interval 3 --queue_size 64 --patch_max 4"
    settings = settings_of(train_encoder_2D1D, line)
    settings = with_preprocessing(settings, pretraining_preprocessing(settings)[0])
    found = describe_run(settings, train_encoder_2D1D.PRESETS, "phantoms in [mine]", "fp32")
    assert json.loads(json.dumps(found)) == found
    assert (found["preset"], found["recipe"], found["data"]) == ("tiny", "phantom", "phantoms in [mine]")
    departures = found["departures"]
    assert departures["optimizer"] == {"published": "AdamW", "this_run": "Muon"}
    assert departures["queue_size"] == {"published": 512, "this_run": 64}
    assert departures["patch_max"] == {"published": 6, "this_run": 4}, "the preset has 2"
    assert departures["precision"] == {"published": "fp16", "this_run": "fp32"}
    assert departures["orientation"] == {"published": "as_stored", "this_run": "RAS"}
    assert set(train_encoder_2D1D.RECIPES["phantom"]) - set(departures) == {
        *("validation_samples", "log_interval", "save_interval", "eval_interval")
    }
    assert not {"run_dir", "seed", "log_interval", "crop_size", "vision", "text_encoder"} & set(departures)
    print_run(found)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("queue_size", "512", "64", "phantoms in [mine]", "tiny", "AdamW"))


def test_the_published_recipe_departs_in_nothing_but_axes_and_flips_of_what_has_a_side():
    pretraining = (train_encoder_2D1D, "fp16", pretraining_preprocessing)
    for script, precision, preprocessing_of in (pretraining, (train_CTInstruct, "bf16", tuning_preprocessing)):
        settings = settings_of(script, "--micro_batch 2 --workers 1")
        settings = with_preprocessing(settings, preprocessing_of(settings)[0])
        ours = {"orientation", "augment_flip_sided"} & set(vars(settings))
        assert set(describe_run(settings, script.PRESETS, "mine", precision)["departures"]) == ours
        released = settings_of(script, "--orientation as_stored" + " --augment_flip_sided" * (len(ours) - 1))
        released = with_preprocessing(released, preprocessing_of(released)[0])
        assert not describe_run(released, script.PRESETS, "mine", precision)["departures"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_explains_every_hyper_parameter(script, capsys):
    with pytest.raises(SystemExit):
        settings_of(script, "--help")
    shown = " ".join(capsys.readouterr().out.split())
    assert "The defaults are the published recipe." in shown
    for field in dataclasses.fields(script.HyperParameters):
        if field.init and not field.name.startswith("lora_"):
            start = shown.rindex(f" --{field.name} ")
            text = shown[start:].split(" --", 2)[1]
            assert len(text.split("(default")[0].split()) > 3, field.name

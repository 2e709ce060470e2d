"""Instruction tuning's batch on any number of ranks, and settings that cannot take effect."""

from __future__ import annotations

from typing import Any

import pytest

import train_CTInstruct
from datasets.errors import InputError
from training.arguments import parse
from training.tuning.model import check_start
from training.tuning.settings import share_out_batch


def settings_of(line: str = "") -> Any:
    script = train_CTInstruct
    return parse(script.HyperParameters, script.PRESETS, line.split(), recipes=script.RECIPES)


@pytest.mark.parametrize(
    ("line", "ranks", "micro_batch", "accumulation"),
    [
        ("", 1, 1, 64),
        ("", 8, 1, 8),
        ("", 64, 1, 1),
        ("--micro_batch 4", 8, 4, 2),
        ("--micro_batch 16", 8, 8, 1),  # at most a rank's share
        ("--batch_size 6 --micro_batch 6", 1, 6, 1),
        ("--batch_size 6 --micro_batch 6", 2, 3, 1),
        ("--recipe phantom", 1, 6, 1),
        ("--recipe phantom", 2, 3, 1),
        ("--recipe people", 1, 2, 1),
        ("--recipe people", 2, 1, 1),
    ],
)
def test_the_batch_is_the_same_on_any_number_of_ranks(line, ranks, micro_batch, accumulation):
    settings = settings_of(line)
    share_out_batch(settings, ranks)
    assert (settings.micro_batch, settings.accumulation_steps) == (micro_batch, accumulation)
    assert micro_batch * accumulation * ranks == settings.batch_size


@pytest.mark.parametrize(
    ("line", "ranks", "message"),
    [
        ("", 3, "--batch_size 64 does not divide by 3 ranks: give 63 or 66"),
        ("--batch_size 2", 3, "--batch_size 2 does not divide by 3 ranks: give 3$"),
        ("--micro_batch 5", 8, "--micro_batch 5 does not divide a rank's share of the batch, 64 / 8 = 8: give 4 or 8"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_values_that_do(line, ranks, message):
    with pytest.raises(InputError, match=message):
        share_out_batch(settings_of(line), ranks)


PHANTOM = "--preset tiny --recipe phantom --pretrained_vision run --query_text_encoder run/text_encoder"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--grounded_start", "--grounded_start is for a language model made on the spot.*Qwen/Qwen2-VL-7B-Instruct"),
        ("--preset tiny --grounded_start", "give --pretrained_vision.*--query_text_encoder.*--grounded_start false"),
        ("--preset tiny --grounded_start --pretrained_vision run", "and --query_text_encoder"),
        ("--projector_start texts", "give --pretrained_vision, the folder of a pretraining run"),
        (f"{PHANTOM} --projector_start texts", "--grounded_start starts the projector too"),
        (f"{PHANTOM} --initial_checkpoint other", "--pretrained_vision has no effect with --initial_checkpoint"),
        ("--initial_checkpoint other --patch_max 3", "--patch_max has no effect with --initial_checkpoint"),
        ("--recipe phantom", "--loss_weights query: .*give --query_text_encoder"),
        ("--recipe people", "--loss_weights query: .*give --query_text_encoder"),
        ("--preset compact --recipe people --query_text_encoder t", "--grounded_start begins at what pretr"),
    ],
)
def test_what_cannot_take_effect_is_one_clear_line(line, message):
    settings = settings_of(line)
    with pytest.raises(InputError, match=message) as caught:
        settings.validate()
        check_start(settings)
    assert "\n" not in str(caught.value)


def test_a_released_file_of_vision_weights_knows_no_texts(tmp_path):
    path = tmp_path / "vision.pt"
    path.touch()
    settings = settings_of(f"--pretrained_vision {path} --projector_start texts")
    with pytest.raises(InputError, match="the folder of a pretraining run"):
        check_start(settings)


def test_starts_that_can_take_effect_pass():
    for line in (PHANTOM, "--pretrained_vision run --projector_start texts", "--initial_checkpoint other --lora", ""):
        settings = settings_of(line)
        settings.validate()
        check_start(settings)

"""Options from a dataclass: a table of command lines and what they mean."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Optional

import pytest

import train_CTInstruct
import train_encoder_2D1D
from datasets.errors import InputError
from training.arguments import parse, to_dict
from training.settings import TrainingSettings


@dataclass
class Base:
    """Settings of a base class."""

    rate: float = 0.1  # how fast, in 100 % of the peak
    steps: int = 10  # how many


@dataclass
class Options(Base):
    """Train something."""

    steps: int = 20
    preset: str = "small"  # set of defaults
    verbose: bool = False  # print more
    cache: bool = True  # keep volumes
    # which grid to use,
    # on two lines
    grid: Literal["published", "isotropic"] = "published"
    depth: Literal[2, 3] = 3
    betas: tuple[float, float] = (0.9, 0.999)
    names: tuple[str, ...] = ()
    sizes: list[int] = field(default_factory=lambda: [1, 2])
    folder: Path = Path("runs")
    limit: Optional[int] = None  # noqa: UP045 - the older spelling has to work too
    label: str | None = "x"
    window: tuple[float, float] | None = (0.0, 1.0)
    resume: str = field(default="", metadata={"const": "auto", "help": "where to go on"})


PRESETS = {"small": {"steps": 5, "rate": 0.5}, "large": {"steps": 500, "cache": False}}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"steps": 5, "rate": 0.5, "preset": "small", "verbose": False, "cache": True}),
        ("--preset large", {"steps": 500, "rate": 0.1, "preset": "large", "cache": False}),
        ("--steps 7 --preset large", {"steps": 7, "cache": False}),
        ("--steps=7 --rate 1e-3", {"steps": 7, "rate": 1e-3}),
        ("--verbose --no_cache", {"verbose": True, "cache": False}),
        ("--verbose true --cache false", {"verbose": True, "cache": False}),
        ("--verbose --cache=0", {"verbose": True, "cache": False}),
        ("--preset large --cache", {"cache": True}),
        ("--grid isotropic --depth 2", {"grid": "isotropic", "depth": 2}),
        ("--betas 0.8 0.95", {"betas": (0.8, 0.95)}),
        ("--betas 0.8,0.95", {"betas": (0.8, 0.95)}),
        ("--names a b c", {"names": ("a", "b", "c")}),
        ("--names", {"names": ()}),
        ("--sizes 3,4 5", {"sizes": [3, 4, 5]}),
        ("--folder /data/x", {"folder": Path("/data/x")}),
        ("--limit 3 --label none", {"limit": 3, "label": None}),
        ("--limit none", {"limit": None}),
        ("--window 2 3", {"window": (2.0, 3.0)}),
        ("--window none", {"window": None}),
        ("--resume", {"resume": "auto"}),
        ("--resume runs/a --verbose", {"resume": "runs/a", "verbose": True}),
        ("--local_rank 1 --steps 3", {"steps": 3}),
        ("--local_rank=1", {"steps": 5}),
    ],
)
def test_command_lines(line, expected):
    options = parse(Options, PRESETS, line.split())
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--step 3", r"unknown option --step: did you mean --steps\?"),
        ("--qqqq", "unknown option --qqqq: --help lists the options"),
        ("--steps many", "--steps: invalid int value: 'many'"),
        ("--steps", "--steps: expected one argument"),
        ("--verbose perhaps", "--verbose: 'perhaps' is neither true nor false"),
        ("--grid square", r"--grid: invalid choice 'square' \(choose from published, isotropic\)"),
        ("--betas 0.9", "--betas: needs 2 values, got 1"),
        ("--betas none", "--betas: needs 2 values, got 1"),
        ("--betas 0.9 x", "--betas: could not convert string to float: 'x'"),
        ("--limit few", "--limit: invalid int value: 'few'"),
        ("--preset huge", "--preset: invalid choice: 'huge'"),
        ("stray", "unknown option stray"),
    ],
)
def test_mistakes_are_one_clear_line(line, message):
    with pytest.raises(InputError, match=message) as caught:
        parse(Options, PRESETS, line.split())
    assert "\n" not in str(caught.value)


def test_help_shows_defaults_and_comments(capsys):
    with pytest.raises(SystemExit) as caught:
        parse(Options, PRESETS, ["--help"])
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Train something." in shown
    assert "--rate FLOAT how fast, in 100 % of the peak (default: 0.1)" in shown
    assert "--steps INT how many (default: 20)" in shown  # the comment of the base class, the default of this one
    assert "which grid to use, on two lines (default: 'published')" in shown
    assert "where to go on (default: '')" in shown
    assert "local_rank" not in shown and "--no_cache" not in shown


def test_required_and_presets_without_a_field():
    @dataclass
    class Small:
        checkpoint: str
        beams: int = 5

    assert parse(Small, {"fast": {"beams": 1}}, ["--checkpoint", "c", "--preset", "fast"]) == Small("c", 1)
    assert parse(Small, argv=["--checkpoint", "c"]) == Small("c", 5)
    with pytest.raises(InputError, match="missing options: --checkpoint"):
        parse(Small, argv=[])
    with pytest.raises(TypeError, match="lacks"):
        parse(Small, {"fast": {"beam": 1}}, ["--checkpoint", "c"])


RECIPES = {"plain": {}, "quick": {"grid": "isotropic", "betas": (0.5, 0.5)}}


@dataclass
class WithRecipe(Options):
    """Train something."""

    recipe: Literal["plain", "quick"] = "plain"  # what is no size


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {"recipe": "plain", "grid": "published", "steps": 5}),
        ("--recipe quick", {"recipe": "quick", "grid": "isotropic", "betas": (0.5, 0.5), "steps": 5}),
        ("--recipe quick --preset large --grid published", {"grid": "published", "betas": (0.5, 0.5), "steps": 500}),
    ],
)
def test_a_recipe_lies_over_the_preset_and_below_the_options(line, expected):
    options = parse(WithRecipe, PRESETS, line.split(), recipes=RECIPES)
    assert {name: getattr(options, name) for name in expected} == expected


def test_a_recipe_that_is_not_known_or_sets_what_a_preset_sets():
    with pytest.raises(InputError, match="--recipe: invalid choice: 'slow'"):
        parse(WithRecipe, PRESETS, ["--recipe", "slow"], recipes=RECIPES)
    with pytest.raises(TypeError, match="both a preset and a recipe set 'steps'"):
        parse(WithRecipe, PRESETS, [], recipes={"quick": {"steps": 3}})


def test_to_dict_is_json():
    options = parse(Options, PRESETS, ["--folder", "a/b"])
    assert json.loads(json.dumps(to_dict(options)))["folder"] == "a/b"


@pytest.mark.parametrize(
    ("settings", "line", "message"),
    [
        (TrainingSettings, "--max_iters 0", "--max_iters is 0"),
        (TrainingSettings, "--run_dir=", "--run_dir is empty"),
        (TrainingSettings, f"--run_dir {__file__}/deeper", f"--run_dir {__file__}/deeper: {__file__} is no folder"),
        (TrainingSettings, f"--resume {__file__}", f"--resume {__file__}: no such folder"),
        (TrainingSettings, "--learning_rate -1", "--learning_rate is -1"),
        (TrainingSettings, "--learning_rate nan", "--learning_rate is nan"),
        (TrainingSettings, "--min_lr_ratio 2", "--min_lr_ratio is 2"),
        (TrainingSettings, "--betas 0.9 1", "--betas"),
        (TrainingSettings, "--warmup inf", "--warmup is inf: give a value of 0 or more"),
        (TrainingSettings, "--max_minutes inf", "--max_minutes is inf"),
        (
            TrainingSettings,
            "--seed 99999999999999999999",
            "give a value of 4294967295 at most",
        ),
        (TrainingSettings, "--workers 100000", "--workers is 100000: give a value of 1024 at most"),
        (TrainingSettings, "--loss_scale_power 2000", "--loss_scale_power is 2000"),
        (train_encoder_2D1D.HyperParameters, "--max_iters 0", "--max_iters is 0"),
        (
            train_encoder_2D1D.HyperParameters,
            "--token_classification -1",
            "--token_classification is -1.0: give a value of 0 or more",
        ),
        (train_encoder_2D1D.HyperParameters, "--deep_supervision -1", "--deep_supervision is -1"),
        (train_encoder_2D1D.HyperParameters, "--mask_decoder_rate -1", "--mask_decoder_rate is -1"),
        (train_encoder_2D1D.HyperParameters, "--segmentation_micro_batch 0", "--segmentation_micro_batch is 0"),
        (train_encoder_2D1D.HyperParameters, "--augment_flip 1.5", "augmentation, flip: 1.5 is no probability"),
        (train_encoder_2D1D.HyperParameters, "--augment_gamma 2 1", "augmentation, gamma"),
        (train_encoder_2D1D.HyperParameters, "--temperature 0", "--temperature is 0.0: give a value above 0"),
        (train_encoder_2D1D.HyperParameters, "--labels_per_step 0", "--labels_per_step is 0"),
        (train_CTInstruct.HyperParameters, "--max_iters 0", "--max_iters is 0"),
        (train_CTInstruct.HyperParameters, "--batch_size 0", "--batch_size is 0"),
        (train_CTInstruct.HyperParameters, "--lora_dropout 2", "--lora_dropout is 2.0: give a value from 0 to 1"),
        (train_CTInstruct.HyperParameters, "--loss_weights query=2", "give --query_text_encoder"),
        (train_CTInstruct.HyperParameters, "--questions_per_volume 0", "--questions_per_volume is 0"),
        (train_CTInstruct.HyperParameters, "--vision_learning_rate -1", "--vision_learning_rate is -1"),
    ],
)
def test_training_settings_that_no_run_can_use(settings, line, message):
    with pytest.raises(InputError, match=message):
        parse(settings, argv=line.split()).validate()


def test_warmup_in_steps_or_as_a_share():
    assert TrainingSettings(max_iters=500, warmup=0.1).warmup_steps == 50
    assert TrainingSettings(max_iters=500, warmup=20).warmup_steps == 20
    assert TrainingSettings(max_iters=500, warmup=1).warmup_steps == 1
    longer = TrainingSettings(max_iters=500, warmup=0.1, schedule_updates=2000)
    assert longer.warmup_steps == 200 and longer.schedule_steps == 2000

"""Data efficiency from person phantoms: their own recipe in pretraining, the patients' in all that follows."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data_efficiency.commands import Places, pretraining_command, run_command
from benchmarks.data_efficiency.plan import Run
from tests.test_data_efficiency import STARTS, settings_of, write_phantom_reports


def test_person_phantoms_are_learned_by_their_own_recipe_and_patients_by_theirs(tmp_path: Path) -> None:
    places = Places(tmp_path / "out", tmp_path / "phantoms")
    write_phantom_reports(places.phantoms, people=True)
    pretraining = settings_of(pretraining_command(places, "2D1D", STARTS[1], "compact", 2500, 1))
    assert (pretraining.recipe, pretraining.window_slices, pretraining.clip_hu) == ("people", 32, (-500, 400))
    assert pretraining.max_iters == 2500 and pretraining.kinds == ("segmentation",)
    runs = [Run("2D1D", start, 10, 0) for start in STARTS[:2]]
    scratch, pretrained = (settings_of(run_command(places, run, "compact", 30, 1)) for run in runs)
    differing = {name for name in vars(scratch) if getattr(scratch, name) != getattr(pretrained, name)}
    assert differing == {"run_dir", "initial_vision", "override_preprocessing"}
    assert pretrained.initial_vision == pretraining.run_dir and pretrained.override_preprocessing
    assert {scratch.field_of_view, pretrained.field_of_view, pretraining.field_of_view} == {None}
    assert pretrained.clip_hu == (-250, 400) and scratch.text_encoder == pretraining.text_encoder


def test_patients_and_phantoms_have_the_field_of_view_that_a_narrow_encoder_sees(tmp_path: Path) -> None:
    places = Places(tmp_path / "out", tmp_path / "phantoms")
    write_phantom_reports(places.phantoms, people=True)
    pretraining = settings_of(pretraining_command(places, "ViT3D", STARTS[1], "narrow", 9, 1))
    run = settings_of(run_command(places, Run("ViT3D", STARTS[1], 10, 0), "narrow", 30, 1))
    assert pretraining.field_of_view == run.field_of_view == (240, 360)
    assert pretraining.crop_size == run.crop_size == (64, 96, 64)

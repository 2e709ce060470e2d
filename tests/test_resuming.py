"""Runs on one process, interrupted in every way: resumed to the same bits, or refused where they do not fit."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from tests import toy_task
from tests.toy_runs import HARD, assert_equal_to_the_bit, run, run_apart, weights
from training import checkpoint_store
from training.deepspeed_config import optimizer_groups
from training.optimizer_groups import check_groups, fingerprint
from training.settings import TrainingSettings
from training.training_state import check_same

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_killed_run_and_killed_save_resume_to_the_same_bits(tmp_path):
    run(tmp_path / "whole", *HARD)
    killed = run_apart(tmp_path / "broken", *HARD, "--kill_at", "7")
    assert killed.returncode == -signal.SIGKILL
    killed = run_apart(tmp_path / "broken", *HARD, "--resume", "--kill_in_save", "8")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert "resumed from" in killed.stdout and "step_000004" in killed.stdout
    left = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert left == [".partial_step_000008", "step_000004"]
    resumed = run_apart(tmp_path / "broken", *HARD, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_equal_to_the_bit(tmp_path / "broken", tmp_path / "whole")
    rows = [[json.loads(line)["step"] for line in (run_dir / "history.jsonl").open()] for run_dir in tmp_path.iterdir()]
    assert rows == [[4, 8, 12], [4, 8, 12]]  # what was logged and then lost is logged once
    left = sorted(path.name for path in (tmp_path / "broken" / "checkpoints").iterdir())
    assert left == ["step_000008", "step_000012"]


def test_sigterm_gives_up_the_step_in_hand_and_resumes_to_the_same_bits(tmp_path):
    run(tmp_path / "whole", *HARD)
    result = run(tmp_path / "stopped", *HARD, "--terminate_at", "6", "--workers", "2")  # in its first of two batches
    assert (result.status, result.step, result.checkpoint.name) == ("signal", 5, "step_000005")
    result = run(tmp_path / "stopped", *HARD, "--resume")
    assert (result.status, result.step) == ("finished", 12)
    assert_equal_to_the_bit(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.parametrize(("precision", "kept"), [("bf16", torch.bfloat16), ("autocast", torch.float32)])
def test_half_precision_resumes_to_the_same_bits(tmp_path, precision, kept):
    options = [*HARD, "--precision", precision]
    run(tmp_path / "whole", *options)
    run(tmp_path / "stopped", *options, "--terminate_at", "5")
    run(tmp_path / "stopped", *options, "--resume")
    assert {tensor.dtype for tensor in weights(tmp_path / "whole").values()} == {kept}
    assert_equal_to_the_bit(tmp_path / "stopped", tmp_path / "whole")


def test_resuming_from_an_earlier_step_leaves_the_later_history(tmp_path):
    run(tmp_path, "--keep_checkpoints", "5")
    whole = weights(tmp_path)
    result = run(tmp_path, "--keep_checkpoints", "5", "--resume", str(tmp_path / "checkpoints/step_000004"))
    assert result.step == 12
    assert all(torch.equal(weights(tmp_path)[name], tensor) for name, tensor in whole.items())
    run(tmp_path, "--resume", str(tmp_path / "checkpoints/step_000004"), "--max_iters", "6")
    assert checkpoint_store.latest_complete(tmp_path).name == "step_000006"


def test_a_bf16_run_with_frozen_weights_resumes_to_the_same_bits(tmp_path):
    options = ["--precision", "bf16", "--no_unfreeze"]
    run(tmp_path / "whole", *options)
    run(tmp_path / "parts", *options, "--terminate_at", "6")
    build = toy_task.ToyModel.__init__

    def build_from_checkpoint(self, dropout):
        build(self, dropout)
        folder = checkpoint_store.latest_complete(tmp_path / "parts") / "model"
        self.load_state_dict(load_file(folder / "model.safetensors"))

    toy_task.ToyModel.__init__ = build_from_checkpoint
    try:
        run(tmp_path / "parts", *options, "--resume")
    finally:
        toy_task.ToyModel.__init__ = build
    assert weights(tmp_path / "whole")["body.weight"].dtype == torch.bfloat16
    assert_equal_to_the_bit(tmp_path / "parts", tmp_path / "whole")


def test_a_run_that_differs_cannot_be_resumed(tmp_path, monkeypatch):
    run(tmp_path, "--max_iters", "4", "--no_unfreeze")
    with pytest.raises(InputError, match="sampler seed was 0 and is now 1"):
        run(tmp_path, "--resume", "--no_unfreeze", "--seed", "1")
    with pytest.raises(InputError, match="settings zero_stage was 2 and is now 1"):
        run(tmp_path, "--resume", "--no_unfreeze", "--zero_stage", "1")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="settings weight_layout was 'aligned'"):
        patch.setattr("training.loop.WEIGHT_LAYOUT", "another")
        run(tmp_path, "--resume", "--no_unfreeze")
    with pytest.raises(InputError, match=r"weights of body\.weight was '48 weights, 0 of .* now '48 weights, 48 of"):
        run(tmp_path, "--resume")
    build = toy_task.ToyModel.__init__

    def build_otherwise(self, dropout):
        build(self, dropout)
        self.body.weight.data[0, 0] += 1

    toy_task.ToyModel.__init__ = build_otherwise
    try:
        with pytest.raises(InputError, match="the weights that are not trained are others; resume with"):
            run(tmp_path, "--resume", "--no_unfreeze")
    finally:
        toy_task.ToyModel.__init__ = build


def test_a_checkpoint_of_before_that_counts_no_weights_is_compared_by_its_hash():
    now = {"weights of": {"body.weight": "48 weights, 48 of them trained"}, "architecture": "a"}
    check_same({"weights of": None, "architecture": "a"}, now, "step_1")
    with pytest.raises(InputError, match="step_1: cannot resume, the model is built otherwise, or other parts of it"):
        check_same({"weights of": None, "architecture": "b"}, now, "step_1")


def test_an_existing_run_is_not_overwritten_by_accident(tmp_path):
    run(tmp_path, "--max_iters", "4")
    with pytest.raises(InputError, match="--resume"):
        run(tmp_path, "--max_iters", "4")
    run(tmp_path, "--max_iters", "2", "--overwrite")
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000002"]


def test_a_resumed_run_says_what_has_changed_and_keeps_both_values(tmp_path, capfd):
    run(tmp_path, "--max_iters", "4", "--learning_rate", "0.01")
    capfd.readouterr()
    run(tmp_path, "--max_iters", "8", "--learning_rate", "0.02", "--resume")
    assert "learning_rate 0.01 -> 0.02" in capfd.readouterr().out
    newest = run(tmp_path, "--max_iters", "12", "--learning_rate", "0.02", "--resume").checkpoint
    changes = checkpoint_store.read_description(newest)["changed_settings"]
    assert {"step": 4, "setting": "learning_rate", "was": 0.01, "now": 0.02} in changes
    assert {"step": 8, "setting": "max_iters", "was": 8, "now": 12} in changes
    assert [change["setting"] for change in changes].count("learning_rate") == 1


def test_a_resumed_run_cannot_end_before_its_checkpoint(tmp_path):
    run(tmp_path, "--max_iters", "6")
    with pytest.raises(InputError, match="--max_iters 3 ends before step 6"):
        run(tmp_path, "--max_iters", "3", "--resume")
    assert run(tmp_path, "--max_iters", "6", "--resume").step == 6


def test_other_groups_of_the_optimiser_are_refused_before_a_weight_changes(tmp_path):
    run(tmp_path, "--max_iters", "4", "--zero_stage", "0", "--optimizer", "Muon")
    with pytest.raises(InputError, match=r"step_000004: cannot resume, the optimiser has the weights in other groups"):
        run(tmp_path, "--max_iters", "8", "--zero_stage", "0", "--resume")
    assert run(tmp_path, "--max_iters", "8", "--zero_stage", "0", "--optimizer", "Muon", "--resume").step == 8


def test_groups_are_told_apart_by_the_names_in_them_and_older_checkpoints_have_none():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    (a, b), (c, d) = (part.parameters() for part in model)
    groups = [{"params": [a, c], "lr": 1.0}, {"params": [b, d]}]
    same = fingerprint(model, [{"params": [a, c], "lr": 2.0}, {"params": [b, d], "muon": False}])
    assert fingerprint(model, groups) == same
    others = [
        [{"params": [c, a]}, groups[1]],
        [{"params": [a, c, b, d]}],
        [{"params": [a, c], "muon": True}, groups[1]],
    ]
    assert len({same, *(fingerprint(model, other) for other in others)}) == 4, "of the same shapes, too"
    check_same({"optimizer groups": None}, {"optimizer groups": same}, "step_1")
    with pytest.raises(InputError, match="step_1: cannot resume, the optimiser has the weights in other groups"):
        check_same({"optimizer groups": fingerprint(model, others[0])}, {"optimizer groups": same}, "step_1")


@pytest.mark.parametrize("optimizer", ["AdamW", "Muon"])
def test_groups_are_made_once_for_all(optimizer):
    model, settings = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 3)), TrainingSettings()
    settings.optimizer = optimizer
    given = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[1].parameters(), "muon": False}]
    groups = optimizer_groups(model, settings, given)  # of iterators, which a second look would find empty
    again = optimizer_groups(model, settings, groups)
    assert fingerprint(model, again) == fingerprint(model, groups) and len(groups) == (3 if optimizer == "Muon" else 2)
    assert sum(len(group["params"]) for group in again) == 4


SAVED = [{"params": [0, 1], "muon": True}, {"params": [2], "muon": False}]
SHAPES = [(2, 2), (2, 3), (4,)]


@pytest.mark.parametrize(
    ("groups", "shapes"),
    [
        (SAVED[:1], SHAPES),
        ([{"params": [0, 1]}, {"params": [2]}], SHAPES),
        ([{"params": [0], "muon": True}, {"params": [1, 2]}], SHAPES),
        (SAVED, [(2, 3), (2, 2), (4,)]),
        (SAVED, SHAPES[:2]),
    ],
)
def test_groups_are_compared_by_kind_size_and_shapes(groups, shapes):
    then, now = ([torch.zeros(shape) for shape in sizes] for sizes in (SHAPES, shapes))
    check_groups(SAVED, [SAVED[0], {"params": [2]}], (then, then), "step")
    with pytest.raises(InputError, match="step: cannot resume"):
        check_groups(SAVED, groups, (then, now), "step")


def test_options_of_the_optimiser_are_those_of_the_run_that_goes_on(tmp_path):
    for name in ("same", "other", "again"):
        run(tmp_path / name, "--max_iters", "4", "--weight_decay", "0.5")
    run(tmp_path / "same", "--resume", "--weight_decay", "0.5")
    for name in ("other", "again"):
        run(tmp_path / name, "--resume", "--weight_decay", "0")
    assert_equal_to_the_bit(tmp_path / "other", tmp_path / "again")
    same, other = (weights(tmp_path / name)["body.weight"] for name in ("same", "other"))
    assert float(other.norm()) > float(same.norm()), "it decays no more"

"""The training scripts killed by SIGKILL in mid-run and resumed end as the run that was never interrupted, bit for bit.

One process each; two ranks are killed and resumed in test_scripts.py and test_training_distributed.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions, write_dataset
from tests.launch import REPOSITORY, kill_when_saved, run
from training.checkpoint_store import latest_complete, step_of

pytestmark = pytest.mark.slow

STEPS, SAVED_EVERY, KILLED_AT = 12, 3, 6  # late enough for random numbers to have been drawn before
RUN = ("--max_iters", STEPS, "--save_interval", SAVED_EVERY, "--eval_interval", 0, "--log_interval", 1)
EXAMPLE = REPOSITORY / "data" / "instruction_sft" / "VQA_CTRATE_example.json"
SCRIPTS = {
    # an answer has a mask, a report or a choice; order and dropout are drawn anew at every step
    "tuning": "train_CTInstruct.py --preset tiny --batch_size 2 --micro_batch 1 --manifests {example}",
    # tasks, order, augmentation and dropout are drawn, and a queue of texts goes on from step to step
    "pretraining": "train_encoder_2D1D.py --preset tiny --micro_batch 2 --segmentation_micro_batch 1 "
    "--accumulation_steps 1 --task_weights phantom_segmentation=4 --phantoms {phantoms}",
}


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    coarse = CaseOptions(in_plane=(3.0, 4.0), between=(4.0, 6.0))
    write_dataset(DatasetOptions(folder, 6, split=(0.6, 0.4, 0.0), case=coarse))
    return folder


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    """All tensors of a run's last checkpoint."""
    newest = latest_complete(run_dir)
    assert newest is not None and step_of(newest) == STEPS
    return {
        name: tensor
        for file in sorted((newest / "model").glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def logged_steps(output: str) -> list[int]:
    """The numbers of the steps that a run's log has lines of."""
    return [int(line.split()[1].split("/")[0]) for line in output.splitlines() if line.startswith("step ")]


@pytest.mark.parametrize("stage", list(SCRIPTS))
def test_a_killed_and_resumed_script_ends_with_the_weights_of_one_that_was_not(stage, phantoms, tmp_path):
    words = [word.format(phantoms=phantoms, example=EXAMPLE) for word in SCRIPTS[stage].split()]
    command = [*words, *RUN, "--run_dir"]
    whole = run(*command, tmp_path / "whole")
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert logged_steps(whole.stdout) == list(range(1, STEPS + 1))

    kill_when_saved(tmp_path / "killed", KILLED_AT, *command, tmp_path / "killed")
    left = latest_complete(tmp_path / "killed")
    assert left is not None and KILLED_AT <= step_of(left) < STEPS, "killed in mid-run"
    resumed = run(*command, tmp_path / "killed", "--resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"resumed from {left}" in resumed.stdout
    assert logged_steps(resumed.stdout) == list(range(step_of(left) + 1, STEPS + 1)), "nothing is done twice"

    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert len(expected) > 100 and expected.keys() == found.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []

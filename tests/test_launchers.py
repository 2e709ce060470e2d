"""Where launchers say that a process is, and two nodes on this machine by each of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from datasets.errors import InputError
from tests import toy_task
from tests.launch import finish, start
from training.distributed import free_port
from training.launchers import device_index, first_of, launched_by

SRUN = {
    "SLURM_PROCID": "9",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "gpu[07-09,12]",
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
}
TORCH = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "node0", "MASTER_PORT": "29501"}
ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "5"}


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node3", "node3"),
        ("a,b", "a"),
        ("gpu[07-09,12],login1", "gpu07"),
        ("r[1-2]n[3,5]", "r1n3"),
        ("r[2]x-ib", "r2x-ib"),
    ],
)
def test_the_first_of_a_list_of_nodes(nodes, first):
    assert first_of(nodes) == first
    with pytest.raises(InputError, match="MASTER_ADDR"):
        first_of("")


def test_a_step_of_slurm_says_which_rank_this_is():
    found = launched_by(SRUN, 5)
    assert found.by_launcher
    place = {name: found.variables[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")}
    assert place == {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu07"}
    port = found.variables["MASTER_PORT"]
    assert 15_000 <= int(port) < 32_000
    assert launched_by({**SRUN, "SLURM_PROCID": "3", "SLURM_LOCALID": "0"}, 6).variables["MASTER_PORT"] == port
    assert launched_by({**SRUN, "SLURM_JOB_ID": "4712"}, 5).variables["MASTER_PORT"] != port
    given = launched_by({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "77"}, 5).variables
    assert (given["MASTER_ADDR"], given["MASTER_PORT"]) == ("head", "77")


def test_what_stands_nearest_decides():
    assert launched_by({**SRUN, **TORCH}, 5).variables == TORCH, "torchrun as the task of srun"
    batch = {name: value for name, value in SRUN.items() if name != "SLURM_STEP_NUM_TASKS"}
    for environment in ({}, batch, {**SRUN, "SLURM_STEP_NUM_TASKS": "1"}):
        found = launched_by(environment, 5)
        assert found.variables == ALONE and not found.by_launcher, "a shell on a node is no rank of several"


def test_open_mpi_needs_a_meeting_point():
    names = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    environment = dict(zip(names, ("1", "2", "0"), strict=True))
    with pytest.raises(InputError, match="-x MASTER_ADDR"):
        launched_by(environment, 5)
    found = launched_by({**environment, "MASTER_ADDR": "node0", "MASTER_PORT": "29501"}, 5)
    assert found.variables == TORCH and found.by_launcher
    inherited = {**SRUN, **environment, "MASTER_ADDR": "node0", "MASTER_PORT": "29501"}
    assert launched_by(inherited, 5).variables == TORCH, "mpirun's daemons are themselves started by srun, one a node"


def test_each_rank_of_a_node_has_a_device():
    assert [device_index(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert device_index(3, 1) == 0, "a launcher that shows each rank its own GPU alone"
    with pytest.raises(InputError, match="rank 4 of this node has no GPU, there being 4"):
        device_index(4, 4)


def nodes_of(launcher: str, folder: Path, script: list[str | Path]) -> list:
    """Two nodes of one rank, both on loopback."""
    port, programs = str(free_port()), Path(sys.executable).parent
    if launcher == "deepspeed":
        hosts = folder / "hostfile"
        hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
        words = ["--hostfile", hosts, "--no_ssh", "--master_addr", "127.0.0.1", "--master_port", port]
        command = [sys.executable, programs / "deepspeed", *words]
        return [start(*command, "--node_rank", str(node), *script) for node in range(2)]
    if launcher == "torchrun":
        words = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
        command = [sys.executable, "-m", "torch.distributed.run", *words]
        return [start(*command, "--node_rank", str(node), *script) for node in range(2)]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": port}
    return [start(sys.executable, *script, SLURM_PROCID=str(node), **step) for node in range(2)]


@pytest.mark.slow
@pytest.mark.usefixtures("clean_environment")
@pytest.mark.parametrize("launcher", ["deepspeed", "torchrun", "srun"])
def test_two_nodes_train_as_one_process_that_accumulates(launcher, tmp_path):
    options = ["--micro_batch", "2", "--max_iters", "3", "--save_interval", "0", "--run_dir"]
    results = [finish(node) for node in nodes_of(launcher, tmp_path, ["tests/toy_task.py", *options, tmp_path / "two"])]
    assert [result.returncode for result in results] == [0, 0], results
    toy_task.main([*options, str(tmp_path / "one"), "--accumulation_steps", "2"])
    saved = [tmp_path / name / "checkpoints" / "step_000003" for name in ("two", "one")]
    assert [(folder / "training" / "rank_001.pt").is_file() for folder in saved] == [True, False]
    found, expected = (load_file(folder / "model" / "model.safetensors") for folder in saved)
    for name in expected.keys() - {"running_mean"}:  # each rank has its own
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)

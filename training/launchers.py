"""This process's place among all, from the variables of whatever launcher started it.

DeepSpeed and torchrun set what torch reads: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.  SLURM's srun
and Open MPI's mpirun start the processes themselves and say it in words of their own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from datasets.errors import InputError

PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
# of a job step that srun started: a batch script, and a shell of salloc, have no number of tasks of a step
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID")
_OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
DEFAULT_PORT = 29500  # torch's and DeepSpeed's
_PORTS = range(15_000, 32_000)  # below those that systems give out by themselves


@dataclass(frozen=True)
class Launched:
    """What torch's variables say, or would.

    by_launcher: False where nothing started this process but a shell, and it is the only one.
    """

    variables: dict[str, str]
    by_launcher: bool


def launched_by(environment: Mapping[str, str], free_port: int) -> Launched:
    """The place of this process: the only one, meeting itself at `free_port`, where no launcher has set variables.

    Raises InputError where a launcher does not say at which address the processes meet.
    """
    if {*PLACE, *MEETING_POINT} <= set(environment):
        return Launched({name: environment[name] for name in (*PLACE, *MEETING_POINT)}, True)
    # mpirun first: under SLURM it starts a daemon a node by srun, whose variables its ranks inherit
    if set(_OPEN_MPI) <= set(environment) and int(environment["OMPI_COMM_WORLD_SIZE"]) > 1:
        if "MASTER_ADDR" not in environment:
            raise InputError("mpirun does not say where the ranks meet: give it -x MASTER_ADDR=<the first node's name>")
        place, point = _OPEN_MPI, (environment["MASTER_ADDR"], environment.get("MASTER_PORT", str(DEFAULT_PORT)))
    elif set(_SLURM) <= set(environment) and int(environment["SLURM_STEP_NUM_TASKS"]) > 1:
        place, point = _SLURM, _slurm_meeting_point(environment)
    else:
        return Launched(
            dict(zip((*PLACE, *MEETING_POINT), ("0", "1", "0", "127.0.0.1", str(free_port)), strict=True)), False
        )
    values = (*(environment[name] for name in place), *point)
    return Launched(dict(zip((*PLACE, *MEETING_POINT), values, strict=True)), True)


def first_of(nodes: str) -> str:
    """The first name of a list as SLURM writes it: "gpu[07-09,12],login1" -> "gpu07"."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    if first is None:
        raise InputError(f"SLURM's list of nodes, {nodes!r}, names none: set MASTER_ADDR to the first node's name")
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])


def _slurm_meeting_point(environment: Mapping[str, str]) -> tuple[str, str]:
    """The first node of the job step, and a port that follows from job and step, so that neighbours have others."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    number = 7 * int(environment.get("SLURM_JOB_ID", "0")) + int(environment.get("SLURM_STEP_ID", "0"))
    port = environment.get("MASTER_PORT", str(_PORTS[number % len(_PORTS)]))
    return environment.get("MASTER_ADDR") or first_of(nodes), port


def device_index(local_rank: int, devices: int) -> int:
    """The GPU of a rank: its own number on the node, or the only one that the launcher lets it see.

    Raises InputError where the node has fewer GPUs than ranks.
    """
    if devices == 1:
        return 0
    if local_rank >= devices:
        raise InputError(f"rank {local_rank} of this node has no GPU, there being {devices}: start one rank a GPU")
    return local_rank

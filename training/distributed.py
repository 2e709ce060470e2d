"""One process or many: the set-up of `torch.distributed`, and what the ranks agree on.

The same script runs under the DeepSpeed launcher, torchrun, srun and mpirun, and as plain `python`, on CUDA (NCCL) and
CPU (gloo).
"""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch

from datasets.errors import InputError, OneLineError, WriteError
from training.launchers import device_index, launched_by
from training.parent_death import signal_at_parents_death

LONGEST_WAIT = timedelta(days=30)
PATIENCE = timedelta(hours=2)  # of ours; DeepSpeed's 10 minutes end runs whose first rank checks or writes for longer


class SharedInputError(InputError):
    """Wrong input that one rank met, raised on all."""


class SharedWriteError(WriteError):
    """A file that one rank cannot write, raised on all."""


class SharedError(RuntimeError):
    """Any other error that one rank met, raised on all."""


@dataclass(frozen=True)
class Ranks:
    """This process among the others, and the device it computes on."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one rank that writes logs and models."""
        return self.rank == 0


def initialize() -> Ranks:
    """Join the process group and choose the device; call it before building the model.  A second call is harmless.

    A launcher tells each process its place by variables (`training.launchers`).  Where there are none this is the only
    process, which meets itself at a free port.  DS_ACCELERATOR=cpu keeps off a GPU.

    Raises InputError where the variables, or the node's GPUs, do not give this rank a place.
    """
    cuda = torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR", "cuda") == "cuda"
    if not cuda:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed reads this while it is imported
    launched = launched_by(os.environ, free_port())
    if launched.by_launcher and not torch.distributed.is_initialized():  # else they may be this function's own
        signal_at_parents_death(signal.SIGTERM)  # of the launcher: training then saves, all else ends
    os.environ.update(launched.variables)
    local_rank = int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", device_index(local_rank, torch.cuda.device_count())) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        _join(_import_deepspeed(), "nccl" if cuda else "gloo")
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), local_rank, device)


def _join(deepspeed: Any, backend: str) -> None:
    try:
        deepspeed.init_distributed(dist_backend=backend, verbose=False, timeout=PATIENCE)
    except torch.distributed.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise InputError(
            f"port {os.environ['MASTER_PORT']} is taken, probably by another run on this machine: "
            "give the launcher a free one, say deepspeed --master_port 29600 ..."
        ) from error


def shutdown() -> None:
    """Leave the process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def barrier() -> None:
    """Wait for every rank."""
    if world_size() > 1:
        torch.distributed.barrier()


def wait_for_all() -> None:
    """As `barrier`, for ranks that finish many hours apart; a collective waits for `PATIENCE`."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        everyone = torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)
        assert isinstance(everyone, torch.distributed.ProcessGroup), "this rank is one of all"
        torch.distributed.barrier(everyone)


def all_gather_object(value: Any) -> list[Any]:
    """The values of all ranks, by rank; any that pickle takes."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(gathered, value)
    return gathered


def largest_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Each value's largest over the ranks, by one reduction; nothing waits for it before it is read."""
    if world_size() > 1:
        values = values.to(_device(), copy=True)
        torch.distributed.all_reduce(values, op=torch.distributed.ReduceOp.MAX)
    return values


def raise_together(error: Exception | None) -> None:
    """Turn an error of one rank into one of all ranks, so that none waits for a rank that is gone.

    Every rank calls this at the same point, with its error or None.  A single process raises its error as it is.  Of
    several ranks, all raise SharedInputError or SharedWriteError where the first failing one has an InputError or a
    WriteError, else SharedError naming it.
    """
    if world_size() == 1:
        if error is not None:
            raise error
        return
    described = None if error is None else (_shared_kind(error), type(error).__name__, str(error))
    for rank, failure in enumerate(all_gather_object(described)):
        if failure is None:
            continue
        shared, kind, message = failure
        if shared is SharedError:
            message = f"rank {rank} failed: {kind}: {message}"
        raise shared(message) from error


def _shared_kind(error: Exception) -> type[OneLineError] | type[SharedError]:
    if isinstance(error, WriteError):
        return SharedWriteError
    return SharedInputError if isinstance(error, OneLineError) else SharedError


def from_main(action: Callable[[], Any]) -> Any:
    """The result of `action`, run on rank 0 alone and sent to the others; its error is raised on all."""
    error, result = None, None
    if int(os.environ.get("RANK", "0")) == 0:
        try:
            result = action()
        except Exception as problem:
            error = problem
    raise_together(error)
    return all_gather_object(result)[0]


def is_shared(error: BaseException) -> bool:
    """True where every rank raises this error, so that one of them is enough to report it."""
    return isinstance(error, (SharedInputError, SharedWriteError, SharedError))


def world_size() -> int:
    """Number of ranks; 1 where there is no process group."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if started else 1


def _device() -> torch.device:
    """Where a tensor must lie for the process group to send it."""
    if torch.distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _import_deepspeed() -> Any:
    import deepspeed
    from deepspeed.utils import logger

    # DeepSpeed calls collectives by names that torch has renamed; nothing a user can act on
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    logger.setLevel(os.environ.get("DS_LOG_LEVEL", "WARNING").upper())
    # On CPU DeepSpeed compiles a shared-memory collective for inference, about half a minute at the first start and a
    # C++ compiler as a requirement, which training never calls: gloo does its work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed

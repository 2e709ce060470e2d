"""The hyper-parameters that every training script has; a script's own dataclass inherits from this one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from datasets.errors import InputError
from training.wandb_log import require_wandb

OFFLOADED_STAGES = {"optimizer": (1, 2, 3), "parameters": (3,)}  # those that share out what is offloaded


@dataclass
class TrainingSettings:
    """Settings of the training loop.  A script redeclares a field to give it another default."""

    # what says where and how a run is run, and nothing about the method: no departure from a published recipe
    NO_PART_OF_THE_METHOD: ClassVar[frozenset[str]] = frozenset(
        {"preset", "recipe", "run_dir", "resume", "overwrite", "seed", "workers", "compile"}
        | {
            "log_interval",
            "save_interval",
            "background_saves",
            "eval_interval",
            "keep_checkpoints",
            "max_minutes",
            "watchdog_minutes",
            "check_data",
            "skip_bad_samples",
            "max_voxels",
            "wandb",
            "cuda_precision",
            "offload",
        }
    )

    run_dir: str = "runs/default"  # folder for checkpoints, TensorBoard events and the history of losses
    # continue from a checkpoint folder, or from the newest of run_dir ("auto", or the option given bare)
    resume: str = field(default="", metadata={"const": "auto"})
    overwrite: bool = False  # start afresh in a run_dir that holds checkpoints, deleting them

    max_iters: int = 10_000  # optimiser steps
    micro_batch: int = 1  # samples a rank puts through the model at once
    accumulation_steps: int = 1  # micro-batches a rank accumulates before the optimiser steps
    learning_rate: float = 1e-4  # peak learning rate
    # Muon: for matrices inside the network, AdamW for the rest; needs --zero_stage 0
    optimizer: Literal["AdamW", "Muon"] = "AdamW"
    muon_rate: float = 1.0  # the rate of Muon's matrices, as a share of the others'
    muon_mask_decoder: bool = False  # Muon also for the matrices of the mask decoder
    weight_decay: float = 1e-4  # AdamW's decoupled weight decay
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's decay rates of the two moments
    eps: float = 1e-8  # what AdamW adds to the root of the second moment
    warmup: float = 1000.0  # warm-up in optimiser steps; below 1, as a share of the schedule
    warmup_shape: Literal["linear", "log"] = "linear"  # how the rate rises during warm-up
    schedule_updates: int = 0  # optimiser steps that the cosine is laid out over; 0: those of the run
    min_lr_ratio: float = 0.0  # the cosine ends at this share of the peak
    clip: float = 1.0  # largest norm of the whole gradient; 0 does not clip

    # auto: cuda_precision on CUDA, fp32 on the CPU; autocast: float32 weights, bf16 where torch takes it
    precision: Literal["auto", "fp16", "bf16", "fp32", "autocast"] = "auto"
    cuda_precision: Literal["fp16", "bf16"] = "bf16"  # what "auto" is on CUDA
    loss_scale_power: int = 16  # fp16: the loss is first multiplied by 2 to this power
    loss_scale_window: int = 1000  # fp16: the factor doubles after so many updates without an overflow
    # DeepSpeed ZeRO: 1 shares out the optimiser state over the ranks, 2 gradients too, 3 the large model's weights too
    zero_stage: Literal[0, 1, 2, 3] = 2
    # keep on the CPU what the device has no room for: the optimiser's state and step; or the large model's weights too
    offload: Literal["none", "optimizer", "parameters"] = "none"
    deepspeed_config: str = ""  # a DeepSpeed JSON of your own, merged over what these settings say
    compile: bool = False  # torch.compile: some minutes at the start, and again for a new grid of patches
    seed: int = 0  # of weights, sample order and dropout
    workers: int = 0  # processes a rank loads samples with; 0 loads in the training process
    # look at all manifests, the headers of all files and a few masks before training; voxels: at all masks
    check_data: Literal["headers", "voxels", "off"] = "headers"
    skip_bad_samples: bool = False  # leave out records whose files cannot be used, and count them
    max_voxels: int | None = None  # a volume of more is refused; none: 2^30, as 1024 slices of 1024 x 1024

    log_interval: int = 10  # optimiser steps between two lines of the log
    save_interval: int = 500  # optimiser steps between two checkpoints; 0 saves at the end only
    background_saves: bool = False  # write them while training goes on, from a copy in the host's memory
    eval_interval: int = 0  # optimiser steps between two evaluations; 0 never evaluates
    keep_checkpoints: int = 2  # how many of the newest checkpoints stay on disk; 0 for all
    wandb: Literal["off", "offline"] = "off"  # offline: also keep what TensorBoard gets for `wandb sync`, in run_dir
    max_minutes: float = 0.0  # stop after this time, saving a checkpoint to resume from; 0 is no limit
    watchdog_minutes: float = 30.0  # write what every thread is doing after so long without a step; 0 never does

    def validate(self) -> None:
        """Raise InputError for a value that no run can use, naming the option."""
        self._check_folders()
        self.require_at_least(1, "max_iters", "micro_batch", "accumulation_steps", "log_interval", "loss_scale_window")
        self.require_at_least(0, "learning_rate", "muon_rate", "weight_decay", "eps", "warmup", "min_lr_ratio", "clip")
        self.require_at_least(0, "seed", "workers", "save_interval", "eval_interval", "max_minutes", "loss_scale_power")
        self.require_at_least(0, "schedule_updates", "keep_checkpoints", "watchdog_minutes")
        self.require_at_most(2**32 - 1, "seed")
        self.require_at_most(1024, "workers")
        self.require_at_most(64, "loss_scale_power")
        require_wandb(self.wandb)
        if self.optimizer == "Muon" and self.zero_stage:
            raise InputError(f"--optimizer Muon needs whole matrices: --zero_stage 0, not {self.zero_stage}")
        if self.offload != "none" and self.zero_stage not in OFFLOADED_STAGES[self.offload]:
            stages = " or ".join(map(str, OFFLOADED_STAGES[self.offload]))
            raise InputError(f"--offload {self.offload} needs --zero_stage {stages}, not {self.zero_stage}")
        if self.min_lr_ratio > 1:
            raise InputError(f"--min_lr_ratio is {self.min_lr_ratio}: give a share of the peak, between 0 and 1")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"--betas are {self.betas}: give two values from 0 up to, but below, 1")

    def _check_folders(self) -> None:
        """Before data and models are read, what nothing can be written to or resumed from."""
        if not self.run_dir:
            raise InputError("--run_dir is empty: name the folder of the run")
        in_the_way = [
            place
            for place in (Path(self.run_dir), *Path(self.run_dir).parents)
            if place.exists() and not place.is_dir()
        ]
        if in_the_way:
            raise InputError(f"--run_dir {self.run_dir}: {in_the_way[0]} is no folder; name one")
        if self.resume not in ("", "auto") and not Path(self.resume).is_dir():
            raise InputError(f"--resume {self.resume}: no such folder; give that of a checkpoint or of a run, or auto")

    def require_at_least(self, bound: int, *names: str) -> None:
        """Raise InputError for the first of these settings that is below ``bound``, infinite, or no number."""
        for name in names:
            if not bound <= getattr(self, name) < math.inf:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value of {bound} or more")

    def require_at_most(self, bound: int, *names: str) -> None:
        """Raise InputError for the first of these settings that is above ``bound``."""
        for name in names:
            if getattr(self, name) > bound:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value of {bound} at most")

    def require_share(self, *names: str) -> None:
        """Raise InputError for the first of these settings that is no probability or share, from 0 to 1."""
        for name in names:
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value from 0 to 1")

    @property
    def schedule_steps(self) -> int:
        """Optimiser steps that warm-up and cosine are laid out over."""
        return self.schedule_updates or self.max_iters

    @property
    def warmup_steps(self) -> int:
        """The warm-up in optimiser steps."""
        return round(self.warmup * self.schedule_steps) if self.warmup < 1 else round(self.warmup)

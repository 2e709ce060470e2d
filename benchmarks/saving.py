"""What a checkpoint costs the training loop: written at once, and in the background.

    python -m benchmarks.saving --gigabytes 4

A loop of matrix products goes on for some time without a checkpoint, with one that is written at once and with one in
the background (`training.background_saves`).  The cost of a checkpoint is the time by which the loop's steps took
longer than without, until it is on the disk.  A quarter of the bytes is the model, three quarters are weights and
moments of AdamW, as of a model in float32.  Files go to --folder, and are deleted.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from training.background_saves import BackgroundSaves
from training.checkpoint_store import write_checkpoint
from training.distributed import Ranks
from training.snapshot import copied

_LAYER = 1 << 24  # weights: 64 MiB


def layers_of(gigabytes: float) -> nn.ModuleList:
    """Linear layers of so many bytes in float32."""
    count = max(1, round(gigabytes * 1e9 / (4 * _LAYER)))
    layers = nn.ModuleList(nn.Linear(4096, 4096, bias=False) for _ in range(count))
    return layers


def save_model(model: nn.Module, folder: Path) -> None:
    """One file of safetensors."""
    save_file(model.state_dict(), folder / "model.safetensors")


def steps_until(done: Callable[[], bool], size: int) -> tuple[int, float]:
    """Products of size x size matrices until `done`: how many, and in how many seconds."""
    matrix, begun, steps = torch.randn(size, size), time.perf_counter(), 0
    while not done():
        matrix @ matrix
        steps += 1
    return steps, time.perf_counter() - begun


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of a checkpoint")
    parser.add_argument("--threads", type=int, default=1, help="that compute")
    parser.add_argument("--size", type=int, default=2048, help="of the matrices that are multiplied")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where checkpoints are written; the system's for temporary files")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = layers_of(options.gigabytes / 4)
    weights = list(model.parameters())
    state = {"weights": weights, "moments": [torch.rand_like(weight) for weight in weights for _ in range(2)]}
    run = Path(tempfile.mkdtemp(dir=options.folder))
    alone = Ranks(0, 1, 0, torch.device("cpu"))
    try:
        for repeat in range(options.repeats):
            end = time.perf_counter() + 5
            steps, seconds = steps_until(lambda: time.perf_counter() > end, options.size)  # noqa: B023 (called here)
            pace = seconds / steps
            begun = time.perf_counter()
            write_checkpoint(
                run,
                2 * repeat + 1,
                alone,
                save_model=lambda folder: save_model(model, folder),
                rank_state=state,
                description={},
                keep=1,
            )
            at_once = time.perf_counter() - begun
            saves = BackgroundSaves(run, alone, keep=1)
            begun = time.perf_counter()
            capture = partial(copied, state)
            final = saves.begin(2 * repeat + 2, model=model, save_model=save_model, capture=capture, description={})
            copying = time.perf_counter() - begun
            steps, seconds = steps_until(final.is_dir, options.size)
            saves.settle()
            slower = seconds - steps * pace
            print(
                f"at once {at_once:.2f} s; in the background {copying + slower:.2f} s ({copying:.2f} s to copy, "
                f"{slower:.2f} s by which {steps} steps were slower), written after {copying + seconds:.2f} s: "
                f"{(copying + slower) / at_once:.0%} of the time",
                flush=True,
            )
    finally:
        shutil.rmtree(run)


if __name__ == "__main__":
    main()

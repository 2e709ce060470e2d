"""How many cached volumes one core brings to a training process a second, out of memory and from the disk.

    python -m benchmarks.loader --folder /data/ctinstruct_cache_test

Volumes of `--patches` patches go through the training's own loader, with one worker process.  The time of processors,
training process and worker together, is what a machine that others use gives too.  Before the pass "from the disk" the
system is asked to forget the files.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import nibabel as nib
import numpy as np
import torch

from benchmarks.stages_data import hounsfield_volume
from datasets.sampling import MixtureSampler, SampleReference
from datasets.volume.cache import VolumeLoader
from datasets.volume.preprocessing import Preprocessing
from models.configuration import vision_preset
from training.batches import batches


class CachedVolumes:
    """The patches of each volume, as a training's data set reads them from its cache."""

    def __init__(self, loader: VolumeLoader, paths: Sequence[Path]) -> None:
        self.loader, self.paths = loader, paths

    def __getitem__(self, reference: SampleReference) -> torch.Tensor:
        return self.loader.volume(self.paths[reference.index])[0].patches


@dataclass(frozen=True)
class Pass:
    """One pass over the volumes: seconds a volume of the clock and of processors (training process and worker)."""

    seconds: float
    processor_seconds: float


def measured(folder: Path, volumes: int, patches: int) -> tuple[float, dict[str, Pass]]:
    """Megabytes (10^6 bytes) of a cached volume; a pass out of memory, and one from the disk."""
    source = folder / "ct.nii"
    volume = hounsfield_volume((256, 256, 32 * patches))  # as many patches as a large CT is cut into
    nib.save(nib.Nifti1Image(volume, np.diag([0.8, 0.8, 1.5, 1.0])), source)
    paths = [folder / f"ct_{number:04d}.nii" for number in range(volumes)]
    for path in paths:
        os.link(source, path)
    config = vision_preset("full")
    loader = VolumeLoader(Preprocessing.standard(config.crop_size, patches), folder / "cache")
    found = {len(loader.volume(path)[0].patches) for path in paths}
    assert found == {patches}, f"volumes of {found} patches"
    data = CachedVolumes(loader, paths)
    files = [path for path in (folder / "cache").rglob("*") if path.is_file()]
    megabytes = sum(file.stat().st_size for file in files) / volumes / 1e6
    passes = {"out of memory": _pass(data, volumes)}
    for file in files:
        _forget(file)
    return megabytes, {**passes, "from the disk": _pass(data, volumes)}


def _pass(data: CachedVolumes, volumes: int) -> Pass:
    begun, processor = perf_counter(), _processor_seconds()
    sampler = MixtureSampler({"all": volumes})
    stream: Iterator[Any] = batches(
        data, sampler, _first, first_step=0, last_step=volumes, accumulation_steps=1, workers=1, pin_memory=False
    )
    for patches in stream:
        patches.sum()  # a mapped file is read where it is touched
    del stream  # waits for the worker, whose time counts from then on
    return Pass((perf_counter() - begun) / volumes, (_processor_seconds() - processor) / volumes)


def _processor_seconds() -> float:
    """Of this process and of those of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _first(samples: list[torch.Tensor]) -> torch.Tensor:
    return samples[0]


def _forget(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="on the disk to measure; else that of temporary files")
    parser.add_argument("--volumes", type=int, default=24)
    parser.add_argument("--patches", type=int, default=6)
    values = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory(dir=values.folder) as temporary:
        megabytes, passes = measured(Path(temporary), values.volumes, values.patches)
    print(f"a cached volume of {values.patches} patches has {megabytes:.1f} MB")
    for way, found in passes.items():
        rate = 1 / found.processor_seconds
        print(
            f"{way}: {1000 * found.processor_seconds:.0f} ms of a core a volume, so {rate:.0f} volumes/s and "
            f"{rate * megabytes:.0f} MB/s a core; by the clock {1000 * found.seconds:.0f} ms"
        )


if __name__ == "__main__":
    main()

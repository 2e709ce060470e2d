"""MONAI's DynUNet, the network of nnU-Net, trained and scored from the manifests that ours is trained and scored from.

    python -m datasets.prepare open_kbp --source OPEN_KBP_FOLDER --out data/prepared
    python -m benchmarks.dynunet_peer --manifest_dir data/prepared/pretraining --minutes 40

OPEN_KBP_FOLDER holds OpenKBP as NIfTI: patients.json, train/ and validation/.

The clock runs from the start, reading the volumes included, and the rate of learning falls to nothing at its end.  Then
the validation patients are answered and scored.  run_dir gets network.pt, result.json, cases.json and table.md;
`--eval_only` scores the network that is there, on another `--validation` manifest if one is given, for instance into
an `--output` of its own, so that the scores of before stay.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.segmentation_peer.augmenting import PatchAugmentation
from benchmarks.segmentation_peer.network import build_network, parameter_count
from benchmarks.segmentation_peer.patches import PatchSampler
from benchmarks.segmentation_peer.scoring import score_volumes, summary, window_predictor
from benchmarks.segmentation_peer.table import peer_table
from benchmarks.segmentation_peer.training import Progress, Schedule, train_by_clock
from benchmarks.segmentation_peer.volumes import (
    BodyVolume,
    Normalisation,
    organ_voxels,
    organs_of,
    read_body,
    read_records,
)
from datasets.errors import InputError
from datasets.named_numbers import named_numbers
from datasets.volume.augmentation import AugmentationOptions
from datasets.whole_files import write_whole_text, written_whole
from training.arguments import parse, to_dict
from training.pretraining.open_kbp_recipe import OPEN_KBP_RECIPE
from training.script import run_script

NETWORK, RESULT, CASES, TABLE = "network.pt", "result.json", "cases.json", "table.md"


@dataclass
class HyperParameters:
    """Train MONAI's DynUNet by the clock and score it on held-out patients."""

    manifest_dir: str = "data/prepared/pretraining"  # holds open_kbp_segmentation_train.json and _val.json
    train: str = "open_kbp_segmentation_train.json"  # manifest to learn from, in manifest_dir
    validation: str = "open_kbp_segmentation_val.json"  # manifest to score on, in manifest_dir or a path of its own
    run_dir: str = "runs/dynunet"  # folder for the network, its scores and the table
    output: str = ""  # folder for the scores and the table, where it is not run_dir
    minutes: float = 40.0  # from the start to the end of training
    threads: int = 2  # CPU cores
    clock: Literal["wall", "cpu"] = "wall"  # cpu: processor time over threads, where others compute on the same cores
    eval_only: bool = False  # score the network of run_dir and stop

    patch: tuple[int, int, int] = (64, 64, 64)  # voxels of a patch and of a window
    width: int = 16  # channels of the first stage
    slicewise: bool = False  # kernels of 3 x 3 x 1: what it costs that slices do not see their neighbours
    deep_supervision: int = 2  # coarser outputs that are learned beside the finest
    batch: int = 1  # patches an update
    foreground: float = 0.5  # probability that a patch is centred on an organ
    optimizer: Literal["AdamW", "SGD"] = "AdamW"  # SGD: nnU-Net's own
    rate: float = 2e-3  # peak learning rate; nnU-Net's for SGD is 1e-2
    bf16: bool = True  # autocast of the forward pass
    augmentation: bool = True  # that of --recipe open_kbp; False leaves all of it out
    augment: tuple[str, ...] = ()  # NAME=VALUE over it: rotate, affine, mirror, scale, shift, noise, contrast
    seed: int = 0  # of weights, patches and augmentation

    tolerance_mm: float = 4.0  # of NSD


def validate(settings: HyperParameters) -> None:
    """Raises InputError for a value that makes no sense."""
    for name in ("minutes", "threads", "width", "batch", "rate", "tolerance_mm"):
        if not getattr(settings, name) > 0:
            raise InputError(f"--{name} is {getattr(settings, name)}: give a value above 0")
    if not 0 <= settings.foreground <= 1:
        raise InputError(f"--foreground {settings.foreground} is no probability; give 0 to 1")


def augmentation_of(settings: HyperParameters, organs: list[str]) -> PatchAugmentation | None:
    """That of our recipe for this data set, but for what `--augment` says."""
    if not settings.augmentation:
        return None
    recipe = {name: value for name, value in OPEN_KBP_RECIPE.items() if name.startswith("augment_")}
    ours = replace(AugmentationOptions(), **{name.removeprefix("augment_"): value for name, value in recipe.items()})
    numbers = [field.name for field in fields(AugmentationOptions) if isinstance(field.default, float)]
    changes: dict[str, Any] = {**named_numbers(settings.augment, numbers, "--augment", "")}
    return PatchAugmentation(replace(ours, **changes), organs, settings.patch[0] == settings.patch[1])


def clock_of(settings: HyperParameters) -> Callable[[], float]:
    """Seconds of the wall, or of the processors, shared out over the threads."""
    if settings.clock == "wall":
        return time.monotonic
    return lambda: time.process_time() / settings.threads


def read_all(manifest: Path, organs: list[str]) -> list[BodyVolume]:
    """Every volume of a manifest in HU; InputError for an organ that was not learned."""
    records = read_records(manifest)
    if unknown := [label for label in organs_of(records) if label not in organs]:
        raise InputError(f"{manifest}: {unknown[0]!r} was not learned, only {', '.join(organs)}")
    return [read_body(record, organs) for record in records]


def train(settings: HyperParameters) -> None:
    """Learn until time is up, and write network.pt with all that is needed to use it."""
    clock = clock_of(settings)
    start = clock()
    manifest = Path(settings.manifest_dir) / settings.train
    organs = organs_of(read_records(manifest))
    raw = read_all(manifest, organs)
    normalisation = Normalisation.of_voxels(organ_voxels(raw))
    volumes = [replace(volume, image=normalisation(volume.image)) for volume in raw]
    network = build_network(settings.patch, settings.width, len(organs), settings.deep_supervision, settings.slicewise)
    network = network.to(memory_format=torch.channels_last_3d)
    print(
        f"{len(volumes)} volumes, {len(organs)} organs, {parameter_count(network) / 1e6:.1f} M parameters; read in "
        f"{clock() - start:.0f} s",
        flush=True,
    )
    augmentation = augmentation_of(settings, organs)
    sampler = PatchSampler(volumes, normalisation, settings.patch, settings.foreground, augmentation, settings.seed)
    schedule = Schedule(settings.optimizer, settings.rate, settings.batch, settings.minutes, settings.bf16)
    end = train_by_clock(network, sampler, schedule, start, show, clock=clock)
    show(end)
    about = {
        "settings": to_dict(settings),
        "organs": organs,
        "normalisation": asdict(normalisation),
        "training": asdict(end),
        "patients": len(volumes),
    }
    with written_whole([Path(settings.run_dir) / NETWORK]) as (part,):
        torch.save({"about": about, "weights": network.state_dict()}, part)


def show(progress: Progress) -> None:
    """One line of progress."""
    print(f"{progress.seconds / 60:5.1f} min  update {progress.steps:6d}  loss {progress.loss:.4f}", flush=True)


def evaluate(settings: HyperParameters) -> None:
    """Score the network of run_dir on the validation manifest, and write scores and table."""
    folder = Path(settings.run_dir)
    if not (folder / NETWORK).is_file():
        raise InputError(f"{folder / NETWORK}: is missing; train first, or give the --run_dir of a training")
    saved = torch.load(folder / NETWORK, weights_only=True)
    about: dict[str, Any] = saved["about"]
    learned = about["settings"]
    patch, organs = (learned["patch"][0], learned["patch"][1], learned["patch"][2]), about["organs"]
    slicewise = learned.get("slicewise", False)  # networks from before there was the option
    network = build_network(patch, learned["width"], len(organs), learned["deep_supervision"], slicewise)
    network.load_state_dict(saved["weights"])
    network = network.to(memory_format=torch.channels_last_3d)
    normalisation = Normalisation(**about["normalisation"])
    manifest = Path(settings.manifest_dir) / settings.validation
    manifest = manifest if manifest.is_file() else Path(settings.validation)
    volumes = read_all(manifest, organs)
    predict = window_predictor(network, normalisation, patch, settings.bf16)
    rows, seconds = score_volumes(
        volumes,
        organs,
        predict,
        settings.tolerance_mm,
        lambda done, used: print(f"answered {done} of {len(volumes)}, {used / done:.1f} s each", flush=True),
    )
    result = {
        "scores": summary(rows, settings.tolerance_mm),
        "tolerance_mm": settings.tolerance_mm,
        "minutes": about["training"]["seconds"] / 60,
        "seconds_per_volume": seconds,
        "parameters": parameter_count(network),
        "manifest": str(manifest),
        "about": about,
    }
    table = peer_table({"MONAI DynUNet": result})
    output = Path(settings.output or folder)
    write_whole_text(output / RESULT, json.dumps(result, indent=2) + "\n")
    write_whole_text(output / CASES, json.dumps(rows, indent=2) + "\n")
    write_whole_text(output / TABLE, table + "\n")
    print(table)


def main() -> None:
    """Command line."""
    settings = parse(HyperParameters)
    validate(settings)
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    if not settings.eval_only:
        train(settings)
    evaluate(settings)


if __name__ == "__main__":
    run_script(main)

"""What each step takes at the full size, and what of the data sets is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.scaling import (
    LANGUAGE_PARAMETERS,
    Assumptions,
    days,
    mask_share,
    memory_gb,
    parameter_count,
    pretraining_flop,
    tuning_flop,
)
from datasets.prepare.coverage import coverage
from datasets.prepare.data_set import DataSet
from datasets.prepare.found import find
from models.configuration import vision_preset
from train_CTInstruct import HyperParameters as TuningParameters
from train_encoder_2D1D import HyperParameters as PretrainingParameters

# Of a volume of 6 patches, as benchmarks.run counted and docs/scaling.md says.
ENCODE_GFLOP, MASK_GFLOP = 2127.0, 12927.0
CACHED_VOLUME_MB = 50
LANGUAGE_MODEL = "Qwen2-VL-7B"
CHECKPOINTS = 2  # of a pretraining run, which keeps the two newest
STATED_SIZE = re.compile(r"([\d.,]+) (TB|GB|MB)")
TERABYTES = {"TB": 1.0, "GB": 1e-3, "MB": 1e-6}


def stated_terabytes(data_sets: Iterable[DataSet]) -> tuple[float, int]:
    """(sum of the sizes that the data sets' descriptions state, how many state one)."""
    sizes = [match for data_set in data_sets if (match := STATED_SIZE.search(data_set.size))]
    return sum(float(size[1].replace(",", "")) * TERABYTES[size[2]] for size in sizes), len(sizes)


def found_lines(root: Path, data_sets: Mapping[str, DataSet]) -> list[str]:
    """Which data sets lie under `root`, which do not, and how many tasks of each stage can be made of them."""
    found = find(root, data_sets.values()) if root.is_dir() else {}
    lines = [f"under {root}: " + (", ".join(found) or "no data set" if root.is_dir() else "no such folder; see --root")]
    missing = [name for name in data_sets if name not in found]
    if missing:
        lines.append(f"missing: {', '.join(missing)}")
    covered = coverage(data_sets.values())
    for stage in dict.fromkeys(task.stage for task in covered):
        of_stage = [task for task in covered if task.stage == stage]
        there = sum(any(name in found for name in task.data_sets) for task in of_stage)
        lines.append(f"{stage}: {there} of {len(of_stage)} tasks from what is there")
    return lines


def needs(data_sets: Mapping[str, DataSet], assumed: Assumptions | None = None) -> dict[str, str]:
    """Disk and hours of each step of the plan, by its name."""
    assumed = assumed or Assumptions()
    gpus = f"{assumed.gpus} GPUs of {assumed.peak:.0f} TFLOP/s, {assumed.utilisation:.0%} of it used"
    terabytes, stating = stated_terabytes(data_sets.values())
    pretraining = PretrainingParameters()
    hours_pretraining = 24 * days(pretraining_flop(ENCODE_GFLOP, MASK_GFLOP, pretraining, assumed.gpus)[0], assumed)
    language = LANGUAGE_PARAMETERS[LANGUAGE_MODEL]
    flop, _ = tuning_flop(ENCODE_GFLOP, MASK_GFLOP, mask_share(), language, TuningParameters(), assumed)
    vision = parameter_count(vision_preset("full"))
    one_encoder = memory_gb(vision, 1, 0)
    tuned = memory_gb(vision + language, 1, 0)
    kept = TuningParameters().max_iters // TuningParameters().save_interval
    return {
        "data": f"disk: {terabytes:.1f} TB by the {stating} of {len(data_sets)} data sets that state a size",
        "prepare": "headers and tables alone: minutes for 50,000 files; masks that lie otherwise than their images are "
        "written anew; disk: some GB",
        "audit": "seconds a case, then somebody's eyes",
        "pretrain": f"{hours_pretraining:.0f} hours an encoder on {gpus} (counted for 2D1D); disk: "
        f"{CHECKPOINTS * one_encoder:.0f} GB an encoder; {CACHED_VOLUME_MB} MB a volume where --cache is given",
        "ablation": "seconds",
        "tune": f"{24 * days(flop, assumed):.0f} hours on the same with {LANGUAGE_MODEL}; disk: {kept * tuned:.0f} GB, "
        f"{kept} checkpoints of {tuned:.0f} GB",
        "evaluate": "not measured at this size; started again, it goes on with the questions that are not answered",
        "report": "minutes",
    }

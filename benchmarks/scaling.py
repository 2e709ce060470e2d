"""What a full run needs, from measured operations a volume and from parameter counts: Markdown tables.

    python -m benchmarks.run --output benchmarks_output
    python -m benchmarks.scaling --results benchmarks_output/results.json

Assumptions are arguments, and every formula is a function below.  docs/scaling.md holds the output and its meaning.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from datasets.catalog import published_tasks
from models.configuration import VisionConfig, vision_preset
from models.vision import VisionModel
from train_CTInstruct import HyperParameters as TuningParameters
from train_encoder_2D1D import HyperParameters as PretrainingParameters
from training.pretraining.settings import PretrainingSettings

DATA = Path(__file__).resolve().parents[1] / "data"
LANGUAGE_PARAMETERS = {"SmolLM2-135M": 0.135e9, "Qwen2-VL-2B": 1.54e9, "Qwen2-VL-7B": 7.62e9}  # without vision tower
RECOMPUTED = 4  # forward passes that a training step costs: forward, forward again, and twice that for the gradients
SECONDS_A_DAY = 86_400


@dataclass
class Assumptions:
    """What is not measured here.

    Peak is of bf16 in TFLOP/s; utilisation is the share of it that training reaches.  loader_ms: of a core, a cached
    volume from its file to the batch (`benchmarks.loader`).
    """

    gpus: int = 8
    peak: float = 312.0  # an A100
    utilisation: float = 0.3
    patches: int = 6  # of a volume
    text_tokens: int = 256  # question and answer
    loader_ms: float = 110.0


def parameter_count(config: VisionConfig) -> int:
    """Parameters of encoder, mask decoder and projector."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in VisionModel(config).parameters())


def memory_gb(parameters: float, gpus: int, stage: int) -> float:
    """GB a GPU for weights, gradients and AdamW's state in bf16 training, without activations.

    2 bytes of weights, 2 of gradients and 12 of float32 weights and two moments; stage 1 shares the last out over the
    GPUs, stage 2 the gradients too, stage 3 everything (Rajbhandari et al. 2020, table 1).
    """
    bytes_each = {
        0: 16.0,
        1: 4 + 12 / gpus,
        2: 2 + 14 / gpus,
        3: 16 / gpus,
    }[stage]
    return parameters * bytes_each / 1e9


def measured_gflop(results: dict, patches: int) -> tuple[float, float]:
    """(encoding a volume, decoding one mask on it) in GFLOP, as counted at the nearest number of patches, by patch."""
    rows = {row["stage"]: row["gflop"] for row in results["rows"] if row["gflop"]}

    def by_patch(kind: str) -> float:
        counted = {n: rows[f"{kind}, {n} patch(es)"] for n in (1, 2, 4, 6) if f"{kind}, {n} patch(es)" in rows}
        nearest = min(counted, key=lambda n: abs(n - patches))
        return counted[nearest] / nearest

    return by_patch("encode") * patches, by_patch("one mask") * patches


def pretraining_flop(encode: float, mask: float, settings: PretrainingSettings, gpus: int) -> tuple[float, float]:
    """(FLOP, volumes) of the whole pretraining: tasks by weight, each with its micro-batch."""
    weights: defaultdict[str, float] = defaultdict(float)
    for task in published_tasks(settings.manifest_dir):
        weights[task.kind] += task.weight
    micro_steps = settings.max_iters * gpus  # max_iters counts draws, which all ranks make together
    flop = volumes = 0.0
    for kind, weight in weights.items():
        segmentation = kind == "segmentation"
        count = settings.segmentation_micro_batch if segmentation else settings.micro_batch
        share = weight / sum(weights.values())
        volumes += micro_steps * share * count
        flop += micro_steps * share * count * RECOMPUTED * (encode + mask * segmentation) * 1e9
    return flop, volumes


def tuning_flop(
    encode: float, mask: float, mask_share: float, parameters: float, settings: TuningParameters, assumed: Assumptions
) -> tuple[float, float]:
    """(FLOP, samples) of the whole instruction tuning: 2 FLOP a parameter and token forwards (Kaplan et al. 2020)."""
    samples = settings.max_iters * settings.batch_size
    tokens = assumed.patches * vision_preset("full").crop_size[2] + assumed.text_tokens
    a_sample = (encode + mask_share * mask) * 1e9 + 2 * parameters * tokens
    return samples * RECOMPUTED * a_sample, samples


def mask_share() -> float:
    """Share of the published instruction mix that is answered with a mask."""
    tasks = json.loads((DATA / "instruction_tasks.json").read_text())
    total = sum(task["weight"] for task in tasks)
    return sum(task["weight"] for task in tasks if task["kind"] == "segmentation") / total


def days(flop: float, assumed: Assumptions) -> float:
    """Wall-clock days."""
    return flop / (assumed.gpus * assumed.peak * 1e12 * assumed.utilisation) / SECONDS_A_DAY


def memory_table(assumed: Assumptions) -> str:
    """GB a GPU by ZeRO stage, of the models that are trained."""
    vision = {size: parameter_count(vision_preset(size)) for size in ("small", "full")}
    models = {
        "vision, small": vision["small"],
        "vision, full": vision["full"],
        "CTInstruct, small + SmolLM2-135M": vision["small"] + LANGUAGE_PARAMETERS["SmolLM2-135M"],
        "CTInstruct, full + Qwen2-VL-2B": vision["full"] + LANGUAGE_PARAMETERS["Qwen2-VL-2B"],
        "CTInstruct, full + Qwen2-VL-7B": vision["full"] + LANGUAGE_PARAMETERS["Qwen2-VL-7B"],
    }
    lines = [f"| Model | parameters | {assumed.gpus} GPUs: ZeRO-0 | ZeRO-1 | ZeRO-2 | ZeRO-3 | 1 GPU |"]
    lines.append("| --- " + "| --: " * 6 + "|")
    for name, count in models.items():
        cells = [f"{memory_gb(count, assumed.gpus, stage):.1f} GB" for stage in range(4)]
        lines.append(f"| {name} | {count / 1e9:.2f} G | {' | '.join(cells)} | {memory_gb(count, 1, 0):.1f} GB |")
    return "\n".join(lines)


def run_table(results: dict, assumed: Assumptions) -> str:
    """FLOP, days and loader rates of the published runs."""
    encode, mask = measured_gflop(results, assumed.patches)
    seconds = next(row["seconds"] for row in results["rows"] if row["stage"] == "NIfTI to patches")
    runs = {"pretraining, 100,000 draws": pretraining_flop(encode, mask, PretrainingParameters(), assumed.gpus)}
    for name in ("Qwen2-VL-2B", "Qwen2-VL-7B"):
        runs[f"instruction tuning with {name}, 10,000 steps"] = tuning_flop(
            encode, mask, mask_share(), LANGUAGE_PARAMETERS[name], TuningParameters(), assumed
        )
    lines = ["| Run | FLOP | volumes | days | volumes/s | cores to read NIfTI | cores with the cache |"]
    lines.append("| --- " + "| --: " * 6 + "|")
    for name, (flop, volumes) in runs.items():
        length = days(flop, assumed)
        rate = volumes / (length * SECONDS_A_DAY)
        cells = [f"{flop:.1e}", f"{volumes / 1e6:.2f} M", f"{length:.1f}", f"{rate:.1f}"]
        cells += [f"{rate * seconds:.0f}", f"{rate * assumed.loader_ms / 1e3:.1f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def storage_table(assumed: Assumptions) -> str:
    """Disk for 10,000 volumes."""
    width, height, depth = vision_preset("full").crop_size
    patches = width * height * depth * 2 * assumed.patches
    raw = 512 * 512 * 300 * 2  # int16
    lines = ["| | a volume | 10,000 volumes |", "| --- | --: | --: |"]
    for name, size in (("CT of 512×512×300, int16", raw), (f"cache, {assumed.patches} patches, int16", patches)):
        lines.append(f"| {name} | {size / 1e6:.0f} MB | {size * 10_000 / 1e12:.2f} TB |")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("benchmarks_output/results.json"))
    for field in fields(Assumptions):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = vars(parser.parse_args())
    path = options.pop("results")
    if not path.is_file():
        parser.error(f"{path} is not there: run python -m benchmarks.run first")
    results, assumed = json.loads(path.read_text()), Assumptions(**options)
    encode, mask = measured_gflop(results, assumed.patches)
    print(
        f"A volume of {assumed.patches} patches: {encode:.0f} GFLOP to encode, {mask:.0f} GFLOP for its first mask.\n"
    )
    print(memory_table(assumed), run_table(results, assumed), storage_table(assumed), sep="\n\n")


if __name__ == "__main__":
    main()

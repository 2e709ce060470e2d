"""Peak memory and time of the full-size vision model: one volume of 1, 2 and 4 patches, encoded, and one mask.

    python -m benchmarks.encoder_memory [--patches 1 2 4] [--labels 1] [--padding 0] [--preset full]

Each size runs in a process of its own, so that its peak is its own.  Weights are random; times are of one run after a
warm-up on a single slice.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import device, now, peak_gib
from models.configuration import VISION_PRESETS
from models.vision import VisionModel


def measure(preset: str, patches: int, labels: int, padding: float) -> dict[str, float]:
    """Encode `patches` patches stacked along z, a share `padding` of their slices empty; times in s, memory in GiB."""
    config = VISION_PRESETS[preset]
    torch.manual_seed(0)
    model = VisionModel(config).eval().to(device())
    c0, c1, depth = config.crop_size
    volume = torch.randn(patches, c0, c1, depth)
    marks = torch.ones(patches * depth)
    empty = round(padding * len(marks))
    marks[: empty // 2] = 0
    marks[len(marks) - (empty - empty // 2) :] = 0
    marks = marks.view(patches, depth)
    volume *= marks[:, None, None, :]
    queries = torch.randn(labels, config.llm_width, device=device())
    with torch.inference_mode():
        warm = model.encode(volume[:1, :, :, depth // 2 : depth // 2 + 1], torch.ones(1, 1), (1, 1, 1))
        model.decode_masks(warm, queries)
        warm_peak = peak_gib()
        start = now()
        encoded = model.encode(volume, marks, (patches, 1, 1))
        tokens = model.llm_tokens(encoded)
        encoded_at, after_encoding = now(), peak_gib()
        logits = model.decode_masks(encoded, queries)
        decoded_at = now()
    assert tokens.shape == (patches * depth, config.llm_width)
    assert logits.shape == (labels, c0, c1, patches * depth)
    return {
        "warm_peak": warm_peak,
        "encode_s": encoded_at - start,
        "encode_peak": after_encoding,
        "mask_s": decoded_at - encoded_at,
        "mask_peak": peak_gib(),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=sorted(VISION_PRESETS), default="full")
    parser.add_argument("--patches", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--labels", type=int, default=1)
    parser.add_argument("--padding", type=float, default=0.0, help="share of the slices that are padding")
    parser.add_argument("--one", action="store_true", help="measure the first size in this process and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.preset, options.patches[0], options.labels, options.padding)))
        return
    table = Table(title=f"Vision model, {options.preset}, {options.labels} mask(s), {torch.get_num_threads()} threads")
    for heading in ("patches", "warm-up peak GiB", "encode s", "encode peak GiB", "masks s", "masks peak GiB"):
        table.add_column(heading, justify="right")
    shared = ["--preset", options.preset, "--labels", str(options.labels), "--padding", str(options.padding), "--one"]
    for patches in options.patches:
        command = [sys.executable, "-m", "benchmarks.encoder_memory", "--patches", str(patches), *shared]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result = json.loads(output.splitlines()[-1])
        table.add_row(str(patches), *(f"{value:.2f}" for value in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()

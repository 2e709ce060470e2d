"""Peak memory of saving and loading a large checkpoint, against the size of its weights.

    python -m benchmarks.checkpoint_memory [--gigabytes 2] [--shard 500MB] [--folder DIR]

A random model with the vision part of --preset tiny and a Qwen2-VL language model of the given size (bfloat16) is
built, saved and loaded, each in a process of its own.  Printed are the peak of resident memory above that at the start
of the save or load, and its share of the weights.  The system counts pages of a mapped file as resident, so a
load may show more than it holds; the anonymous column is what the process itself allocated (Linux only).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import torch
from rich.console import Console
from rich.table import Table
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig

from models.checkpoints.folder import build_without_storage, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.configuration import VISION_PRESETS
from models.ctinstruct import CTInstruct
from models.language.tiny_language_model import train_tokenizer

GB = 10**9
WIDTH, FEEDFORWARD = 2048, 8192


class PeakMemory:
    """Highest resident and anonymous memory while inside, above that at the start, in bytes; sampled every 5 ms."""

    def __enter__(self) -> PeakMemory:
        self.start, self.peak, self.ended = _memory(), _memory(), threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.thread.join()
        self._sample()
        self.resident, self.anonymous = (peak - start for peak, start in zip(self.peak, self.start, strict=True))

    def _watch(self) -> None:
        while not self.ended.wait(0.005):
            self._sample()

    def _sample(self) -> None:
        resident, anonymous = _memory()
        self.peak = max(self.peak[0], resident), max(self.peak[1], anonymous)


def _memory() -> tuple[int, int]:
    """Resident and anonymous memory of this process in bytes."""
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resident, anonymous = (int(rows[name].split()[0]) * 1024 for name in ("VmRSS", "RssAnon"))
    return resident, anonymous


def random_model(gigabytes: float) -> CTInstruct:
    """A CTInstruct whose weights take about so many gigabytes in bfloat16."""
    tokenizer = train_tokenizer(["Where is the liver?"] * 4, vocabulary=300)
    layer = 2 * (2.5 * WIDTH**2 + 3 * WIDTH * FEEDFORWARD)  # bytes of attention (8 of 16 key-value heads) and MLP
    config = Qwen2VLTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=FEEDFORWARD,
        num_hidden_layers=max(1, round(gigabytes * GB / layer)),
        num_attention_heads=16,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = build_without_storage(VISION_PRESETS["tiny"], config, tokenizer).bfloat16().to_empty(device="cpu")
    noise = torch.randn(2**20, generator=torch.Generator().manual_seed(0)).bfloat16()
    for weight in model.parameters():
        for part in weight.data.view(-1).split(len(noise)):
            part.copy_(noise[: len(part)])
    return model


def measure(action: str, folder: str, gigabytes: float, shard: str) -> dict[str, float]:
    """Save a new model to the folder, or load the one in it."""
    if action == "save":
        model = random_model(gigabytes)
        start = perf_counter()
        with PeakMemory() as memory:
            save_checkpoint(model, folder, max_shard_size=shard)
    else:
        start = perf_counter()
        with PeakMemory() as memory:
            model = load_checkpoint(folder)
            for weight in model.parameters():
                weight.sum()  # so that no page is left untouched, whichever way the tensors came
    seconds = perf_counter() - start
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return {"size": size, "resident": memory.resident, "anonymous": memory.anonymous, "seconds": seconds}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the weights")
    parser.add_argument("--shard", default="500MB", help="largest file of the checkpoint")
    parser.add_argument("--folder", help="where to write it; by default a temporary folder")
    parser.add_argument("--one", choices=("save", "load"), help="measure one action in this process and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.folder, options.gigabytes, options.shard)))
        return
    table = Table(title=f"Checkpoint in shards of {options.shard}")
    for heading in ("", "weights GB", "peak above start GB", "of the weights", "anonymous GB", "s"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for action in ("save", "load"):
            command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--one", action, "--folder", folder]
            command += ["--gigabytes", str(options.gigabytes), "--shard", options.shard]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            got = json.loads(output.splitlines()[-1])
            table.add_row(
                action,
                *(f"{value:.2f}" for value in (got["size"] / GB, got["resident"] / GB)),
                f"{100 * got['resident'] / got['size']:.0f} %",
                *(f"{value:.2f}" for value in (got["anonymous"] / GB, got["seconds"])),
            )
    Console().print(table)


if __name__ == "__main__":
    main()

"""Stages of the whole tiny preset on phantoms: an optimiser step, an evaluated sample, loader waits, two ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measure import Aim, Row, best_seconds, device, measured, peak_gib
from datasets.cores import usable_cores
from datasets.instruction import InstructionCollator, InstructionDataset
from datasets.manifest import load_manifest, manifest_texts
from datasets.phantom.dataset import DatasetOptions, write_dataset
from models.checkpoints.folder import build_ctinstruct
from models.configuration import vision_preset
from models.generation import generate
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer
from training.distributed import free_port

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 30
QUESTIONS = 10


def tiny(quick: bool) -> tuple[list[Row], list[Aim]]:
    """All of it on a few phantoms."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_dataset(DatasetOptions(folder / "phantoms", 8 if quick else 12), workers=usable_cores())
        rows, aims = in_process(folder / "phantoms")
        more_rows, more_aims = through_the_script(folder, STEPS // 4 if quick else STEPS)
    return rows + more_rows, aims + more_aims


def in_process(phantoms: Path) -> tuple[list[Row], list[Aim]]:
    """One optimiser step on a mixed batch of four, and answers to ten questions about one volume."""
    torch.manual_seed(0)
    records = load_manifest(phantoms / "train.json")
    tokenizer = train_tokenizer(manifest_texts(records))
    model = build_ctinstruct(vision_preset("tiny"), build_tiny_language_model(tokenizer), tokenizer).to(device())
    collate = InstructionCollator(tokenizer.pad_token_id)
    dataset = InstructionDataset({"all": records}, tokenizer, model.config)
    kinds = {record.task: record for record in records}
    batch = collate([dataset.sample(record) for record in list(kinds.values())[:4]]).to(device())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        model(batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    rows = [measured("optimiser step, tiny, 4 samples", step)]
    model.eval()
    asking = InstructionDataset({"all": records}, tokenizer, model.config, with_answers=False)
    same_volume = [record for record in records if record.image_path == records[0].image_path]
    questions = [asking.sample(record) for record in (same_volume * QUESTIONS)[:QUESTIONS]]
    batches = [collate([question]).to(device()) for question in questions]
    rows.append(measured("evaluated sample, tiny", partial(generate, model, batches[0], 1, 32)))

    def encoding_each_time() -> None:
        for one in batches:
            generate(model, one, 1, 8)

    def encoding_once() -> None:
        encoded = model.encode(batches[0])
        for one in batches:
            generate(model, one, 1, 8, encoded=encoded)

    with torch.inference_mode():
        apart, shared = best_seconds(encoding_each_time, 2), best_seconds(encoding_once, 2)
    note = f"{apart:.2f} s when each question encodes its volume"
    rows.append(Row(f"{QUESTIONS} questions on one volume, tiny", shared, peak_gib=peak_gib(), note=note))
    return rows, [Aim(f"{QUESTIONS} questions with one encoding, of the time with {QUESTIONS}", shared / apart, 1.0)]


def through_the_script(folder: Path, steps: int) -> tuple[list[Row], list[Aim]]:
    """`train_CTInstruct.py --preset tiny`, 4 samples a rank: with two loading processes; one rank beside two."""
    waits = seconds_a_step(folder, "workers", steps, ranks=1, options=["--workers", "2"])
    one = seconds_a_step(folder, "one", steps, ranks=1)
    two = seconds_a_step(folder, "two", steps, ranks=2)
    share = waits["train/data_seconds"] / waits["train/seconds"]
    rows = [
        Row("training step, tiny, 1 rank, 1 thread", one["train/seconds"]),
        Row("training step, tiny, 2 ranks, 1 thread each", two["train/seconds"], note="twice the samples"),
    ]
    efficiency = one["train/seconds"] / two["train/seconds"]
    return rows, [
        Aim("share of a training step that waits for data, 2 loading processes", share, 0.1),
        Aim("weak scaling from one rank to two", efficiency, 0.7, at_least=True),
    ]


def seconds_a_step(
    folder: Path, name: str, steps: int, ranks: int, options: list[str] | None = None
) -> dict[str, float]:
    """The run's own record of the second half of its steps; the first fills caches."""
    run_dir = folder / name
    command = [sys.executable]
    if ranks > 1:
        launcher = str(Path(sys.executable).with_name("deepspeed"))
        command += [launcher, "--num_accelerators", str(ranks), "--master_port", str(free_port())]
    phantoms = folder / "phantoms"
    command += ["train_CTInstruct.py", "--preset", "tiny", "--run_dir", str(run_dir), "--max_iters", str(2 * steps)]
    command += ["--manifests", str(phantoms / "train.json"), "--mask_slices", "40"]
    command += ["--batch_size", str(4 * ranks), "--micro_batch", "4"]
    command += ["--cache", str(folder / "cache"), "--log_interval", str(steps), "--save_interval", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if device().type == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    subprocess.run(command + (options or []), cwd=REPOSITORY, env=environment, check=True, capture_output=True)
    return json.loads((run_dir / "history.jsonl").read_text().splitlines()[-1])

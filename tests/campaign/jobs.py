"""Commands of the project on a tiny model and small files: what is run, what it reads, and its result."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from models.checkpoints.folder import save_checkpoint
from tests.campaign.forked import Ended, forked
from tests.ct_files import ras_affine, write_nifti
from tests.tiny_model import tiny_ctinstruct
from training.checkpoint_store import latest_complete, step_of

EXAMPLE = Path(__file__).resolve().parents[2] / "data" / "instruction_sft" / "VQA_CTRATE_example.json"
STEPS = 9
RECORDS = [
    {"image_path": "a.nii.gz", "question": "Is there a nodule?", "answer": "No.", "patient_id": "1"},
    {"image_path": "b.nii.gz", "question": "Which side?", "answer": "Left.", "choices": ["Left.", "Right."]},
]
_SHORT = ("--num_beams", "1", "--max_new_tokens", "6")


@dataclass(frozen=True)
class Job:
    """A command.

    words(place, output): of the command line.  result(output): what it has made, None where nothing whole is there.
    damaged: the files in `place` that it reads.  unprotected: those without a checksum, any bytes may be meant.
    resume: words that let it go on where a killed one stopped.
    """

    name: str
    words: Callable[[Path, Path], list[str]]
    result: Callable[[Path], Any]
    damaged: tuple[str, ...] = ()
    unprotected: tuple[str, ...] = ()
    resume: tuple[str, ...] = ()

    def run(self, place: Path, output: Path, *more: str, **how: Any) -> Ended:
        return forked([*self.words(place, output), *more], **how)


def make_place(place: Path) -> Path:
    """A model folder, two volumes, a manifest and records in an empty folder."""
    (place / "model").mkdir(parents=True)
    save_checkpoint(tiny_ctinstruct().eval(), place / "model")
    random = np.random.default_rng(0)
    for name in ("a", "b"):
        voxels = random.integers(-1000, 1500, (40, 36, 10)).astype(np.int16)
        write_nifti(place / f"{name}.nii.gz", voxels, ras_affine())
    questions = [
        {"id": f"{name}{number}", "question": text, "answer": "Yes.", "image_path": f"{name}.nii.gz"}
        for name in ("a", "b")
        for number, text in enumerate(("Is there a nodule?", "What changed?", "Where is the liver?"))
    ]
    (place / "questions.json").write_text(json.dumps(questions, indent=1))
    (place / "records.json").write_text(json.dumps(RECORDS, indent=1))
    return place


def _text(name: str, hide: str = "") -> Callable[[Path], Any]:
    def result(output: Path) -> Any:
        path = output / name
        return path.read_text(encoding="utf-8").replace(hide or "\0", "") if path.is_file() else None

    return result


def _answers(output: Path) -> Any:
    path = output / "predictions.json"
    if not path.is_file():
        return None
    return [[row["id"], row.get("answer"), row.get("error")] for row in json.loads(path.read_text(encoding="utf-8"))]


def _weights(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        return None
    return {
        name: value.tobytes()
        for file in sorted(folder.glob("*.safetensors"))
        for name, value in load_file(file).items()
    }


def _trained(run_dir: Path) -> Any:
    newest = latest_complete(run_dir)
    return _weights(newest / "model") if newest is not None and step_of(newest) == STEPS else None


def _evaluate(*more: str) -> Callable[[Path, Path], list[str]]:
    def words(place: Path, output: Path) -> list[str]:
        given = [word.replace("PLACE", str(place)) for word in more]
        return ["evaluate_CTInstruct.py", "--checkpoint", f"{place}/model", *given, *_SHORT, "--output", str(output)]

    return words


_MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

ASK = Job(
    "one question",
    _evaluate("--image", "PLACE/a.nii.gz", "--question", "Is there a nodule?"),
    _text("answer.txt"),
    ("a.nii.gz",),
)
LOAD = Job("a model's files", ASK.words, ASK.result, tuple(f"model/{name}" for name in _MODEL),
           tuple(f"model/{name}" for name in _MODEL))  # fmt: skip
EVALUATE = Job(
    "evaluation", _evaluate("--manifest", "PLACE/questions.json"), _answers, ("questions.json",), ("questions.json",)
)
CACHED = Job(
    "evaluation with a cache", _evaluate("--manifest", "PLACE/questions.json", "--cache", "PLACE/cache"), _answers
)
PREPARE = Job(
    "preparation of instructions",
    lambda place, output: [
        "-m",
        "datasets.prepare.instructions",
        "vqa",
        f"{place}/records.json",
        f"{output}/made.json",
    ],
    _text("made.json"),
    ("records.json",),
    ("records.json",),
)
CONVERT = Job(
    "conversion of a model",
    lambda place, output: ["-m", "models.checkpoint", "convert", f"{place}/model", str(output)],
    _weights,
    ("model/config.json", "model/model.safetensors"),
    ("model/config.json", "model/model.safetensors"),
)
TRAIN = Job(
    "training",
    lambda place, output: [
        "train_CTInstruct.py", "--preset", "tiny", "--batch_size", "2", "--micro_batch", "1", "--manifests",
        os.fspath(EXAMPLE), "--max_iters", str(STEPS), "--save_interval", "3", "--eval_interval", "0", "--log_interval",
        "1", "--run_dir", str(output),
    ],
    _trained,
    resume=("--resume", "auto"),
)  # fmt: skip

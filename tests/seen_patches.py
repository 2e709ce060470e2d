"""python -m tests.seen_patches FOLDER: train on FOLDER/train.json, evaluate, and write down what the encoder saw.

FOLDER/seen.json has the digests of the patches that reached `CTInstruct.encode_volumes` in two steps of training in
stored order, in an evaluation without options, and in one that overrides the checkpoint's preprocessing.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import evaluate_CTInstruct
import train_CTInstruct
from models.ctinstruct import CTInstruct
from training.script import run_script

seen: set[str] = set()
encode_volumes = CTInstruct.encode_volumes


def watched(model: CTInstruct, volumes: Any) -> Any:
    """`encode_volumes`, with a note of the patches."""
    seen.update(hashlib.sha256(volume.patches.numpy().tobytes()).hexdigest() for volume in volumes)
    return encode_volumes(model, volumes)


def called(script: Any, *options: str) -> list[str]:
    """What the encoder sees while a script runs with these options."""
    seen.clear()
    sys.argv = [script.__file__, *options]
    script.main()
    return sorted(seen)


def main() -> None:
    folder = Path(sys.argv[1])
    CTInstruct.encode_volumes = watched  # type: ignore[method-assign]
    data, run_dir = str(folder / "train.json"), str(folder / "run")
    train = ["--preset", "tiny", "--manifests", data, "--run_dir", run_dir, "--max_iters", "2", "--batch_size", "1"]
    answer = ["--checkpoint", run_dir, "--manifest", data, "--num_beams", "1", "--max_new_tokens", "1"]
    override = ["--orientation", "RAS", "--override_preprocessing"]
    record = {
        "training": called(train_CTInstruct, *train, "--orientation", "as_stored"),
        "evaluation": called(evaluate_CTInstruct, *answer, "--output", str(folder / "plain")),
        "overridden": called(evaluate_CTInstruct, *answer, *override, "--output", str(folder / "overridden")),
    }
    (folder / "seen.json").write_text(json.dumps(record))


if __name__ == "__main__":
    run_script(main)

"""Convert checkpoints, and the names that read and write them.

python -m models.checkpoint convert SOURCE TARGET --to released     # and back with --to ctinstruct
python -m models.checkpoint merge SOURCE TARGET                     # a LoRA checkpoint with its adapter merged in
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel

from datasets.commands import told
from datasets.errors import CheckpointError
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.released import save_released
from models.language.lora import merge_lora

__all__ = ["load_checkpoint", "save_checkpoint"]


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m models.checkpoint", description="Convert checkpoints.")
    commands = parser.add_subparsers(dest="command", required=True)
    convert = commands.add_parser("convert", help="between this project's folders and released ones")
    convert.add_argument("source", help="a model folder")
    convert.add_argument("target", help="folder to write")
    convert.add_argument("--to", choices=("ctinstruct", "released"), default="ctinstruct")
    merge = commands.add_parser("merge", help="add a LoRA adapter into the language model's weights")
    merge.add_argument("source", help="a LoRA model folder")
    merge.add_argument("target", help="folder to write")
    options = parser.parse_args(arguments)
    if Path(options.source).resolve() == Path(options.target).resolve():
        raise CheckpointError(f"{options.target}: is the source too, and is read while writing; name another")
    model = load_checkpoint(options.source)
    if options.command == "merge":
        if not isinstance(model.language_model, PeftModel):
            raise CheckpointError(f"{options.source}: holds no LoRA adapter, there is nothing to merge")
        model.language_model = merge_lora(model.language_model)
        print(f"wrote {save_checkpoint(model, options.target)}")
        return 0
    save = save_checkpoint if options.to == "ctinstruct" else save_released
    print(f"wrote {save(model, options.target)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

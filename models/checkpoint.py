"""CTInstruct on disk: a folder with config.json, safetensors shards and the tokenizer.

python -m models.checkpoint convert SOURCE TARGET --to released     # and back with --to ctinstruct
python -m models.checkpoint merge SOURCE TARGET                     # a LoRA checkpoint with its adapter merged in
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import init_empty_weights
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from datasets.errors import InputError
from models.configuration import VisionConfig
from models.ctinstruct import CTInstruct
from models.language_model import build_language_model, language_config_from_dict
from models.lora import LoraSettings, add_lora, is_trained_name, load_base, lora_settings, merge_lora
from models.special_tokens import NEW_TOKENS
from models.vision import VisionModel
from models.weight_files import CheckpointError, assign_weights, save_weights, tied_names

FORMAT = "ctinstruct-1"
CONFIG = "config.json"


def build_ctinstruct(
    vision: VisionConfig, language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> CTInstruct:
    """Vision with random weights before a given language model, whose width the projector takes on."""
    width = language_model.config.get_text_config().hidden_size
    config = VisionConfig.from_dict({**vision.to_dict(), "llm_width": width})
    return CTInstruct(VisionModel(config), language_model, tokenizer)


def save_checkpoint(model: CTInstruct, folder: str | Path, max_shard_size: str = "4GB") -> Path:
    """Write ``model`` so that ``load_checkpoint`` and nothing else is needed to use it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": FORMAT,
        "vision": model.config.to_dict(),
        "language_model": model.language_model.config.to_dict(),
        "generation": model.language_model.generation_config.to_diff_dict(),
    }
    if lora := lora_settings(model.language_model):
        config["lora"] = lora.to_dict()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    model.tokenizer.save_pretrained(folder)
    save_weights(stored_state(model), folder, max_shard_size)
    return folder


def stored_state(model: CTInstruct) -> dict[str, torch.Tensor]:
    """What a folder holds: each tied parameter once, and of an adapted language model the adapter alone."""
    tensors = model.state_dict()
    if lora_settings(model.language_model):
        return {name: tensor for name, tensor in tensors.items() if not _is_frozen_base(name)}
    tied, kept = tied_names(model), set()
    for name in list(tensors):  # of a group the first stays, which is the embedding, as transformers has it
        if tied.get(name, set()) & kept:
            del tensors[name]
        kept.add(name)
    return tensors


def load_checkpoint(
    folder: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> CTInstruct:
    """Read a checkpoint folder, of ours or of the release; no weight is ever held twice.

    The model is built without storage and takes the tensors of each shard as they come.

    Args:
        folder: what ``save_checkpoint`` wrote, or a released CTInstruct folder.
        device: where the weights go.
        dtype: of the weights; None keeps the stored one.

    Raises:
        CheckpointError: a file is missing or damaged, or a key is missing, unexpected or of another shape.
    """
    folder = Path(folder)
    config = read_config(folder)
    if "format" not in config and "model_type" in config:
        from models.released import load_released  # it builds on this module

        return load_released(folder, device, dtype)
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{folder / CONFIG}: its format is {config.get('format')!r}, this code reads {FORMAT!r}")
    if "lora" in config:
        return _load_adapted(folder, config, device, dtype)
    tokenizer = load_tokenizer(folder)
    model = build_without_storage(
        VisionConfig.from_dict(config["vision"]), language_config_from_dict(config["language_model"]), tokenizer
    )
    assign_weights(model, folder, device=device, dtype=dtype)
    return finish_loading(model, device, config.get("generation", {}))


def _load_adapted(folder: Path, config: dict, device: torch.device | str, dtype: torch.dtype | None) -> CTInstruct:
    """A LoRA checkpoint: the frozen language model from where it was, everything else from the folder."""
    settings = LoraSettings.from_dict(config["lora"])
    language_model, tokenizer = load_base(settings)
    adapted = add_lora(language_model, tokenizer, settings)
    model = build_ctinstruct(VisionConfig.from_dict(config["vision"]), adapted, tokenizer)
    assign_weights(model, folder, device=device, dtype=dtype, optional=_is_frozen_base)
    model.to(device=device, dtype=dtype)
    return finish_loading(model, device, config.get("generation", {}))


def _is_frozen_base(name: str) -> bool:
    return name.startswith("language_model.") and not is_trained_name(name)


def read_config(folder: Path) -> dict:
    """The folder's config.json; raises CheckpointError where it is absent or not JSON."""
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError(f"{folder}: no {CONFIG}; give a folder that a training run or a conversion wrote")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: not a JSON file ({error})") from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer; raises CheckpointError where it lacks one of our tokens."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder}: its tokenizer does not load ({' '.join(str(error).split())[:160]})"
        ) from error
    for token in NEW_TOKENS:
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            raise CheckpointError(f"{folder}: its tokenizer does not know {token}; the folder is not complete")
    return tokenizer


def build_without_storage(vision: VisionConfig, language_config, tokenizer: PreTrainedTokenizerBase) -> CTInstruct:
    """The model on the meta device; buffers that are computed and not stored are real."""
    with init_empty_weights(include_buffers=False):
        model = build_ctinstruct(vision, build_language_model(language_config), tokenizer)
    model.language_model.tie_weights()  # moving to the meta device gave each name a tensor of its own
    return model


def finish_loading(model: CTInstruct, device: torch.device | str, generation: dict) -> CTInstruct:
    """Set generation options, move what was not read to the device."""
    for key, value in generation.items():
        setattr(model.language_model.generation_config, key, value)
    return model.to(device).eval()


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
    from models.released import save_released

    try:
        if Path(options.source).resolve() == Path(options.target).resolve():
            raise CheckpointError(f"{options.target}: is the source too, and is read while writing; name another")
        model = load_checkpoint(options.source)
        if options.command == "merge":
            if lora_settings(model.language_model) is None:
                raise CheckpointError(f"{options.source}: holds no LoRA adapter, there is nothing to merge")
            model.language_model = merge_lora(model.language_model)
            print(f"wrote {save_checkpoint(model, options.target)}")
            return 0
        save = save_checkpoint if options.to == "ctinstruct" else save_released
        print(f"wrote {save(model, options.target)}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

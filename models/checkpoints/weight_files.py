"""Weights on disk, shard by shard: written without a second copy, read into a model that has no storage yet."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor, nn

from datasets.errors import CheckpointError
from models.checkpoints.json_object import read_object
from models.checkpoints.tensor_reading import read_tensors

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
_CHECKED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PICKLED_INDEX, _PICKLED_WEIGHTS = "pytorch_model.bin.index.json", "pytorch_model.bin"  # as older releases have them


class Target(NamedTuple):
    """Where a stored tensor goes: a name of the model's state dict, and for a part of it the row of its first axis."""

    name: str
    row: int | None = None


Rename = Callable[[str], Target | None]  # None: a key that is not known
Convert = Callable[[str, Tensor], Tensor]  # name of the model's state dict, tensor -> tensor


def save_weights(tensors: dict[str, Tensor], folder: Path, max_shard_size: str = "4GB") -> None:
    """Write safetensors shards and, if there are several, their index; a shard is all that is ever copied.

    The copies are needed because DeepSpeed keeps all parameters as views of one flat tensor.
    """
    plan = split_torch_state_dict_into_shards(
        {name: torch.empty_like(tensor, device="meta") for name, tensor in tensors.items()},
        max_shard_size=max_shard_size,
    )
    for file, names in plan.filename_to_tensors.items():
        shard = {name: tensors[name].detach().to("cpu", copy=True).contiguous() for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard  # before the next one is copied
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def stored_tensors(path: Path, device: torch.device | str = "cpu") -> Iterator[tuple[Path, str, Tensor]]:
    """(file, key, tensor) of a folder of safetensors shards, or else .bin ones, or of one such file, .pt or .pth.

    Pickled files are read with ``weights_only``; a training state's ``module`` or ``state_dict`` entry is looked into.

    Raises:
        CheckpointError: a file is missing or damaged, or a tensor has NaN.
    """
    files = _shards(path) if path.is_dir() else [path]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{path}: weight file {file.name} is missing; copy the whole folder again")
    for file in files:
        tensors = read_tensors(file) if file.suffix == ".safetensors" else _pickled(file, device).items()
        for name, tensor in tensors:
            tensor = tensor.to(device)
            check_numbers(file, name, tensor)
            yield file, name, tensor


def check_numbers(file: Path, name: str, tensor: Tensor) -> None:
    """CheckpointError where weights have NaN: a model of them answers something, and nothing of what it learned."""
    if tensor.dtype not in _CHECKED_DTYPES or not tensor.numel() or not torch.isnan(tensor.sum()):  # sum: no copy
        return
    count = int(torch.isnan(tensor).sum())  # of infinities of both signs the sum is NaN too
    if count:
        raise CheckpointError(
            f"{file}: {name} has NaN in {count} of {tensor.numel()} numbers, as a training that broke down leaves "
            "them; take an earlier checkpoint"
        )


def assign_weights(
    model: nn.Module,
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    rename: Rename = Target,
    convert: Convert = lambda name, tensor: tensor,
    optional: Callable[[str], bool] = lambda name: False,
    ignored: frozenset[str] = frozenset(),
) -> None:
    """Give ``model`` the tensors of ``path``, taking them over rather than copying; it may be on the meta device.

    Args:
        rename: stored key -> target.
        convert: a whole tensor, cast and of the right shape -> what the model takes in its place.
        optional: names of the model that the file may lack.
        ignored: keys of the file that are known and not wanted.

    Raises:
        CheckpointError: a key is missing, unexpected or of another shape, or a file is unusable.
    """
    expected = dict(model.state_dict())
    tied = tied_names(model)
    rows: dict[str, dict[int, Tensor]] = {}
    missing = set(expected)
    for file, key, stored in stored_tensors(path, device):
        if key in ignored:
            continue
        target = rename(key)
        if target is None or target.name not in expected:
            raise CheckpointError(f"{file}: unexpected key {key}; the weights belong to another model")
        tensor = stored.to(dtype) if dtype is not None and stored.is_floating_point() else stored
        shape = expected[target.name].shape
        if target.row is not None:
            parts = rows.setdefault(target.name, {})
            parts[target.row] = tensor.reshape(1, *shape[1:]) if tensor.numel() == shape[1:].numel() else tensor
            if len(parts) < shape[0]:
                continue
            tensor = torch.cat([parts[row] for row in sorted(rows.pop(target.name))])
        if tensor.shape != shape:
            raise CheckpointError(f"{file}: {key} has shape {tuple(tensor.shape)}, the model {tuple(shape)}")
        tensor = convert(target.name, tensor)
        _assign(model, {target.name} | tied.get(target.name, set()), tensor)
        missing -= {target.name} | tied.get(target.name, set())
    missing = {name for name in missing if not optional(name)}
    if missing:
        raise CheckpointError(f"{path}: {len(missing)} keys are missing, the first is {sorted(missing)[0]}")


def tied_names(model: nn.Module) -> dict[str, set[str]]:
    """For a name whose parameter is shared, the other names of it: one of them is enough in a file."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {name: set(group) - {name} for group in names.values() if len(group) > 1 for name in group}


def _assign(model: nn.Module, names: set[str], tensor: Tensor) -> None:
    """Let `tensor` be the parameter, or buffer, of these names: one object for all of them, so that they stay tied.

    `load_state_dict` would go through the whole model for each tensor.
    """
    places = [(model.get_submodule(name.rpartition(".")[0]), name.rpartition(".")[2]) for name in sorted(names)]
    parent, leaf = places[0]
    if leaf in parent._buffers:
        parent._buffers[leaf] = tensor
        return
    parameter = nn.Parameter(tensor, requires_grad=parent.get_parameter(leaf).requires_grad)
    for parent, leaf in places:
        parent._parameters[leaf] = parameter


def _shards(folder: Path) -> list[Path]:
    """The files of a folder, safetensors before pickled ones; where there is neither, what is missing."""
    for listing, whole in ((WEIGHTS_INDEX, WEIGHTS), (_PICKLED_INDEX, _PICKLED_WEIGHTS)):
        index = folder / listing
        if index.is_file():
            names = read_object(index).get("weight_map")
            if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
                raise CheckpointError(f"{index}: not an index of weight files; copy it again")
            if outside := [name for name in names.values() if Path(name).name != name]:
                raise CheckpointError(f"{index}: names a file outside its folder, {outside[0]}; copy it again")
            return [folder / name for name in sorted(set(names.values()))]
        if (folder / whole).is_file():
            return [folder / whole]
    return [folder / WEIGHTS]


def _pickled(file: Path, device: torch.device | str) -> dict[str, Tensor]:
    try:
        # files from before PyTorch 1.6 are no archives, and cannot be mapped into memory
        content = torch.load(file, map_location=device, weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a damaged file raises whatever its reader stumbles over
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{file}: not a file of weights that loads safely ({reason})") from error
    for entry in ("module", "state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(entry), dict):
            content = content[entry]
            break
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file}: holds no table of tensors")
    return content

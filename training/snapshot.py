"""Copies in the host's memory of what a checkpoint holds, so that it can be written while training goes on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def copied(state: Any) -> Any:
    """Plain data with copies of its tensors on the CPU; a tensor that stands twice is copied once.

    state: dicts, lists, tuples and what they hold, as `training_state.capture` gives it.
    """
    return _copied(state, {})


def snapshot(model: nn.Module) -> nn.Module:
    """The model as it is now, with trained weights and buffers of its own on the CPU, to be written and nothing else.

    Weights that are not trained are the model's, since nothing changes them.  Shared weights stay shared.  What is
    neither weight, buffer nor module is the original's, such as a configuration or a tokenizer; hooks are left behind,
    since a training engine's belong to the model that it trains.
    """
    return _shell(model, {}, {})


def _copied(value: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(value, Tensor):
        return _tensor(value, known)
    if isinstance(value, dict):
        return {name: _copied(entry, known) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(entry, known) for entry in value)
    return value


def _shell(module: nn.Module, shells: dict[int, nn.Module], copies: dict[int, Tensor]) -> nn.Module:
    if id(module) in shells:
        return shells[id(module)]
    shell = shells[id(module)] = module.__class__.__new__(module.__class__)
    own = dict(module.__dict__)
    own.pop("_compiled_call_impl", None)
    for name, entry in own.items():
        if name.endswith("_hooks") and isinstance(entry, dict) and "state_dict" not in name:
            own[name] = type(entry)()
    own["_parameters"] = {name: _weight(weight, copies) for name, weight in module._parameters.items()}
    own["_buffers"] = {name: None if b is None else _tensor(b, copies) for name, b in module._buffers.items()}
    own["_modules"] = {name: None if m is None else _shell(m, shells, copies) for name, m in module._modules.items()}
    shell.__dict__.update(own)
    return shell


def _tensor(tensor: Tensor, copies: dict[int, Tensor]) -> Tensor:
    if id(tensor) not in copies:
        copies[id(tensor)] = tensor.detach().to("cpu", copy=True)
    return copies[id(tensor)]


def _weight(weight: nn.Parameter | None, copies: dict[int, Tensor]) -> nn.Parameter | None:
    if weight is None or not weight.requires_grad:
        return weight
    if id(weight) not in copies:
        copies[id(weight)] = nn.Parameter(weight.detach().to("cpu", copy=True))
    found = copies[id(weight)]
    assert isinstance(found, nn.Parameter)
    return found

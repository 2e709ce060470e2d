"""The tensors of a batch, wherever they are in it: changed in a copy, or looked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from torch import Tensor

Value = TypeVar("Value")


def with_tensors(value: Value, change: Callable[[Tensor], Tensor]) -> Value:
    """A copy of dataclasses, dicts, lists and tuples, down to their tensors, which are changed.

    What holds no tensor that `change` replaces by another is taken as it is.
    """
    changed: Any = value
    if isinstance(value, Tensor):
        changed = change(value)
    elif isinstance(value, dict):
        items = {key: with_tensors(item, change) for key, item in value.items()}
        changed = items if any(items[key] is not item for key, item in value.items()) else value
    elif isinstance(value, (list, tuple)):
        parts = [with_tensors(item, change) for item in value]
        if any(new is not old for new, old in zip(parts, value, strict=True)):
            changed = type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    elif is_dataclass(value) and not isinstance(value, type):
        held = {item.name: getattr(value, item.name) for item in fields(value) if item.init}
        new = with_tensors(held, change)
        changed = value if new is held else replace(value, **new)
    return changed

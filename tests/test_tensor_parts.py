"""A batch's tensors, found and changed wherever they are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from datasets.tensor_parts import with_tensors
from training.batches import DeviceCopies, move_to


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class Part:
    tensor: torch.Tensor
    name: str
    doubled: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubled", 2 * self.tensor)


def nested() -> dict[str, Any]:
    """Ten tensors, 0 to 9, in every kind of holder, beside what is none."""
    values = [torch.tensor(float(number)) for number in range(10)]
    return {
        "alone": values[0],
        "lists": [values[1], [values[2], "word"], []],
        "tuples": (values[3], (None, values[4])),
        "pair": Pair(values[5], {"inner": values[6], "count": 3}),
        "parts": [Part(values[7], "seven"), Pair(Part(values[8], "eight"), values[9])],
        "texts": ["a", ("b", {"c": 1.5})],
    }


def test_every_tensor_is_changed_and_all_else_is_as_it_was() -> None:
    seen: list[float] = []
    batch = nested()

    def negative(tensor: torch.Tensor) -> torch.Tensor:
        seen.append(float(tensor))
        return -tensor

    changed = with_tensors(batch, negative)
    assert sorted(seen) == list(range(10))
    (one, (two, word), empty), (three, (nothing, four)) = changed["lists"], changed["tuples"]
    assert [float(tensor) for tensor in (changed["alone"], one, two, three, four)] == [0, -1, -2, -3, -4]
    assert word == "word" and empty == [] and nothing is None and isinstance(changed["tuples"], tuple)
    pair, (part, other) = changed["pair"], changed["parts"]
    assert isinstance(pair, Pair) and pair.first == -5 and pair.second == {"inner": torch.tensor(-6.0), "count": 3}
    assert part.name == "seven" and (part.tensor, part.doubled) == (-7, -14), "what follows from a field follows again"
    assert isinstance(other, Pair) and other.first.tensor == -8 and other.second == -9
    assert changed["texts"] is batch["texts"] and batch["alone"] == 0


def test_what_is_looked_at_alone_is_not_copied() -> None:
    batch = nested()
    assert with_tensors(batch, lambda tensor: tensor) is batch


def test_a_batch_arrives_on_its_device_as_it_was_sent() -> None:
    moved = move_to(nested(), torch.device("meta"))
    devices: list[str] = []
    with_tensors(moved, lambda tensor: devices.append(tensor.device.type) or tensor)
    assert devices == ["meta"] * 10 and moved["texts"] == nested()["texts"]
    copies, batch = DeviceCopies(torch.device("cpu")), nested()
    assert copies.arrived(copies.send(batch)) is batch

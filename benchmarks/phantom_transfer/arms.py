"""The arms of the measurement: which phantoms an encoder learns from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.phantom.dataset import DatasetOptions, write_dataset
from datasets.phantom.people.dataset import PeopleOptions, write_people
from datasets.phantom.people.features import FEATURES, Features

CHEST = "chest"
CUMULATIVE = (CHEST, "none", *("+".join(FEATURES[: count + 1]) for count in range(len(FEATURES))))
"""The chest phantoms, people without any feature, and one feature more each time, up to all."""
LEFT_OUT = ("all", *(f"all-{name}" for name in FEATURES))
"""All features, and all but one."""


@dataclass(frozen=True)
class Arm:
    """features: None for the chest phantoms."""

    name: str
    features: Features | None

    @classmethod
    def of(cls, name: str) -> Arm:
        """From "chest", "none", "all", features joined by "+", or "all-" and one that is left out.

        Raises InputError for an unknown feature.
        """
        if name == CHEST:
            return cls(name, None)
        if name.startswith("all-"):
            left_out = Features.of([name.removeprefix("all-")]).names
            return cls(name, Features.of([feature for feature in FEATURES if feature not in left_out]))
        return cls(name, Features.of(name.split("+")))

    @property
    def folder(self) -> str:
        """A short name for files: of many features the last one with their number."""
        parts = self.name.split("+")
        return self.name if len(parts) < 3 else f"{len(parts)}_to_{parts[-1]}"


def ensure_arm_phantoms(arm: Arm, folder: Path, count: int, seed: int, max_voxels: float, workers: int) -> None:
    """Write the arm's phantoms where its folder has none."""
    if (folder / "cases.json").is_file():
        return
    if arm.features is None:
        write_dataset(DatasetOptions(folder, count, seed, split=(0.9, 0.05, 0.05)), workers)
    else:
        options = PeopleOptions(folder, count, seed, (0.9, 0.05, 0.05), 0, arm.features, max_voxels)
        write_people(options, workers)


def arms_of(names: list[str]) -> list[Arm]:
    """The arms of the command line; "cumulative" and "left-out" stand for their lists.  Raises InputError for none."""
    lists = {"cumulative": CUMULATIVE, "left-out": LEFT_OUT}
    arms = [Arm.of(part) for name in names for part in lists.get(name, (name,))]
    if not arms:
        raise InputError("--arms: name at least one")
    return arms

"""What can be switched on in a person phantom, each part by itself, so that its effect on learning can be measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from datasets.errors import InputError


@dataclass(frozen=True)
class Features:
    """The switches; all off gives a chest of even tissues in a smooth outline, alone in air, always posed alike.

    contrast: HU of every tissue drawn at random, with and without contrast agent.
    scanner: kernel, correlated noise of varying strength, streaks.  Off: white noise.
    surroundings: table, cushions, clothes, a round field of view.
    arms: at the sides, raised, or out of the scanner.
    layers: an outline of harmonics, skin, fat and muscle, bones with a hard shell, bowel with gas and stool.
    anatomy: head, neck, abdomen and pelvis beside the chest.
    crops: windows of any height and place, and fields of view that cut the body.
    pose: size, rotation, a bent spine, a turned and nodding head.
    shape: smooth random displacement of everything, and organs of varying size and place.
    """

    contrast: bool = False
    scanner: bool = False
    surroundings: bool = False
    arms: bool = False
    layers: bool = False
    anatomy: bool = False
    crops: bool = False
    pose: bool = False
    shape: bool = False

    @classmethod
    def of(cls, names: Iterable[str]) -> Features:
        """The named ones on, the others off; "all" and "none" are names too.

        Raises InputError for an unknown name.
        """
        chosen: set[str] = set()
        for name in names:
            if name not in (*FEATURES, "all", "none"):
                raise InputError(f"--features {name}: choose from all, none, {', '.join(FEATURES)}")
            chosen |= set(FEATURES) if name == "all" else set() if name == "none" else {name}
        return cls(**dict.fromkeys(chosen, True))

    @property
    def names(self) -> list[str]:
        """Those that are on, in their order."""
        return [name for name in FEATURES if getattr(self, name)]


FEATURES = tuple(field.name for field in fields(Features))

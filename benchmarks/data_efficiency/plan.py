"""Which runs there are, and in which order: those first that say most, so that a stop leaves a figure to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from datasets.errors import InputError
from models.configuration import ENCODER_NAMES

OBJECTIVES = ("segmentation", "classification", "image_text")
"""In the order in which phantom pretraining takes them on."""

SCRATCH = "scratch"


@dataclass(frozen=True)
class Start:
    """What the weights of a run are at its first step.  objectives: of phantom pretraining; none for random weights."""

    objectives: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """As in files and on the command line: the last objective, after a + where it is not the first."""
        return SCRATCH if not self.objectives else "+" * (len(self.objectives) > 1) + self.objectives[-1]

    @property
    def title(self) -> str:
        """As in table and figure."""
        words = {"segmentation": "segmentation", "classification": "classification", "image_text": "image and text"}
        return " + ".join(words[name] for name in self.objectives) if self.objectives else "from scratch"


def starts_of(kinds: Sequence[str]) -> list[Start]:
    """From scratch, then the objectives added one by one; those of which the phantoms have nothing are left out."""
    present = [name for name in OBJECTIVES if name in kinds]
    if not present or present[0] != OBJECTIVES[0]:
        raise InputError("the phantoms have no masks, from which every pretraining begins; write others")
    return [Start(), *(Start(tuple(present[: count + 1])) for count in range(len(present)))]


def chosen_starts(starts: Sequence[Start], names: Sequence[str] | None) -> list[Start]:
    """Those of the names, in the order of the starts; all of them without names.

    Raises InputError for a name that none of them has.
    """
    known = [start.name for start in starts]
    for name in names or ():
        if name not in known:
            raise InputError(f"--starts {name}: choose from {', '.join(known)}")
    return [start for start in starts if names is None or start.name in names]


@dataclass(frozen=True)
class Run:
    """One training on patients.  seed: of the subset, and of weights, order and augmentation."""

    encoder: str
    start: Start
    patients: int
    seed: int

    @property
    def name(self) -> str:
        """For folders and messages."""
        return f"{self.encoder}/{self.start.name}/{self.patients}_patients_seed_{self.seed}"


def plan_runs(
    encoders: Sequence[str], starts: Sequence[Start], counts: Sequence[int], repeated: Sequence[int], seeds: int
) -> list[Run]:
    """Every encoder with every start and number of patients; seeds 0 to seeds - 1 at ``repeated``, seed 0 at others.

    The first encoder's first two starts come first, at the repeated numbers of patients, then at the others; then the
    same of the other encoders; then all other starts.  Within each of these seed 0 goes before the others.

    Raises InputError for an encoder that is none, and for fewer seeds than one.
    """
    for encoder in encoders:
        if encoder not in ENCODER_NAMES:
            raise InputError(f"--encoders {encoder}: choose from {', '.join(ENCODER_NAMES)}")
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give 1 or more")
    runs = dict.fromkeys(
        Run(encoder, start, count, seed)
        for encoder, start, count in product(encoders, starts, counts)
        for seed in range(seeds if count in repeated else 1)
    )

    def rank(run: Run) -> tuple[int, ...]:
        encoder, start = encoders.index(run.encoder), starts.index(run.start)
        return (start > 1, start <= 1 and encoder > 0, run.patients not in repeated, run.seed, encoder, run.patients)

    return sorted(runs, key=rank)  # stable: of equal rank the earlier start first

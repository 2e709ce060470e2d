"""Whether a volume is like those that a model was trained on: a distance, kept beside the weights, and a warning.

A volume is described by the mean of its encoder's tokens and by plain statistics of its voxels as the encoder sees
them.  Of each of these two parts there is a Mahalanobis distance to the training volumes' descriptions, divided by the
root of the part's entries: about 1 for a training volume (Lee et al., NeurIPS 2018, use the class-wise form).  The
score is the larger of the two; in one distance the many entries of tokens would drown the voxels' few.  Covariances are
shrunk (Ledoit and Wolf 2004), since there are often fewer volumes than entries.  Above a threshold, which is set on
held-out volumes of the same kind, a volume is called unlike.  `evaluation.familiarity` writes the file; a checkpoint
without it says nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from sklearn.covariance import LedoitWolf

from datasets.errors import CheckpointError, InputError
from datasets.volume.anyres import PatchedVolume, content_of
from datasets.whole_files import write_whole_bytes
from models.encoders.contract import EncodedVolume

FILE = "familiarity.safetensors"
FEWEST = 20  # volumes that a distance can be learned from
QUANTILES = (1, 5, 25, 50, 75, 95, 99)
VOXEL_ENTRIES = len(QUANTILES) + 6  # of `voxel_statistics`
NEAR_LOWEST = 0.1  # standard deviations above the lowest value, which is air as a rule
_PARTS = ("centre", "deviation", "precision", "threshold", "sizes")


def voxel_statistics(content: np.ndarray) -> np.ndarray:
    """13 numbers of a normalised volume (w, h, d): quantiles, shares of air and middle, steps between neighbours."""
    lowest = float(content.min())
    shares = [(content < lowest + NEAR_LOWEST).mean(), (np.abs(content - np.median(content)) < 0.25).mean()]
    steps = [float(np.abs(np.diff(content, axis=axis)).mean()) if content.shape[axis] > 1 else 0.0 for axis in range(3)]
    bend = float(np.abs(np.diff(content, n=2, axis=0)).mean()) if content.shape[0] > 2 else 0.0
    rough = bend / max(steps[0], 1e-6)  # of noise more than of edges
    return np.array([*np.percentile(content, QUANTILES), *shares, *steps, rough])


@torch.no_grad()
def describe(volume: PatchedVolume, encoded: EncodedVolume) -> np.ndarray:
    """(C + 13,) float64: the mean of the tokens outside the padding, and the voxels' statistics."""
    tokens = encoded.tokens[encoded.valid].float().mean(0).cpu().numpy()
    content = content_of(volume)[0].float().cpu().numpy()
    return np.concatenate([tokens, voxel_statistics(content)]).astype(float)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """centre, deviation (n,) of the training volumes' descriptions; precision (n, n) of the standardised ones.

    sizes: entries of each part; precisions of different parts are 0.
    """

    centre: np.ndarray
    deviation: np.ndarray
    precision: np.ndarray
    threshold: float
    sizes: tuple[int, ...]

    @classmethod
    def fit(
        cls, known: np.ndarray, held_out: np.ndarray, share: float = 0.99, sizes: tuple[int, ...] | None = None
    ) -> Familiarity:
        """From descriptions (volumes, n) of training volumes, and of others of their kind for the threshold.

        share: of new volumes of the same kind that are to stay below it; the threshold is the order statistic of the
        held-out scores that promises this (split conformal prediction), or their largest where they are too few.
        sizes: entries of each part; None takes a description as one part.
        Raises InputError for less than FEWEST volumes of either.
        """
        for rows, name in ((known, "known"), (held_out, "held-out")):
            if len(rows) < FEWEST:
                raise InputError(f"{len(rows)} {name} volumes: give at least {FEWEST}")
        deviation = known.std(axis=0)
        deviation = _as_stored(np.where(deviation > 1e-8, deviation, 1.0))
        centre = _as_stored(known.mean(axis=0))
        sizes = sizes or (known.shape[1],)
        precision = np.zeros((known.shape[1],) * 2)
        for part in _slices(sizes):
            standard = (known[:, part] - centre[part]) / deviation[part]
            precision[part, part] = _as_stored(LedoitWolf(assume_centered=True).fit(standard).precision_)
        unfinished = cls(centre, deviation, precision, math.inf, sizes)
        scores = np.sort([unfinished.score(row) for row in held_out])
        rank = min(math.ceil(share * (len(scores) + 1)), len(scores))
        threshold = np.nextafter(np.float32(scores[rank - 1]), np.float32(np.inf))  # not below it as stored
        return cls(centre, deviation, precision, float(threshold), sizes)

    def score(self, description: np.ndarray) -> float:
        """Distance of a description (n,) to the training volumes, of the part that is farthest; infinite if not finite.

        Raises InputError for another number of entries: the file is of another model.
        """
        if description.shape != self.centre.shape:
            raise InputError(
                f"{FILE} is of a model with {len(self.centre)} entries, this one has {len(description)}: write it again"
            )
        off = (description - self.centre) / self.deviation
        if not np.isfinite(off).all():
            return math.inf
        squares = [
            float(off[part] @ self.precision[part, part] @ off[part]) / len(off[part]) for part in _slices(self.sizes)
        ]
        return math.sqrt(max(0.0, *squares))

    def doubts(self, description: np.ndarray) -> list[str]:
        """One line where a volume is unlike the training volumes, else none."""
        score = self.score(description)
        if score <= self.threshold:
            return []
        return [
            f"unlike the volumes that the model was trained on (score {score:.1f}, threshold {self.threshold:.1f}); "
            "do not trust what it says of it"
        ]

    def save(self, folder: str | Path) -> Path:
        """Write it into a model folder, whole or not at all."""
        path = Path(folder) / FILE
        parts = {name: np.asarray(getattr(self, name), np.float32) for name in _PARTS}
        return write_whole_bytes(
            path, save({name: np.atleast_1d(np.ascontiguousarray(part)) for name, part in parts.items()})
        )


def _as_stored(values: np.ndarray) -> np.ndarray:
    """Rounded as in the file, so that scores are the same when it is read back."""
    return values.astype(np.float32).astype(float)


def _slices(sizes: tuple[int, ...]) -> list[slice]:
    ends = np.cumsum(sizes).tolist()
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


def read_familiarity(folder: str | Path) -> Familiarity | None:
    """What a model folder knows of its training volumes, None where it has no such file.

    Raises CheckpointError for a damaged one.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        parts = load_file(path)
        centre, deviation, precision = (parts[name].astype(float) for name in _PARTS[:3])
        threshold, sizes = float(parts["threshold"][0]), tuple(int(size) for size in parts["sizes"])
    except (SafetensorError, OSError, KeyError, IndexError) as error:
        raise CheckpointError(f"{path}: damaged or incomplete ({error}); delete it, or write it again") from error
    fits = precision.shape == (len(centre),) * 2 and deviation.shape == centre.shape and sum(sizes) == len(centre)
    if not (fits and threshold > 0):
        raise CheckpointError(f"{path}: its parts do not fit each other; delete it, or write it again")
    return Familiarity(centre, deviation, precision, threshold, sizes)

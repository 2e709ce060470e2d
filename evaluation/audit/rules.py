"""What looks odd about a case, by rule: intensities, axes, masks, spacing.

A rule says nothing where it cannot know: a cut without air around the body, a label without a usual place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from datasets.label_descriptions import canonical
from evaluation.audit import usual
from evaluation.audit.places import axis_oddities
from evaluation.audit.view import View

AIR, AIR_TOLERANCE = -1000.0, 150.0
SOFT_TISSUE = (-20.0, 130.0)  # where muscle and organs, with or without contrast agent, are most frequent
FAT = (-160.0, -60.0)
PLAUSIBLE = (-1100.0, 4000.0)
SPACINGS = (0.1, 12.0)  # mm
EXTENTS = (20.0, 2200.0)  # mm, of a 3D volume
OUTSIDE_SHARE = 0.1
NAMED = 12  # empty masks; the page lists all
HOLDS_AIR = re.compile(
    r"\b(lungs?|airway|trachea|bronch\w*|larynx|esophagus|stomach|colon|bowel|nodule|emphysema|covid\w*|infection)\b"
)


class Oddity(NamedTuple):
    """rule: its name, as it is counted.  text: what was seen, with figures."""

    rule: str
    text: str


def oddities(view: View) -> list[Oddity]:
    """Everything that looks odd, in the order of the rules."""
    found = [Oddity(name, text) for name, rule in RULES.items() for text in rule(view)]
    if view.is_image:
        return [oddity for oddity in found if oddity.rule not in ("spacing", "axes")]
    return found


def _not_hu(view: View) -> Iterator[str]:
    if not (view.in_hu or view.is_image or view.is_crop):
        yield f"values from {view.lowest:g} to {view.highest:g} are not HU"


def _range(view: View) -> Iterator[str]:
    if not view.in_hu:
        return
    if view.padding.any():
        yield f"{view.padding.mean():.0%} of the voxels are padding of {view.volume.min():.0f}"
    body = view.volume[~view.padding]
    if body.size and body.min() < PLAUSIBLE[0]:
        yield f"values down to {body.min():.0f} HU, below air"
    if view.highest > PLAUSIBLE[1]:
        yield f"values up to {view.highest:.0f} HU, denser than metal is stored"


def _air(view: View) -> Iterator[str]:
    around = view.outside & ~view.padding
    if not view.in_hu or around.mean() < 0.01:
        return
    level = float(np.median(view.volume[around]))
    tissue = _soft_tissue_level(view)
    right_tissue = tissue is not None and SOFT_TISSUE[0] <= tissue <= SOFT_TISSUE[1]
    if abs(level - AIR) <= AIR_TOLERANCE or (right_tissue and level > FAT[0]):
        return  # air, or a cut through the body, whose border is fat
    hint = "; stored as HU + 1000?" if abs(level) <= AIR_TOLERANCE else ""
    hint = hint or ("; rescaled twice?" if abs(level - 2 * AIR) <= 2 * AIR_TOLERANCE else "")
    yield f"around the body {level:.0f} HU, not about {AIR:.0f}{hint}"


def _tissue(view: View) -> Iterator[str]:
    if not view.in_hu:
        return
    level = _soft_tissue_level(view)
    if level is not None and not SOFT_TISSUE[0] <= level <= SOFT_TISSUE[1]:
        yield f"the most frequent value of the body is {level:.0f} HU, not that of soft tissue, about 40"


def _soft_tissue_level(view: View) -> float | None:
    """The peak of the dense voxels' histogram, or the one above it where that is fat's; None without such voxels."""
    values = view.volume[view.dense]
    peak = _peak(values)
    if peak is not None and FAT[0] <= peak <= FAT[1]:
        return _peak(values[values > FAT[1]]) or peak
    return peak


def _peak(values: np.ndarray) -> float | None:
    if values.size < 100:
        return None
    edges = np.arange(np.floor(values.min() / 10) * 10, values.max() + 11, 10)
    counts = ndimage.gaussian_filter1d(np.histogram(values, edges)[0].astype(float), 1.5, mode="constant")
    return float(edges[np.argmax(counts)] + 5)


def _empty(view: View) -> Iterator[str]:
    empty = [label for label, count in view.voxels.items() if count == 0]
    shown = ", ".join(empty[:NAMED]) + (f" and {len(empty) - NAMED} more" if len(empty) > NAMED else "")
    if empty and len(empty) == len(view.voxels):
        yield f"every mask is empty: {shown}"
    elif empty:
        yield f"empty: {shown}"


def _outside(view: View) -> Iterator[str]:
    if view.is_image:
        return
    for label, mask in view.masks.items():
        if not mask.any():
            continue
        share = float(view.outside[mask].mean())
        # A lung that the picture's border cuts looks like air around the body.
        if share > (0.5 if HOLDS_AIR.search(canonical(label)) else OUTSIDE_SHARE):
            yield f"{label}: {share:.0%} of the mask lies outside the body"


def _values_in_masks(view: View) -> Iterator[str]:
    if not view.in_hu or any(_air(view)) or any(_tissue(view)):
        return
    for label, mask in view.masks.items():
        for pattern, (low, high) in usual.HU:
            if pattern.search(canonical(label)) and mask.any():
                median = float(np.median(view.volume[mask]))
                if not low <= median <= high:
                    yield f"{label}: median {median:.0f} HU, usual are {low:.0f} to {high:.0f}"


def _size(view: View) -> Iterator[str]:
    if view.is_image or view.is_crop or view.geometry.axes_from != "file" or _like_no_geometry(view):
        return  # their spacing is not known
    voxel = float(np.prod(view.source_spacing)) / 1000
    for label, count in view.voxels.items():
        for pattern, most in usual.MOST_MILLILITRES:
            if pattern.search(canonical(label)) and count * voxel > most:
                yield f"{label}: {count * voxel:.0f} ml, hardly anybody's has more than {most:.0f}"


def _spacing(view: View) -> Iterator[str]:
    if view.is_crop:  # its layout knows no spacing
        return
    shown = " x ".join(f"{side:.3g}" for side in view.source_spacing)
    if view.geometry.axes_from != "file":
        yield f"the file names no spacing, 1 mm is taken; its axes come from {_AXES[view.geometry.axes_from]}"
        return
    if not all(SPACINGS[0] <= side <= SPACINGS[1] for side in view.source_spacing):
        yield f"voxels of {shown} mm"
    elif _like_no_geometry(view):
        yield "voxels of exactly 1 mm at the origin: a header without geometry?"
    elif not all(EXTENTS[0] <= side <= EXTENTS[1] for side in view.extent) and min(view.volume.shape) > 1:
        yield f"the volume measures {' x '.join(f'{side:.0f}' for side in view.extent)} mm"


def _like_no_geometry(view: View) -> bool:
    return np.array_equal(np.abs(view.geometry.source_affine), np.eye(4))


_AXES = {"format": "its format", "option": "an option", "assumption": "an assumption", "nobody": "nobody"}
RULES: dict[str, Callable[[View], Iterator[str]]] = {
    "unit": _not_hu,
    "range": _range,
    "air": _air,
    "soft tissue": _tissue,
    "spacing": _spacing,
    "empty masks": _empty,
    "outside the body": _outside,
    "values in masks": _values_in_masks,
    "size of masks": _size,
    "axes": axis_oddities,
}

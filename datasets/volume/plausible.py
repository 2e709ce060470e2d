"""What of a volume's header and voxels is refused, and what is warned about; the rule is in docs/data.md."""

from __future__ import annotations

import logging

import numpy as np

from datasets.volume.geometry import VolumeError

log = logging.getLogger(__name__)
SPACING_LIMITS = (0.01, 100.0)  # mm; outside lie micrometres, metres and kilometres taken for millimetres
USUAL_SPACING = (0.1, 20.0)
VALUE_LIMIT = 1e6  # of either sign; no Hounsfield unit is near it
USUAL_VALUES = (-32768, 65535)  # what 16 bits hold, with or without a sign


def check_affine(affine: np.ndarray, source: str) -> np.ndarray:
    """The affine as float64 (4, 4); VolumeError where it cannot place voxels in space, or not at a CT's spacing.

    Warns of a spacing that no CT is likely to have.
    """
    affine = np.asarray(affine, dtype=np.float64)
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * lengths.prod():
        raise VolumeError(f"{source}: its affine is singular or not finite, so voxels have no place; fix the header")
    found = " x ".join(f"{length:.4g}" for length in lengths)
    if lengths.min() < SPACING_LIMITS[0] or lengths.max() > SPACING_LIMITS[1]:
        raise VolumeError(
            f"{source}: its voxels are {found} mm, a CT's are {SPACING_LIMITS[0]:g} to {SPACING_LIMITS[1]:g} mm; "
            "write the spacing in millimetres"
        )
    if lengths.min() < USUAL_SPACING[0] or lengths.max() > USUAL_SPACING[1]:
        log.warning("%s: its voxels are %s mm, which is unusual for a CT; is the spacing right?", source, found)
    return affine


def check_values(low: float, high: float, source: str) -> None:
    """VolumeError where the least or largest voxel is no CT's; a warning where it is more than 16 bits hold."""
    if not (np.isfinite(low) and np.isfinite(high)):
        raise VolumeError(f"{source}: holds NaN or infinite voxels; replace them, for instance by air (-1024)")
    if low == high:
        raise VolumeError(f"{source}: every voxel is {low:g}; this is no CT")
    if low < -VALUE_LIMIT or high > VALUE_LIMIT:
        raise VolumeError(
            f"{source}: voxels go from {low:g} to {high:g}, Hounsfield units never beyond {VALUE_LIMIT:g}; replace "
            "those that are none, for instance by air (-1024)"
        )
    if low < USUAL_VALUES[0] or high > USUAL_VALUES[1]:
        log.warning("%s: voxels go from %g to %g; are they Hounsfield units?", source, low, high)

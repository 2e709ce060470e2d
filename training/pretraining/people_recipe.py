"""The recipe for organs of person phantoms, with no real voxel; docs/phantoms.md says what it finds on real CT.

That for OpenKBP's patients but for what it sees: forty structures of a whole body in scans of any field and voxel size.
"""

from __future__ import annotations

from typing import Any

from training.pretraining.open_kbp_recipe import OPEN_KBP_RECIPE

PEOPLE_RECIPE: dict[str, Any] = {
    **OPEN_KBP_RECIPE,
    "cache": "runs/people/cache",
    "task_weights": ("phantom_segmentation=1",),
    "field_of_view": None,
    "clip_hu": (-500.0, 400.0),  # lungs stay apart from fat, and soft tissues from one another
    "resize": "isotropic",  # what a field of view shows fills the grid, since voxels are of any size
    "deep_supervision": 2.0,
    "deep_tokens": False,  # for masks alone
    "absent_labels": "balanced",  # most windows show few of the structures
    "labels_per_step": 16,  # of them all a step takes three times as long
    "max_iters": 2500,
    "save_interval": 500,
    "eval_interval": 0,
}

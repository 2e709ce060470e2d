"""The recipe for organs of 170 patients on two CPU cores; docs/real_data.md says what has been measured of it.

What it does otherwise than the published one is what the phantom recipe does, for the same reason, and what makes much
of few patients: windows of neighbouring slices, mirrored patients, small turns and changes of size.
"""

from __future__ import annotations

from typing import Any

OPEN_KBP_RECIPE: dict[str, Any] = {
    # data
    "cache": "runs/open_kbp/cache",
    "task_weights": ("open_kbp_segmentation=1",),
    "kinds": ("segmentation",),
    "skip_missing_tasks": True,
    "orientation": "RAS",
    "field_of_view": (240.0, 360.0),  # the shoulders hold none of the organs; what is left fits --preset narrow
    "clip_hu": (-250.0, 400.0),  # soft tissues differ by tens of HU; teeth and fillings would take the scale
    "normalisation": "window",  # a z-score depends on how much of the shoulders was scanned
    "resize": "shrink",  # these volumes fit their patches as they are, and a size in voxels is a size
    "window_slices": 32,
    "validation_samples": 33,
    # augmentation
    "augment_rotate": 0.0,  # a quarter turn shows a patient as none lies
    "augment_affine": 0.5,
    "augment_mirror": 0.5,
    # objectives
    "mask_bce_weight": 5.0,
    "log_dice": True,  # most windows show no larynx, or no oesophagus
    "deep_supervision": 0.2,  # enough for the tokens; more of it takes from the masks
    "deep_tokens": True,  # masks alone teach the tokens nothing, which are all that a language model sees
    # optimisation
    "max_iters": 14000,
    "segmentation_micro_batch": 2,
    "accumulation_steps": 1,
    "optimizer": "Muon",
    "muon_mask_decoder": True,
    "zero_stage": 0,
    "precision": "autocast",
    "learning_rate": 2e-3,
    "betas": (0.9, 0.99),
    "weight_decay": 0.05,
    "projection_rate": 10.0,
    "warmup": 0.03,
    "warmup_shape": "linear",
    "schedule_updates": 0,
    "log_interval": 20,
    "save_interval": 1000,
    "eval_interval": 3000,
}

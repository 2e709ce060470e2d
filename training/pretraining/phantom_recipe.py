"""The recipe that learns from some thousand phantoms within minutes on two CPU cores; the demo's first stage.

It departs from the published recipe in nearly everything that is tuned: 1,300 steps from random weights on phantoms
are another problem than 100,000 draws over CTs, for which the published trainer can start from an earlier vision
checkpoint.  docs/demo_recipe.md lists every value beside the published one, with the reason.
"""

from __future__ import annotations

from typing import Any

PHANTOM_RECIPE: dict[str, Any] = {
    # data: reports, diseases with their details, organs, and lesions for the deep maps and tokens alone
    "task_weights": (
        "phantom_image_text=0.7",
        "phantom_classification=0",
        "phantom_detail_classification=3",
        "phantom_segmentation=3",
        "phantom_lesion_segmentation=3",
    ),
    "absent_labels": "balanced",
    "augmentation": False,  # a run of minutes underfits as it is
    "validation_samples": 50,
    # objectives
    "running_centre": True,
    "prevalence": True,
    "deep_supervision": 2.0,
    "deep_only_tasks": ("phantom_lesion_segmentation",),
    "token_classification": 1.0,
    # optimisation
    "max_iters": 1300,
    "micro_batch": 8,
    "segmentation_micro_batch": 2,
    "accumulation_steps": 1,
    "optimizer": "Muon",
    "zero_stage": 0,
    "precision": "fp32",
    "learning_rate": 1e-3,
    "betas": (0.9, 0.99),  # gradients shrink tenfold within a hundred steps
    "weight_decay": 0.05,
    "mask_decoder_rate": 0.5,  # at 1 it may take a thousand steps to tell left from right
    "projection_rate": 10.0,
    "warmup": 0.03,
    "warmup_shape": "linear",
    "schedule_updates": 0,
    "log_interval": 10,
    "save_interval": 0,
    "eval_interval": 1300,
}

"""The recipe that teaches a tiny language model to answer about head-and-neck CT, after the encoder's of the same name.

It needs what that left behind: `--pretrained_vision RUN --query_text_encoder RUN/text_encoder`.  It is the phantom
recipe but for the mix of questions and what is said below; docs/real_data.md has its figures.
"""

from __future__ import annotations

from typing import Any

from training.tuning.phantom_recipe import PHANTOM_RECIPE

OPEN_KBP_RECIPE: dict[str, Any] = {
    **PHANTOM_RECIPE,
    "task_weights": ("segmentation=10", "yes_no=12", "multiple_choice=12"),
    "loss_weights": ("query=20", "mask=2"),
    "precision": "autocast",
    "max_iters": 300,
    "mask_slices": 16,
    "mask_volumes": 2,
    "eval_interval": 0,
}

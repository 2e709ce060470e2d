"""The recipe that teaches a tiny language model, made on the spot, about phantoms; the demo's second stage.

It needs what the first stage left behind: `--pretrained_vision RUN --query_text_encoder RUN/text_encoder`.
docs/demo_recipe.md lists every value beside the published one, with the reason.
"""

from __future__ import annotations

from typing import Any

PHANTOM_RECIPE: dict[str, Any] = {
    # data: several questions about a volume share its encoding, which is most of the work
    "questions_per_volume": 20,
    "task_weights": (
        "diagnosis=16",
        "segmentation=8",
        "yes_no=16",
        "multiple_choice=50",
        "open_vqa=14",
        "report_generation=12",
    ),
    # model and objectives
    "grounded_start": True,
    "train_vision": False,
    "length_power": 0.25,
    "loss_weights": ("diagnosis=10", "query=20", "mask=2"),
    "mask_slices": 12,
    "mask_volumes": 1,
    # optimisation
    "max_iters": 1000,
    "batch_size": 6,  # volumes, of as many questions as above
    "micro_batch": 6,
    "optimizer": "Muon",
    "zero_stage": 0,
    "precision": "fp32",
    "learning_rate": 3e-3,
    "muon_rate": 1.4,
    "vision_learning_rate": 3e-4,
    "save_interval": 0,
    "eval_interval": 500,
}

"""The recipe that teaches a tiny language model to ask for organs of person phantoms; docs/phantoms.md has its figures.

It needs what the encoder's recipe of the same name left behind: `--pretrained_vision RUN --query_text_encoder
RUN/text_encoder`.  The mask decoder knows the organs by their text embeddings already, so all that is learned is to
ask for them: masks have no part in the loss, and no weight of encoder or mask decoder moves (the batch statistics of
the latter do).
"""

from __future__ import annotations

from typing import Any

from training.tuning.open_kbp_recipe import OPEN_KBP_RECIPE

PEOPLE_RECIPE: dict[str, Any] = {
    **OPEN_KBP_RECIPE,
    "questions_per_volume": 16,
    "task_weights": (),  # all questions are for masks
    "loss_weights": ("query=20", "mask=0"),
    "mask_slices": 1,  # the fewest, since their loss does not count
    "mask_volumes": 1,
    "max_iters": 150,
    "batch_size": 2,
    "micro_batch": 2,
}

"""Networks: encoders, mask decoder, projector, language-model wrapper, losses and checkpoints.

    from models import CTInstruct
    model = CTInstruct.from_pretrained("owner/name")
    model.ask("ct.nii.gz", "Where is the liver?")

is `models.checkpoints.pretrained`'s class, loaded when it is asked for: importing a part of this package loads no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.checkpoints.pretrained import PretrainedCTInstruct as CTInstruct

__all__ = ["CTInstruct"]


def __getattr__(name: str) -> Any:
    if name == "CTInstruct":
        from models.checkpoints.pretrained import PretrainedCTInstruct

        return PretrainedCTInstruct
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

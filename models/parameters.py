"""Which parameters train, at which rate, and a table that says so.

Models are known here by the names of their parts alone, so nothing else of this package is imported.
"""

from __future__ import annotations

import re
from typing import Any, cast

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

# In the published weights, but without a part in any output: kept for their names, never trained, so that weight
# decay does not wear them away.
_UNUSED = re.compile(r"\.context_norm\.|transformer_decoder\.layers\.\d+\.norm1\.|resnet2D\.fc\.")
_JOINTS = ("vision.bridger.", "vision.qwen2biolord.")
_PARTS = {  # the first pattern that a name begins with says where it belongs
    "vision encoder": r"vision\.encoder\.",
    "projector": r"vision\.bridger\.",
    "mask decoder": r"vision\.",
    "LoRA adapters": r"language_model\..*\.lora_",
    "rows of new tokens": r"language_model\..*\.trainable_tokens_delta",
    "language model": r"language_model\.",
    "diagnosis heads": r"diagnosis_heads\.",
}


def freeze_unused(model: nn.Module) -> None:
    """Take the parameters that no output depends on out of training."""
    for name, parameter in model.named_parameters():
        if _UNUSED.search(f".{name}"):
            parameter.requires_grad_(False)


def freeze_encoder(model: nn.Module) -> None:
    """Train everything but the vision encoder; the projector and the mask decoder go on learning."""
    model.get_submodule("vision.encoder").requires_grad_(False)


def parameter_groups(model: nn.Module, learning_rate: float, vision_learning_rate: float) -> list[dict[str, Any]]:
    """CTInstruct's trained parameters in groups for a torch optimiser, each with its peak learning rate.

    `vision_learning_rate` is that of encoder and mask decoder.  `learning_rate` is that of the language model, the
    diagnosis heads, the projector and the projection of queries; the last two are new where the others are pretrained.
    """
    vision: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            own = name.startswith("vision.") and not name.startswith(_JOINTS)
            (vision if own else rest).append(parameter)
    groups = [{"params": rest, "lr": learning_rate}, {"params": vision, "lr": vision_learning_rate}]
    return [group for group in groups if group["params"]]


def hidden_matrices(model: nn.Module, mask_decoder: bool = False) -> list[Tensor]:
    """The trained weight matrices that the Muon optimiser steps; all other parameters are left to AdamW.

    They are the weights of linear layers and convolutions in the encoder of a `PretrainingModel`, in projector and
    language model of a `CTInstruct`, and anywhere in another model.

    Muon is meant for layers whose input and output are both hidden states (Jordan et al. 2024).  So the language
    model's output layer and the convolutions that see voxels are left out, and with them the mask decoder, the
    diagnosis heads and the projections to the space of texts.

    mask_decoder: with the layers between feature maps, queries and masks, as docs/real_data.md has it.
    """
    children = dict(model.named_children())
    parts, output = [model], None
    if "language_model" in children:
        parts = [model.get_submodule("vision.bridger"), children["language_model"]]
        output = cast(PreTrainedModel, children["language_model"]).get_output_embeddings()
    elif "vision" in children:
        parts = [model.get_submodule("vision.encoder")]
    if mask_decoder and "vision" in children:
        names = ("decoder", "projection_layer", "transformer_decoder", "mask_embed_proj")
        parts += [model.get_submodule(f"vision.{name}") for name in names]
    kinds = nn.Linear | nn.Conv2d | nn.Conv3d
    layers = [layer for part in parts for layer in part.modules() if isinstance(layer, kinds) and layer is not output]
    # channels of voxels: one, gray, or three, as the published encoder repeats it
    inside = [layer for layer in layers if getattr(layer, "in_channels", None) not in (1, 3)]
    return [layer.weight for layer in inside if layer.weight.requires_grad]


def parameter_counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Parameters and trained parameters of each part of CTInstruct that the model has, in the order of the table."""
    counts = {part: (0, 0) for part in _PARTS}
    for name, parameter in model.named_parameters():
        part = next(part for part, pattern in _PARTS.items() if re.match(pattern, name))
        total, trained = counts[part]
        counts[part] = total + parameter.numel(), trained + parameter.numel() * parameter.requires_grad
    return {part: count for part, count in counts.items() if count[0]}


def print_parameters(model: nn.Module) -> None:
    """A table of `parameter_counts`, in millions."""
    counts = parameter_counts(model)
    table = Table("part", "parameters (M)", "trained (M)", title="CTInstruct")
    for part, (total, trained) in counts.items():
        table.add_row(part, f"{total / 1e6:.3f}", f"{trained / 1e6:.3f}")
    total, trained = (sum(values) for values in zip(*counts.values(), strict=True))
    table.add_section()
    table.add_row("all", f"{total / 1e6:.3f}", f"{trained / 1e6:.3f}")
    for column in table.columns[1:]:
        column.justify = "right"
    Console().print(table)

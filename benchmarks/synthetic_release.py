"""A folder like the released CTInstruct, with random weights: its names, shapes, types, shards and tokenizer.

Written shard by shard; the model is never in memory.  Names and shapes come from the release's own list and from what
transformers 4.48 calls the tensors of Qwen2-VL, not from this project's classes: loading the folder proves those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.synthetic_tokenizer import QWEN_VOCABULARY, synthetic_tokenizer
from datasets.vocabulary import diseases_of
from models.checkpoints.released import HEADS
from models.checkpoints.weight_files import WEIGHTS_INDEX
from models.configuration import VISION_PRESETS, VisionConfig
from models.vision import VisionModel

_SHAPES = Path(__file__).resolve().parents[1] / "tests" / "data" / "parity" / "reference_state_dict_shapes.json"
_COUNTER = "num_batches_tracked"  # the one kind of integer among the weights
_ONES = (".gamma", ".q_scale", ".k_scale", ".running_var")  # beside the weights of norms: vectors that multiply

# config.json of Qwen/Qwen2-VL-7B-Instruct, without the entries of its own vision tower, which the release lacks
QWEN2_VL_7B: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "image_token_id": 151655,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "model_type": "qwen2_vl",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
    "vision_token_id": 151654,
    "vocab_size": 152064,
}
_TINY = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "vocab_size": 2048,
}
_SMALL = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_hidden_layers": 8,
    "num_key_value_heads": 2,
    "vocab_size": 16384,
}


@dataclass(frozen=True)
class Scale:
    """A size of the release.  language: config.json.  vision: None for the published shapes.  shard: largest file."""

    language: dict[str, Any]
    vision: VisionConfig | None
    shard: str

    @property
    def tokens(self) -> int:
        """Tokens before the special ones; a published vocabulary is padded past its tokenizer's length."""
        return min(QWEN_VOCABULARY, self.language["vocab_size"] - 128)


SCALES = {
    "full": Scale(QWEN2_VL_7B, None, "5GB"),
    "small": Scale({**QWEN2_VL_7B, **_SMALL}, VISION_PRESETS["small"], "400MB"),
    "tiny": Scale({**QWEN2_VL_7B, **_TINY}, VISION_PRESETS["tiny"], "1MB"),
}


def release_shapes(scale: Scale) -> dict[str, tuple[int, ...]]:
    """Every key of the release's weights with its shape, in the order of its files."""
    if scale.vision is None:
        visual = json.loads(_SHAPES.read_text())
    else:
        with torch.device("meta"):
            visual = {name: tensor.shape for name, tensor in VisionModel(vision_of(scale)).state_dict().items()}
    shapes = {f"visual.{name}": tuple(shape) for name, shape in visual.items()}
    config = scale.language
    width, inner, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes["model.embed_tokens.weight"] = (words, width)
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}."
        for name, rows in (("q", width), ("k", keys), ("v", keys)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, width)
            shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        shapes[f"{layer}self_attn.o_proj.weight"] = (width, width)
        shapes[f"{layer}mlp.gate_proj.weight"] = (inner, width)
        shapes[f"{layer}mlp.up_proj.weight"] = (inner, width)
        shapes[f"{layer}mlp.down_proj.weight"] = (width, inner)
        shapes[f"{layer}input_layernorm.weight"] = (width,)
        shapes[f"{layer}post_attention_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    shapes["lm_head.weight"] = (words, width)
    for prefix, label_set in HEADS.items():
        for number in range(len(diseases_of(label_set))):
            shapes[f"{prefix}.{number}.weight"] = (1, width)
            shapes[f"{prefix}.{number}.bias"] = (1,)
    return shapes


def vision_of(scale: Scale) -> VisionConfig:
    """The vision configuration, with the language model's width."""
    published = scale.vision or VISION_PRESETS["full"]
    return VisionConfig.from_dict({**published.to_dict(), "llm_width": scale.language["hidden_size"]})


def weight_bytes(shapes: Mapping[str, tuple[int, ...]]) -> int:
    """What the weights take on disk: bf16, and the counters 64 bits."""
    return sum(prod(shape) * (8 if name.endswith(_COUNTER) else 2) for name, shape in shapes.items())


def write_release(scale: Scale, folder: Path) -> None:
    """Write config.json, tokenizer, shards and their index into an existing folder; a shard at a time is in memory."""
    shift = scale.tokens - QWEN_VOCABULARY  # of the ids of special tokens, which come after the others
    config = {key: value + shift if key.endswith("_token_id") else value for key, value in scale.language.items()}
    if scale.vision is not None:
        config["ctinstruct_vision"] = vision_of(scale).to_dict()
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    synthetic_tokenizer(scale.tokens).save_pretrained(folder)
    shapes = release_shapes(scale)
    empty = {name: torch.empty(shape, dtype=_dtype(name), device="meta") for name, shape in shapes.items()}
    plan = split_torch_state_dict_into_shards(empty, max_shard_size=scale.shard)
    noise = torch.randn(2**24, generator=torch.Generator().manual_seed(0)).bfloat16()
    for file, names in plan.filename_to_tensors.items():
        shard = {name: _random_weight(name, shapes[name], noise) for name in names}
        save_file(shard, folder / file, metadata={"format": "pt"})
        del shard  # before the next one is made
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _dtype(name: str) -> torch.dtype:
    return torch.int64 if name.endswith(_COUNTER) else torch.bfloat16


def _random_weight(name: str, shape: tuple[int, ...], noise: Tensor) -> Tensor:
    """As after a usual start, so that numbers keep their size from layer to layer: norms 1, biases 0, matrices noise.

    The noise is one block over and over: to draw eight billion numbers would take longer than all else.
    """
    if name.endswith(_COUNTER):
        return torch.zeros(shape, dtype=torch.int64)
    if len(shape) < 2:
        ones = name.endswith(_ONES) or name.endswith(".weight")
        return torch.full(shape, float(ones), dtype=torch.bfloat16)
    weight = torch.empty(shape, dtype=torch.bfloat16)
    scale = 0.02 if "embed_tokens" in name else prod(shape[1:]) ** -0.5
    for part in weight.view(-1).split(len(noise)):
        torch.mul(noise[: len(part)], scale, out=part)
    return weight

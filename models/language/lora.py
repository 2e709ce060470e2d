"""Low-rank adaptation of the language model (peft), and how it is stored: the adapter, not the frozen weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datasets.errors import InputError
from datasets.vocabulary import IMAGE, IMAGE_END, IMAGE_START, NEW_TOKENS
from models.language.special_tokens import token_ids

LanguageModel = PreTrainedModel | PeftModel  # as it was loaded, or with an adapter around it

_TRAINED_NAMES = ("lora_", "trainable_tokens_delta")
_SETTINGS = "ctinstruct_lora"  # the attribute of an adapted model that keeps its `LoraSettings`


@dataclass(frozen=True)
class LoraSettings:
    """Rank, scale and dropout of the adapters, the layers that get one, and the model that they adapt.

    ``base`` is what the frozen weights are loaded from again: a hub name, a folder or a GGUF file of a language model,
    or a CTInstruct folder.
    """

    base: str
    rank: int = 8
    alpha: int = 32
    dropout: float = 0.1
    modules: tuple[str, ...] = ("q_proj", "v_proj")

    def to_dict(self) -> dict[str, Any]:
        """For a checkpoint's config.json."""
        return {**asdict(self), "modules": list(self.modules)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoraSettings:
        """The inverse of `to_dict`."""
        return cls(**{**values, "modules": tuple(values["modules"])})


def add_lora(model: LanguageModel, tokenizer: PreTrainedTokenizerBase, settings: LoraSettings) -> PeftModel:
    """Freeze ``model`` but for new adapters and for the rows of the added tokens, in embedding and output layer.

    Raises:
        InputError: the model has no layer of the given names.
    """
    ids = token_ids(tokenizer, [*NEW_TOKENS, IMAGE_START, IMAGE, IMAGE_END])
    names = {module: name for name, module in model.named_modules()}
    rows = {names[model.get_input_embeddings()].rpartition(".")[2]: ids}
    output = model.get_output_embeddings()
    if output is not None and output.weight is not model.get_input_embeddings().weight:
        rows[names[output].rpartition(".")[2]] = ids
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.modules),
        trainable_token_indices=rows,
    )
    try:
        adapted = get_peft_model(cast(PreTrainedModel, model), config)  # peft takes an adapted model too
    except ValueError as error:
        raise InputError(
            f"--lora_modules {' '.join(settings.modules)}: the language model {settings.base} has no such layers"
        ) from error
    setattr(adapted, _SETTINGS, settings)
    return adapted


def lora_settings(model: LanguageModel) -> LoraSettings | None:
    """The settings of an adapted model, or None."""
    return getattr(model, _SETTINGS, None) if isinstance(model, PeftModel) else None


def is_trained_name(name: str) -> bool:
    """Whether a name of an adapted language model's state dict belongs to the adapter."""
    return any(part in name for part in _TRAINED_NAMES)


def merge_lora(model: PeftModel) -> PreTrainedModel:
    """The plain language model with the adapter added into its weights."""
    return model.merge_and_unload()

"""Qwen's vision-language models without their vision tower: the text decoder and its head alone.

transformers offers these decoders only inside a class that also builds the vision tower (0.7 billion weights that
CTInstruct would never run).  The classes here hold ``model`` (the decoder) and ``lm_head``, which are the names of the
published Qwen2-VL checkpoints; they take ``inputs_embeds`` and 3D rotary positions of shape (3, batch, length).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLPreTrainedModel, Qwen2_5_VLTextModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLPreTrainedModel, Qwen2VLTextModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLPreTrainedModel, Qwen3VLTextModel


class _TextDecoderWithHead(PreTrainedModel):
    """What the three families share; each subclass names its configuration and its decoder class."""

    config_class: type[PreTrainedConfig]
    text_model_class: type[PreTrainedModel]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (transformers' convention)
    _keys_to_ignore_on_load_unexpected = [r"visual\."]  # noqa: RUF012

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__(config)
        self.model = self.text_model_class(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (batch, kept length, vocabulary); ``position_ids`` (3, batch, length), or (batch, length) for text.

        ``logits_to_keep``: how many of the last positions, 0 for all, or the positions themselves (n,).
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            **kwargs,  # among them the cache, whose name differs between versions of transformers
        )
        hidden = outputs.last_hidden_state
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(hidden[:, kept])
        others = {name: value for name, value in outputs.items() if name != "last_hidden_state"}
        return CausalLMOutputWithPast(logits=logits, **others)


class Qwen2VLTextForCausalLM(_TextDecoderWithHead, Qwen2VLPreTrainedModel, GenerationMixin):
    config_class = Qwen2VLTextConfig
    text_model_class = Qwen2VLTextModel


class Qwen2_5_VLTextForCausalLM(_TextDecoderWithHead, Qwen2_5_VLPreTrainedModel, GenerationMixin):
    config_class = Qwen2_5_VLTextConfig
    text_model_class = Qwen2_5_VLTextModel


class Qwen3VLTextForCausalLM(_TextDecoderWithHead, Qwen3VLPreTrainedModel, GenerationMixin):
    config_class = Qwen3VLTextConfig
    text_model_class = Qwen3VLTextModel


# By the model_type of the text configuration.
QWEN_TEXT_CLASSES: dict[str, type[_TextDecoderWithHead]] = {
    cls.config_class.model_type: cls
    for cls in (Qwen2VLTextForCausalLM, Qwen2_5_VLTextForCausalLM, Qwen3VLTextForCausalLM)
}

"""The tokens that CTInstruct adds to a language model's vocabulary, and the image markers it needs.

The order of ``NEW_TOKENS`` is that of the released checkpoints: it fixes which embedding row belongs to which token.
"""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

SEGMENTATION = "<SEG>"
DISEASE_CONFIDENCE = "<disease_confidence>"
TASK_TOKENS = {
    "yes_no": "<binary_answer>",
    "multiple_choice": "<multiple_choice>",
    "report_generation": "<report_generation>",
    "segmentation": "<segmentation>",
    "diagnosis": "<diagnosis>",
}
NEW_TOKENS = (SEGMENTATION, *TASK_TOKENS.values(), DISEASE_CONFIDENCE)

IMAGE_START = "<|vision_start|>"
IMAGE = "<|image_pad|>"
IMAGE_END = "<|vision_end|>"
IMAGE_MARKUP = IMAGE_START + IMAGE + IMAGE_END

# For tokenizers that come without a chat template (base models, GGUF files).
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Make ``tokenizer`` know every token above, as single tokens, and give it a pad token and a chat template.

    Image markers that the tokenizer already has (Qwen2-VL's do) keep their ids.  Calling it twice changes nothing.

    Returns:
        The number of tokens that were added.
    """
    missing = [
        token
        for token in (*NEW_TOKENS, IMAGE_START, IMAGE, IMAGE_END)
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id)
    ]
    added = tokenizer.add_tokens(missing, special_tokens=True) if missing else 0
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN_CHAT_TEMPLATE
    return added

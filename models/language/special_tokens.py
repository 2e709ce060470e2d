"""Making a tokenizer know CTInstruct's tokens, and the image markers that it needs."""

from __future__ import annotations

from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from datasets.vocabulary import IMAGE, IMAGE_END, IMAGE_START, NEW_TOKENS

# For tokenizers that come without a chat template (base models, GGUF files).
PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize + ': ' + message['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Make ``tokenizer`` know every token of CTInstruct, as single tokens, and give it a pad token and a chat template.

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


def token_ids(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]) -> list[int]:
    """The ids of tokens that ``tokenizer`` knows."""
    ids = tokenizer.convert_tokens_to_ids(list(tokens))
    return [ids] if isinstance(ids, int) else ids

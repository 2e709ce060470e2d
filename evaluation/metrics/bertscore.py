"""BERTScore from a local encoder folder (Zhang et al. 2020, "BERTScore: Evaluating Text Generation with BERT")."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError

from datasets.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BATCH = 32


@torch.inference_mode()
def _embed(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> list[torch.Tensor]:
    """Unit vectors (tokens, width) of each text's own tokens, special tokens left out."""
    vectors: list[torch.Tensor] = []
    device = next(model.parameters()).device
    longest = min(int(getattr(model.config, "max_position_embeddings", 512)), 512)
    # RoBERTa numbers its positions from padding_idx + 1, so it holds two tokens fewer than it has positions.
    longest -= 2 if "roberta" in str(model.config.model_type) or "mpnet" in str(model.config.model_type) else 0
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, max_length=longest,
            return_tensors="pt", return_special_tokens_mask=True,
        )  # fmt: skip
        own = (batch.pop("special_tokens_mask") == 0) & (batch["attention_mask"] == 1)
        hidden = model(**batch.to(device)).last_hidden_state.float().cpu()
        hidden = torch.nn.functional.normalize(hidden, dim=-1)
        vectors += [hidden[row, own[row]] for row in range(len(own))]
    return vectors


def greedy_f1(prediction: torch.Tensor, reference: torch.Tensor) -> float:
    """F1 of greedy cosine matching between unit vectors (p, width) and (r, width): each token takes its most similar
    one."""
    if len(prediction) == 0 or len(reference) == 0:
        return float(len(prediction) == len(reference))
    similarity = prediction @ reference.T
    precision, recall = similarity.max(1).values.mean(), similarity.max(0).values.mean()
    total = precision + recall
    return float(2 * precision * recall / total) if total != 0 else 0.0


def load_encoder(folder: str | Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The encoder of a local folder; raises InputError where it is absent or holds none."""
    from transformers import AutoModel, AutoTokenizer

    if not Path(folder).is_dir():
        raise InputError(
            f"BERTScore: {folder} is no folder; give a local Hugging Face encoder folder, or leave BERTScore out"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"BERTScore: {folder} holds no loadable encoder ({first_line})") from error
    return tokenizer, model


def bertscore(
    predictions: Sequence[str], references: Sequence[str], folder: str | Path, device: str | torch.device | None = None
) -> list[float]:
    """BERTScore F1 of each pair: last layer, no idf weights, no baseline rescaling, texts cut at the encoder's length.

    Args:
        folder: a local folder with a Hugging Face encoder and its tokenizer; nothing is fetched.
        device: where to run; a CUDA device if there is one by default.
    Raises:
        InputError: the folder is absent or holds no encoder.
    """
    tokenizer, model = load_encoder(folder)
    model = model.eval().to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    distinct = list(dict.fromkeys([*predictions, *references]))
    vectors = dict(zip(distinct, _embed(distinct, tokenizer, model), strict=True))
    return [greedy_f1(vectors[p], vectors[r]) for p, r in zip(predictions, references, strict=True)]

"""The frozen sentence encoder: a text becomes one vector of length 1; each distinct text is encoded once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from datasets.errors import InputError
from models.text.sentence_folder import SentenceFolder, fetch, read_sentence_folder, write_sentence_folder
from models.text.text_cache import TextCache

PUBLISHED_TEXT_ENCODER = "FremyCompany/BioLORD-2023"  # MPNet, 768 wide, mean pooling
_UNUSED = "pooler."  # BERT's own head on the first token; sentence-transformers pools in its place


class TextEncoder(nn.Module):
    """A transformer with pooling and normalisation as sentence-transformers does them, never trained.

    layout: the pooling mode, dense layers, longest text.  cache: folder of embeddings on disk, or None; a folder may
    serve many models and processes.
    """

    def __init__(
        self,
        transformer: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        layout: SentenceFolder,
        cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        self.transformer, self.tokenizer, self.layout = transformer, tokenizer, layout
        self.dense = nn.Sequential(*layout.dense)
        self.cache_folder = cache
        self.requires_grad_(False).eval()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        cache: str | Path | None = None,
        max_length: int | None = None,
        device: torch.device | str = "cpu",
    ) -> TextEncoder:
        """A hub name, a sentence-transformers folder, or a plain transformers folder (then with mean pooling).

        max_length: in tokens, in place of the folder's setting, which is often short for a report; the rest is cut.

        Raises InputError where the model cannot be found or asks for what is not supported.
        """
        layout = read_sentence_folder(fetch(name_or_folder))
        tokenizer, transformer = _load_transformer(layout.transformer)
        limits = (max_length or layout.max_length, tokenizer.model_max_length, _positions(transformer))
        layout.max_length = min(limit for limit in limits if limit)
        return cls(transformer, tokenizer, layout, cache).to(device)

    def save(self, folder: str | Path) -> Path:
        """Write a sentence-transformers folder, which `load` and that package read."""
        folder = Path(folder)
        self.transformer.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        write_sentence_folder(folder, self.layout, self.transformer.config.hidden_size)
        return folder

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        linears = [layer for layer in self.dense if isinstance(layer, nn.Linear)]
        return linears[-1].out_features if linears else self.transformer.config.hidden_size

    @cached_property
    def fingerprint(self) -> str:
        """Tells this model from every other: a hash of weights, tokenizer and settings."""
        digest = hashlib.blake2b(digest_size=16)
        settings = [self.layout.pooling, self.layout.max_length, self.layout.lower_case]
        digest.update(json.dumps([settings, self.transformer.config.model_type, repr(self.dense)]).encode())
        digest.update(_tokenizer_state(self.tokenizer).encode())
        for name, tensor in self.state_dict().items():
            if _UNUSED in name:
                continue
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def cache(self) -> TextCache | None:
        """The embeddings on disk."""
        return TextCache(self.cache_folder, self.fingerprint, self.width) if self.cache_folder else None

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Texts -> (n, width) float32 of length 1 on the CPU.

        Only texts that are neither repeated nor in the cache go through the model; texts of like length go together.
        """
        cached = {text: self.cache.get(text) if self.cache else None for text in dict.fromkeys(texts)}
        known = {text: embedding for text, embedding in cached.items() if embedding is not None}
        missing = sorted((text for text in cached if text not in known), key=len, reverse=True)
        for start in range(0, len(missing), batch_size):
            batch = missing[start : start + batch_size]
            for text, embedding in zip(batch, self._encode_batch(batch), strict=True):
                known[text] = embedding
                if self.cache:
                    self.cache.put(text, embedding)
        return torch.stack([known[text] for text in texts]) if len(texts) else torch.zeros(0, self.width)

    def _encode_batch(self, texts: list[str]) -> Tensor:
        texts = [text.strip().lower() if self.layout.lower_case else text.strip() for text in texts]
        tokens = self.tokenizer(
            texts, padding=True, truncation=True, max_length=self.layout.max_length, return_tensors="pt"
        ).to(self.transformer.device)
        hidden = self.transformer(**tokens).last_hidden_state.float()
        pooled = pool(hidden, tokens["attention_mask"], self.layout.pooling)
        return F.normalize(self.dense(pooled), dim=-1).cpu()


def pool(hidden: Tensor, attention_mask: Tensor, mode: str) -> Tensor:
    """One vector a text: hidden (B, L, C), attention mask (B, L), 1 at tokens -> (B, C).

    Modes as in sentence-transformers: "mean", "cls" (the first token), "max", "lasttoken", and "mean_sqrt_len", the sum
    over the root of the number of tokens.
    """
    mask = attention_mask.unsqueeze(-1).bool()
    if mode == "max":
        return hidden.masked_fill(~mask, -torch.inf).amax(1)
    if mode in ("cls", "lasttoken"):
        positions = torch.arange(mask.shape[1], device=mask.device)
        if mode == "cls":
            chosen = torch.where(mask[..., 0], positions, mask.shape[1]).argmin(1)
        else:
            chosen = torch.where(mask[..., 0], positions, -1).argmax(1)
        return hidden[torch.arange(len(hidden), device=hidden.device), chosen]
    total, count = hidden.masked_fill(~mask, 0).sum(1), mask.sum(1)
    return total / (count if mode == "mean" else count.sqrt())


def _load_transformer(folder: Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a missing or a surplus pooler is worth no table on the screen
    try:
        with torch.random.fork_rng(devices=[]):  # which a missing pooler is drawn from
            tokenizer = AutoTokenizer.from_pretrained(folder)
            transformer, report = AutoModel.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    except (OSError, ValueError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{folder}: not a transformer with weights and a tokenizer; copy the whole folder again ({reason})"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    missing = sorted(name for name in report["missing_keys"] if _UNUSED not in name)
    if missing:
        raise InputError(f"{folder}: {len(missing)} weights are missing, the first is {missing[0]}; copy it again")
    return tokenizer, transformer


def _positions(transformer: PreTrainedModel) -> int | None:
    """The longest text that the position embeddings allow."""
    config = transformer.config
    limit = getattr(config, "max_position_embeddings", None)
    if limit and config.model_type in ("mpnet", "roberta", "xlm-roberta", "camembert"):
        return limit - 2  # these count positions from 2
    return limit


def _tokenizer_state(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state.pop("truncation", None)  # of the last call, not of the tokenizer
        state.pop("padding", None)
        return json.dumps(state, sort_keys=True)
    return json.dumps(tokenizer.get_vocab(), sort_keys=True)

"""CTInstruct as users know a pretrained model: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError

from datasets.errors import CheckpointError
from datasets.volume.guards import BODY
from models.answering.familiarity import read_familiarity
from models.answering.interface import AnsweringCTInstruct
from models.answering.predicting import GenerationOptions
from models.checkpoints.folder import read_config, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.model_card import NO_LICENCE, model_card, read_metrics
from models.checkpoints.run_folder import resolve_model_folder
from models.compiled_steps import compile_steps
from models.generation import SearchProtocol
from models.hub.download import explain, find_model
from models.hub.names import HubName, hub_name
from models.hub.selection import HubError
from models.language.lora import lora_settings
from models.language.quantization import Quantization
from models.precision import AnswerPrecision, answer_dtype


class PretrainedCTInstruct(AnsweringCTInstruct):
    """The model with its ways from and to disk and hub; `from models import CTInstruct` is this class."""

    recipe: Mapping[str, Any] | None = None  # how it was trained: "training" of config.json

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | Path,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        quantize: Quantization | None = None,
        precision: AnswerPrecision | None = None,
        compile: bool = False,
    ) -> PretrainedCTInstruct:
        """A checkpoint folder or a hub name, ours or the release's, ready to answer.

        Args:
            name_or_folder: a model folder, or a run folder for its newest checkpoint, or "owner/name", or
                "owner/name@revision" with a branch, tag or commit.
            device: where the weights go.
            dtype: of the weights; None keeps the stored one.
            quantize: "int8" or "int4" holds the language model's linear layers in so many bits, for answering alone.
            precision: in place of dtype, "auto" for bf16 where that is faster here (`models.precision`), "bf16" or
                "fp32".  A model in bf16 is saved in bf16.
            compile: decode with compiled steps (`models.compiled_steps`), which the first answers take longer for.

        Raises:
            InputError: it cannot be had or is no complete checkpoint; the message is one line.
            ValueError: both dtype and precision are given.
        """
        if precision is not None:
            if dtype is not None:
                raise ValueError(f"dtype {dtype} and precision {precision!r}: give one of the two")
            dtype = answer_dtype(precision, device, quantize is not None)
        folder = resolve_model_folder(find_model(name_or_folder))
        model = cast(PretrainedCTInstruct, load_checkpoint(folder, device, dtype, cls, quantize))
        config = read_config(folder)
        model.recipe = config.get("training")
        model.trained_labels = tuple((model.recipe or {}).get("labels", ()))
        model.trained_body = (model.recipe or {}).get(BODY)
        model.options = GenerationOptions(protocol=search_protocol(config))
        model.familiarity = read_familiarity(folder)
        if compile:
            compile_steps(model.language_model)
        return model

    def save_pretrained(self, folder: str | Path, max_shard_size: str = "4GB") -> Path:
        """Write config.json, safetensors and the tokenizer, for `from_pretrained` and `--checkpoint`."""
        written = save_checkpoint(self, folder, max_shard_size, training=self.recipe)
        if self.familiarity is not None:
            self.familiarity.save(written)
        return written

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool = True,
        metrics: Mapping[str, Any] | str | Path | None = None,
        licence: str = NO_LICENCE,
        revision: str | None = None,
        token: str | None = None,
        message: str = "CTInstruct: weights, tokenizer and model card",
    ) -> str:
        """Write the model to a temporary folder, with a model card, and upload it.

        Args:
            repository: "owner/name"; it is made where it is not there yet.
            private: whether a new repository is; one that exists stays as it is.
            metrics: metrics.json of an evaluation, or its content, for the card.
            licence: of the weights, in the hub's words ("apache-2.0"); by default the card says that none was named.
            revision: branch to upload to, which must exist; None for the main one.
            token: in place of the one that `hf auth login` stored.
            message: of the commit.

        Returns:
            The address of the commit.

        Raises:
            InputError: the model is an adapter of a model that only this machine has, metrics cannot be read, or the
                hub refuses; the message is one line.
        """
        lora = lora_settings(self.language_model)
        if lora and not hub_name(lora.base, bare=True):
            raise CheckpointError(
                f"{repository}: the adapter's base {lora.base} is a path of this machine; merge the adapter first "
                "(python -m models.checkpoint merge)"
            )
        if metrics:
            metrics = read_metrics(metrics)  # before gigabytes are written
        api = HfApi(token=token)
        with tempfile.TemporaryDirectory(prefix="ctinstruct_") as temporary:
            folder = self.save_pretrained(temporary)
            card = model_card(folder, repository, metrics=metrics, licence=licence)
            (folder / "README.md").write_text(card, encoding="utf-8")
            try:
                api.create_repo(repository, private=private, exist_ok=True)
                commit = api.upload_folder(
                    repo_id=repository, folder_path=folder, commit_message=message, revision=revision
                )
            except LocalTokenNotFoundError as error:
                raise HubError(f"{repository}: log in with `hf auth login`, or set HF_TOKEN, to upload") from error
            except Exception as error:  # whatever huggingface_hub and its network client raise
                raise HubError(f"upload to {explain(HubName(repository, revision), error)}") from error
        return str(commit.commit_url)


def search_protocol(config: Mapping[str, Any]) -> SearchProtocol:
    """How the model of a config.json was meant to search for answers; a released one has no format of this project."""
    return "beams" if "format" in config else "release"

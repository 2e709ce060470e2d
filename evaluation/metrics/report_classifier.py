"""Labels of a report from a local Hugging Face multi-label text classifier, in place of the rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError

from datasets.errors import InputError
from evaluation.metrics.report_labels import FINDINGS


def load_report_classifier(
    folder: str | Path, threshold: float = 0.5, device: str | torch.device = "cpu"
) -> Callable[[str], dict[str, int]]:
    """A labeller for `summarize(report_labeller=)`: text -> {finding: 0 or 1} by sigmoid(logit) >= threshold.

    Args:
        folder: a sequence-classification model and its tokenizer; nothing is fetched. Its `id2label` must name the 18
            CT-RATE findings, in any order and letter case; further labels are ignored.
    Raises:
        InputError: the folder holds no such model, or a finding has no label.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    if not Path(folder).is_dir():
        raise InputError(f"report classifier: {folder} is no folder; give a local Hugging Face classifier folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True).eval().to(device)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"report classifier: {folder} holds no loadable classifier ({reason})") from error
    column = {str(name).lower(): int(index) for index, name in model.config.id2label.items()}
    if absent := [finding for finding in FINDINGS if finding.lower() not in column]:
        raise InputError(f"report classifier: {folder} has no label for {', '.join(absent)} in its id2label")

    @torch.inference_mode()
    def label(text: str) -> dict[str, int]:
        inputs = tokenizer(text, truncation=True, max_length=512, return_tensors="pt").to(device)
        probability = model(**inputs).logits[0].float().sigmoid()
        return {finding: int(probability[column[finding.lower()]] >= threshold) for finding in FINDINGS}

    return label

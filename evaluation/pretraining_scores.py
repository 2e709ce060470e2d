"""What a pretrained encoder can do on held-out volumes: classify, segment, and match volumes with reports."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import numpy as np
import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor

from datasets.pretraining import PretrainingDataset, PretrainingSample
from datasets.vocabulary import IGNORED_VOXEL
from models.pretraining import PretrainingModel
from models.text.contrastive import SAME_TEXT
from training import distributed
from training.distributed import Ranks

RECALL_AT = (1, 5, 10)
Given = TypeVar("Given")


@torch.no_grad()
def evaluate_pretraining(
    model: PretrainingModel,
    dataset: PretrainingDataset,
    ranks: Ranks,
    limit: int | None = None,
    untrained: Collection[str] = (),
) -> dict[str, float]:
    """Scores of every task of ``dataset``, shared out over the ranks; the same on all of them.

    classification: ``auc`` and ``f1``, means over labels that have both kinds of case, from the cosines with the label
    descriptions that training uses, and ``accuracy``: of the likeliest label where a volume has one ("CE"), of the
    threshold 0.5 where it may have several ("BCE").
    ``zero_shot_auc``: AUC from the cosines with the bare names of the labels (Radford et al. 2021), texts on which no
    objective trains; it is zero-shot in the strict sense for the tasks named in ``untrained``, whose other scores are
    left out.
    image_text: ``image_to_text`` and ``text_to_image`` recall at 1, 5 and 10 among the distinct texts, where a tie is
    no hit, and what chance gives.
    segmentation: ``dice`` on the padded grid, mean over structures of their means, and each structure's.
    """
    training = model.training
    model.eval()
    scores: dict[str, float] = {}
    for name, task in dataset.tasks.items():
        references = dataset.evaluation_references(name, limit)
        names = dataset.name_embeddings(task.labels) if task.kind == "classification" else None
        mine = [_score(model, dataset[reference], names) for reference in references[ranks.rank :: ranks.world_size]]
        rows = _in_order(distributed.all_gather_object(mine), len(references))
        if task.kind == "classification":
            found = _classification_scores(rows, _given(task.loss))
        else:
            found = _retrieval_scores(rows) if task.kind == "image_text" else _segmentation_scores(rows)
        if name in untrained:
            found = {key: value for key, value in found.items() if key == "zero_shot_auc"}
        scores |= {f"{name}/{key}": value for key, value in found.items()}
    model.train(training)
    return scores


def _score(model: PretrainingModel, sample: PretrainingSample, label_names: Tensor | None) -> dict:
    encoded = model.encode([sample.volume])
    device = encoded[0].tokens.device
    if sample.kind == "segmentation":
        logits = model.vision.decode_masks(encoded[0], _given(sample.label_embeddings).to(device), project=False)
        return {"labels": sample.labels, "dice": dice_per_mask(logits.cpu(), _given(sample.masks)).tolist()}
    embedding = model.embed_encoded(encoded)
    if sample.kind == "image_text":
        text = model.embed_texts(_given(sample.text_embedding)[None].to(device))
        return {"image": embedding[0].cpu().numpy(), "text": text[0].cpu().numpy()}
    loss, target = _given(sample.loss), _given(sample.target)
    cosines = model.label_scores(embedding, _given(sample.label_embeddings).to(device))
    logits = model.classification_logits(cosines, loss)
    scores = logits.softmax(-1) if loss == "CE" else logits.sigmoid()
    if loss == "CE":
        target = torch.nn.functional.one_hot(target, scores.shape[-1]).float() if target >= 0 else scores[0] * torch.nan
    zero_shot = model.label_scores(embedding, _given(label_names).to(device))
    return {
        name: value.cpu().numpy()
        for name, value in (("scores", scores[0]), ("target", target), ("zero_shot", zero_shot[0]))
    }


def _given(value: Given | None) -> Given:
    """A field that every task or sample of its kind has."""
    assert value is not None
    return value


def dice_per_mask(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice of logit > 0 against masks (n, X, Y, Z) of 0, 1 and -1 (ignored) -> (n,); 1 where both are empty."""
    known = masks != IGNORED_VOXEL
    predicted, true = (logits > 0) & known, masks == 1
    overlap = (predicted & true).flatten(1).sum(1)
    total = predicted.flatten(1).sum(1) + true.flatten(1).sum(1)
    return torch.where(total > 0, 2 * overlap / total.clamp_min(1), 1.0)


def _in_order(parts: list[list[dict]], count: int) -> list[dict]:
    """Undo the dealing of rows to ranks."""
    return [parts[i % len(parts)][i // len(parts)] for i in range(count)]


def _classification_scores(rows: list[dict], loss: str) -> dict[str, float]:
    scores, targets = np.stack([r["scores"] for r in rows]), np.stack([r["target"] for r in rows])
    cosines = np.stack([r["zero_shot"] for r in rows])
    predicted = np.eye(scores.shape[1])[scores.argmax(1)] if loss == "CE" else scores > 0.5
    right = predicted == targets
    if loss == "CE":
        right = right.all(1, keepdims=True)
    aucs, f1s, zero_shot_aucs, accuracies = [], [], [], []
    for column in range(scores.shape[1]):
        known = np.isfinite(targets[:, column])
        truth = targets[known, column].astype(int)
        if known.any():
            accuracies.append(float(right[known, 0 if loss == "CE" else column].mean()))
        if len(set(truth.tolist())) == 2:
            aucs.append(float(roc_auc_score(truth, scores[known, column])))
            zero_shot_aucs.append(float(roc_auc_score(truth, cosines[known, column])))
            f1s.append(float(f1_score(truth, predicted[known, column], zero_division=0)))
    named = {"auc": aucs, "f1": f1s, "accuracy": accuracies, "zero_shot_auc": zero_shot_aucs}
    return {name: float(np.mean(values)) for name, values in named.items() if values}


def _retrieval_scores(rows: list[dict]) -> dict[str, float]:
    texts = np.stack([r["text"] for r in rows])
    similarity = np.stack([r["image"] for r in rows]) @ texts.T
    rivals = (np.abs(texts[:, None] - texts) > SAME_TEXT).any(2)  # the same text, of another volume, is right as well
    scores = {}
    for name, table in (("image_to_text", similarity), ("text_to_image", similarity.T)):
        ahead = rivals & ~(table < np.diag(table)[:, None])  # a tie and a NaN are ahead
        rank = ahead.sum(1)
        for k in RECALL_AT:
            scores[f"{name}_recall_{k}"] = float((rank < k).mean())
    return scores | {f"chance_recall_{k}": min(k / len(rows), 1.0) for k in RECALL_AT}


def _segmentation_scores(rows: list[dict]) -> dict[str, float]:
    dice: dict[str, list[float]] = {}
    for row in rows:
        for label, value in zip(row["labels"], row["dice"], strict=True):
            dice.setdefault(label, []).append(value)
    means = {label: float(np.mean(values)) for label, values in dice.items()}
    return {"dice": float(np.mean(list(means.values()))), **{f"dice/{label}": value for label, value in means.items()}}

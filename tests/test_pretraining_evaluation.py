"""The scores of a pretrained encoder, against counting by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.catalog import PretrainingTask
from evaluation.pretraining_scores import (
    _classification_scores,
    _in_order,
    _retrieval_scores,
    dice_per_mask,
    evaluate_pretraining,
)
from tests.pretraining_samples import TEXT_WIDTH, make_batch, tiny_pretraining
from training.distributed import Ranks
from training.pretraining.data import tasks_to_validate

ONE = Ranks(0, 1, 0, torch.device("cpu"))


class Volumes:
    """Six volumes in a multi-label and in a single-label task, with the names and descriptions of four labels."""

    def __init__(self):
        labels = ("a", "b", "c", "d")
        self.tasks = {
            loss: PretrainingTask(loss, "classification", 1.0, "none", labels, loss) for loss in ("BCE", "CE")
        }
        self.names = torch.randn(4, TEXT_WIDTH, generator=torch.Generator().manual_seed(5))

    def evaluation_references(self, task, limit):
        return [(task, index) for index in range(6)][:limit]

    def name_embeddings(self, labels):
        assert labels == ("a", "b", "c", "d")
        return self.names

    def __getitem__(self, reference):
        loss, index = reference
        batch = make_batch(loss, [index])
        return SimpleNamespace(
            kind="classification",
            loss=loss,
            volume=batch.volumes[0],
            label_embeddings=batch.label_embeddings,
            target=batch.targets[0],
        )


def pairs_in_order(truth, scores) -> float:
    """The area under the ROC curve as the share of pairs, of a positive and a negative, that are in order."""
    pairs = [
        (p, n) for p, t in zip(scores, truth, strict=True) if t for n, u in zip(scores, truth, strict=True) if not u
    ]
    return sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)


@pytest.mark.parametrize("loss", ["BCE", "CE"])
def test_zero_shot_compares_volumes_with_names_and_nothing_else(loss):
    data, model = Volumes(), tiny_pretraining()
    data.tasks = {loss: data.tasks[loss]}
    scores = evaluate_pretraining(model, data, ONE)
    assert model.training
    samples, texts = [data[loss, index] for index in range(6)], model.eval().text_projection(data.names)
    with torch.no_grad():
        volumes = [model.embed_volumes([sample.volume])[0] for sample in samples]
    expected = []
    for label in range(4):
        truth = [bool(s.target == label) if loss == "CE" else bool(s.target[label]) for s in samples]
        cosines = [float(F.cosine_similarity(volume, texts[label], dim=0)) for volume in volumes]
        if 0 < sum(truth) < 6:
            expected.append(pairs_in_order(truth, cosines))
    assert len(expected) > 1 and scores[f"{loss}/zero_shot_auc"] == pytest.approx(np.mean(expected))
    assert scores[f"{loss}/auc"] != scores[f"{loss}/zero_shot_auc"]
    model.train()
    only = evaluate_pretraining(model, data, ONE, untrained=[loss])
    assert only == {f"{loss}/zero_shot_auc": scores[f"{loss}/zero_shot_auc"]}


def test_tasks_of_classification_that_are_not_trained_are_validated_zero_shot(tmp_path):
    def task(name, kind):
        return PretrainingTask(name, kind, 1.0, f"{tmp_path}/{name}_{{split}}.json")

    every = [task("reports", "image_text"), task("masks", "segmentation"), task("seen", "classification")]
    every += [task("unseen", "classification"), task("without_split", "classification")]
    for name in ("reports", "masks", "seen", "unseen"):
        (tmp_path / f"{name}_val.json").write_text("[]")
    found, untrained = tasks_to_validate(every, [every[0], every[2], every[4]], "val")
    assert [task.name for task in found] == ["reports", "seen", "unseen"] and untrained == ["unseen"]


def test_a_task_whose_labels_another_one_teaches_is_not_zero_shot(tmp_path):
    def task(name, labels, weight=1.0):
        (tmp_path / f"{name}_val.json").write_text("[]")
        return PretrainingTask(name, "classification", weight, f"{tmp_path}/{name}_{{split}}.json", labels)

    more = task("more", ("Cyst", "left cyst", "effusion"), weight=0)
    some = [task("part", ("cyst", "effusion")), task("overlap", ("cyst", "hernia")), task("other", ("hernia",))]
    found, untrained = tasks_to_validate([*some, more], [more], "val")
    assert [task.name for task in found] == ["more", "part", "overlap", "other"] and untrained == ["overlap", "other"]
    found, untrained = tasks_to_validate([*some, more], [some[0]], "val")
    assert [task.name for task in found] == ["part", "overlap", "other"], "what has no weight is not asked for"


def test_dice_ignores_padding_and_counts_voxels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 6, 7, generator=generator)
    masks = torch.randint(-1, 2, (3, 5, 6, 7), generator=generator)
    logits[2], masks[2] = -1.0, masks[2].clamp(max=0)  # empty in both
    expected = []
    for logit, mask in zip(logits.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True):
        pairs = [(value > 0, target == 1) for value, target in zip(logit, mask, strict=True) if target != -1]
        both, total = sum(a and b for a, b in pairs), sum(a + b for a, b in pairs)
        expected.append(2 * both / total if total else 1.0)
    assert dice_per_mask(logits, masks).tolist() == pytest.approx(expected)


def test_recall_counts_the_pairs_that_rank_high_enough():
    rng = np.random.default_rng(0)
    rows = [{"image": rng.normal(size=4), "text": rng.normal(size=4)} for _ in range(30)]
    rows[7]["text"] = rows[3]["text"]  # either is right for either
    scores = _retrieval_scores(rows)
    for k in (1, 5, 10):
        hits = {"image_to_text": 0, "text_to_image": 0}
        for i, row in enumerate(rows):
            others = [row, *(rows[j] for j in range(30) if j != i and {i, j} != {3, 7})]
            for name, key in (
                ("image_to_text", lambda other, row=row: row["image"] @ other["text"]),
                ("text_to_image", lambda other, row=row: other["image"] @ row["text"]),
            ):
                ranked = sorted(others, key=key, reverse=True)
                hits[name] += any(other is row for other in ranked[:k])
        for name, count in hits.items():
            assert scores[f"{name}_recall_{k}"] == pytest.approx(count / 30)
        assert scores[f"chance_recall_{k}"] == pytest.approx(k / 30)


@pytest.mark.parametrize("value", [0.5, math.nan])
def test_a_model_that_gives_every_volume_the_same_finds_nothing(value):
    rows = [{"image": np.full(4, value), "text": np.array([1.0, i, -i, 0.0])} for i in range(12)]
    scores = _retrieval_scores(rows)
    assert all(scores[f"{way}_recall_{k}"] == 0 for way in ("image_to_text", "text_to_image") for k in (1, 5, 10))


def test_labels_of_one_class_are_left_out_of_the_auc():
    nothing = np.zeros(3)
    rows = [
        {"scores": np.array([0.9, 0.2, 0.4]), "target": np.array([1.0, 0.0, np.nan]), "zero_shot": nothing},
        {"scores": np.array([0.1, 0.6, 0.3]), "target": np.array([0.0, 0.0, 1.0]), "zero_shot": nothing},
    ]
    scores = _classification_scores(rows, "BCE")
    assert scores["auc"] == 1.0 and scores["f1"] == 1.0 and scores["zero_shot_auc"] == 0.5
    assert scores["accuracy"] == pytest.approx((1.0 + 0.5 + 0.0) / 3)


def test_of_one_label_a_volume_the_likeliest_counts():
    rows = [
        {"scores": np.array(given), "target": np.array(target), "zero_shot": np.zeros(3)}
        for given, target in (
            ([0.4, 0.35, 0.25], [1.0, 0.0, 0.0]),  # right, although below a half
            ([0.6, 0.3, 0.1], [0.0, 1.0, 0.0]),
            ([0.2, 0.7, 0.1], [0.0, 1.0, 0.0]),
            ([0.1, 0.2, 0.7], [np.nan] * 3),  # unknown: in no score
        )
    ]
    scores = _classification_scores(rows, "CE")
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["f1"] == pytest.approx(2 / 3)  # of both labels 2 TP / (2 TP + FP + FN) = 2 / 3; the third has no case


def test_rows_dealt_to_ranks_come_back_in_order():
    rows = list(range(7))
    assert _in_order([rows[0::3], rows[1::3], rows[2::3]], 7) == rows

"""The published evaluator's figures against plain loops, and where they are not defined; the vectors are elsewhere."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import nltk.tokenize
import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from evaluation.metrics import release_protocol
from evaluation.metrics.release_protocol import (
    bleu_1,
    dice_release_protocol,
    disease_figures,
    mean_and_deviation,
    meteor,
    release_diagnosis_metrics,
    release_text_metrics,
)


def test_mean_and_deviation_of_what_is_known() -> None:
    estimate = mean_and_deviation([1.0, None, 3.0], ["p", "q", "p"])
    assert (estimate["value"], estimate["std"], estimate["n"], estimate["patients"]) == (2, 1, 2, 1)
    assert mean_and_deviation([1.0, 1.0])["patients"] == 2, "samples of no known patient are patients of their own"
    nothing = mean_and_deviation([None], reason="no answer")
    assert nothing["value"] is None and nothing["reason"] == "no answer"


def test_bleu_keeps_case_and_pays_for_brevity() -> None:
    assert bleu_1("Liver", "liver") == 0 and bleu_1("liver", "liver") == 1
    assert bleu_1("Yes", "Yes.") == pytest.approx(math.exp(-1))  # two tokens in the reference, one given


def test_text_figures_are_means_and_the_bert_column_repeats_bleu() -> None:
    figures = release_text_metrics(["Yes", "no"], ["Yes.", "no"], ["p", "p"])
    first = math.exp(-1)
    assert figures["bleu_1_release_protocol"]["value"] == pytest.approx((first + 1) / 2)
    assert figures["bleu_1_release_protocol"]["std"] == pytest.approx((1 - first) / 2)
    assert figures["bertscore_release_protocol"] == figures["bleu_1_release_protocol"]
    assert release_text_metrics([], [])["rouge_1_release_protocol"]["value"] is None


def test_meteor_has_its_own_words_and_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release_protocol, "has_word_tokenizer", lambda: False)
    missing = release_text_metrics(["a nodule"], ["a nodule"])["meteor_release_protocol"]
    assert (
        missing["value"] is None and missing["reason"].startswith("not computed") and "punkt_tab" in missing["reason"]
    )
    monkeypatch.setattr(release_protocol, "has_word_tokenizer", lambda: True)
    monkeypatch.setattr(release_protocol, "wordnet_reader", lambda: SimpleNamespace(synsets=lambda word: []))
    monkeypatch.setattr(nltk.tokenize, "sent_tokenize", lambda text, language: [text])
    # "can't" is two words, "ca" and "n't"; all three match in one chunk: 1 - 0.5 (1/3)^3
    assert meteor("can't tell", "can't tell") == pytest.approx(1 - 0.5 / 27)
    assert meteor("", "can't tell") == 0


def test_dice_equals_a_loop_over_lines_of_the_second_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 6, 4, generator=generator) - 1.5
    target = torch.randint(-1, 2, (5, 6, 4), generator=generator).to(torch.int8)
    target[:2] = -1
    lines = []
    for x, z in itertools.product(range(5), range(4)):
        p, t = (logits[x, :, z] > 0).double(), (target[x, :, z] == 1).double()
        lines.append(float((2 * (p * t).sum() + 1e-7) / ((p + t).sum() + 1e-7)))
    assert dice_release_protocol(logits, target) == pytest.approx(np.mean(lines), abs=1e-6)
    with pytest.raises(ValueError, match="must share"):
        dice_release_protocol(logits, target[1:])


def test_background_lifts_the_dice() -> None:
    logits, target = torch.full((4, 4, 4), -5.0), torch.zeros(4, 4, 4, dtype=torch.int8)
    assert dice_release_protocol(logits, target) == 1
    target[0, 0, 0] = 1  # missed altogether, in one line of 16
    assert dice_release_protocol(logits, target) == pytest.approx(15 / 16)


def test_disease_figures_are_the_best_of_all_thresholds() -> None:
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 2, 50)
    scores = np.clip(0.3 * targets + 0.7 * generator.random(50), 0, 1)
    figures = disease_figures(targets, scores)
    hits = [((scores >= step / 1000) & (targets == 1)).sum() for step in range(1000)]
    called = [(scores >= step / 1000).sum() for step in range(1000)]
    found = [2 * hit / (all_called + targets.sum()) for hit, all_called in zip(hits, called, strict=True)]
    assert figures["threshold_release_protocol"] == pytest.approx(np.argmax(found) / 1000)
    assert figures["f1_release_protocol"] == pytest.approx(max(found))
    predicted = scores >= figures["threshold_release_protocol"]
    assert figures["accuracy_release_protocol"] == pytest.approx(sk.accuracy_score(targets, predicted))
    assert figures["precision_release_protocol"] == pytest.approx(sk.precision_score(targets, predicted))
    assert figures["auc_release_protocol"] == pytest.approx(sk.roc_auc_score(targets, scores))


def test_one_class_has_auc_zero_and_counts() -> None:
    targets = [[1, 0], [0, 0], [1, 0]]
    of_disease, means = release_diagnosis_metrics(targets, [[0.9, 0.2], [0.1, 0.3], [0.8, 0.1]], ["seen", "never"])
    assert set(of_disease["never"].values()) == {0.0} and of_disease["seen"]["auc_release_protocol"] == 1
    assert means["auc_release_protocol"]["value"] == means["auc_release_protocol"]["std"] == 0.5
    assert means["auc_release_protocol"]["diseases"] == 2 and means["auc_release_protocol"]["n"] == 3


def test_what_is_unknown_or_not_given_is_left_out() -> None:
    targets = [[1, None], [0, None], [1, None]]
    of_disease, means = release_diagnosis_metrics(targets, [[0.9, 0.5], [0.1, 0.5], [None, None]], ["x", "unknown"])
    assert list(of_disease) == ["x"] and means["f1_release_protocol"]["value"] == 1
    assert means["f1_release_protocol"]["n"] == 2
    assert release_diagnosis_metrics([], [], ["x"])[1]["auc_release_protocol"]["value"] is None

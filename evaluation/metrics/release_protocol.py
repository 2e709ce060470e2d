"""The published evaluator's figures, to the digit, so that the paper's tables can be compared with.

They stand beside the right figures as ``*_release_protocol``, each a mean with its standard deviation (of the
population), and are never the ones to report alone: thresholds are chosen on the test set, background lifts the Dice,
and what the answers lack is left out rather than counted.  Their definitions follow from the evaluator's own outputs
(tests/data/parity, ``release_*``).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from typing import Any

import nltk
import numpy as np
import torch
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import word_tokenize
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from evaluation.metrics.bootstrap import Estimate, not_computed
from evaluation.metrics.diagnosis import rank_metrics, threshold_metrics
from evaluation.metrics.wordnet import wordnet_reader

SUFFIX = "_release_protocol"
TEXT_METRICS = tuple(name + SUFFIX for name in ("bleu_1", "rouge_1", "meteor", "bertscore"))
DIAGNOSIS_METRICS = tuple(name + SUFFIX for name in ("auc", "f1", "accuracy", "precision"))
DICE = "dice" + SUFFIX
METEOR_HINT = "needs nltk's data (python -m nltk.downloader punkt_tab wordnet)"
DICE_SMOOTH = 1e-7
THRESHOLDS = np.arange(1000) / 1000

_bleu = BLEU(tokenize="13a", lowercase=False, smooth_method="none", max_ngram_order=1, effective_order=True)
_rouge = RougeScorer(["rouge1"], use_stemmer=False)
_stemmer = PorterStemmer()


def mean_and_deviation(
    values: Sequence[float | None], patients: Sequence[Hashable | None] | None = None, reason: str = "no sample"
) -> Estimate:
    """Mean and standard deviation (of the population) of the values that are not None.

    Returns:
        An estimate whose spread is its "std": the published tables have no intervals.
    """
    kept = [index for index, value in enumerate(values) if value is not None]
    if not kept:
        return not_computed(reason)
    numbers = np.array([values[index] for index in kept], dtype=np.float64)
    owners = {index if patients is None or patients[index] is None else ("patient", patients[index]) for index in kept}
    return {
        "value": float(numbers.mean()),
        "std": float(numbers.std()),
        "low": None,
        "high": None,
        "n": len(kept),
        "patients": len(owners),
    }


# ---- text


def bleu_1(prediction: str, reference: str) -> float:
    """BLEU-1 of a sentence in [0, 1]: 13a tokens, case kept, no smoothing, brevity penalty (Papineni et al. 2002)."""
    score = _bleu.sentence_score(prediction, [reference])
    return score.precisions[0] / 100 * score.bp


def rouge_1(prediction: str, reference: str) -> float:
    """ROUGE-1's F-measure in [0, 1], without stemming."""
    return float(_rouge.score(reference, prediction)["rouge1"].fmeasure)


@cache
def has_word_tokenizer() -> bool:
    """Whether the data of nltk's ``word_tokenize`` is in nltk's data path.  Never fetches."""
    try:
        nltk.data.find("tokenizers/punkt_tab")
    except LookupError:
        return False
    return True


def meteor(prediction: str, reference: str) -> float | None:
    """METEOR in [0, 1] of ``word_tokenize``'s words, alpha 0.9, beta 3, gamma 0.5 (Lavie and Agarwal 2007).

    None where nltk's data is not installed: with other words or without synonyms it would be another figure.
    """
    wordnet = wordnet_reader()
    if wordnet is None or not has_word_tokenizer():
        return None
    words = word_tokenize(reference), word_tokenize(prediction)
    return float(single_meteor_score(*words, stemmer=_stemmer, wordnet=wordnet, alpha=0.9, beta=3.0, gamma=0.5))


def release_text_metrics(
    predictions: Sequence[str], references: Sequence[str], patients: Sequence[Hashable | None] | None = None
) -> dict[str, Estimate]:
    """BLEU-1, ROUGE-1 and METEOR over the samples, each a mean with its deviation; "bertscore" repeats BLEU-1, as the
    published column of that name does."""
    pairs = list(zip(predictions, references, strict=True))
    bleu = mean_and_deviation([bleu_1(*pair) for pair in pairs], patients)
    rouge = mean_and_deviation([rouge_1(*pair) for pair in pairs], patients)
    words = mean_and_deviation([meteor(*pair) for pair in pairs], patients, f"not computed: {METEOR_HINT}")
    return dict(zip(TEXT_METRICS, (bleu, rouge, words, bleu), strict=True))


# ---- masks


def dice_release_protocol(logits: torch.Tensor, target: torch.Tensor) -> float:
    """Dice of one mask, as the mean over all lines of voxels along the second axis.

    A line's Dice is (2 sum(p t) + 1e-7) / (sum(p + t) + 1e-7), so a line that is empty in both counts 1.

    Args:
        logits: (H, W, D) mask logits on the padded grid; a voxel is in the mask where its sigmoid is above 0.5.
        target: (H, W, D) of 1, 0, and -1 in the padding, which counts as background.
    Raises:
        ValueError: the two are on different grids.
    """
    if logits.ndim != 3 or logits.shape != target.shape:
        raise ValueError(f"dice: logits {tuple(logits.shape)} and target {tuple(target.shape)} must share (H, W, D)")
    predicted = (logits.float().sigmoid() > 0.5).float()
    true = (target > 0).float().to(predicted.device)
    overlap, total = (predicted * true).sum(1), (predicted + true).sum(1)
    return float(((2 * overlap + DICE_SMOOTH) / (total + DICE_SMOOTH)).mean())


# ---- diagnosis


def disease_figures(targets: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """AUC (0 where one class is absent), and F1, accuracy and precision at the threshold of best F1 on these samples.

    The threshold is the first of 0, 0.001, ... 0.999 with that F1; at or above it a disease counts as present.

    Args:
        targets: (n,) of 0 and 1.
        scores: (n,) probabilities.
    Returns:
        The four of `DIAGNOSIS_METRICS` and ``threshold_release_protocol``.
    """
    positive, negative = np.sort(scores[targets > 0]), np.sort(scores[targets == 0])
    true_positive = len(positive) - np.searchsorted(positive, THRESHOLDS)
    false_positive = len(negative) - np.searchsorted(negative, THRESHOLDS)
    counts = (true_positive, false_positive, len(positive) - true_positive, len(negative) - false_positive)
    f1, accuracy, precision, _ = np.nan_to_num(threshold_metrics(*counts)).T
    best = int(np.argmax(f1))
    auc = float(np.nan_to_num(rank_metrics(targets, scores, np.ones((1, len(scores))))[0, 0]))
    figures = (auc, f1[best], accuracy[best], precision[best])
    named = {name: float(figure) for name, figure in zip(DIAGNOSIS_METRICS, figures, strict=True)}
    return {**named, "threshold" + SUFFIX: float(THRESHOLDS[best])}


def release_diagnosis_metrics(
    targets: Sequence[Sequence[float | None]],
    probabilities: Sequence[Sequence[float | None]],
    diseases: Sequence[str],
) -> tuple[dict[str, dict[str, float]], dict[str, Estimate]]:
    """Figures of each disease, and their means and deviations over the diseases.

    Args:
        targets: (n, d) of 0, 1, or None where unknown.
        probabilities: (n, d), None where the answer gave none.  What is None in either is left out.
        diseases: the d names, in column order.
    Returns:
        {disease: `disease_figures`}, of those with a sample, and {metric: mean over these diseases}.
    """
    of_disease: dict[str, dict[str, float]] = {}
    for column, disease in enumerate(diseases):
        pairs = [(row[column], given[column]) for row, given in zip(targets, probabilities, strict=True)]
        known = np.array([pair for pair in pairs if None not in pair], dtype=np.float64).reshape(-1, 2)
        if len(known):
            of_disease[disease] = disease_figures(known[:, 0], known[:, 1])
    samples = sum(any(value is not None for value in row) for row in probabilities)
    return of_disease, _over_diseases(of_disease, samples)


def _over_diseases(of_disease: Mapping[str, Mapping[str, float]], samples: int) -> dict[str, Estimate]:
    means: dict[str, Any] = {}
    for metric in DIAGNOSIS_METRICS:
        values = [figures[metric] for figures in of_disease.values()]
        mean = mean_and_deviation(values, reason="no answer has a confidence")
        means[metric] = {**mean, "n": samples, "diseases": len(values)}
    return means

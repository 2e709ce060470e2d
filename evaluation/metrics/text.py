"""Text metrics: BLEU-1..4, ROUGE-1/2/L, METEOR, BERTScore, exact match and token F1, with intervals by patient.

Tokenisers, for they change the figures:

- BLEU: sacrebleu's 13a (mteval-v13a), lower-cased, unsmoothed. `bleu_n` is the mean over samples of each sentence's own
  BLEU, whose order stops at the longest n-gram the sentence has; `corpus_bleu_n` pools the n-gram counts of all
  samples.
- ROUGE: rouge-score's (lower case, runs of a-z and 0-9), no stemming, F-measure; ROUGE-L over the whole text.
- METEOR: nltk's `wordpunct_tokenize`, lower-cased, alpha 0.9, beta 3, gamma 0.5.
- Exact match and token F1: normalisation of SQuAD, Rajpurkar et al. 2016 (lower case, no punctuation, no articles).

Nothing is fetched. BERTScore needs a model folder. METEOR's synonyms need WordNet (`evaluation.metrics.wordnet`): run
`python -m nltk.downloader wordnet` once where there is a network, or install Debian's `wordnet-base`; without it METEOR
matches exact words and stems only, and is then called `meteor_exact_stem`. An empty text scores 1 against an empty text
and 0 against any other.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from nltk.stem.porter import PorterStemmer
from nltk.tokenize import wordpunct_tokenize
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from evaluation.metrics.bertscore import bertscore
from evaluation.metrics.bootstrap import RESAMPLES, Estimate, bootstrap_mean, bootstrap_sums, not_computed
from evaluation.metrics.wordnet import WORDNET_HINT, NoSynonyms, wordnet_reader

BLEU_ORDERS = (1, 2, 3, 4)
ROUGE_TYPES = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l"}

_bleu = BLEU(tokenize="13a", lowercase=True, smooth_method="none", effective_order=True)
_rouge = RougeScorer(list(ROUGE_TYPES), use_stemmer=False)
_stemmer = PorterStemmer()


def meteor_name() -> str:
    """The name under which METEOR is reported here: "meteor" with WordNet's synonyms, "meteor_exact_stem" without."""
    return "meteor" if wordnet_reader() is not None else "meteor_exact_stem"


def normalize_answer(text: str) -> str:
    """SQuAD's answer normalisation: lower case, punctuation and the articles a, an, the removed, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(prediction: str, reference: str) -> float:
    """1 where the two are the same after SQuAD's normalisation, else 0."""
    return float(normalize_answer(prediction) == normalize_answer(reference))


def token_f1(prediction: str, reference: str) -> float:
    """Harmonic mean of precision and recall over the multiset of normalised tokens (SQuAD); 1 if both are empty, 0 if
    one is."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not true:
        return float(predicted == true)
    overlap = sum((Counter(predicted) & Counter(true)).values())
    return 2 * overlap / (len(predicted) + len(true))


def meteor(prediction: str, reference: str, wordnet: Any = None) -> float:
    """METEOR of Lavie and Agarwal 2007 (nltk). `wordnet` defaults to the installed one, or to no synonyms."""
    reader = wordnet if wordnet is not None else (wordnet_reader() or NoSynonyms())
    return float(
        single_meteor_score(
            wordpunct_tokenize(reference), wordpunct_tokenize(prediction), stemmer=_stemmer, wordnet=reader
        )
    )


def bleu_counts(prediction: str, reference: str) -> np.ndarray:
    """(10,): matched 1..4-grams, predicted 1..4-grams, predicted length, reference length; sums of these give corpus
    BLEU."""
    score = _bleu.sentence_score(prediction, [reference])
    return np.array([*score.counts, *score.totals, score.sys_len, score.ref_len], dtype=np.float64)


def bleu_from_counts(counts: np.ndarray, order: int, effective_order: bool) -> np.ndarray:
    """BLEU-`order` in [0, 1] of rows of `bleu_counts` or of their sums, (m, 10) -> (m,).

    Papineni et al. 2002: geometric mean of the n-gram precisions times exp(1 - reference / predicted length) where
    the prediction is shorter. `effective_order` leaves out orders for which the prediction has no n-gram at all (a
    two-word answer has no 4-gram).
    """
    matched, total, predicted, reference = counts[:, :order], counts[:, 4 : 4 + order], counts[:, 8], counts[:, 9]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_precision = np.log(matched) - np.log(total)
        if effective_order:
            log_precision = np.where(total == 0, 0.0, log_precision)
            orders = np.maximum((total > 0).sum(1), 1)
        else:
            log_precision = np.where(total == 0, -np.inf, log_precision)
            orders = order
        brevity = np.where(predicted < reference, 1 - reference / predicted, 0.0)
        score = np.exp(log_precision.sum(1) / orders + brevity)
    return np.where(predicted == 0, (reference == 0).astype(np.float64), score)


def sentence_scores(prediction: str, reference: str) -> dict[str, float]:
    """Every text metric of one pair but BERTScore, each in [0, 1]: bleu_1..4, rouge_1, rouge_2, rouge_l, METEOR under
    `meteor_name()`, exact_match, token_f1."""
    prediction, reference = prediction.strip(), reference.strip()
    names = [f"bleu_{order}" for order in BLEU_ORDERS] + [*ROUGE_TYPES.values(), meteor_name()]
    if not prediction or not reference:
        scores = dict.fromkeys(names, float(prediction == reference))
    else:
        counts = bleu_counts(prediction, reference)[None]
        scores = {f"bleu_{order}": float(bleu_from_counts(counts, order, True)[0]) for order in BLEU_ORDERS}
        rouge = _rouge.score(reference, prediction)
        scores |= {name: float(rouge[kind].fmeasure) for kind, name in ROUGE_TYPES.items()}
        scores[meteor_name()] = meteor(prediction, reference)
    return scores | {"exact_match": exact_match(prediction, reference), "token_f1": token_f1(prediction, reference)}


def text_metrics(
    predictions: Sequence[str],
    references: Sequence[str],
    patients: Sequence[Hashable | None] | None = None,
    bertscore_folder: str | Path | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """All text metrics of a set of answers.

    Args:
        predictions, references: one text each a sample.
        patients: keys for the bootstrap.
        bertscore_folder: a local Hugging Face encoder folder; without it BERTScore has no value and says "not
            computed".
    Returns:
        {"metrics": {name: Estimate}, "notes": [sentences]}.
    """
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")
    rows = [
        sentence_scores(prediction, reference) for prediction, reference in zip(predictions, references, strict=True)
    ]
    names = (
        list(rows[0])
        if rows
        else [*(f"bleu_{n}" for n in BLEU_ORDERS), *ROUGE_TYPES.values(), meteor_name(), "exact_match", "token_f1"]
    )
    metrics: dict[str, Estimate] = {
        name: bootstrap_mean([row[name] for row in rows], patients, resamples, seed) for name in names
    }
    counts = np.array(
        [bleu_counts(p.strip(), r.strip()) for p, r in zip(predictions, references, strict=True)]
    ).reshape(-1, 10)
    for order in BLEU_ORDERS:
        statistic = partial(bleu_from_counts, order=order, effective_order=False)
        corpus = bootstrap_sums(counts, statistic, patients, resamples, seed) if rows else not_computed("no sample")
        metrics[f"corpus_bleu_{order}"] = corpus
    notes = [
        "BLEU: 13a tokens, lower case, no smoothing; bleu_n is the mean of sentences, corpus_bleu_n pools counts. "
        "ROUGE: F-measure, no stemming.",
    ]
    if bertscore_folder is None:
        metrics["bertscore"] = not_computed("not computed: no model folder was given", len(rows))
    else:
        scores = bertscore(predictions, references, bertscore_folder)
        metrics["bertscore"] = bootstrap_mean(scores, patients, resamples, seed)
        notes.append(
            f"BERTScore: F1 of {Path(bertscore_folder).name}, last layer, no idf weights, no baseline rescaling."
        )
    if wordnet_reader() is None:
        notes.append(f"METEOR: {WORDNET_HINT}, reported as meteor_exact_stem.")
    return {"metrics": metrics, "notes": notes}

"""What the best answers without a look at the volume score; they are learned from the questions of a training manifest.

- Open question: the answer that scores best against all training answers to the same words.
- Multiple choice: the option that was right most often where it was offered, in all questions or in those of the same
  words.
- Report: the findings with the best F1 over the training reports.
- Mask: the voxels that enough training masks hold.

What a model scores beyond this, it must have seen in the volume.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from datasets.manifest import InstructionRecord
from evaluation.answering.controls import stretched
from evaluation.learning.chance import Volume, asked_masks, label_map, stretched_dice
from evaluation.metrics.choices import parse_letter
from evaluation.metrics.clinical_efficacy import clinical_efficacy
from evaluation.metrics.report_labels import FINDINGS, label_report
from evaluation.metrics.segmentation import dice
from evaluation.report.tables import mean_of_known

Record = Mapping[str, Any]
ATLAS_GRID = (72, 56, 48)  # voxels that every body is stretched onto
ATLAS_VOLUMES = 100
THRESHOLDS = tuple(k / 20 for k in range(2, 13))  # of the share of training masks that hold a voxel


def same_words(train: Sequence[InstructionRecord], records: Sequence[Record], score: Callable) -> float | None:
    """Mean score(answer, truth) of the training answer to the same words that scores best over all of these.

    Words that were never asked get the answer that was given most often; None without training or records.
    """
    if not train:
        return None
    given: dict[str, Counter] = defaultdict(Counter)
    for record in train:
        given[record.text][record.answer] += 1
    best = {
        text: max(answers, key=lambda said: sum(n * score(said, true) for true, n in answers.items()))
        for text, answers in given.items()
    }
    default = Counter(record.answer for record in train).most_common(1)[0][0]
    return mean_of_known(score(best.get(record["question"], default), record["answer"]) for record in records)


def likely_option(train: Sequence[InstructionRecord], records: Sequence[Record]) -> float | None:
    """Accuracy of the option that, where it was offered in training, was right most often; None without either."""
    if not train:
        return None
    offered: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for record in train:
        letter = parse_letter(record.answer, record.choices)
        for other, option in (record.choices or {}).items():
            offered[option] += 1
            right[option] += other == letter
    hits = []
    for asked in records:
        choices = asked["choices"]
        said = max(choices, key=lambda letter: right[choices[letter]] / max(offered[choices[letter]], 1))
        hits.append(float(said == parse_letter(asked["answer"], choices)))
    return mean_of_known(hits)


def likely_option_for_words(train: Sequence[InstructionRecord], records: Sequence[Record]) -> float | None:
    """Accuracy of the option that was right most often where it was offered to the same words; None without either.

    The words are the question's without its options, whose order may differ; those that were never asked count as any.
    """
    by_words: dict[str, list[InstructionRecord]] = defaultdict(list)
    for record in train:
        by_words[without_options(record.text, record.choices)].append(record)
    groups: dict[str, list[Record]] = defaultdict(list)
    for asked in records:
        groups[without_options(asked["question"], asked["choices"])].append(asked)
    scores = [(likely_option(by_words.get(words) or train, group), len(group)) for words, group in groups.items()]
    known = [(score, count) for score, count in scores if score is not None]
    return sum(score * count for score, count in known) / sum(count for _, count in known) if known else None


def without_options(question: str, choices: Mapping[str, str] | None) -> str:
    """A question's words without its lettered options, as "Left (A)" or "A. Left"."""
    for letter, option in (choices or {}).items():
        for listed in (f"{option} ({letter})", f"({letter}) {option}", f"{letter}. {option}"):
            question = question.replace(listed, "")
    return " ".join(question.split())


def same_report(train: Sequence[InstructionRecord], records: Sequence[Record]) -> float | None:
    """Clinical micro F1 of one report for everyone: the most frequent findings, as many as serve the training set."""
    known = [label_report(record.answer) for record in train]
    if not known or not records:
        return None
    held = Counter({name: sum(labels[name] for labels in known) for name in FINDINGS})
    ordered = [name for name, _ in held.most_common()]

    def micro_f1(count: int) -> float:
        """In training, of saying the ``count`` most frequent findings every time."""
        return 2 * sum(held[name] for name in ordered[:count]) / (count * len(known) + held.total())

    best = max(range(1, len(ordered) + 1), key=micro_f1)
    said = {name: int(name in ordered[:best]) for name in FINDINGS}
    truths = [label_report(record["answer"]) for record in records]
    return clinical_efficacy([said] * len(truths), truths, resamples=1)["metrics"]["micro_f1"]["value"]


def mean_masks(train: Sequence[InstructionRecord], records: Sequence[Record], labels: Collection[str]) -> float | None:
    """Dice of the voxels that enough training masks hold, stretched onto each volume; mean over ``labels`` of means.

    From the first ATLAS_VOLUMES volumes with a multi-label mask; the share that is enough is each structure's best on
    these.  None where no truth is known.
    """
    volumes: dict[tuple[Volume, str], dict[str, Any]] = {}
    for record in train:
        if isinstance(record.mask_path, str) and record.mask_values and not set(record.labels) - set(labels):
            key = ((record.image_path[record.mask_image], record.hu_offset), record.mask_path)
            if key in volumes or len(volumes) < ATLAS_VOLUMES:
                volumes.setdefault(key, {}).update({label: record.mask_values[label] for label in record.labels})
    masks: dict[str, list[np.ndarray]] = defaultdict(list)
    for (volume, path), values in volumes.items():
        on_grid = stretched(label_map(volume, path), ATLAS_GRID)
        for label, value in values.items():
            masks[label].append(np.isin(on_grid, value))
    answers = {label: _best_atlas(np.stack(known)) for label, known in masks.items()}
    return stretched_dice(asked_masks(records, answers), lambda _, entry: answers[entry["label"]])


def _best_atlas(masks: np.ndarray) -> np.ndarray:
    """Of masks (N, H, W, D) the voxels that at least that share holds which gives the best mean Dice with them."""
    share = masks.mean(0)
    return max((share >= t for t in THRESHOLDS), key=lambda answer: fmean(dice(answer, mask) for mask in masks))

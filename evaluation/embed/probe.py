"""A linear probe: how well a logistic regression on frozen embeddings tells a label on CTs outside of its fit."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datasets.errors import InputError
from evaluation.embed.embeddings import Embeddings

FOLDS = 5
FEWEST = 2  # CTs of a class, of which one is outside of the fit


def read_labels(path: str | Path, images: list[str]) -> dict[str, np.ndarray]:
    """Labels (n,) of the images, 0, 1 or NaN where unknown, by column of a CSV with a column `image`.

    An image is named by its path, or by its file name where that is the only one.

    Raises InputError where the table cannot be used, or names none of the images.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), [name for name in reader.fieldnames or () if name != "image"]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a CSV ({error})") from error
    if not columns or any("image" not in row for row in rows):
        raise InputError(f"{path}: needs a column 'image' and a column of 0 and 1 for each label")
    places = {name: place for place, image in enumerate(images) for name in (image, str(Path(image).resolve()))}
    names = [Path(image).name for image in images]
    places |= {name: names.index(name) for name in names if names.count(name) == 1 and name not in places}
    labels = {column: np.full(len(images), np.nan) for column in columns}
    known = 0
    for number, row in enumerate(rows, start=2):
        place = places.get(row["image"], places.get(str(Path(row["image"]).resolve())))
        if place is None:
            continue
        known += 1
        for column in columns:
            if (value := (row[column] or "").strip()) not in ("", "0", "1"):
                raise InputError(f"{path}: line {number}, {column}: {value!r} is none of 0, 1 and empty")
            labels[column][place] = float(value or "nan")
    if not known:
        raise InputError(f"{path}: names none of the {len(images)} embedded CTs in its column 'image'")
    return labels


def probe(embeddings: Embeddings, labels: Mapping[str, np.ndarray]) -> dict[str, dict[str, float | int | None]]:
    """For each label its positive and negative CTs, and the AUC of scores that each CT got from a fit to other folds.

    None where a class has fewer than `FEWEST` CTs.
    """
    results: dict[str, dict[str, float | int | None]] = {}
    for name, values in labels.items():
        known = ~np.isnan(values)
        truth = values[known].astype(int)
        positive, negative = int(truth.sum()), int((1 - truth).sum())
        auc = None
        if min(positive, negative) >= FEWEST:
            folds = StratifiedKFold(min(FOLDS, positive, negative), shuffle=True, random_state=0)
            fit = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
            scores = cross_val_predict(fit, embeddings.volumes[known], truth, cv=folds, method="decision_function")
            auc = float(roc_auc_score(truth, scores))
        results[name] = {"positive": positive, "negative": negative, "auc": auc}
    return results

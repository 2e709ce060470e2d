"""The published forms of pretraining records: other names of our fields, notes that nothing needs, classes by number.

    classification  {img_path, disease_label}: the number of the class, or 0 or 1 for every label, in the task's order
    image_text      {img_path, answer}: the report
    segmentation    a line of SAT-DS: {renorm_image, chwd, renorm_segmentation_dir, renorm_y1x1z1_y2x2z2, label} with
                    the notes image, mask, modality, dataset, official_split, sample_id, roi_y1x1z1_y2x2z2

Classification and image-text records stand in one JSON file ``{"train": [...], "test": [...]}``, segmentation records
in JSON lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.label_descriptions import canonical
from datasets.manifest_rows import splits_in
from datasets.mask_files import BOX_FIELD
from datasets.vocabulary import Kind

Record = dict[str, Any]
NAMES: dict[str, dict[str, str]] = {
    "classification": {"img_path": "image_path", "label": "disease_label"},
    "image_text": {"img_path": "image_path", "answer": "report"},
    "segmentation": {"img_path": "image_path", "label": "labels"},
}
# What SAT-DS calls labels that the published tasks call otherwise.
SAT_DS_LABELS = {
    "thyroid gland": "thyroid",
    "colon cancer": "colon tumor",
    "rib fracture": "rib fraction",
    "trachea and bronchie": "airway tree",
}
NOTES = ("image", "mask", "modality", "dataset", "official_split", "sample_id", "roi_y1x1z1_y2x2z2")


def known_labels(labels: Sequence[str]) -> dict[str, str]:
    """The labels of a task by all the canonical names that manifests have for them."""
    known = {canonical(label): label for label in labels}
    return {name: known[label] for name, label in SAT_DS_LABELS.items() if label in known} | known


def our_names(values: Mapping[str, Any], kind: Kind) -> Record:
    """A record of either form with our names, without notes; its crop, where it has one, is `image_path`.

    Classes by number become `class_numbers`, since they have no names before the task is known.

    Raises ValueError (``field: what``) where one thing is given by two names, or by a line that was not prepared.
    """
    record = {name: value for name, value in values.items() if name not in NOTES}
    names = {**NAMES[kind], "renorm_image": "image_path"}
    for published, ours in names.items():
        if published in record:
            if ours in record:
                raise ValueError(f"{published}: given beside {ours}; keep one of the two")
            record[ours] = record.pop(published)
            if published == "renorm_image":
                record["preprocessed"] = True
    classes = record.get("disease_label") if kind == "classification" else None
    if type(classes) is int:
        record |= {"disease_label": [], "class_numbers": classes}
    elif isinstance(classes, list) and classes and all(truth in (0, 1) for truth in classes):
        record |= {"disease_label": [], "class_numbers": [int(truth) for truth in classes]}
    if "image_path" not in record and "image" in values:
        raise ValueError("renorm_image: missing, so the line was not prepared; SAT-DS writes it with convert_to_npy.py")
    return record


def known_names(kind: Kind) -> list[str]:
    """Fields of published records that ours do not have."""
    return [*NAMES[kind], "renorm_image", "chwd", "renorm_segmentation_dir", BOX_FIELD, *NOTES]


def named_classes(value: int | Sequence[int], labels: Sequence[str]) -> str | dict[str, int | None]:
    """The label of a class number, or {label: 0 or 1} of a vector; ValueError where it does not fit the labels."""
    if isinstance(value, int):
        if not 0 <= value < len(labels):
            raise ValueError(f"disease_label: class {value}, but this task has {len(labels)} labels, counted from 0")
        return labels[value]
    if len(value) != len(labels):
        raise ValueError(f"disease_label: {len(value)} values for {len(labels)} labels")
    return dict(zip(labels, value, strict=True))


def find_manifest(usual: Path, split: str) -> Path:
    """The manifest of a split: `usual` (<name>_<split>.json), or one of the published forms where that is missing.

    These are <name>_<split>.jsonl, and <name>.json and <name>.jsonl with several splits.  `usual` where none is there.
    """
    if usual.is_file() or not usual.stem.endswith(f"_{split}"):
        return usual
    whole = usual.with_name(usual.stem.removesuffix(f"_{split}") + ".json")
    lines = usual.with_suffix(".jsonl")
    if lines.is_file():
        return lines
    several = [path for path in (whole, whole.with_suffix(".jsonl")) if path.is_file()]
    return next((path for path in several if split in splits_in(path)), usual)


def folder_of_paths(manifest: Path, rows: Sequence[Any]) -> Path:
    """The folder that a manifest's paths are relative to: its own.

    SAT-DS writes paths as seen from the folder it runs in, so of JSON lines it is the nearest folder above in which the
    first crop exists.
    """
    folder = manifest.parent.resolve()
    first = next((row["renorm_image"] for row in rows if isinstance(row, dict) and "renorm_image" in row), None)
    if manifest.suffix != ".jsonl" or not isinstance(first, str):
        return folder
    return next((above for above in (folder, *folder.parents) if os.path.exists(above / first)), folder)

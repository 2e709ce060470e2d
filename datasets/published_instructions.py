"""The published form of an instruction record, and its translation into ours and back, as plain dictionaries.

Beside ``question``, ``image_path`` and ``answer``, which both forms share, a published record may have

    choose_labels         for each volume of the question the labels that are asked for: [["liver", "spleen"]]
    mask_path             for each volume a folder; <folder>/<label>.npy or .npz holds a label's mask in its box
    renorm_y1x1z1_y2x2z2  for each label its box (see `datasets.mask_files`), false where the label is absent; in a list
                          a volume, or, where one volume alone has labels, the labels' boxes at once
    targets               0 or 1 for each disease, in the order of the heads; their number tells the label set (16 are
                          RadChestCT's, 18 CT-RATE's) unless ``label_set`` names it

The labels of an answer with one ``<SEG>`` are one mask, their union.  An answer with as many ``<SEG>`` as labels has a
mask for each (ours: the released model saw unions alone).  One volume of a question can have masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.mask_files import BOX_FIELD, MASK_EXTENSIONS, is_absent, is_box, mask_file
from datasets.vocabulary import SEGMENTATION, diagnosis_facts, diseases_of

PUBLISHED_FIELDS = ("choose_labels", BOX_FIELD)
Record = dict[str, Any]


def is_published(values: Any) -> bool:
    """Whether a record has a field, or a form of a field, that only published records have."""
    return isinstance(values, dict) and (
        any(name in values for name in PUBLISHED_FIELDS) or not isinstance(values.get("targets", {}), dict)
    )


def from_published(values: Mapping[str, Any], folder: Path) -> Record:
    """A published record in our form; paths stay relative to `folder`, where the masks' files are looked for.

    Raises ValueError (``field: what``) for what the published form does not allow.
    """
    record = {name: value for name, value in values.items() if name not in PUBLISHED_FIELDS}
    if not isinstance(values.get("targets", {}), dict):
        record |= _named_targets(record.pop("targets"), values.get("label_set"))
    images = 1 if isinstance(values.get("image_path"), str) else len(values.get("image_path") or [])
    volume, labels = _chosen_labels(values.get("choose_labels"), images)
    if not labels:
        if any(not is_absent(box) for box in values.get(BOX_FIELD) or []):
            raise ValueError(f"{BOX_FIELD}: boxes are given, but no choose_labels")
        if not any(values.get("mask_path") or []):
            record.pop("mask_path", None)
        return record
    groups = _masks_of_answer(labels, values.get("answer"))
    boxes = dict(zip(labels, _boxes(values.get(BOX_FIELD), len(labels), volume, images), strict=True))
    mask_folder = _mask_folder(values.get("mask_path"), volume, images)
    record["labels"] = [group[0] if len(group) == 1 else group for group in groups]
    record["mask_path"] = [[mask_file(mask_folder, label, folder) for label in group] for group in groups]
    record["mask_boxes"] = [[boxes[label] or False for label in group] for group in groups]
    return record | ({"mask_image": volume} if volume else {})


def to_published(values: Mapping[str, Any]) -> Record:
    """A record of our form, its masks in boxes, in the published one.

    Raises ValueError (``field: what``) where that form cannot say what the record says.
    """
    record = dict(values)
    if record.pop("hu_offset", 0):
        raise ValueError("hu_offset: the published form has no words for it; write the volume in HU")
    if record.get("targets"):
        record["targets"] = _listed_targets(record["targets"], record.pop("label_set"))
    labels = record.pop("labels", [])
    if not labels:
        return record
    groups = [[label] if isinstance(label, str) else list(label) for label in labels]
    if len(groups) > 1 and max(map(len, groups)) > 1:
        raise ValueError(f"labels: one of {len(groups)} masks is a union, which the published form has no words for")
    names = [label for group in groups for label in group]
    if len(set(names)) < len(names):
        raise ValueError("labels: one is asked for twice, which the published form has no words for")
    files = [file for entry in record.pop("mask_path") for file in ([entry] if isinstance(entry, str) else entry)]
    boxes = [box or False for entry in record.pop("mask_boxes") for box in entry]
    folders = {str(PurePosixPath(file).parent) for file in files}
    if len(folders) > 1 or [_label_of(file) for file in files] != names:
        raise ValueError("mask_path: the masks are not <folder>/<label> in one folder, as the published form wants")
    images, volume = record["image_path"], record.pop("mask_image", 0)
    count = 1 if isinstance(images, str) else len(images)

    def by_volume(value: Any, other: Any) -> list:
        return [value if index == volume else other for index in range(count)]

    record["choose_labels"], record["mask_path"] = by_volume(names, []), by_volume(folders.pop(), "")
    record[BOX_FIELD] = by_volume(boxes, [])
    return record


def _named_targets(values: Any, label_set: Any) -> Record:
    """Targets in head order as {disease: 0 or 1}, with their label set."""
    if values is None or values == []:
        return {}
    if not isinstance(values, list) or any(value not in (0, 1) for value in values):
        raise ValueError("targets: give 0 or 1 for each disease, as a list in the order of the heads or by their names")
    sizes = {name: len(diseases) for name, diseases in diagnosis_facts().items()}
    told = [name for name, size in sizes.items() if size == len(values)]
    if label_set is None and told:
        label_set = told[0]
    if label_set is None or sizes.get(label_set, len(values)) != len(values):
        known = " and ".join(f"{name} has {size}" for name, size in sizes.items())
        raise ValueError(f"targets: {len(values)} values, but {known}")
    if label_set not in sizes:
        return {"targets": {}}  # the label set's own check names it
    truth = map(int, values)
    return {"label_set": label_set, "targets": dict(zip(diseases_of(label_set), truth, strict=True))}


def _listed_targets(targets: Mapping[str, Any], label_set: str) -> list[int]:
    for disease in diseases_of(label_set):
        if targets.get(disease) is None:
            raise ValueError(f"targets: {disease!r} is unknown; the published form knows 0 and 1 alone")
    return [int(targets[disease]) for disease in diseases_of(label_set)]


def _chosen_labels(value: Any, images: int) -> tuple[int, list[str]]:
    """The volume that has labels, and these."""
    if value is None or value == []:
        return 0, []
    if isinstance(value, list) and images == 1 and all(isinstance(label, str) for label in value):
        value = [value]  # one volume's labels, without the list of volumes around them
    if not isinstance(value, list) or not all(
        isinstance(labels, list) and all(isinstance(label, str) and label for label in labels) for labels in value
    ):
        raise ValueError("choose_labels: give a list of labels for each volume")
    if len(value) != images:
        raise ValueError(f"choose_labels: {len(value)} lists for {images} volumes")
    asked = [volume for volume, labels in enumerate(value) if labels]
    if len(asked) > 1:
        raise ValueError(
            f"choose_labels: volumes {asked[0]} and {asked[1]} have labels; one of a question can have them"
        )
    if not asked:
        return 0, []
    if len(set(value[asked[0]])) < len(value[asked[0]]):
        raise ValueError("choose_labels: one is listed twice")
    return asked[0], value[asked[0]]


def _masks_of_answer(labels: list[str], answer: Any) -> list[list[str]]:
    """The labels of each mask of the answer."""
    count = answer.count(SEGMENTATION) if isinstance(answer, str) else 1
    if count == 1:
        return [labels]
    if count == len(labels):
        return [[label] for label in labels]
    raise ValueError(
        f"choose_labels: {len(labels)} labels for {count} {SEGMENTATION} in the answer; give one {SEGMENTATION}, or "
        "one a label"
    )


def _mask_folder(value: Any, volume: int, images: int) -> str:
    folders = [value] * images if isinstance(value, str) else value
    if not isinstance(folders, list) or len(folders) != images:
        raise ValueError(f"mask_path: give the folder of the masks for each of {images} volumes")
    if not isinstance(folders[volume], str) or not folders[volume]:
        raise ValueError(f"mask_path: no folder for volume {volume}, whose labels are asked for")
    return folders[volume].rstrip("/") or "/"


def _boxes(value: Any, count: int, volume: int, images: int) -> list[list[int] | None]:
    """A box for each of `count` labels, None for an absent one."""
    if value is None:
        raise ValueError(f"{BOX_FIELD}: needed with choose_labels, a box of six numbers for each label")
    if is_box(value):
        return [value] * count  # one box for every label
    if isinstance(value, list) and any(isinstance(entry, list) and entry and not is_box(entry) for entry in value):
        if any(type(number) is int for entry in value if isinstance(entry, list) for number in entry):
            value = next(entry for entry in value if isinstance(entry, list) and entry and not is_box(entry))
            raise ValueError(f"{BOX_FIELD}: {value} is no box; give [y1, x1, z1, y2, x2, z2] with y1 < y2 and so on")
        if len(value) != images:
            raise ValueError(f"{BOX_FIELD}: {len(value)} lists of boxes for {images} volumes")
        value = [value[volume]] if is_box(value[volume]) else value[volume]
    if not isinstance(value, list) or any(not is_box(box) and not is_absent(box) for box in value):
        raise ValueError(f"{BOX_FIELD}: give [y1, x1, z1, y2, x2, z2] in whole numbers, or false, for each label")
    if len(value) != count:
        raise ValueError(f"{BOX_FIELD}: {len(value)} boxes for {count} labels")
    return [None if is_absent(box) else box for box in value]


def _label_of(file: str) -> str:
    name = PurePosixPath(file).name
    return next((name.removesuffix(end) for end in MASK_EXTENSIONS if name.endswith(end)), name)

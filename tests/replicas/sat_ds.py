"""Replicas of SAT-DS: its JSON lines with prepared crops, and with downloads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.replicas.phantoms import label_map, merged, only, phantom, save_nifti
from tests.replicas.truth import CaseTruth, Truth


def prepared_line(
    folder: Path, dataset: str, name: str, case: CaseTruth, labels: list[str], split: str, **notes: Any
) -> dict[str, Any]:
    """Crop and boxed masks of one line, as SAT-DS keeps them; paths as seen from the folder that it runs in."""
    image = folder / f"data/npy/{dataset}/image/{name}.npy"
    masks = folder / f"data/npy/{dataset}/mask/{name}"
    image.parent.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True)
    hu = np.clip(case.hu, -500, 1000).astype(np.float32)
    np.save(image, ((hu - hu.mean()) / hu.std())[None])
    boxes: list[Any] = []
    for label in labels:
        where = np.argwhere(case.masks[label])
        if not len(where):
            boxes.append(False)
            continue
        start, stop = where.min(axis=0), where.max(axis=0) + 1
        box = case.masks[label][tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        np.save(masks / f"{label}.npy", box)
        boxes.append([int(number) for number in (*start, *stop)])
    return {
        "image": f"data/nii/{dataset}/{name}.nii.gz", "mask": f"data/nii/{dataset}/label/{name}.nii.gz",
        "label": labels, "modality": "CT", "dataset": dataset, "official_split": split, "patient_id": f"{name}.nii.gz",
        "renorm_image": f"data/npy/{dataset}/image/{name}.npy", "chwd": [1, *case.hu.shape],
        "renorm_segmentation_dir": f"data/npy/{dataset}/mask/{name}", "renorm_y1x1z1_y2x2z2": boxes, **notes,
    }  # fmt: skip


def write_lines(folder: Path, dataset: str, lines: list[dict[str, Any]]) -> None:
    place = folder / f"data/jsonl/{dataset}.jsonl"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sat_ds(folder: Path) -> Truth:
    """Prepared lines; labels called otherwise than in the tasks, PET, absent labels, and a set that no task takes."""
    truth = Truth(excluded=("autoPET/data/npy/autoPET/image/PETCT_1",))
    pools = {"MSD_Colon": "msdcolon", "AMOS22_CT": "amos22ct", "BTCV": "btcv"}
    pools |= dict.fromkeys(("TotalSegmentator_v2", "TotalSegmentator_Organs"), "totalsegmentator")
    sets: list[tuple[str, list[str], dict[str, str], tuple[str, ...]]] = [
        ("MSD_Colon", ["colon cancer"], {"colon cancer": "colon tumor"}, ("train",)),
        ("TotalSegmentator_v2", ["heart", "prostate", "thyroid gland"], {"thyroid gland": "thyroid"}, ("unknown",)),
        ("AMOS22_CT", ["left kidney", "right kidney", "liver"], {}, ("train", "validation")),
        ("BTCV", ["spleen", "liver"], {}, ("train",)),
        ("TotalSegmentator_Organs", ["spleen", "liver", "left kidney"], {}, ("train", "test")),
    ]
    for dataset, labels, names, splits in sets:
        lines = []
        for number in range(4):
            name = f"{dataset.lower()}_{number}"
            case = phantom(labels, name, absent=labels[1:2] if number == 1 else ())
            split = splits[number % len(splits)]
            lines.append(prepared_line(folder, dataset, name, case, labels, split))
            case.patient = f"{pools.get(dataset, 'totalsegmentator')}/{name}.nii.gz"
            case.split = {"validation": "val"}.get(split, split) if len(splits) > 1 else None
            case.masks = {names.get(label, label): case.masks[label] for label in labels}
            truth.cases[f"{dataset}/data/npy/{dataset}/image/{name}"] = case
        write_lines(folder, dataset, lines)
    tumor = phantom(["tumor"], "pet")
    pet = prepared_line(folder, "autoPET", "PETCT_1", tumor, ["tumor"], "train", modality="PET")
    write_lines(folder, "autoPET", [pet])
    write_lines(folder, "ACDC", [{"image": "a.nii.gz", "mask": "b.nii.gz", "label": ["x"], "dataset": "ACDC"}])
    return truth


def sat_ds_downloads(folder: Path) -> Truth:
    """Lines that name downloads: masks of one file are taken, stacks are not."""
    truth = Truth(excluded=("TotalSegmentator_v2/data/nii/Totalsegmentator_dataset/s0000/ct",))
    values = {"healthy": 1, "tumor": 2}
    lines = []
    for number in range(4):
        name = f"liver_{number}"
        case = phantom(tuple(values), name)
        images, masks = (f"data/nii/MSD/Task03_Liver/{kind}/{name}.nii.gz" for kind in ("imagesTr", "labelsTr"))
        save_nifti(folder / images, case.hu)
        save_nifti(folder / masks, label_map(case, values))
        lines.append({"image": images, "mask": masks, "label": ["liver", "liver tumor"], "modality": "CT",
                      "dataset": "MSD_Liver", "official_split": "train", "patient_id": f"{name}.nii.gz"})  # fmt: skip
        merged(case, {"liver": ("healthy", "tumor"), "liver_tumor": ("tumor",)})
        case.patient = f"lits/{number}"
        truth.cases[f"MSD_Liver/data/nii/MSD/Task03_Liver/imagesTr/{name}"] = only(case, ("liver", "liver_tumor"))
    write_lines(folder, "MSD_Liver", lines)
    stack = {"image": "data/nii/Totalsegmentator_dataset/s0000/ct.nii.gz",
             "mask": "data/nii/Totalsegmentator_dataset/s0000/v2_label.nii.gz", "label": ["heart"], "modality": "CT",
             "dataset": "TotalSegmentator_v2", "official_split": "unknown", "patient_id": "s0000"}  # fmt: skip
    save_nifti(folder / stack["image"], phantom((), "s0000").hu)
    write_lines(folder, "TotalSegmentator_v2", [stack])
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {"sat_ds": sat_ds, "sat_ds@downloads": sat_ds_downloads}

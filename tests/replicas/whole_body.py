"""Replicas of TotalSegmentator, in both versions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.replicas.phantoms import merged, only, phantom, save_nifti
from tests.replicas.truth import CaseTruth, Truth

# Class files of both versions, and those that came with version 2, by what they are called in the tasks.
ORGAN_FILES = {
    "adrenal_gland_left": "left adrenal gland", "adrenal_gland_right": "right adrenal gland", "colon": "colon",
    "duodenum": "duodenum", "esophagus": "esophagus", "gallbladder": "gallbladder", "kidney_left": "left kidney",
    "kidney_right": "right kidney", "liver": "liver", "lung_lower_lobe_left": "left lung lower lobe",
    "lung_lower_lobe_right": "right lung lower lobe", "lung_middle_lobe_right": "right lung middle lobe",
    "lung_upper_lobe_left": "left lung upper lobe", "lung_upper_lobe_right": "right lung upper lobe",
    "pancreas": "pancreas", "small_bowel": "small bowel", "spleen": "spleen", "stomach": "stomach",
    "trachea": "trachea", "urinary_bladder": "urinary bladder",
}  # fmt: skip
NEW_FILES = {
    "atrial_appendage_left": "left auricle of heart", "brachiocephalic_trunk": "brachiocephalic trunk",
    "brachiocephalic_vein_left": "left brachiocephalic vein",
    "brachiocephalic_vein_right": "right brachiocephalic vein",
    "common_carotid_artery_left": "left common carotid artery",
    "common_carotid_artery_right": "right common carotid artery", "costal_cartilages": "costal cartilage",
    "heart": "heart", "kidney_cyst_left": "left kidney cyst", "kidney_cyst_right": "right kidney cyst",
    "prostate": "prostate", "pulmonary_vein": "pulmonary vein", "skull": "skull", "spinal_cord": "spinal cord",
    "sternum": "sternum", "subclavian_artery_left": "left subclavian artery",
    "subclavian_artery_right": "right subclavian artery", "superior_vena_cava": "superior vena cava",
    "thyroid_gland": "thyroid", "vertebrae_S1": "sacral vertebrae 1 (S1)",
}  # fmt: skip
OTHER_FILES = ("aorta", "rib_left_1", "hip_right")
PAIRS = ("adrenal gland", "kidney", "lung lower lobe", "lung upper lobe")
NEW_PAIRS = ("brachiocephalic vein", "common carotid artery", "kidney cyst", "subclavian artery")


def totalsegmentator(folder: Path, files: dict[str, str] | None = None) -> Truth:
    """A folder a subject, a binary file a class, and a table with semicolons; an absent class has an empty mask."""
    files = {**ORGAN_FILES, **NEW_FILES} if files is None else files
    truth = Truth()
    subjects = {"s0000": "train", "s0001": "train", "s0011": "val", "s0235": "test", "s1427": "test"}
    for id, split in subjects.items():
        absent = ("prostate", "left kidney cyst") if id == "s0001" else ()
        case = phantom(
            (*files.values(), *OTHER_FILES), id, absent=[label for label in absent if label in files.values()]
        )
        save_nifti(folder / id / "ct.nii.gz", case.hu, "RAS")
        for name, label in [*files.items(), *((name, name) for name in OTHER_FILES)]:
            save_nifti(folder / id / f"segmentations/{name}.nii.gz", case.masks[label].astype(np.uint8), "RAS")
        parts = [(f"{id}_organs", PAIRS, ORGAN_FILES), (id, NEW_PAIRS, NEW_FILES)]
        for name, pairs, classes in parts if "thyroid_gland" in files else parts[:1]:
            part = CaseTruth(id, case.hu, case.affine, case.masks, split=split)
            merged(part, {pair: (f"left {pair}", f"right {pair}") for pair in pairs})
            truth.cases[name] = only(part, (*classes.values(), *pairs))
    rows = ["image_id;age;gender;institute;split", *(f"{id};;f;a;{split}" for id, split in subjects.items())]
    (folder / "meta.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return truth


def totalsegmentator_v1(folder: Path) -> Truth:
    """Without the classes that came with version 2."""
    return totalsegmentator(folder, files=ORGAN_FILES)


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "totalsegmentator": totalsegmentator,
    "totalsegmentator@v1": totalsegmentator_v1,
}

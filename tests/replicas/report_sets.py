"""Replicas of M3D-Cap, M3D-VQA, INSPECT and RP3D."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.replicas.phantoms import phantom, save_nifti
from tests.replicas.text_truth import seen, write_array, write_csv, write_json, write_text
from tests.replicas.truth import Truth

SHAPE = (1, 6, 16, 16)  # of M3D's arrays, (1, 32, 256, 256) at full size

# By the array's path below M3D_Cap_npy: split, text file, report.
CAPTIONS = {
    "ct_case/000006/Axial_bone_window": ("train", "study_findings:\nA fracture of the tibia.\n",
                                         "A fracture of the tibia."),
    "ct_case/000006/Coronal_bone_window": ("train", None, "A fracture of the tibia."),
    "ct_case/000012/Axial_C__portal_venous_phase": ("train", "presentation: pain\ndiscussion: A cyst of the liver.",
                                                    "A cyst of the liver."),
    "ct_case/000020/Axial_lung_window": ("train", "Normal chest.", "Normal chest."),
    "ct_case/000021/Axial_lung_window": ("train", "  \n", None),
    "ct_case/000022/Axial_lung_window": ("train", "study_findings: Not here.", None),
    "ct_quizze/007720/Axial_non_contrast": ("validation", "study_findings: Œdème, 3 µm. discussion: rare.",
                                            "Œdème, 3 µm. discussion: rare."),
    "ct_quizze/007721/Axial_non_contrast": ("test", "discussion: A mass.", "A mass."),
}  # fmt: skip
MISSING_ARRAY = "ct_case/000022/Axial_lung_window"


def _array(folder: Path, name: str, number: int) -> None:
    grey = np.random.default_rng(number).random(SHAPE, dtype=np.float32)
    write_array(folder / f"M3D_Cap_npy/{name}.npy", grey)


def m3d_cap(folder: Path) -> Truth:
    """The index lies with the pictures; one text is empty and one array was not made."""
    truth = Truth(excluded=("ct_case/000021/Axial_lung_window",))
    index: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for number, (name, (part, text, report)) in enumerate(CAPTIONS.items()):
        case = name.rpartition("/")[0]
        index[part].append({"image": f"M3D_Cap_npy/{name}.npy", "text": f"M3D_Cap_npy/{case}/text.txt"})
        if text is not None:
            write_text(folder / f"M3D_Cap_npy/{case}/text.txt", text)
        if name != MISSING_ARRAY:
            _array(folder, name, number)
        if report is not None:
            split = {"train": "train", "validation": "val", "test": "test"}[part]
            truth.cases[name] = seen(case, split, report=report)
    write_json(folder / "M3D_Cap/M3D_Cap.json", index)
    return truth


VQA_COLUMNS = ("Image Path", "Text", "Question Type", "Question", "Choice A", "Choice B", "Choice C", "Choice D",
               "Answer", "Answer Choice")  # fmt: skip
VQA_ROWS = {
    "M3D_VQA_train.csv": [
        ("ct_case/000006/Axial_bone_window", 1, "Which plane is this?", "Axial", "Coronal", "Sagittal", "Oblique",
         "Axial", "A"),
        ("ct_case/000006/Axial_bone_window", 3, "Which organ, if any, is hurt?", "Liver", "Bone, tibia", "Lung",
         "Heart", "Bone, tibia", "B"),
        ("ct_case/000012/Axial_C__portal_venous_phase", 2, "Which phase is it?", "Late", "Arterial", "Portal venous",
         "None", "Portal venous", "C"),
    ],
    "M3D_VQA_yn_train.csv": [
        ("ct_case/000020/Axial_lung_window", 4, "Is there a nodule?", "Yes", "No", "", "", "No", "B"),
    ],
    "M3D_VQA_val.csv": [
        ("ct_quizze/007720/Axial_non_contrast", 5, "Where is it?", "Head", "Neck", "Chest", "Pelvis", "Head", "A"),
    ],
    "M3D_VQA_test5k.csv": [
        ("ct_quizze/007721/Axial_non_contrast", 4, "What is seen?", "A mass", "A stone", "Nothing", "Gas",
         "A mass", "A"),
    ],
    "M3D_VQA_test.csv": [
        ("ct_quizze/007721/Axial_non_contrast", 4, "What is seen?", "A mass", "A stone", "Nothing", "Gas",
         "A mass", "A"),
        ("ct_quizze/007722/Axial_non_contrast", 1, "Which plane?", "Axial", "Coronal", "Sagittal", "Other",
         "Axial", "A"),
    ],
}  # fmt: skip


def m3d_vqa(folder: Path) -> Truth:
    """Tables in M3D_VQA, arrays beside; of the truth each question with choices is asked twice in training."""
    truth = Truth()
    for name, rows in VQA_ROWS.items():
        table = [
            (f"M3D_Cap_npy/{row[0]}.npy", f"M3D_Cap_npy/{row[0].rpartition('/')[0]}/text.txt", *row[1:]) for row in rows
        ]
        write_csv(folder / "M3D_VQA" / name, VQA_COLUMNS, table)
    for number, name in enumerate(sorted({row[0] for rows in VQA_ROWS.values() for row in rows})):
        _array(folder, name, number)
    fracture = (("Which plane is this?", "Axial"),) * 2 + (("Which organ, if any, is hurt?", "Bone, tibia"),) * 2
    for id, split, questions in (
        ("ct_case/000006/Axial_bone_window", "train", fracture),
        ("ct_case/000012/Axial_C__portal_venous_phase", "train", (("Which phase is it?", "Portal venous"),) * 2),
        ("ct_case/000020/Axial_lung_window", "train", (("Is there a nodule?", "No"),)),
        ("ct_quizze/007720/Axial_non_contrast", "val", (("Where is it?", "Head"),) * 2),
        ("ct_quizze/007721/Axial_non_contrast", "test", (("What is seen?", "A mass"),)),
    ):
        truth.cases[id] = seen(id.rpartition("/")[0], split, questions=questions)
    return truth


# Impression: image, patient, split, text.
INSPECT = {
    "PE1001": ("PE1001", "11", "train", "No embolus, \"clear\"."),
    "PE1002": ("PE1002", "11", "train", "Embolus of the\nright main artery."),
    "PE1003": ("PE1003", "12", "train", "  "),
    "PE1004": ("LI4004", "13", "valid", "Chronic embolus."),
    "PE1005": ("PE1005", "14", "test", "No embolus."),
    "PE1006": ("PE1006", "15", "test", "Two emboli, 3 µm."),
    "PE1007": ("PE1007", "16", "train", "Not downloaded."),
}  # fmt: skip


def inspect(folder: Path) -> Truth:
    """One impression is empty, one volume is called as its image and not as its impression, and one is missing."""
    truth = Truth(excluded=("PE1003",))
    for id, (image, patient, split, text) in INSPECT.items():
        case = phantom(("lung",), id)
        if id != "PE1007":
            save_nifti(folder / f"inspect2/CTPA/{image}.nii.gz", case.hu, "LPS")
        case.patient, case.split, case.report, case.masks = patient, {"valid": "val"}.get(split, split), text, {}
        if id not in ("PE1003", "PE1007"):
            truth.cases[id] = case
    write_csv(folder / "Final_Impressions.csv", ("impression_id", "impressions"),
              [(id, row[3]) for id, row in INSPECT.items()], "utf-8-sig")  # fmt: skip
    write_csv(folder / "study_mapping.csv", ("person_id", "impression_id", "image_id"),
              [(row[1], id, f"{row[0]}.nii.gz") for id, row in INSPECT.items()])  # fmt: skip
    write_csv(folder / "splits.csv", ("impression_id", "split"), [(id, row[2]) for id, row in INSPECT.items()])
    return truth


# Path in the index: split, article, finding, impression, report.
_ROOT = "/mnt/data/radiopaedia/processed"
RP3D = {
    "case1/scan_0.npy": ("train", "Lung cyst", "A thin wall.", "Cyst.", "A thin wall. Cyst."),
    "case1/scan_1.npy": ("train", "Lung cyst", "A thin wall.", None, "A thin wall."),
    "case2/scan_0.npy": ("train", "Goitre", "A large\nthyroid.", "", "A large thyroid."),
    "case3/scan_0.npy": ("train", "Gallstone", "", "None", None),
    "case4/scan_0.npy": ("test", "Abscess", "Fluid.", "Abscess, 3 µm.", "Fluid. Abscess, 3 µm."),
    "case5/scan_0.npy": ("test", "Nothing here", "Normal.", "Normal.", None),
    "case6/scan_0.npy": ("train", "Haematoma", "Dense.", "Bleeding.", "Dense. Bleeding."),
}  # fmt: skip


def rp3d(folder: Path) -> Truth:
    """Arrays of one name in several folders; one record has no text and one array is not here."""
    truth = Truth(excluded=(f"{_ROOT}/case3/scan_0.npy",))
    index: dict[str, list[dict[str, object]]] = {"train": [], "test": []}
    for number, (name, (part, article, finding, impression, report)) in enumerate(RP3D.items()):
        index[part].append({
            "npy_path": f"{_ROOT}/{name}", "finding": finding, "impression": impression, "pre": "", "pat": "Adult",
            "title": article, "articles": f"All about: {article}", "radiographic_features": "",
        })  # fmt: skip
        if name != "case5/scan_0.npy":
            grey = np.random.default_rng(number).random((8, 9, 5), dtype=np.float32)
            write_array(folder / "images" / name, grey)
        if report is not None:
            truth.cases[f"{_ROOT}/{name}"] = seen(article, part, report=report)
    for part, items in index.items():
        write_json(folder / f"radiology_article_npy_{part}.json", items)
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "m3d_cap": m3d_cap,
    "m3d_vqa": m3d_vqa,
    "inspect": inspect,
    "rp3d": rp3d,
}

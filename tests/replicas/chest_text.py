"""Replicas of CT-RATE, of RadGenome, which has the same patients, and of RadChestCT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.replicas.phantoms import phantom, save_nifti
from tests.replicas.text_truth import only_present, write_csv, write_json, write_text
from tests.replicas.truth import Truth

LABELS = (
    "Medical material", "Arterial wall calcification", "Cardiomegaly", "Pericardial effusion",
    "Coronary artery wall calcification", "Hiatal hernia", "Lymphadenopathy", "Emphysema", "Atelectasis",
    "Lung nodule", "Lung opacity", "Pulmonary fibrotic sequela", "Pleural effusion", "Mosaic attenuation pattern",
    "Peribronchial thickening", "Consolidation", "Bronchiectasis", "Interlobular septal thickening",
)  # fmt: skip
# File name without its ending: what is present, the two texts, and the report that they make.
TRAIN = {
    "train_1_a_1": (("Lung nodule",), "A nodule of 6 mm, \"solid\", in the\nright upper lobe.", "Nodule.",
                    "A nodule of 6 mm, \"solid\", in the\nright upper lobe. Nodule."),
    "train_1_a_2": (("Lung nodule",), "A nodule, second kernel.", "Not given.", "A nodule, second kernel."),
    "train_2_a_1": ((), "Not given.", "No pathology was found.", "No pathology was found."),
    "train_3_b_1": (("Cardiomegaly", "Pleural effusion"), "Not given.", "Not given.", ""),
    "train_10_a_1": (("Emphysema",), "Emphysème discret, 2 µm.", "", "Emphysème discret, 2 µm."),
    "train_11_a_1": (("Lung nodule",), "This is a knee.", "Knee.", "This is a knee. Knee."),
}  # fmt: skip
VALID = {
    "valid_1_a_1": (("Bronchiectasis", "Emphysema"), "Dilated bronchi.", "Bronchiectasis.",
                    "Dilated bronchi. Bronchiectasis."),
    "valid_2_a_1": (("Medical material",), "A port catheter.", "Unchanged.", "A port catheter. Unchanged."),
    "valid_3_a_1": ((), "Head.", "Head.", "Head. Head."),
}  # fmt: skip
NOT_DOWNLOADED = "train_99_a_1"
EXCLUDED = ("train_11_a_1", "valid_3_a_1")


def _turns(*pairs: tuple[str, str, str]) -> list[dict[str, str]]:
    """Pairs of (question, answer, kind) as they follow each other in one item."""
    return [
        turn
        for question, answer, kind in pairs
        for turn in ({"from": "human", "value": question, "type": kind}, {"from": "gpt", "value": answer})
    ]


def _questions() -> tuple[dict[str, list[dict[str, object]]], dict[str, tuple[tuple[str, str], ...]]]:
    """By file the items; and by case the questions without marks, with the answer in words."""
    train = [
        {"id": "report_generation_0", "image": "train_1_a_1.nii.gz", "conversations": _turns(
            ("<image>\nWrite the report.<report_generation>", "A nodule of 6 mm.", "report_generation"))},
        {"id": "short_answer_1", "image": "train_1_a_1.nii.gz", "conversations": _turns(
            ("<image>\nIs there a nodule?<short_answer>", "Yes.", "short_answer"),
            ("Where is it?<short_answer>", "Right upper lobe.", "short_answer"))},
        {"id": "multiple_choice_2", "image": "train_1_a_1.nii.gz", "conversations": _turns(
            ("<image>\nWhich side? (a) left (b) right (c) both <multiple_choice>", "(b) right", "multiple_choice"),
            ("Which lobe? A. lower B. upper<multiple_choice>", "B", "multiple_choice"),
            ("Which one is it?<multiple_choice>", "the second", "multiple_choice"))},
        {"id": "short_answer_3", "image": "train_11_a_1.nii.gz", "conversations": _turns(
            ("<image>\nWhat is this?<short_answer>", "A knee.", "short_answer"))},
        {"id": "short_answer_4", "image": f"{NOT_DOWNLOADED}.nii.gz", "conversations": _turns(
            ("<image>\nWhat is this?<short_answer>", "A chest.", "short_answer"))},
    ]  # fmt: skip
    valid = [
        {"id": "long_1", "image": "valid_1_a_1.nii.gz", "conversations": _turns(
            ("<image>\nDescribe the bronchi.<long_answer>", "They are wide.", "description"))},
        {"id": "short_2", "image": "valid_2_a_1.nii.gz", "conversations": _turns(
            ("<image>\nIs there an effusion?<short_answer>", "no", "short_answer"))},
    ]  # fmt: skip
    truth = {
        "train_1_a_1": (("Write the report.", "A nodule of 6 mm."), ("Is there a nodule?", "Yes."),
                        ("Where is it?", "Right upper lobe."), ("Which side?", "right"), ("Which lobe?", "upper"),
                        ("Which one is it?", "the second")),
        "valid_1_a_1": (("Describe the bronchi.", "They are wide."),),
        "valid_2_a_1": (("Is there an effusion?", "no"),),
    }  # fmt: skip
    return {"train_vqa.json": train, "valid_vqa.json": valid}, truth


def _tables(dataset: Path) -> None:
    """Labels and lists of CT-RATE; the table of training begins with a byte order mark and has a row too many."""
    for name, rows, encoding in (("train", TRAIN, "utf-8-sig"), ("valid", VALID, "utf-8")):
        table = [[f"{id}.nii.gz", *only_present(LABELS, row[0]).values()] for id, row in rows.items()]
        if name == "train":
            table.append([f"{NOT_DOWNLOADED}.nii.gz", *[0] * 18])
        path = dataset / "multi_abnormality_labels" / f"{name}_predicted_labels.csv"
        write_csv(path, ["VolumeName", *LABELS], table, encoding)
    write_text(dataset / "metadata/no_chest_train.txt", "train_11_a_1.nii.gz\n")
    write_text(dataset / "metadata/no_chest_valid.txt", "valid_3_a_1.nii.gz\r\n\r\n")


def ct_rate(folder: Path, fixed: str = "_fixed") -> Truth:
    """Version 2, of which a part was downloaded; metadata still name the slope and intercept of the first version."""
    dataset = folder / "dataset"
    truth = Truth(excluded=EXCLUDED)
    files, questions = _questions()
    for part, long_name, rows in (("train", "train", TRAIN), ("valid", "validation", VALID)):
        for id, (present, _, _, report) in rows.items():
            case = phantom(("lung",), id)
            _, patient, scan, _ = id.split("_")
            save_nifti(dataset / f"{part}{fixed}/{part}_{patient}/{part}_{patient}_{scan}/{id}.nii.gz", case.hu, "LPS")
            case.patient, case.split = f"{part}_{patient}", "train" if part == "train" else "test"
            case.classes, case.report = only_present(LABELS, present), report
            case.masks, case.questions = {}, questions.get(id, ())
            if id not in EXCLUDED:
                truth.cases[id] = case
        more = {NOT_DOWNLOADED: ((), "Clear.", "Normal.", "")} if part == "train" else {}
        write_csv(
            dataset / "radiology_text_reports" / f"{long_name}_reports.csv",
            ["VolumeName", "ClinicalInformation_EN", "Technique_EN", "Findings_EN", "Impressions_EN"],
            [[f"{id}.nii.gz", "Cough", "CT", row[1], row[2]] for id, row in (rows | more).items()],
        )
        write_csv(
            dataset / "metadata" / f"{long_name}_metadata.csv",
            ["VolumeName", "Manufacturer", "XYSpacing", "RescaleIntercept", "RescaleSlope", "ZSpacing"],
            [[f"{id}.nii.gz", "Siemens, Healthineers", "[0.34, 0.34]", -8192, 1, 1.5] for id in rows | more],
        )
    _tables(dataset)
    for name, items in files.items():
        write_json(dataset / "vqa" / name, items)
    return truth


def ct_rate_version_1(folder: Path) -> Truth:
    """The deprecated form, to be refused."""
    ct_rate(folder, fixed="")
    return Truth()


def radgenome(folder: Path) -> Truth:
    """Volumes in a tree of their own; CT-RATE's tables lie in a folder beside."""
    _tables(folder / "CT-RATE" / "dataset")
    truth = Truth(excluded=(*EXCLUDED, "train_77_a_1"))
    for part, rows in (("train", TRAIN), ("valid", VALID)):
        for id, (present, _, _, _) in rows.items():
            case = phantom(("lung",), id)
            _, patient, scan, _ = id.split("_")
            tree = f"dataset/{part}_preprocessed/{part}_{patient}/{part}_{patient}{scan}"
            save_nifti(folder / "RadGenome" / tree / f"{id}.nii.gz", case.hu)
            case.patient, case.split, case.masks = f"{part}_{patient}", "train" if part == "train" else "test", {}
            case.classes = {label.lower(): value for label, value in only_present(LABELS, present).items()}
            if id not in EXCLUDED:
                truth.cases[id] = case
    unlabelled = folder / "RadGenome/dataset/train_preprocessed/train_77/train_77a/train_77_a_1.nii.gz"
    save_nifti(unlabelled, phantom((), "train_77_a_1").hu)
    return truth


# By label of the task the column's abnormality; a device is enough for "medical material".
RAD_CHEST = {
    "medical material": "hardware", "calcification": "calcification", "cardiomegaly": "cardiomegaly",
    "pericardial effusion": "pericardial_effusion", "hiatal hernia": "hernia", "lymphadenopathy": "lymphadenopathy",
    "emphysema": "emphysema", "atelectasis": "atelectasis", "lung nodule": "nodule", "lung opacity": "opacity",
    "pulmonary fibrotic sequela": "fibrosis", "pleural effusion": "pleural_effusion",
    "peribronchial thickening": "bronchial_wall_thickening", "consolidation": "consolidation",
    "bronchiectasis": "bronchiectasis", "interlobular septal thickening": "septal_thickening",
}  # fmt: skip
PLACES = ("right_upper", "left_lower", "other_location")
MORE = ("catheter_or_port", "stent", "mass", "coronary_artery_disease", "pericardial_thickening", "groundglass")
# Volume: patient, label table, columns with a 1, and the labels that they make.
RAD_CHEST_VOLUMES = {
    "trn00001": ("P1", "imgtrain", ("nodule*right_upper", "stent*other_location"), ("lung nodule", "medical material")),
    "trn00002": ("P1", "imgtrain", ("pericardial_thickening*other_location",), ()),
    "trn00003": ("P2", "imgtrain", ("opacity*left_lower", "opacity*right_upper", "hernia*other_location"),
                 ("lung opacity", "hiatal hernia")),
    "trn00004": ("P3", "imgtrain", ("hardware*left_lower", "calcification*other_location"),
                 ("medical material", "calcification")),
    "val00001": ("P4", "imgvalid", ("fibrosis*left_lower",), ("pulmonary fibrotic sequela",)),
    "val00002": ("P5", "imgvalid", ("mass*left_lower", "groundglass*left_lower"), ()),
    "tst00001": ("P6", "imgtest", tuple(f"{token}*left_lower" for token in RAD_CHEST.values()), tuple(RAD_CHEST)),
    "tst00002": ("P7", "imgtest", ("bronchial_wall_thickening*right_upper",), ("peribronchial thickening",)),
}  # fmt: skip


def rad_chest_ct(folder: Path) -> Truth:
    """Arrays (z, y, x) from top to bottom, front to back and right to left; one volume was not downloaded."""
    columns = [f"{token}*{place}" for token in (*RAD_CHEST.values(), *MORE) for place in PLACES]
    truth = Truth(excluded=("trn00009",))
    for id, (patient, _, _, present) in RAD_CHEST_VOLUMES.items():
        case = phantom(("liver", "spleen"), id)
        np.savez_compressed(folder / f"{id}.npz", ct=case.hu[::-1, ::-1, ::-1].transpose(2, 1, 0))
        case.patient, case.classes = patient, only_present(tuple(RAD_CHEST), present)
        case.split = {"trn": "train", "val": "val", "tst": "test"}[id[:3]]
        truth.cases[id] = case
    np.savez_compressed(folder / "trn00009.npz", ct=np.zeros((4, 5, 6), dtype=np.int16))
    for part in ("imgtrain", "imgvalid", "imgtest"):
        rows = {id: row for id, row in RAD_CHEST_VOLUMES.items() if row[1] == part}
        table = [[id, *[int(name in row[2]) for name in columns]] for id, row in rows.items()]
        if part == "imgtrain":
            table.append(["trn00500", *[0] * len(columns)])
        write_csv(folder / f"{part}_Abnormality_and_Location_Labels.csv", ["NoteAcc_DEID", *columns], table)
    write_csv(
        folder / "CT_Scan_Metadata_Complete_35747.csv",
        ["NoteAcc_DEID", "MRN_DEID", "Manufacturer"],
        [[id, row[0], "GE"] for id, row in RAD_CHEST_VOLUMES.items()] + [["trn30000", "P9", "GE"]],
    )
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "ct_rate": ct_rate,
    "radgenome": radgenome,
    "rad_chest_ct": rad_chest_ct,
}

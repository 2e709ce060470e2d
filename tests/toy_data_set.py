"""A made-up data set with every kind of annotation, as folders and tables on disk, and its reader."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.prepare.case import Case, Findings, Mask, Question, Split
from datasets.prepare.data_set import DataSet, Setting

SHAPE = (12, 10, 8)
ORGANS = {"liver": 1, "kidney": 2, "spleen": 3, "pancreas": 4}
DISEASES = ("Emphysema", "Lung nodule", "Cardiomegaly")
COLUMNS = ("case", "patient", "split", *DISEASES, "report", "question", "answer")
SPLITS: dict[str, Split | None] = {"train": "train", "val": "val", "test": "test", "": None}


def write_toy(folder: Path, splits: Sequence[str], volumes: int = 1) -> Path:
    """A case for each split and volume: patient `p0` has the first split, and so on.

    Organ k of case n is the slab x == k of the volume; the pancreas is in no case, the spleen in even ones.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    rows = []
    for number, split in enumerate(splits):
        for volume in range(volumes):
            name = f"p{number}_{volume}"
            rng = np.random.default_rng(number)
            ct = rng.integers(-1000, 1000, SHAPE).astype(np.int16)
            mask = np.zeros(SHAPE, np.uint8)
            mask[1], mask[2] = 1, 2
            if number % 2 == 0:
                mask[3] = 3
            affine = np.diag([-0.8, -0.8, 2.0, 1.0])
            nib.save(nib.Nifti1Image(ct, affine), folder / "images" / f"{name}.nii.gz")
            nib.save(nib.Nifti1Image(mask, affine), folder / "labels" / f"{name}.nii.gz")
            truth = [str(int(number % (2 + place) == 0)) for place in range(len(DISEASES))]
            rows.append([name, f"p{number}", split, *truth, f"Report of {name}.", "Is there a nodule?", "Yes."])
    write_table(folder, rows)
    return folder


def write_table(folder: Path, rows: Sequence[Sequence[str]]) -> None:
    with open(folder / "cases.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def read_table(folder: Path) -> list[list[str]]:
    with open(folder / "cases.csv", newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def toy_set(name: str = "toy", **changes: object) -> DataSet:
    """The data set; `changes` are fields of DataSet."""

    def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
        findings.version = "v1"
        findings.tables.append(source / "cases.csv")
        data_set.setting(settings, "nodule", findings)
        cases = []
        for case, patient, split, *rest in read_table(source):
            truth, (report, question, answer) = rest[:3], rest[3:]
            mask = source / "labels" / f"{case}.nii.gz"
            cases.append(
                Case(
                    id=case,
                    patient=patient,
                    image=source / "images" / f"{case}.nii.gz",
                    split=SPLITS[split],
                    classes=dict(zip(DISEASES, map(int, truth), strict=True)),
                    report=report,
                    masks={organ: Mask((mask,), (value,)) for organ, value in ORGANS.items()},
                    questions=(Question(question, answer),) if question else (),
                )
            )
        return cases

    fields: dict[str, object] = {
        "marks": ("images/*.nii.gz", "cases.csv"),
        "pretraining": (
            "RadGenome_disease_classification",
            "CTRATE_image_text",
            "AbdomenCT1K_structure_segmentation",
        ),
        "instruction": ("CTRATE_Diagnosis", "CTRATE_Question_Answer", "AbdomenCT1K_Seg"),
        "benchmarks": ("CT-RATE-diagnosis", "AbdomenCT-1K", "CT-RATE-VQA"),
        "settings": {"nodule": Setting("6 mm", "what counts as a nodule", "the size of a nodule is not known")},
    }
    data_set = DataSet(name=name, title=name.title(), read=read, **(fields | changes))  # type: ignore[arg-type]
    return data_set

"""A person's own table, with everything that it can hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas.phantoms import label_map, phantom, save_nifti
from tests.replicas.text_truth import write_csv
from tests.replicas.truth import CaseTruth, Truth

COLUMNS = ("image", "report", "labels", "mask", "question", "answer", "choices", "patient", "split")
LABELS = ("Edema", "effusion", "nodule")
ORGANS = ("liver", "left kidney", "right kidney", "spleen")


def _volume(folder: Path, id: str, patient: str, split: str | None) -> CaseTruth:
    case = phantom(ORGANS, id)
    save_nifti(folder / id, case.hu, "LPS")
    for organ in ("liver", "spleen"):
        save_nifti(folder / id.replace("ct", organ), case.masks[organ].astype("uint8"), "RAS")
    save_nifti(folder / id.replace("ct", "organs"), label_map(case, {organ: n for n, organ in enumerate(ORGANS, 1)}))
    case.patient, case.split, case.classes = patient, split, None
    return case


def own(folder: Path, encoding: str = "utf-8-sig") -> Truth:
    """As Excel saves it: a byte order mark, fields with commas, quotes and line breaks; several rows an image."""
    truth = Truth()
    rows: list[tuple[str, ...]] = []

    def add(id: str, patient: str, split: str, fields: list[dict[str, str]]) -> CaseTruth:
        truth.cases[id] = case = _volume(folder, id, patient, split)
        for row in fields:
            given = {"image": id, "patient": patient, "split": split, **row}
            rows.append(tuple(given.get(column, "") for column in COLUMNS))
        return case

    case = add("a/ct.nii.gz", "Müller, A.", "train", [
        {"report": 'Oedema, "mild".\nSmall effusion.', "labels": "Edema; effusion", "mask": "liver=a/liver.nii.gz"},
        {"question": "Is there oedema?", "answer": "Yes."},
        {"question": "Which side?", "answer": "right", "choices": "left;right;both"},
        {"mask": "kidney=a/organs.nii.gz#2,3;spleen=a/organs.nii.gz#4"},
    ])  # fmt: skip
    case.report, case.classes = 'Oedema, "mild".\nSmall effusion.', {"Edema": 1, "effusion": 1, "nodule": 0}
    case.questions = (("Is there oedema?", "Yes."), ("Which side?", "right"))
    case.masks = {name: case.masks[name] for name in ("liver", "spleen")} | {
        "kidney": case.masks["left kidney"] | case.masks["right kidney"]
    }
    case = add("b/ct.nii.gz", "Müller, A.", "train", [{"labels": "none", "report": "Normal."}])
    case.report, case.classes, case.masks = "Normal.", dict.fromkeys(LABELS, 0), {}
    case = add(
        "c/ct.nii.gz",
        "B",
        "val",
        [{"question": "What is it?", "answer": "B", "choices": "A=a stone;B=a mass", "mask": "spleen=c/spleen.nii.gz"}],
    )
    case.questions, case.masks = (("What is it?", "a mass"),), {"spleen": case.masks["spleen"]}
    case = add("d/ct.nii.gz", "C", "test", [{"labels": "nodule;Edema"}])
    case.classes, case.masks = {"Edema": 1, "effusion": 0, "nodule": 1}, {}
    case = add("e/ct.nii.gz", "D", "train", [{"report": "A liver."}, {"question": "Where?", "answer": "Above."}])
    case.report, case.questions, case.masks = "A liver.", (("Where?", "Above."),), {}
    case = add("f/ct.nii.gz", "E", "train", [{"labels": "effusion", "mask": "liver=f/organs.nii.gz#1"}])
    case.classes, case.masks = {"Edema": 0, "effusion": 1, "nodule": 0}, {"liver": case.masks["liver"]}
    write_csv(folder / "table.csv", COLUMNS, rows, encoding)
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {"own": own}

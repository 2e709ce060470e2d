"""A small evaluation with known figures, and a page as a parser reads it; for the tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import numpy as np

from evaluation.metrics.segmentation import missing_mask_scores, segmentation_scores

AFFINE = np.diag([3.0, 3.0, 4.0, 1.0])
SPACING = (3.0, 3.0, 4.0)
VOID = {"meta", "img", "br", "link", "input", "hr", "base", "source", "track", "wbr", "area", "col", "embed"}
HOSTILE = '<script>alert("x")</script> & "quoted"'


def scan(folder: Path, name: str) -> tuple[Path, Path, np.ndarray]:
    """A soft-tissue block in air with two labelled boxes: value 5 liver, value 6 spleen."""
    labels = np.zeros((30, 26, 20), dtype=np.uint8)
    labels[4:14, 6:18, 4:14] = 5
    labels[20:26, 8:14, 6:12] = 6
    volume = np.full(labels.shape, -1000, dtype=np.int16)
    volume[2:28, 2:24, :] = 20
    volume[labels > 0] = 90
    image, mask = folder / f"{name}.nii.gz", folder / f"{name}_structures.nii.gz"
    nib.save(nib.Nifti1Image(volume, AFFINE), image)
    nib.save(nib.Nifti1Image(labels, AFFINE), mask)
    return image, mask, labels


def segmentation_records(folder: Path) -> list[dict]:
    """Five scans; the prediction of the k-th is the liver moved k voxels, the last answer gives none. A spleen is asked
    for once, and its answer has no entry at all."""
    records = []
    for k in range(5):
        image, mask, labels = scan(folder, f"p{k}")
        truth = labels == 5
        entry = {"label": "liver", "mask_path": None, "truth_path": str(mask), "truth_values": 5}
        if k < 4:
            moved = np.roll(truth, k, axis=0)
            path = folder / "evaluation" / "masks" / f"seg{k}_liver.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(moved.astype(np.uint8), AFFINE), path)
            entry |= {"mask_path": str(path), **segmentation_scores(moved, truth, SPACING)}
        else:
            entry |= missing_mask_scores(truth, SPACING)
        records.append(
            {
                "id": f"seg{k}",
                "patient_id": f"p{k}",
                "task": "segmentation",
                "question": "Where is the liver? Please output segmentation mask. <segmentation>",
                "image_path": [str(image)],
                "answer": "It is <SEG>.",
                "prediction": "It is <SEG>." if k < 4 else "It is fine.",
                "labels": ["liver", "spleen"] if k == 0 else ["liver"],
                "segmentation": [entry],
                "error": None,
            }
        )
    return records


def other_records() -> list[dict]:
    rng = np.random.default_rng(3)
    base = {"image_path": ["ct.nii.gz"], "error": None}
    records = [
        {
            **base,
            "id": f"dia{k}",
            "patient_id": f"p{k}",
            "task": "diagnosis",
            "question": "Diagnose.",
            "label_set": "CT-RATE",
            "answer": "Lung nodule <disease_confidence>",
            "prediction": "Lung nodule <disease_confidence>",
            "targets": {"Lung nodule": k % 2, "Cardiomegaly": 0, "Emphysema": None if k < 4 else int(k % 3 == 0)},
            "probabilities": {
                "Lung nodule": 0.3 * (k % 2) + 0.6 * float(rng.random()),
                "Cardiomegaly": 0.2,
                "Emphysema": float(rng.random()),
            },
        }
        for k in range(14)
    ]
    texts = [
        ("open_vqa", "How large is the heart?", "Enlarged.", "enlarged"),
        ("open_vqa", "Where is the nodule?", "Left upper zone.", "In the left lung, above."),
        ("yes_no", "Is there emphysema? <binary_answer>", "Yes.", "Yes, there is."),
        ("yes_no", "Is there a hernia? <binary_answer>", "No.", "There may be one."),
        ("multiple_choice", "Which side? A. Left B. Right", "B. Right", "B"),
        ("multiple_choice", "Which one? A. Left B. Right", "A. Left", "B"),
        ("report_generation", "Write the report.", "Findings: Cardiomegaly.", HOSTILE),
    ]
    for k, (task, question, answer, prediction) in enumerate(texts):
        choices = {"A": "Left", "B": "Right"} if task == "multiple_choice" else None
        records.append(
            {**base, "id": f"text{k}", "patient_id": f"p{k}", "task": task, "question": question, "answer": answer}
            | {"prediction": prediction, "choices": choices}
        )
    failed = {"id": "bad1", "patient_id": "p9", "task": "open_vqa", "question": "?", "answer": "x", "prediction": ""}
    return [*records, {**failed, "error": f"p9.nii.gz: holds NaN {HOSTILE}"}]


class Page(HTMLParser):
    """Elements, ids, references and text of a page; an element closed out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def named(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]

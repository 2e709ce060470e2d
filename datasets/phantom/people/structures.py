"""The structures of a person phantom: names as `data/label_descriptions` has them, and values in the label map."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.errors import InputError
from datasets.phantom.anatomy import STRUCTURES

NAMES = (
    *STRUCTURES,  # the chest phantom's, with its values
    *("spinal cord", "brainstem", "brain", "skull", "mandible", "left parotid gland", "right parotid gland"),
    *("esophagus", "larynx", "thyroid", "sternum", "left clavicle", "right clavicle", "left scapula", "right scapula"),
    *("left humerus", "right humerus", "stomach", "gallbladder", "pancreas", "colon", "small bowel"),
    *("urinary bladder", "inferior vena cava", "sacrum", "left hip", "right hip", "left femur", "right femur"),
    *("left autochthon", "right autochthon", "left iliopsoas", "right iliopsoas"),
)
VALUES: dict[str, int] = {name: number for number, name in enumerate(NAMES, 1)}
"""Label values; 0 is everything else."""

UNIONS: dict[str, list[int]] = {
    "lungs": [VALUES["left lung"], VALUES["right lung"]],
    "kidneys": [VALUES["left kidney"], VALUES["right kidney"]],
}
"""Structures that are unions of label values."""

STRUCTURES_FILE = "structures.json"
"""Where a folder of person phantoms says which labels its masks have."""


def read_structures(folder: str | Path) -> dict[str, int | list[int]] | None:
    """Labels and values of the masks in a folder of person phantoms; None for a folder of another kind.

    Raises InputError for a damaged file.
    """
    path = Path(folder) / STRUCTURES_FILE
    if not path.is_file():
        return None
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))["labels"]
        return {str(name): value for name, value in labels.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: does not name labels; python -m datasets.phantom --style people writes it"
        ) from error

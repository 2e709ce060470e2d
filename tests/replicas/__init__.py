"""Miniatures of data sets as their authors ship them: names, trees, encodings and traps, written by hand.

Each function writes one into an empty folder and gives the truth.  Nothing here knows the readers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas import abdomen, chest, dicom_and_pet
from tests.replicas.truth import Truth

# By the name of the data set, with "@" and a word behind it where there are several forms of one.
SEGMENTATION: dict[str, Callable[[Path], Truth]] = {
    **abdomen.REPLICAS,
    **chest.REPLICAS,
    **dicom_and_pet.REPLICAS,
}
REPLICAS: dict[str, Callable[[Path], Truth]] = {**SEGMENTATION}

"""Miniatures of data sets as their authors ship them: names, trees, encodings and traps, written by hand.

Each function writes one into an empty folder and gives the truth.  Nothing here knows the readers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas import (
    abdomen,
    chest,
    chest_text,
    dicom_and_pet,
    own_data,
    report_sets,
    sat_ds,
    slice_sets,
    whole_body,
)
from tests.replicas.truth import Truth

# By the name of the data set, with "@" and a word behind it where there are several forms of one.
SEGMENTATION: dict[str, Callable[[Path], Truth]] = {
    **abdomen.REPLICAS,
    **chest.REPLICAS,
    **dicom_and_pet.REPLICAS,
    **whole_body.REPLICAS,
}
# Of labels, reports and questions; `radgenome` holds two folders, RadGenome and the CT-RATE beside it.
TEXT: dict[str, Callable[[Path], Truth]] = {
    **chest_text.REPLICAS,
    **report_sets.REPLICAS,
    **slice_sets.REPLICAS,
    **own_data.REPLICAS,
}
REPLICAS: dict[str, Callable[[Path], Truth]] = {**SEGMENTATION, **sat_ds.REPLICAS, **TEXT}

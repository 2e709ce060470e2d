"""Codes for labels and diseases: SNOMED CT where data/label_codes.json has one, else this project's own scheme."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from datasets.label_descriptions import SIDE, canonical

FILE = Path(__file__).resolve().parents[2] / "data" / "label_codes.json"
OWN_SCHEME = "99CTINSTRUCT"  # DICOM leaves names that begin with 99 to anyone
_LONGEST_VALUE, _LONGEST_MEANING = 16, 64  # of a DICOM code


@dataclass(frozen=True)
class Code:
    """A coded word of DICOM: value, the scheme that it is of ("SCT" is SNOMED CT), and the word."""

    value: str
    scheme: str
    meaning: str


ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
LESION = Code("49755003", "SCT", "Morphologically Abnormal Structure")
SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}


@dataclass(frozen=True)
class CodedName:
    """What a label says in codes.

    category: of structures or of lesions.  kind: what it is.  side: where the label has one that `kind` does not say.
    region: the organ of a lesion.
    """

    category: Code
    kind: Code
    side: Code | None = None
    region: Code | None = None


def coded_name(label: str) -> CodedName:
    """The codes of a structure, lesion or disease; one that the table lacks has this project's own code, by its name.

    A label is looked up as it is, then without its side.
    """
    name = canonical(label)
    found = SIDE.search(name)
    spellings: list[tuple[str, Code | None]] = [(name, None)]
    if found:
        spellings.append((" ".join(SIDE.sub("", name).split()), SIDES[found[1]]))
    table = _table()
    for spelling, side in spellings:
        if spelling in table["structures"]:
            return CodedName(ANATOMY, _snomed(table["structures"][spelling]), side)
        if spelling in table["lesions"]:
            entry = table["lesions"][spelling]
            region = _snomed(entry["region"]) if "region" in entry else None
            return CodedName(LESION, _snomed(entry["type"]), side, region)
    return CodedName(ANATOMY, own_code(name))


def own_code(name: str) -> Code:
    """A code of this project's scheme: the name itself where it is short enough, else its beginning and a digest."""
    value = re.sub(r"[^a-z0-9]+", "-", canonical(name)).strip("-")
    if not value or len(value) > _LONGEST_VALUE or value.replace("-", " ") != canonical(name):
        value = f"{value[: _LONGEST_VALUE - 7]}-{hashlib.sha256(canonical(name).encode()).hexdigest()[:6]}"
    meaning = " ".join(name.replace("\\", " ").split())  # a backslash parts values in DICOM
    return Code(value, OWN_SCHEME, meaning[:_LONGEST_MEANING] or "unnamed")


@lru_cache(maxsize=1)
def _table() -> dict[str, dict[str, Any]]:
    table: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return table


def _snomed(pair: list[str]) -> Code:
    value, meaning = pair
    return Code(value, "SCT", meaning)

"""What the text encoder reads for a label: a short clinical description, from data/label_descriptions/*.json.

A label is found whatever its case, and an underscore is a space: the published lists spell a structure in several ways.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path

from datasets.errors import InputError

FOLDER = Path(__file__).resolve().parent.parent / "data" / "label_descriptions"
SIDE = re.compile(r"\b(left|right)\b")


def canonical(label: str) -> str:
    """The spelling under which labels are compared: ``Liver_Tumor`` is ``liver tumor``."""
    return " ".join(label.casefold().replace("_", " ").split())


def has_side(label: str) -> bool:
    """Whether a label tells left from right, so that a mirrored volume would show the other one."""
    return SIDE.search(canonical(label)) is not None


def describe(label: str) -> str:
    """One or two sentences on where a structure lies, or on how a disease looks; InputError where none is written."""
    try:
        return descriptions()[canonical(label)]
    except KeyError:
        raise InputError(f"{FOLDER}: no description of the label {label!r}; add it to one of the files there") from None


@lru_cache(maxsize=1)
def findings() -> frozenset[str]:
    """Canonical spellings of labels that are no anatomy: lesions, diseases and their details."""
    files = (FOLDER / f"{name}.json" for name in ("lesions", "diseases", "details"))
    return frozenset(canonical(label) for file in files for label in json.loads(file.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def descriptions() -> dict[str, str]:
    """Every description by its label's canonical spelling."""
    found: dict[str, str] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for label, text in json.loads(path.read_text(encoding="utf-8")).items():
            if canonical(label) in found:
                raise InputError(f"{path}: {label!r} is described twice; keep one of the two")
            found[canonical(label)] = text
    return found

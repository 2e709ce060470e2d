"""The rows of a manifest file (JSON, or JSON lines), and the words in which a bad row is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from datasets.errors import InputError
from datasets.json_text import parse_json

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
Fault = tuple[int, str]  # row, reason


class ManifestError(InputError):
    """A manifest cannot be used; the message names file, row and field.  faults: a line for each thing found wrong."""

    def __init__(self, message: str, faults: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.faults = list(faults) or [message]


@dataclass(frozen=True)
class ManifestRows:
    """What a manifest file holds: (row, record) pairs, not yet looked at.

    where: how messages name the place: the file, and the split where the file has several.
    row: counted from 0 in the list (of the split), or in the lines of a JSON lines file.
    """

    where: str
    numbered: list[tuple[int, Any]]


def read_rows(path: Path) -> list:
    """The list in a manifest file, its records not yet looked at; ManifestError where there is none."""
    return [row for _, row in rows_of(path).numbered]


def rows_of(path: Path, split: str | None = None) -> ManifestRows:
    """The rows of a manifest, or those of one split ("train", "val", "test") where the file has several.

    A JSON file is a list, or ``{"train": [...], "test": [...]}``.  Of a JSON lines file, the lines whose
    ``official_split`` is the asked one; where that is unknown or not given, a line is training data.  A file whose
    name ends in ``_<split>`` is of that split alone.  A byte order mark at the start is passed over.

    Raises ManifestError for a missing or damaged file, one that is no list, or one without the split.
    """
    content = _content(path)
    if isinstance(content, list):
        return ManifestRows(str(path), list(enumerate(content)))
    if isinstance(content, _Lines):
        if split is None or path.stem.endswith(f"_{split}"):
            return ManifestRows(str(path), content.numbered)
        splits = [(row, _split(values)) for row, values in content.numbered]
        names = f"none of {', '.join(SPLIT_NAMES)} or unknown; give the file a name that ends in _{split}"
        refuse_rows(
            path,
            [(row, f"field official_split: {name!r} is {names}") for row, name in splits if name not in SPLIT_NAMES],
        )
        return ManifestRows(str(path), [(row, values) for row, values in content.numbered if _split(values) == split])
    if not _has_splits(content):
        raise ManifestError(f"{path}: must hold a JSON list of records, not {type(content).__name__}")
    keys = [key for key in content if key in SPLIT_NAMES.get(split or "", ())]
    if not keys:
        which = "say which one to read" if split is None else f"it has no split {split!r}"
        raise ManifestError(f"{path}: holds the splits {', '.join(content)}; {which}")
    return ManifestRows(f"{path}, split {keys[0]}", list(enumerate(content[keys[0]])))


def splits_in(path: Path) -> list[str]:
    """Of "train", "val", "test" those that a file with several splits has; none of a file without splits.

    A JSON lines file has several by the ``official_split`` of its lines.  Raises ManifestError for a damaged file.
    """
    content = _content(path)
    if isinstance(content, _Lines):
        found = {_split(values) for _, values in content.numbered}
        return [split for split in SPLIT_NAMES if split in found]
    if isinstance(content, dict) and _has_splits(content):
        return [split for split, names in SPLIT_NAMES.items() if any(name in content for name in names)]
    return []


def complaints(error: ValidationError, known: Iterable[str]) -> list[str]:
    """Every complaint as ``field a.b: what``; an unknown field, often the cause of the others, comes first.

    known: the names of a record's fields, to name the nearest one.
    """
    names = list(known)
    found = []
    for item in sorted(error.errors(), key=lambda item: item["type"] != "extra_forbidden"):
        where = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = unknown_field(str(item["loc"][-1]), names if len(item["loc"]) == 1 else ("type", "text"))
        found.append(f"field {where}: {what}" if where else f"field {what}")
    return found


def unknown_field(name: str, known: Iterable[str]) -> str:
    """What to say of a field that no record has: the nearest known name, or all of them where none is near."""
    names = list(known)
    near = get_close_matches(name, names, 1)
    return "is not a known field; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names)}")


def refuse_rows(where: str | Path, faults: Sequence[Fault]) -> None:
    """Where there are (row, reason) pairs, ManifestError with the first and the number of the other rows."""
    if not faults:
        return
    first, reason = faults[0]
    others = len({row for row, _ in faults}) - 1
    more = f" (and {others} more row{'s' if others > 1 else ''})" if others else ""
    raise ManifestError(
        f"{where}: row {first}, {reason}{more}", [f"{where}: row {row}, {reason}" for row, reason in faults]
    )


@dataclass(frozen=True)
class _Lines:
    numbered: list[tuple[int, Any]]


def _content(path: Path) -> Any:
    if not path.is_file():
        raise ManifestError(f"{path}: no such manifest")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix != ".jsonl":
            return parse_json(text)
    except ValueError as error:  # also what is no UTF-8
        raise ManifestError(f"{path}: not a JSON file ({error})") from error
    numbered: list[tuple[int, Any]] = []
    faults: list[Fault] = []
    for row, line in enumerate(text.split("\n")):
        if line.strip():
            try:
                numbered.append((row, parse_json(line)))
            except ValueError as error:
                faults.append((row, f"not JSON ({error})"))
    refuse_rows(path, faults)
    return _Lines(numbered)


def _has_splits(content: Any) -> bool:
    names = [name for group in SPLIT_NAMES.values() for name in group]
    return bool(content) and all(key in names and isinstance(rows, list) for key, rows in content.items())


def _split(values: Any) -> str:
    """The split that a line belongs to; as it is written where that is no known name."""
    given = values.get("official_split") if isinstance(values, dict) else None
    if given in (None, "", "unknown"):
        return "train"
    return next((split for split, names in SPLIT_NAMES.items() if str(given).lower() in names), str(given))

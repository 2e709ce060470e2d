"""Paths of a data set by a pattern: `images<part:Tr|Va>/<id:amos_\\d+>.nii.gz`, where `<name:expression>` is a field.

Between the slashes everything else is taken literally; a field that was met before stands for what it was (`<id>`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_FIELD = re.compile(r"<(\w+)(?::([^<>]*))?>")
_MOST_FOLDERS = 50  # in a source, for its folders to be looked into as well


@dataclass(frozen=True)
class FoundPath:
    """A path that a pattern matched, and what its fields were."""

    path: Path
    fields: Mapping[str, str]


def find_paths(root: Path, pattern: str, folders: bool = False) -> list[FoundPath]:
    """Every file (or folder) under `root` that the pattern matches, in the order of their names.

    Names that begin with a dot are passed over.
    """
    if not root.is_dir():
        return []
    return list(_walk(root, pattern.split("/"), {}, folders))


def glob_of(pattern: str) -> str:
    """The same with a star for each field, behind the letters that it begins with: for messages."""
    return re.sub(r"\*+", "*", _FIELD.sub(lambda field: f"{_beginning(field[2] or '')}*", pattern))


def find_base(source: Path, patterns: Sequence[str], folders: bool = False) -> tuple[Path, str]:
    """Where patterns begin: a folder, and the part of the patterns that its name stands for ("" for all of them).

    A data set may be given by the folder that holds it, by itself (`amos22` for patterns that begin `amos22/`), or one
    folder further up.  `source` itself where nothing is found.
    """
    below = sorted(path for path in source.iterdir() if path.is_dir() and path.name[0] != ".")
    for base in [source, *(below if len(below) <= _MOST_FOLDERS else [])]:
        for pattern in patterns:
            for prefix in _prefixes(pattern):
                if next(_walk(base, pattern.removeprefix(prefix).split("/"), {}, folders), None):
                    return base, prefix
    return source, ""


def _beginning(expression: str) -> str:
    found = re.match(r"[\w-]*", "" if "|" in expression else expression)
    return found[0] if found else ""


def _prefixes(pattern: str) -> list[str]:
    """ "", then the literal folders that a pattern begins with, one after the other."""
    literal: list[str] = []
    for part in pattern.split("/")[:-1]:
        if "<" in part:
            break
        literal.append(part)
    return ["/".join(literal[:count]) + "/" if count else "" for count in range(len(literal) + 1)]


def _walk(folder: Path, parts: Sequence[str], fields: Mapping[str, str], folders: bool) -> Iterator[FoundPath]:
    part, rest = parts[0], parts[1:]
    is_folder = bool(rest) or folders
    for name, found in _matches(folder, part, fields, is_folder):
        if rest:
            yield from _walk(folder / name, rest, found, folders)
        else:
            yield FoundPath(folder / name, found)


def _matches(
    folder: Path, part: str, fields: Mapping[str, str], is_folder: bool
) -> Iterator[tuple[str, Mapping[str, str]]]:
    known = _FIELD.sub(lambda match: fields.get(match[1], match[0]) if match[2] is None else match[0], part)
    if not _FIELD.search(known):
        path = folder / known
        if path.is_dir() if is_folder else path.is_file():
            yield known, fields
        return
    expression, end = "", 0
    for place in _FIELD.finditer(known):
        expression += re.escape(known[end : place.start()]) + f"(?P<{place[1]}>{place[2]})"
        end = place.end()
    compiled = re.compile(expression + re.escape(known[end:]))
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir() == is_folder)
    for name in names:
        if match := compiled.fullmatch(name):
            yield name, {**fields, **match.groupdict()}

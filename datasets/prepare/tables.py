"""Tables and lists of data sets, read with every fault as one line: its file, its row, and what to do.

Rows are counted as a spreadsheet shows them: the header is row 1.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from datasets.json_text import parse_json
from datasets.prepare.case import Findings

_TRUTHS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_FEW = 5  # faults of one kind in a table that have a line each


@dataclass(frozen=True)
class Row:
    """One row of a table: its number in the file, and its fields by column, without blanks around them."""

    number: int
    fields: Mapping[str, str]

    def __getitem__(self, column: str) -> str:
        return self.fields[column]


@dataclass(frozen=True)
class Table:
    """Rows of a CSV.  columns: those that were read."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def by(self, key: str) -> dict[str, Row]:
        """The rows by a column that names each once."""
        return {row[key]: row for row in self.rows}

    def truth(self, row: Row, column: str, findings: Findings) -> int | None:
        """1 or 0 in a column of labels; None for anything else, which is a problem."""
        value = _TRUTHS.get(row[column])
        if value is None:
            findings.problems.append(f"{self.path}: row {row.number}, column {column}: {row[column]!r} is not 0 or 1")
        return value


def read_table(
    path: Path,
    columns: Sequence[str],
    findings: Findings,
    key: str | None = None,
    others: Callable[[str], bool] | None = None,
    separator: str = ",",
) -> Table | None:
    """A CSV in UTF-8, with or without a byte order mark; None where it cannot be used, which is among the problems.

    columns: that it must have.  key: a column that is never empty and names each row once; a repeated row is a problem
    and left out.  others: which further columns to read; none where it is None.
    separator: between the cells.
    """
    seen: dict[str, int] = {}
    rows: list[Row] = []
    odd: list[tuple[int, int]] = []  # rows of another length than the header's, and their lengths
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            findings.tables.append(path)
            records = _records(csv.reader(file, strict=True, delimiter=separator))
            _, header = next(records, (1, []))
            names = [name.strip() for name in header]
            if not _has_columns(path, names, columns, findings):
                return None
            kept = [index for index, name in enumerate(names) if name in columns or (others and others(name))]
            for number, record in records:
                if len(record) != len(names):
                    odd.append((number, len(record)))
                    continue
                row = Row(number, {names[index]: record[index].strip() for index in kept})
                if key is None or _is_new(path, row, key, seen, findings):
                    rows.append(row)
    except UnicodeDecodeError:
        findings.problems.append(f"{path}: row {_row_without_utf8(path)} is not UTF-8; save the table as UTF-8")
        return None
    except csv.Error as error:
        findings.problems.append(f"{path}: is no table of commas, or half of one ({error}); download it again")
        return None
    except FileNotFoundError:
        findings.problems.append(f"{path}: is missing; download it")
        return None
    except OSError as error:
        findings.problems.append(f"{path}: cannot be read ({error.strerror})")
        return None
    findings.problems += _lines_of_odd_rows(path, odd, len(names))
    if not rows:
        findings.problems += [] if odd else [f"{path}: has no rows; download it again"]
        return None
    return Table(path, tuple(names[index] for index in kept), tuple(rows))


def _lines_of_odd_rows(path: Path, odd: Sequence[tuple[int, int]], wanted: int) -> list[str]:
    """A line for each row of another length than the header's, or one for all where they are many."""
    lines = [f"{path}: row {row} has {count} fields, the header has {wanted}; download it again" for row, count in odd]
    if len(lines) <= _FEW:
        return lines
    row, count = odd[0]
    return [
        f"{path}: row {row} has {count} fields, the header has {wanted}, and {len(odd) - 1:,} more rows do not fit it; "
        "download it again"
    ]


def read_json(path: Path, findings: Findings) -> Any:
    """What a JSON file holds; None where it cannot be read, which is then among the problems."""
    findings.tables.append(path)
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        findings.problems.append(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8")
    except json.JSONDecodeError as error:
        findings.problems.append(
            f"{path}: is no JSON, or half of it (line {error.lineno}: {error.msg}); download it again"
        )
    except ValueError as error:
        findings.problems.append(f"{path}: is damaged ({error}); download it again")
    except OSError as error:
        findings.problems.append(f"{path}: cannot be read ({error.strerror})")
    return None


def read_lines(path: Path, findings: Findings) -> list[str]:
    """The lines of a text file that are not blank, without blanks around them."""
    findings.tables.append(path)
    text = read_text(path, findings)
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_text(path: Path, findings: Findings) -> str:
    """A text file; empty where it cannot be read, which is then among the problems."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        findings.problems.append(f"{path}: line {line} is not UTF-8; save the file as UTF-8")
    except OSError as error:
        findings.problems.append(f"{path}: cannot be read ({error.strerror})")
    return ""


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean 'x'?` for a name that is nearly one of `known`, else nothing."""
    by_case = {word.casefold(): word for word in known}
    found = get_close_matches(name.casefold(), by_case, 1)
    return f"; did you mean {by_case[found[0]]!r}?" if found else ""


def examples(names: Collection[str], most: int = 3) -> str:
    """The first few of many names, and how many there are: `5 (a, b, c, ...)`."""
    shown = sorted(names)[:most]
    return f"{len(names):,} ({', '.join(shown)}{', ...' if len(names) > most else ''})"


def _records(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Records that are not blank lines, with their row in the file."""
    return ((number, record) for number, record in enumerate(reader, 1) if record)


def _row_without_utf8(path: Path) -> int:
    """The first row that is not UTF-8; line breaks between quotes do not begin a row."""
    rows, inside = 1, False
    for line in path.read_bytes().split(b"\n"):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return rows
        inside ^= line.count(b'"') % 2 == 1
        rows += not inside
    return rows


def _has_columns(path: Path, names: Sequence[str], columns: Sequence[str], findings: Findings) -> bool:
    if not names:
        findings.problems.append(f"{path}: is empty; download it again")
        return False
    if len(names) == 1 and (marks := [mark for mark in (";", "\t") if mark in names[0]]):
        findings.problems.append(f"{path}: its columns are parted by {marks[0]!r}; save it with commas")
        return False
    for name in sorted({name for name in names if names.count(name) > 1} & set(columns)):
        findings.problems.append(f"{path}: has two columns {name!r}; keep one")
        return False
    missing = [name for name in columns if name not in names]
    for name in missing:
        hint = nearest(name, [column for column in names if column not in columns])
        findings.problems.append(f"{path}: has no column {name!r}{hint}")
    return not missing


def _is_new(path: Path, row: Row, key: str, seen: dict[str, int], findings: Findings) -> bool:
    name = row[key]
    if not name:
        findings.problems.append(f"{path}: row {row.number}, column {key}: is empty; name what the row is about")
    elif name in seen:
        findings.problems.append(f"{path}: row {row.number}: {name} was already given by row {seen[name]}; keep one")
    else:
        seen[name] = row.number
        return True
    return False

"""Predictions on disk: a JSON line a sample as it comes, a file a rank, then one predictions.json in manifest order.

A killed run leaves every finished sample; the next run, on any number of ranks, skips the ids that any rank file holds.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from datasets.errors import InputError
from datasets.json_text import parse_json
from datasets.whole_files import write_whole_text

RANK_FILES = "predictions.rank*.jsonl"


def to_json(value: Any) -> Any:
    """`value` with numpy scalars and arrays as plain Python, paths as text, and NaN or infinity as None (JSON has
    neither)."""
    if isinstance(value, dict):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(entry) for entry in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, np.generic):
        return to_json(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _cut_torn_line(path: Path) -> None:
    """Drop what a killed run left of its last line; whole lines end in a newline."""
    with open(path, "rb+") as file:
        content = file.read()
        if content and not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return  # still being written, or torn by a kill
            try:
                record = parse_json(line)
            except ValueError as error:
                raise InputError(
                    f"{path}: line {number} is no JSON ({error}); delete that line to compute its sample again"
                ) from error
            if not isinstance(record, dict) or "id" not in record:
                raise InputError(f"{path}: line {number} has no 'id'; delete that line to compute its sample again")
            yield record


def _read_folder(folder: str | Path) -> dict[str, dict[str, Any]]:
    """All records of a folder by id. A sample that failed and was tried again keeps its successful record, else the
    last one read."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder).glob(RANK_FILES)):
        for record in _read_lines(path):
            before = records.get(record["id"])
            if before is None or before.get("error") is not None or record.get("error") is None:
                records[record["id"]] = record
    return records


def finished_ids(folder: str | Path, retry_failed: bool = False) -> set[str]:
    """Ids that any rank of an earlier run has written; with `retry_failed`, not those that hold an error."""
    records = _read_folder(folder)
    return {key for key, record in records.items() if not (retry_failed and record.get("error") is not None)}


class PredictionWriter:
    """Appends records to `folder`/predictions.rank{rank}.jsonl, each line flushed to the system before `write` returns.

    Args:
        folder: made if absent.
        rank: this process's rank; no two processes may share a file.
        retry_failed: leave samples that failed before out of `done`.
    """

    def __init__(self, folder: str | Path, rank: int = 0, retry_failed: bool = False) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / f"predictions.rank{rank}.jsonl"
        if self.path.exists():
            _cut_torn_line(self.path)
        self.done = finished_ids(self.folder, retry_failed)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (held open until close)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; it needs an "id". Raises InputError without one, and where the disk is full."""
        if record.get("id") is None:
            raise InputError("predictions: a record has no 'id'")
        clean = to_json(record) | {"id": str(record["id"])}
        try:
            self._file.write(json.dumps(clean, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(
                f"{self.path}: {error.strerror}; mend that and start again: what stands there is kept"
            ) from error
        self.done.add(clean["id"])

    def close(self) -> None:
        """Close the file; what was written is there already, and what could not be written still cannot."""
        with suppress(OSError):
            self._file.close()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def merge_predictions(folder: str | Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    """`merged_records`, written to `folder`/predictions.json in one step; call it on one rank."""
    merged = merged_records(folder, ids)
    write_json(merged, Path(folder) / "predictions.json")
    return merged


def merged_records(folder: str | Path, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The records of `ids` in that order, whichever rank wrote them, after all have finished.

    Records of other ids (an earlier, wider manifest) are left out.
    Raises:
        InputError: an id was never written, or stands twice in `ids`.
    """
    wanted = [str(key) for key in ids]
    if len(set(wanted)) != len(wanted):
        twice = next(key for index, key in enumerate(wanted) if key in wanted[:index])
        raise InputError(f"predictions: id '{twice}' stands twice in the manifest; ids must differ")
    records = _read_folder(folder)
    if absent := [key for key in wanted if key not in records]:
        raise InputError(
            f"{folder}: {len(absent)} of {len(wanted)} samples have no prediction, first '{absent[0]}'; "
            "run again to finish them"
        )
    return [records[key] for key in wanted]


def write_json(value: Any, path: str | Path) -> Path:
    """Write JSON so that a reader never sees half a file: to a neighbour first, then renamed."""
    text = json.dumps(to_json(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_whole_text(Path(path), text)


def read_predictions(path: str | Path) -> list[dict[str, Any]]:
    """Records of a predictions.json. Raises InputError where the file is absent or no list of records with ids."""
    path = Path(path)
    try:
        records = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; evaluate_CTInstruct.py writes it") from error
    except ValueError as error:  # also what is no UTF-8
        raise InputError(f"{path}: not a JSON file ({error})") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) and "id" in record for record in records):
        raise InputError(f"{path}: expected a list of records that each have an 'id'")
    return records

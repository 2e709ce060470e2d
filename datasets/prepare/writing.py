"""The files of a prepared data set, written all or none; what would be the same is left alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.mixture import MIXTURE, published_weights
from datasets.prepare.manifests import Manifest
from datasets.prepare.prepared import NAME, Record, sha256_of
from datasets.whole_files import written_whole


def write_prepared(
    out: Path,
    record: Record,
    manifests: Sequence[Manifest],
    others: Mapping[str, Record],
    stale: Sequence[str] = (),
) -> list[str]:
    """Write manifests, mixture and prepared.json; gives the paths of what changed.

    record: of prepared.json, but for its `manifests`, which are filled in here (SHA-256 by path).
    others: records of other data sets that changed, since their manifests are this one's now.
    stale: manifests that are made no more.
    """
    paths = [manifest.path for manifest in manifests]
    mixture = f"instruction/{MIXTURE}"
    records = [f"{name}/{NAME}" for name in (*others, record["data_set"])]
    tuning = _tuning_manifests(out, paths, stale)
    targets = [*paths, *([mixture] if tuning else []), *records]
    changed: list[str] = []
    with written_whole([out / target for target in targets]) as parts:
        part_of = dict(zip(targets, parts, strict=True))
        for manifest in manifests:
            _write_rows(part_of[manifest.path], manifest.rows)
        record = {**record, "manifests": {path: sha256_of(part_of[path]) for path in sorted(paths)}}
        if tuning:
            _write_json(part_of[mixture], tuning)
        for name, content in {**others, record["data_set"]: record}.items():
            _write_json(part_of[f"{name}/{NAME}"], content)
        for target, part in part_of.items():
            if not part.exists():
                continue
            if (out / target).is_file() and sha256_of(out / target) == sha256_of(part):
                part.unlink()
            else:
                changed.append(target)
    for path in stale:
        (out / path).unlink(missing_ok=True)
    if not tuning:
        (out / mixture).unlink(missing_ok=True)
    return changed


def _tuning_manifests(out: Path, new: Sequence[str], stale: Sequence[str]) -> dict[str, float]:
    """The published weight of every tuning manifest that is there, or is about to be."""
    found = {}
    for task, weight in published_weights().items():
        path = f"instruction/{task}.json"
        if path in new or (path not in stale and (out / path).is_file()):
            found[f"{task}.json"] = weight
    return found


def _write_rows(path: Path, rows: Sequence[Record]) -> None:
    """A JSON list with one record a line, which tools that go by lines can take apart."""
    with open(path, "w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(("[\n" if number == 0 else ",\n") + json.dumps(row, ensure_ascii=False))
        file.write("\n]\n")


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

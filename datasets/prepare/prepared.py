"""prepared.json, the record of what `datasets.prepare` made of a data set: read back, and built anew.

It holds no time and no name of the machine, so that a second run writes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.prepare.case import Case, Split
from datasets.prepare.checking import Checked, Options, counts_by_split, label_counts
from datasets.prepare.splits import SPLITS, Elsewhere, patient_hash

NAME = "prepared.json"
Record = dict[str, Any]


def read_prepared(out: Path) -> dict[str, Record]:
    """The records of all data sets that were prepared into a folder, by data set; InputError for a damaged one."""
    records = {}
    for path in sorted(out.glob(f"*/{NAME}")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            records[record["data_set"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is no record of a prepared data set; remove it and prepare again") from error
    return records


def patients_elsewhere(records: Mapping[str, Record], data_set: str, pool: str) -> dict[str, Elsewhere]:
    """The splits of the pool's patients in other data sets; of two that disagree the one of most weight."""
    found: dict[str, Elsewhere] = {}
    for split in SPLITS:  # from train to test, so that the later one counts
        for name, record in records.items():
            if name != data_set and record["pool"] == pool:
                for patient in record["patients"].get(split, ()):
                    found[patient] = Elsewhere(split, name)
    return found


def former_splits(records: Mapping[str, Record], data_set: str, options: Options) -> dict[str, Split]:
    """By patient's hash the split of a former run, where it had the same options of splits; else nothing."""
    record = records.get(data_set)
    if record is None or any(record["options"].get(name) != value for name, value in _split_options(options).items()):
        return {}
    return {patient: split for split in SPLITS for patient in record["patients"].get(split, ())}


def makers(records: Mapping[str, Record], data_set: str) -> dict[str, str]:
    """Which other data set each manifest was made of, by the manifest's path in the folder."""
    return {manifest: name for name, record in records.items() if name != data_set for manifest in record["manifests"]}


def sha256_of(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def record_of(checked: Checked, options: Options, manifests: Mapping[str, str], counts: Mapping[str, int]) -> Record:
    """What prepared.json holds.

    manifests: SHA-256 by path.  counts: records by path.
    """
    data_set, findings = checked.data_set, checked.findings
    tables = sorted({path.resolve() for path in findings.tables if path.is_file()})
    return {
        "data_set": data_set.name,
        "title": data_set.title,
        "version": findings.version,
        "source": str(checked.source),
        "pool": data_set.pool,
        "cases": counts_by_split(checked.cases),
        "manifests": dict(sorted(manifests.items())),
        "records": dict(sorted(counts.items())),
        "labels": {split: _labels([case for case in checked.cases if case.split == split]) for split in SPLITS},
        "masks": {split: _masks([case for case in checked.cases if case.split == split]) for split in SPLITS},
        "excluded": dict(sorted(findings.reasons().items())),
        "excluded_cases": dict(sorted(findings.excluded.items())),
        "skipped": dict(sorted(checked.skipped.items())),
        "problems_passed_over": checked.passed_over,
        "warnings": findings.warnings,
        "masks_off_their_grid": dict(sorted(checked.scan.off.items())),
        "settings": {
            **{name: setting.default for name, setting in data_set.settings.items()},
            **dict(options.settings),
        },
        "options": {
            **_split_options(options),
            "skip_bad": options.skip_bad,
            "resample_masks": options.resample_masks,
        },
        "patients_without_official_split": checked.not_official,
        "facts": findings.facts,
        "tables": {_relative(path, checked.source): sha256_of(path) for path in tables},
        "patients": _patients(checked.cases, data_set.pool),
    }


def _split_options(options: Options) -> Record:
    return {
        "seed": options.seed,
        "split": options.split,
        "test_share": options.test_share,
        "val_share": options.val_share,
    }


def _labels(cases: Sequence[Case]) -> Record:
    return {
        count.label: {"positive": count.positive, "negative": count.negative, "unknown": count.unknown}
        for count in label_counts(cases)
    }


def _masks(cases: Sequence[Case]) -> dict[str, int]:
    """How many cases have a mask of each label; it may be empty."""
    counts: Counter[str] = Counter()
    for case in cases:
        counts.update(list(case.masks))
        counts.update((case.record or {}).get("labels", ()))
    return dict(sorted(counts.items()))


def _patients(cases: Sequence[Case], pool: str) -> dict[str, list[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for case in cases:
        found[str(case.split)].add(patient_hash(pool, case.patient))
    return {split: sorted(found[split]) for split in SPLITS}


def _relative(path: Path, folder: Path) -> str:
    folder = folder.parent if folder.is_file() else folder
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)

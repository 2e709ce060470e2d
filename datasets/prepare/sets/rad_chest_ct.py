"""RadChestCT: chest CT as arrays (z, y, x) in HU with 84 abnormalities by location, of which the task takes 16.

A label of the task is present where its abnormality is, at any location.  Which abnormalities stand for "medical
material" has not been published: the default is every device, and the setting `medical_material` names others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.published_shares import note_shares
from datasets.prepare.tables import Table, examples, nearest, read_table
from datasets.prepare.trees import by_name, files_under
from datasets.volume.array_files import is_rad_chest_ct

Labels = dict[str, int | None]
_TABLES: dict[str, Split] = {"imgtrain": "train", "imgvalid": "val", "imgtest": "test"}
_TABLE = "{part}_Abnormality_and_Location_Labels.csv"
_PREFIXES = {"trn": "train", "val": "val", "tst": "test"}
_METADATA = "CT_Scan_Metadata_Complete_35747.csv"
_KEY = "NoteAcc_DEID"
_MATERIAL = "medical material"
# By label the abnormality of the tables; "calcification" is the table's own, not that of the coronary arteries.
_TOKENS = {
    "calcification": "calcification",
    "cardiomegaly": "cardiomegaly",
    "pericardial effusion": "pericardial_effusion",
    "hiatal hernia": "hernia",
    "lymphadenopathy": "lymphadenopathy",
    "emphysema": "emphysema",
    "atelectasis": "atelectasis",
    "lung nodule": "nodule",
    "lung opacity": "opacity",
    "pulmonary fibrotic sequela": "fibrosis",
    "pleural effusion": "pleural_effusion",
    "peribronchial thickening": "bronchial_wall_thickening",
    "consolidation": "consolidation",
    "bronchiectasis": "bronchiectasis",
    "interlobular septal thickening": "septal_thickening",
}
_DEVICES = (
    "hardware", "catheter_or_port", "clip", "staple", "suture", "stent", "sternotomy", "pacemaker_or_defib",
    "chest_tube", "tracheal_tube", "gi_tube", "heart_valve_replacement", "breast_implant",
)  # fmt: skip


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an array of the three tables of labels, in the order of the tables."""
    files = by_name(files_under(source, (".npz", ".csv")), findings)
    volumes = {name.removesuffix(".npz"): path for name, path in files.items() if name.endswith(".npz")}
    if not volumes:
        findings.problems.append(f"{source}: no .npz volume is here; give the folder with trn00001.npz and the others")
    named = DATA_SETS[0].setting(settings, "medical_material", findings)
    devices = [name.strip() for name in named.split(";") if name.strip()]
    parts = {_PREFIXES.get(name[:3]) for name in volumes}
    tables = _label_tables(source, files, parts, devices, "medical_material" in settings, findings)
    patients = _patients(files.get(_METADATA), findings)
    rows: dict[str, tuple[Split, Labels]] = {}
    for split, table in tables.items():
        for name, values in table.items():
            if name in rows:
                findings.problems.append(f"{source}: {name} has labels in {rows[name][0]} and in {split}; keep one")
            rows.setdefault(name, (split, values))
    _note_counts(set(volumes), rows, patients, findings)
    findings.problems += [
        f"{volumes[name]}: holds no array ct; download it again"
        for name in rows
        if name in volumes and _lacks_ct(volumes[name])
    ]
    return [
        Case(name, patients.get(name, name), volumes[name], split, classes=classes)
        for name, (split, classes) in rows.items()
        if name in volumes
    ]


def _label_tables(
    source: Path,
    files: Mapping[str, Path],
    parts: Collection[str | None],
    devices: Sequence[str],
    given: bool,
    findings: Findings,
) -> dict[Split, dict[str, Labels]]:
    """By split and volume the labels of the task.  parts: the splits of which volumes are here."""
    found: dict[Split, dict[str, Labels]] = {}
    wanted = {*_TOKENS.values(), *devices}
    for part, split in _TABLES.items():
        path = files.get(_TABLE.format(part=part))
        if path is None:
            if split in parts:
                findings.problems.append(f"{source / _TABLE.format(part=part)}: is missing; download it")
            continue
        table = read_table(path, (_KEY,), findings, _KEY, lambda name: "*" in name)
        if table is not None and (missing := _missing_tokens(path, table, wanted, given, findings)) is not None:
            found[split] = _labels(table, [name for name in devices if name not in missing], findings)
    if not found:
        findings.problems.append(f"{source}: none of the tables {_TABLE.format(part='img*')} can be used")
    if found:
        note_shares("RadChestCT", [labels for volumes in found.values() for labels in volumes.values()], findings)
    return found


def _lacks_ct(path: Path) -> bool:
    """Whether a whole .npz holds other arrays alone; a damaged one is left to those who read its header."""
    try:
        return not is_rad_chest_ct(path)
    except (BadZipFile, OSError):
        return False


def _missing_tokens(path: Path, table: Table, wanted: set[str], given: bool, findings: Findings) -> set[str] | None:
    """Devices of the default that the table does not know; None where it lacks what it must have."""
    tokens = {column.partition("*")[0] for column in table.columns if "*" in column}
    missing = wanted - tokens
    optional = set() if given else set(_DEVICES) - {"hardware"}
    for token in sorted(missing - optional):
        findings.problems.append(
            f"{path}: has no column of the abnormality {token!r} ({token}*<location>){nearest(token, tokens)}"
        )
    if missing & optional:
        findings.facts["devices that the tables do not know"] = sorted(missing & optional)
    return None if missing - optional else missing


def _labels(table: Table, devices: Sequence[str], findings: Findings) -> dict[str, Labels]:
    """By volume and label of the task 1, where one of its abnormalities is there at any location, or 0."""
    tokens = {_MATERIAL: list(devices)} | {label: [token] for label, token in _TOKENS.items()}
    columns: dict[str, list[str]] = {}
    for column in table.columns:
        columns.setdefault(column.partition("*")[0], []).append(column)
    by_label = {label: [name for token in names for name in columns[token]] for label, names in tokens.items()}
    found: dict[str, Labels] = {}
    for row in table.rows:
        labels: Labels = {}
        for label, names in by_label.items():
            values = [table.truth(row, name, findings) for name in names]
            labels[label] = 1 if 1 in values else None if None in values else 0
        found[row[_KEY].removesuffix(".npz")] = labels
    return found


def _patients(path: Path | None, findings: Findings) -> dict[str, str]:
    """The patient of each volume, MRN_DEID of the table of scans."""
    if path is None:
        findings.warnings.append(f"{_METADATA} is missing; each volume counts as a patient of its own")
        return {}
    table = read_table(path, (_KEY, "MRN_DEID"), findings, _KEY)
    if table is None:
        return {}
    return {row[_KEY].removesuffix(".npz"): row["MRN_DEID"] for row in table.rows}


def _note_counts(
    volumes: set[str], rows: Mapping[str, tuple[Split, object]], patients: Mapping[str, str], findings: Findings
) -> None:
    if absent := set(rows) - volumes:
        findings.warnings.append(f"{len(absent):,} of {len(rows):,} volumes with labels are not here and left out")
    for name in sorted(volumes - set(rows)):
        findings.excluded[name] = "has no row in the tables of labels"
    if patients and (unknown := [name for name in rows if name in volumes and not patients.get(name)]):
        findings.warnings.append(f"{examples(unknown)} volumes have no patient in {_METADATA}; each counts as its own")
    odd = [name for name, (split, _) in rows.items() if _PREFIXES.get(name[:3], split) != split]
    if odd:
        findings.warnings.append(f"{examples(odd)} volumes are in a table of another split than their names tell")


DATA_SETS = (
    DataSet(
        name="rad_chest_ct",
        title="RadChestCT",
        read=read,
        marks=("*_Abnormality_and_Location_Labels.csv",),
        pretraining=("RadChestCT_disease_classification",),
        instruction=("RadChest_Binary_Diagnosis",),
        benchmarks=("RadChestCT",),
        size="3,630 volumes",
        licence="CC BY-NC-ND 4.0, access on request",
        address="https://zenodo.org/records/6406114",
        settings={
            "medical_material": Setting(
                ";".join(_DEVICES),
                'abnormalities that count as "medical material", parted by ;',
                "medical material: which abnormalities it stands for is not published; it is taken as present where "
                f"any device is ({', '.join(_DEVICES)}).  Compare its share of positives with the "
                'published 52 %; others by --set "medical_material=hardware;clip"',
            )
        },
    ),
)

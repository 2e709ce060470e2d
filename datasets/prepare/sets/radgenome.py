"""RadGenome-Chest CT: CT-RATE's volumes once more, preprocessed, for which CT-RATE's tables hold the labels.

Volumes lie in `dataset/train_preprocessed/train_1/train_1a/train_1_a_1.nii.gz`.  Patients are those of CT-RATE, and so
are the splits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.prepare.case import Case, Findings
from datasets.prepare.chest_volumes import LABEL_FOLDER, ChestVolume, excluded_volumes, find_volumes, read_labels
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.tables import examples
from datasets.prepare.trees import folders_in, inside
from datasets.vocabulary import diseases_of

ADDRESS = "https://huggingface.co/datasets/RadGenome/RadGenome-ChestCT"
_FOLDERS = {"train": "train_preprocessed", "valid": "valid_preprocessed"}


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case a volume with CT-RATE's 18 labels; those without a row there are left out."""
    dataset = inside(source, "dataset")
    volumes = _volumes(dataset, findings)
    if not volumes:
        findings.problems.append(
            f"{dataset}: no volume is here; give the folder that holds dataset/train_preprocessed, from {ADDRESS}"
        )
        return []
    tables = _ct_rate(source, DATA_SETS[0].setting(settings, "ct_rate", findings))
    if tables is None:
        findings.problems.append(
            f"{source}: the labels are those of CT-RATE, whose dataset/{LABEL_FOLDER} was not found beside this "
            "folder; name it with --set ct_rate=FOLDER"
        )
        return []
    parts = sorted({volume.part for volume in volumes.values()})
    labels = read_labels(tables, parts, diseases_of("CT-RATE"), findings)
    excluded = excluded_volumes(tables, parts, findings)
    findings.facts["labels from"] = str(tables)
    cases = []
    for name, volume in volumes.items():
        if name in excluded:
            findings.excluded[volume.id] = "is not a chest (CT-RATE's no_chest list)"
        elif name not in labels:
            findings.excluded[volume.id] = "has no row in CT-RATE's labels"
        else:
            classes = {label.lower(): value for label, value in labels[name].items()}
            cases.append(Case(volume.id, volume.patient, volume.path, volume.split, classes=classes))
    return cases


def _volumes(dataset: Path, findings: Findings) -> dict[str, ChestVolume]:
    found, odd = find_volumes(dataset, _FOLDERS, findings)
    if odd:
        findings.warnings.append(f"{dataset}: {examples(odd)} volumes are left out; they are not named as CT-RATE's")
    return found


def _ct_rate(source: Path, given: str) -> Path | None:
    """The folder `dataset` with CT-RATE's tables: the one that was named, or in this source, or beside it."""
    beside = [source, *folders_in(source.resolve().parent)]
    for folder in [Path(given)] if given else beside:
        for dataset in (folder / "dataset", folder):
            if (dataset / LABEL_FOLDER).is_dir():
                return dataset
    return None


DATA_SETS = (
    DataSet(
        name="radgenome",
        title="RadGenome-Chest CT",
        read=read,
        marks=("dataset/*_preprocessed",),
        pretraining=("RadGenome_disease_classification",),
        size="25,692 volumes of 20,000 patients",
        licence="see its page; access on request",
        address=ADDRESS,
        patients="ct_rate",
        settings={"ct_rate": Setting("", "folder of CT-RATE, for its labels; looked for beside the source")},
    ),
)

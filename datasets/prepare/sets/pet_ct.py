"""Segmentation sets made of PET and CT: AutoPET, HECKTOR, and the atlas of AutoPET's CTs.  The CT alone is taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Case, Findings
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.path_patterns import find_base, find_paths
from datasets.prepare.segmentation import Layout, Values, read_cases, reader
from datasets.prepare.sets.dap_labels import dap_values, numbering_of

AUTOPET = Layout(
    images=(
        r"<patient:PETCT_\w+>/<study:.+>/CTres.nii.gz",
        r"FDG-PET-CT-Lesions/<patient:PETCT_\w+>/<study:.+>/CTres.nii.gz",
    ),
    masks=(
        r"<patient:PETCT_\w+>/<study:.+>/SEG.nii.gz",
        r"FDG-PET-CT-Lesions/<patient:PETCT_\w+>/<study:.+>/SEG.nii.gz",
    ),
    labels={"tumor": 1},
    id="{patient}/{study}",
    patient="{patient}",
)

HECKTOR22 = Layout(
    images=(
        r"imagesTr/<id:[A-Z]+-\d+>__CT.nii.gz",
        r"hecktor2022_training/hecktor2022/imagesTr/<id:[A-Z]+-\d+>__CT.nii.gz",
        r"hecktor2022_training/hecktor2022/imagesTr_resampled/<id:[A-Z]+-\d+>__CT.nii.gz",
    ),
    masks=(
        r"labelsTr/<id:[A-Z]+-\d+>.nii.gz",
        r"hecktor2022_training/hecktor2022/labelsTr/<id:[A-Z]+-\d+>.nii.gz",
        r"hecktor2022_training/hecktor2022/labelsTr_resampled/<id:[A-Z]+-\d+>.nii.gz",
    ),
    labels={"head and neck tumor": 1, "lymph node": 2},
)


def _dap(labels: Mapping[str, Values]) -> Layout:
    study = r"<hash:[^_]+>/<study:(?:.*-)?><last:[^-]+>/CT.nii.gz"
    return Layout(
        images=(f"PETCT_{study}", f"FDG-PET-CT-Lesions/PETCT_{study}", f"autoPET/autoPET_nii/PETCT_{study}"),
        masks=(r"Atlas_final_dataset_V1_533/AutoPET_<hash:[^_]+>_<last:[^-]+>.nii.gz",),
        labels=labels,
        id="AutoPET_{hash}_{last}",
        patient="PETCT_{hash}",
        unlabelled="not in the atlas",
        unused=tuple(range(1, 146)),  # under either numbering
    )


def _read_dap(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    autopet = settings.get("autopet") or DAP_SET.settings["autopet"].default
    try:
        numbering = numbering_of(source, DAP_SET.setting(settings, "numbering", findings))
    except InputError as error:
        findings.problems.append(str(error))
        return []
    findings.facts["numbering"] = numbering
    layout = _dap(dap_values(int(numbering)))
    elsewhere = Path(autopet) if autopet else _beside(source, layout)
    cases = read_cases(layout, source, findings, image_source=elsewhere)
    if elsewhere and cases:
        findings.facts["CTs"] = str(elsewhere)
    elif not cases and not elsewhere:
        findings.problems.append(f"{source}: the atlas has masks alone; give AutoPET's folder by --set autopet=FOLDER")
    return cases


def _beside(source: Path, layout: Layout) -> Path | None:
    """A folder beside the atlas that holds AutoPET's CTs, where the atlas does not."""
    if not source.is_dir():
        return None
    base, prefix = find_base(source, layout.images)
    if any(find_paths(base, pattern.removeprefix(prefix)) for pattern in layout.images):
        return None
    folder, _ = find_base(source.parent, layout.images)
    return folder if folder != source.parent else None


DAP_SET = DataSet(
    name="dap",
    title="DAP Atlas",
    read=_read_dap,
    marks=("Atlas_final_dataset_V1_533/AutoPET_*.nii.gz",),
    pretraining=("DAP_segmentation",),
    size="533 masks of AutoPET's CTs",
    licence="see the page",
    address="https://github.com/alexanderjaus/AtlasDataset",
    patients="autopet",
    settings={
        "autopet": Setting("", "the folder of AutoPET, which has the CTs, where they are not beside the masks"),
        "numbering": Setting(
            "auto",
            "the value of the first label, muscle: 1 or 2; auto takes 2 where the first mask holds a value of 144",
            "DAP Atlas: sources differ by one in the values of its labels; --set numbering=1 or 2 decides, and an "
            "audit shows whether the liver is the liver",
        ),
    },
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="autopet",
        title="AutoPET (FDG-PET-CT-Lesions)",
        read=reader(AUTOPET),
        marks=("PETCT_*/*/CTres.nii.gz",),
        pretraining=("AutoPET_segmentation",),
        size="1,014 CTs, about 300 GB with the PET",
        licence="restricted, on request",
        address="https://www.cancerimagingarchive.net/collection/fdg-pet-ct-lesions/",
        patients="autopet",
    ),
    DataSet(
        name="hecktor22",
        title="HECKTOR 2022",
        read=reader(HECKTOR22),
        marks=("imagesTr*/*-*__CT.nii.gz",),
        pretraining=("Hecktor22_segmentation",),
        size="524 CTs",
        licence="on agreement",
        address="https://hecktor.grand-challenge.org",
    ),
    DAP_SET,
)

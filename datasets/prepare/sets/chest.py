"""Segmentation sets of the chest whose images and masks find each other by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.prepare.case import Case, Findings
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.segmentation import Layout, in_order, read_cases, reader

ATM22 = Layout(
    images=(r"TrainBatch<batch:[12]>/imagesTr/<id:ATM_\d+_0000>.nii.gz",),
    masks=(r"TrainBatch<batch:[12]>/labelsTr/<id:ATM_\d+_0000>.nii.gz",),
    labels={"airway tree": 1},
    skipped={"ATM_164_0000": "its mask does not lie on its image"},
)

MM_WHS = Layout(
    images=(r"MM-WHS/ct_train/<id:ct_train_\d+>_image.nii.gz",),
    masks=(r"MM-WHS/ct_train/<id:ct_train_\d+>_label.nii.gz",),
    labels={
        "myocardium": 205,
        "left heart atrium": 420,
        "left heart ventricle": 500,
        "right heart atrium": 550,
        "right heart ventricle": 600,
        "heart ascending aorta": 820,
        "pulmonary artery": 850,
        "heart atrium": (420, 550),
        "heart ventricle": (500, 600),
    },
    unused=(421,),  # a few voxels of one mask
)

LUNA16 = Layout(
    images=(r"subset<subset:\d>/<id:[\d.]+>.mhd", r"part<disc:\d>/subset<subset:\d>/<id:[\d.]+>.mhd"),
    masks=(r"seg-lungs-LUNA16/<id:[\d.]+>.mhd", r"part<disc:\d>/seg-lungs-LUNA16/<id:[\d.]+>.mhd"),
    labels={"left lung": 3, "right lung": 4, "trachea": 5, "lung": (3, 4)},
)

RIBFRAC = Layout(
    images=(r"ribfrac-<part:train1|train2|val>-image/<id:RibFrac\d+>-image.nii.gz",),
    masks=(r"ribfrac-<part:train1|train2|val>-labels/<id:RibFrac\d+>-label.nii.gz",),
    labels={"rib fraction": None},  # each fracture has a number of its own
    splits={"train1": "train", "train2": "train", "val": "val"},
)

COVID19 = Layout(
    images=(r"COVID-19-CT-Seg_20cases/<id:(?:coronacases|radiopaedia)_\w+>.nii.gz",),
    masks=(
        r"Lung_and_Infection_Mask/<id:(?:coronacases|radiopaedia)_\w+>.nii.gz",
        r"COVID-19-CT-Seg_20cases/Lung_and_Infection_Mask/<id:(?:coronacases|radiopaedia)_\w+>.nii.gz",
    ),
    # The infection has taken its voxels from the lungs.
    labels={"left lung": 1, "right lung": 2, "COVID-19 infection": 3, "lung": (1, 2, 3)},
)

SEGTHOR = Layout(
    images=(r"train/<id:Patient_\d+>/<id>.nii.gz",),
    masks=(r"train/<id:Patient_\d+>/GT.nii.gz",),
    labels=in_order("esophagus", "heart", "trachea", "aorta"),
)

SEGA = Layout(
    images=(r"<part:Dongyang|KiTS|Rider>/<folder:.+>/<id:[^.]+>.nrrd",),
    masks=(r"<part:Dongyang|KiTS|Rider>/<folder:.+>/<id:[^.]+>.seg.nrrd",),
    labels={"aorta": 1},
    hu_offsets={"KiTS": -1000.0, "Rider": -1000.0},
)

PARSE22 = Layout(
    images=(r"train/train/<id:PA\d+>/image/<id>.nii.gz",),
    masks=(r"train/train/<id:PA\d+>/label/<id>.nii.gz",),
    labels={"pulmonary artery": 1},
)

LNDB = Layout(
    images=(r"data<fold:\d>/<id:LNDb-\d+>.mhd",),
    masks=(r"masks/<id:LNDb-\d+>_rad<reader:\d+>.mhd",),
    labels={"lung nodule": None},  # each nodule has a number of its own
    several_masks=True,
)


def _read_covid19(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    with_radiopaedia = COVID19_SET.setting(settings, "radiopaedia", findings)
    if with_radiopaedia not in ("yes", "no"):
        findings.problems.append(f"--set radiopaedia={with_radiopaedia}: give yes or no")
        return []

    def is_window(fields: Mapping[str, str]) -> str:
        left_out = with_radiopaedia == "no" and fields["id"].startswith("radiopaedia")
        return "a window of 8 bits, not HU" if left_out else ""

    return read_cases(COVID19, source, findings, is_window)


COVID19_SET = DataSet(
    name="covid19",
    title="COVID-19-CT-Seg",
    read=_read_covid19,
    marks=("COVID-19-CT-Seg_20cases/coronacases_*.nii.gz",),
    pretraining=("COVID19_disease_segmentation",),
    size="20 CTs, 10 of them in HU",
    licence="see the page",
    address="https://zenodo.org/records/3757476",
    settings={"radiopaedia": Setting("no", "yes takes the ten images of radiopaedia_*, which hold a window, not HU")},
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="atm22",
        title="ATM22",
        read=reader(ATM22),
        marks=("TrainBatch*/imagesTr/ATM_*_0000.nii.gz",),
        pretraining=("ATM22_structure_segmentation",),
        size="300 CTs",
        licence="on registration",
        address="https://atm22.grand-challenge.org",
    ),
    DataSet(
        name="mm_whs",
        title="MM-WHS (CT)",
        read=reader(MM_WHS),
        marks=("MM-WHS/ct_train/ct_train_*_image.nii.gz",),
        pretraining=("MM-WHS-CT_structure_segmentation",),
        size="20 CTs",
        licence="on registration",
        address="https://zmiclab.github.io/zxh/0/mmwhs/",
    ),
    DataSet(
        name="luna16",
        title="LUNA16",
        read=reader(LUNA16),
        marks=("subset*/*.mhd",),
        pretraining=("LUNA16_structure_segmentation",),
        size="888 CTs, about 120 GB",
        licence="CC BY 4.0",
        address="https://luna16.grand-challenge.org",
    ),
    DataSet(
        name="ribfrac",
        title="RibFrac",
        read=reader(RIBFRAC),
        marks=("ribfrac-*-image/RibFrac*-image.nii.gz",),
        pretraining=("RibFrac_disease_segmentation",),
        size="500 CTs",
        licence="CC BY-NC 4.0",
        address="https://ribfrac.grand-challenge.org",
    ),
    COVID19_SET,
    DataSet(
        name="segthor",
        title="SegTHOR",
        read=reader(SEGTHOR),
        marks=("train/Patient_*/GT.nii.gz",),
        pretraining=("SegThor_segmentation",),
        size="40 CTs",
        licence="on registration",
        address="https://competitions.codalab.org/competitions/21145",
    ),
    DataSet(
        name="sega",
        title="SEG.A.",
        read=reader(SEGA, "SEG.A.: patients of its KiTS part are in KiTS23 as well; which ones nobody has published"),
        marks=("*/*/*.seg.nrrd",),
        pretraining=("SEGA_segmentation",),
        size="56 CTs",
        licence="CC BY 4.0",
        address="https://multicenteraorta.grand-challenge.org",
    ),
    DataSet(
        name="parse22",
        title="PARSE22",
        read=reader(PARSE22),
        marks=("train/train/PA*/image/PA*.nii.gz",),
        pretraining=("PARSE22_segmentation",),
        size="100 CTs",
        licence="on registration",
        address="https://parse2022.grand-challenge.org",
    ),
    DataSet(
        name="lndb",
        title="LNDb",
        read=reader(LNDB),
        marks=("data*/LNDb-*.mhd",),
        pretraining=("LNDB_segmentation",),
        size="236 CTs with masks",
        licence="CC BY-NC-ND 4.0",
        address="https://lndb.grand-challenge.org",
    ),
)

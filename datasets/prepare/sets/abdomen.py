"""Segmentation sets of the abdomen whose images and masks find each other by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets.prepare.case import Case, Findings
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.segmentation import Layout, in_order, read_cases, reader

ABDOMEN_CT_1K = Layout(
    images=(
        r"Images/<id:Case_\d{5}>_0000.nii.gz",
        r"AbdomenCT-1K-ImagePart<volume:\d>/<id:Case_\d{5}>_0000.nii.gz",
        r"<id:Case_\d{5}>_0000.nii.gz",
    ),
    masks=(r"Masks/<id:Case_\d{5}>.nii.gz", r"Mask/<id:Case_\d{5}>.nii.gz"),
    labels=in_order("liver", "kidney", "spleen", "pancreas"),
    unlabelled="published without a mask",
)

# CT-ORG's first 131 CTs are those of LiTS, and so are those of MSD's liver task, under the same numbers.
CT_ORG = Layout(
    images=(r"OrganSegmentations/volume-<number:\d+>.nii.gz", r"volumes/volume-<number:\d+>.nii.gz"),
    masks=(r"OrganSegmentations/labels-<number:\d+>.nii.gz", r"labels/labels-<number:\d+>.nii.gz"),
    labels=in_order("liver", "urinary bladder", "lung", "kidney", "bone", "brain"),
    id="volume-{number}",
    patient="lits_{number}",
)

BTCV = Layout(
    images=(r"RawData/Training/img/img<id:\d{4}>.nii.gz",),
    masks=(r"RawData/Training/label/label<id:\d{4}>.nii.gz",),
    labels={
        **in_order(
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
            "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
            "left adrenal gland",
        ),
        "kidney": (2, 3),
        "adrenal gland": (12, 13),
    },
)  # fmt: skip

AMOS = Layout(
    images=(r"amos22/images<part:Tr|Va>/<id:amos_\d{4}>.nii.gz",),
    masks=(r"amos22/labels<part:Tr|Va>/<id:amos_\d{4}>.nii.gz",),
    labels={
        **in_order(
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
            "inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum",
            "urinary bladder",
        ),
        "kidney": (2, 3),
        "adrenal gland": (11, 12),
    },
    splits={"Tr": "train", "Va": "val"},
    unused=(15,),  # prostate or uterus
)  # fmt: skip

FLARE22 = Layout(
    images=(r"images/<id:FLARE22_Tr_\d{4}>_0000.nii.gz",),
    masks=(r"labels/<id:FLARE22_Tr_\d{4}>.nii.gz",),
    labels={
        **in_order(
            "Liver", "Right kidney", "Spleen", "Pancreas", "Aorta", "Inferior Vena Cava", "Right Adrenal Gland",
            "Left Adrenal Gland", "Gallbladder", "Esophagus", "Stomach", "Duodenum", "Left kidney",
        ),
        "Kidney": (2, 13),
        "Adrenal Gland": (7, 8),
    },
)  # fmt: skip

WORD = Layout(
    images=(r"WORD-V0.1.0/images<part:Tr|Val|Ts>/<id:word_\d{4}>.nii.gz",),
    masks=(r"WORD-V0.1.0/labels<part:Tr|Val|Ts>/<id:word_\d{4}>.nii.gz",),
    labels={
        **in_order(
            "liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "esophagus", "pancreas",
            "duodenum", "colon", "intestine", "adrenal gland", "rectum", "urinary bladder", "head of left femur",
            "head of right femur",
        ),
        "kidney": (3, 4),
        "head of femur": (15, 16),
    },
    splits={"Tr": "train", "Val": "val", "Ts": "test"},
)  # fmt: skip

KITS23 = Layout(
    images=(r"dataset/<id:case_\d{5}>/imaging.nii.gz",),
    masks=(r"dataset/<id:case_\d{5}>/segmentation.nii.gz",),
    labels={"kidney": (1, 2, 3), "kidney tumor": 2, "kidney cyst": 3},
)

KIPA22 = Layout(
    images=(r"train/image/<id:\w+>.nii.gz",),
    masks=(r"train/label/<id:\w+>.nii.gz",),
    labels={"renal vein": 1, "kidney": (2, 4), "renal artery": 3, "kidney tumor": 4},
    hu_offsets={"": -1000.0},
)


def _read_amos(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    last_ct = AMOS_SET.setting(settings, "last_ct", findings)
    if not last_ct.isdecimal():
        findings.problems.append(f"--set last_ct={last_ct}: is no number; give the number of the last CT, as 500")
        return []

    def is_mri(fields: Mapping[str, str]) -> str:
        return "MRI, not CT" if int(fields["id"].removeprefix("amos_")) > int(last_ct) else ""

    return read_cases(AMOS, source, findings, is_mri)


AMOS_SET = DataSet(
    name="amos22",
    title="AMOS22 (CT)",
    read=_read_amos,
    marks=("amos22/images*/amos_*.nii.gz",),
    pretraining=("AMOS22CT_structure_segmentation",),
    size="300 CTs",
    licence="CC BY 4.0",
    address="https://zenodo.org/records/7262581",
    settings={"last_ct": Setting("500", "images up to this number are CT, those above are MRI")},
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="abdomenct_1k",
        title="AbdomenCT-1K",
        read=reader(
            ABDOMEN_CT_1K,
            "AbdomenCT-1K: most of its CTs are those of LiTS, KiTS, MSD and Pancreas-CT; which, nobody has published",
        ),
        marks=("Mask*/Case_*.nii.gz",),
        pretraining=("AbdomenCT1K_structure_segmentation",),
        instruction=("AbdomenCT1K_Seg",),
        benchmarks=("AbdomenCT-1K",),
        size="1,062 CTs, about 1,000 with masks",
        licence="see the page",
        address="https://zenodo.org/records/5903099",
    ),
    DataSet(
        name="ct_org",
        title="CT-ORG",
        read=reader(CT_ORG),
        marks=("*/volume-*.nii.gz", "*/labels-*.nii.gz"),
        pretraining=("CTORG_structure_segmentation",),
        instruction=("CTORG_Seg",),
        benchmarks=("CT-ORG",),
        size="140 CTs",
        licence="CC BY 3.0",
        address="https://www.cancerimagingarchive.net/collection/ct-org/",
        patients="lits",
    ),
    DataSet(
        name="btcv",
        title="BTCV",
        read=reader(BTCV),
        marks=("RawData/Training/img/img*.nii.gz",),
        pretraining=("BTCV_structure_segmentation",),
        size="30 CTs",
        licence="CC BY 4.0, on registration",
        address="https://www.synapse.org/Synapse:syn3193805",
    ),
    AMOS_SET,
    DataSet(
        name="flare22",
        title="FLARE22",
        read=reader(FLARE22),
        marks=("images/FLARE22_Tr_*_0000.nii.gz",),
        pretraining=("FLARE22_structure_segmentation",),
        size="50 CTs with masks",
        licence="see the page",
        address="https://flare22.grand-challenge.org",
    ),
    DataSet(
        name="word",
        title="WORD",
        read=reader(WORD),
        marks=("WORD-V0.1.0/images*/word_*.nii.gz",),
        pretraining=("WORD_structure_segmentation",),
        size="150 CTs",
        licence="research alone, on request",
        address="https://github.com/HiLab-git/WORD",
    ),
    DataSet(
        name="kits23",
        title="KiTS23",
        read=reader(KITS23),
        marks=("dataset/case_*/imaging.nii.gz",),
        pretraining=("KiTS23_disease_segmentation",),
        size="489 CTs",
        licence="CC BY-NC-SA 4.0",
        address="https://github.com/neheller/kits23",
    ),
    DataSet(
        name="kipa22",
        title="KiPA22",
        read=reader(KIPA22),
        marks=("train/image/*.nii.gz", "train/label/*.nii.gz"),
        pretraining=("KIPA22_segmentation",),
        size="70 CTs",
        licence="on registration",
        address="https://kipa22.grand-challenge.org",
    ),
)

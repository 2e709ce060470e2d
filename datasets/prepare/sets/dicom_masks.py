"""Segmentation sets whose images are DICOM series and whose masks are NIfTI or MATLAB files in other folders."""

from __future__ import annotations

from datasets.prepare.data_set import DataSet
from datasets.prepare.segmentation import Layout, reader

NSCLC = Layout(
    images=(r"NSCLC-Radiomics/<id:LUNG1-\d+>/<study:.+>/<series:.+>",),
    label_masks={
        "thoracic cavity": r"Thoracic_Cavities/<id:LUNG1-\d+>/<id>_thor_cav_primary_reviewer.nii.gz",
        "lung effusion": r"Effusions/<id:LUNG1-\d+>/<id>_effusion_first_reviewer.nii.gz",
    },
    labels={"thoracic cavity": None, "lung effusion": None},
    dicom=True,
    unlabelled="not contoured",
)

_WITHDRAWN = "withdrawn by its authors, for it shows the patient of another"
PANCREAS_CT = Layout(
    images=(
        r"PANCREAS_<number:\d{4}>/<study:.+>/<series:.+>",
        r"Pancreas-CT/PANCREAS_<number:\d{4}>/<study:.+>/<series:.+>",
    ),
    masks=(r"labels/label<number:\d{4}>.nii.gz", r"TCIA_pancreas_labels-02-05-2017/label<number:\d{4}>.nii.gz"),
    labels={"pancreas": 1},
    dicom=True,
    id="PANCREAS_{number}",
    patient="PANCREAS_{number}",
    skipped={"PANCREAS_0025": _WITHDRAWN, "PANCREAS_0070": _WITHDRAWN},
    conversion="reversed_slices",
)

FUMPE = Layout(
    images=(r"CT_scans/<id:PAT\d+>",),
    masks=(r"GroundTruth/<id:PAT\d+>.mat",),
    labels={"pulmonary embolism": 1},
    dicom=True,
    conversion="rotated_matlab",
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="nsclc",
        title="NSCLC-Radiomics with thoracic cavities and effusions",
        read=reader(NSCLC),
        marks=("NSCLC-Radiomics/LUNG1-*",),
        pretraining=("NSCLC_disease_segmentation",),
        size="402 CTs with masks, about 35 GB",
        licence="CC BY-NC 3.0",
        address="https://www.cancerimagingarchive.net/analysis-result/plethora/",
    ),
    DataSet(
        name="pancreas_ct",
        title="Pancreas-CT",
        read=reader(PANCREAS_CT),
        marks=("*labels*/label0*.nii.gz",),
        pretraining=("PancreasCT_segmentation",),
        size="80 CTs, about 10 GB",
        licence="CC BY 3.0",
        address="https://www.cancerimagingarchive.net/collection/pancreas-ct/",
    ),
    DataSet(
        name="fumpe",
        title="FUMPE",
        read=reader(FUMPE),
        marks=("CT_scans/PAT*",),
        pretraining=("FUMPE_segmentation",),
        size="35 CTs",
        licence="CC BY 4.0",
        address="https://www.kaggle.com/datasets/andrewmvd/pulmonary-embolism-in-ct-images",
    ),
)

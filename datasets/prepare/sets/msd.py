"""The tasks of the Medical Segmentation Decathlon that pretraining takes: one folder each, TaskNN_Name."""

from __future__ import annotations

from collections.abc import Mapping

from datasets.prepare.data_set import DataSet
from datasets.prepare.segmentation import Layout, Values, reader


def _layout(folder: str, stem: str, labels: Mapping[str, Values], patient: str = "") -> Layout:
    images, masks = (rf"{folder}/{kind}/{stem}_<number:\d+>.nii.gz" for kind in ("imagesTr", "labelsTr"))
    return Layout((images,), labels, (masks,), id=f"{stem}_{{number}}", patient=patient or f"{stem}_{{number}}")


def _data_set(
    organ: str, folder: str, task: str, size: str, labels: Mapping[str, Values], patient: str = "", patients: str = ""
) -> DataSet:
    stem = organ.lower()
    return DataSet(
        name=f"msd_{folder.partition('_')[2].lower()}",
        title=f"MSD {folder.partition('_')[2]}",
        read=reader(_layout(folder, stem, labels, patient)),
        marks=(f"{folder}/imagesTr/{stem}_*.nii.gz",),
        pretraining=(task,),
        size=size,
        licence="CC BY-SA 4.0",
        address="http://medicaldecathlon.com",
        patients=patients,
    )


DATA_SETS: tuple[DataSet, ...] = (
    _data_set("lung", "Task06_Lung", "MSD-Lung_disease_segmentation", "63 CTs", {"lung tumor": 1}),
    _data_set(
        "liver",
        "Task03_Liver",
        "MSD-Liver_disease_segmentation",
        "131 CTs",
        {"liver": (1, 2), "liver_tumor": 2},
        patient="lits_{number}",  # its CTs are those of LiTS, under the same numbers, as most of CT-ORG's are
        patients="lits",
    ),
    _data_set(
        "pancreas",
        "Task07_Pancreas",
        "MSD-Pancreas_disease_segmentation",
        "281 CTs",
        {"pancreas": (1, 2), "pancreas tumor": 2},
    ),
    _data_set("colon", "Task10_Colon", "MSD-Colon_disease_segmentation", "126 CTs", {"colon tumor": 1}),
    _data_set(
        "hepaticvessel",
        "Task08_HepaticVessel",
        "MSD-HepaticVessel_segmentation",
        "303 CTs",
        {"liver vessel": 1, "liver tumor": 2},
    ),
)

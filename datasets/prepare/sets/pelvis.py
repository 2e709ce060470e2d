"""CTPelvic1K: of its seven sets the sixth and the seventh, which bring their own images."""

from __future__ import annotations

from datasets.prepare.data_set import DataSet
from datasets.prepare.segmentation import Layout, reader

CTPELVIC1K = Layout(
    images=(
        r"CTPelvic1K_dataset6_data/dataset6_<id:CLINIC_\d+>_data.nii.gz",
        r"CTPelvic1K_dataset7_data/dataset7_<id:CLINIC_metal_\d+>_data.nii.gz",
    ),
    masks=(
        r"CTPelvic1K_dataset6_Anonymized_mask/dataset6_<id:CLINIC_\d+>_mask_4label.nii.gz",
        r"CTPelvic1K_dataset7_mask/<id:CLINIC_metal_\d+>_mask_4label.nii.gz",
    ),
    labels={"sacrum": 1, "left hip": 2, "right hip": 3, "lumbar vertebrae": 4, "hip": (2, 3)},
)

DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="ctpelvic1k",
        title="CTPelvic1K",
        read=reader(CTPELVIC1K),
        marks=("CTPelvic1K_dataset*_data/dataset*_CLINIC_*_data.nii.gz",),
        pretraining=("CTPelvic_segmentation",),
        size="117 CTs of sets 6 and 7",
        licence="CC BY-NC-SA 4.0",
        address="https://zenodo.org/records/4588403",
    ),
)

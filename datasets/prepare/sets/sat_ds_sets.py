"""What is known of the data sets in SAT-DS: the tasks that take them, and how the masks that were downloaded read."""

from __future__ import annotations

from collections.abc import Mapping

from datasets.prepare.segmentation import Values
from datasets.prepare.sets import abdomen, chest, pelvis, pet_ct

# By the name of a set in SAT-DS, in small letters and digits alone: the tasks and benchmarks that take it.
TASKS: Mapping[str, tuple[str, ...]] = {
    "abdomenct1k": ("AbdomenCT1K_structure_segmentation", "AbdomenCT1K_Seg", "AbdomenCT-1K"),
    "ctorg": ("CTORG_structure_segmentation", "CTORG_Seg", "CT-ORG"),
    "atm22": ("ATM22_structure_segmentation",),
    "btcv": ("BTCV_structure_segmentation",),
    "amos22ct": ("AMOS22CT_structure_segmentation",),
    "mmwhsct": ("MM-WHS-CT_structure_segmentation",),
    "luna16": ("LUNA16_structure_segmentation",),
    "flare22": ("FLARE22_structure_segmentation",),
    "word": ("WORD_structure_segmentation",),
    "ribfrac": ("RibFrac_disease_segmentation",),
    "msdlung": ("MSD-Lung_disease_segmentation",),
    "msdliver": ("MSD-Liver_disease_segmentation",),
    "msdpancreas": ("MSD-Pancreas_disease_segmentation",),
    "msdcolon": ("MSD-Colon_disease_segmentation",),
    "nsclc": ("NSCLC_disease_segmentation",),
    "covid19": ("COVID19_disease_segmentation",),
    "kits23": ("KiTS23_disease_segmentation",),
    "autopet": ("AutoPET_segmentation",),
    "totalsegmentatorv2": ("TotalSegmentor_segmentation",),
    "totalsegmentatororgans": ("TotalSegmentator_Organ_Seg", "TotalSegmentator"),
    "segthor": ("SegThor_segmentation",),
    "sega": ("SEGA_segmentation",),
    "parse2022": ("PARSE22_segmentation",),
    "pancreasct": ("PancreasCT_segmentation",),
    "msdhepaticvessel": ("MSD-HepaticVessel_segmentation",),
    "lndb": ("LNDB_segmentation",),
    "kipa22": ("KIPA22_segmentation",),
    "hecktor2022": ("Hecktor22_segmentation",),
    "fumpe": ("FUMPE_segmentation",),
    "dapatlas": ("DAP_segmentation",),
    "ctpelvic1k": ("CTPelvic_segmentation",),
}

# Sets whose patients are the same, by one name.
PATIENTS: Mapping[str, str] = {
    "ctorg": "lits",  # under the same numbers
    "dapatlas": "autopet",
    "msdliver": "lits",
    "totalsegmentatororgans": "totalsegmentator",
    "totalsegmentatorv2": "totalsegmentator",
}

DAP = "dapatlas"  # its values are those of its masks, see `dap_labels`
# Other sets whose mask is one file of labels; those that are missing here are stacks, or were changed by SAT-DS.
MASK_LABELS: Mapping[str, Mapping[str, Values]] = {
    "abdomenct1k": abdomen.ABDOMEN_CT_1K.labels,
    "ctorg": abdomen.CT_ORG.labels,
    "atm22": chest.ATM22.labels,
    "btcv": abdomen.BTCV.labels,
    "amos22ct": abdomen.AMOS.labels,
    "mmwhsct": chest.MM_WHS.labels,
    "luna16": chest.LUNA16.labels,
    "flare22": abdomen.FLARE22.labels,
    "word": abdomen.WORD.labels,
    "ribfrac": chest.RIBFRAC.labels,
    "msdlung": {"lung tumor": 1},
    "msdliver": {"liver": (1, 2), "liver_tumor": 2},
    "msdpancreas": {"pancreas": (1, 2), "pancreas tumor": 2},
    "msdcolon": {"colon tumor": 1},
    "msdhepaticvessel": {"liver vessel": 1, "liver tumor": 2},
    "covid19": chest.COVID19.labels,
    "kits23": abdomen.KITS23.labels,
    "autopet": pet_ct.AUTOPET.labels,
    "segthor": chest.SEGTHOR.labels,
    "parse2022": chest.PARSE22.labels,
    "kipa22": abdomen.KIPA22.labels,
    "hecktor2022": pet_ct.HECKTOR22.labels,
    "ctpelvic1k": pelvis.CTPELVIC1K.labels,
}
HU_OFFSETS: Mapping[str, float] = {"kipa22": -1000.0}

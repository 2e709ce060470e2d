"""Replicas of the abdominal sets."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.ct_files import as_orientation
from tests.replicas.phantoms import label_map, merged, phantom, save_nifti
from tests.replicas.truth import Truth

BTCV_ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
               "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland",
               "left adrenal gland")  # fmt: skip
AMOS_ORGANS = ("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
               "inferior vena cava", "pancreas", "right adrenal gland", "left adrenal gland", "duodenum",
               "urinary bladder", "prostate or uterus")  # fmt: skip
FLARE_ORGANS = ("Liver", "Right kidney", "Spleen", "Pancreas", "Aorta", "Inferior Vena Cava", "Right Adrenal Gland",
                "Left Adrenal Gland", "Gallbladder", "Esophagus", "Stomach", "Duodenum", "Left kidney")  # fmt: skip
WORD_ORGANS = ("liver", "spleen", "left kidney", "right kidney", "stomach", "gallbladder", "esophagus", "pancreas",
               "duodenum", "colon", "intestine", "adrenal gland", "rectum", "urinary bladder", "head of left femur",
               "head of right femur")  # fmt: skip


def numbered(labels: tuple[str, ...]) -> dict[str, int]:
    return {label: number for number, label in enumerate(labels, start=1)}


def abdomenct_1k(folder: Path, images: str = "Images", masks: str = "Masks") -> Truth:
    """Images end in _0000, masks do not; one image has no mask."""
    organs = ("liver", "kidney", "spleen", "pancreas")
    truth = Truth(excluded=("Case_00009",))
    for number, codes in [(1, "RAS"), (2, "LPS"), (3, "LAS"), (558, "RAS"), (1062, "LPS")]:
        id = f"Case_{number:05d}"
        truth.cases[id] = case = phantom(organs, id)
        save_nifti(folder / images / f"{id}_0000.nii.gz", case.hu, codes)
        save_nifti(folder / masks / f"{id}.nii.gz", label_map(case, numbered(organs)), codes)
    save_nifti(folder / images / "Case_00009_0000.nii.gz", phantom((), "Case_00009").hu)
    return truth


def abdomenct_1k_spectre(folder: Path) -> Truth:
    return abdomenct_1k(folder, images=".", masks="Mask")


def ct_org(folder: Path, images: str = "OrganSegmentations", masks: str = "OrganSegmentations") -> Truth:
    """Labels are floats behind a slope of 6/255, so that 1 reads as 0.988 and 3 as 3.012; some organs are missing."""
    organs = ("liver", "urinary bladder", "lung", "kidney", "bone", "brain")
    truth = Truth()
    for number in (0, 1, 2, 107, 139):
        id = f"volume-{number}"
        truth.cases[id] = case = phantom(organs, id, absent=("brain",) if number == 0 else ())
        case.patient = f"lits_{number}"
        save_nifti(folder / images / f"{id}.nii.gz", case.hu, "LAS")
        save_with_slope(folder / masks / f"labels-{number}.nii.gz", label_map(case, numbered(organs)), "LAS")
    return truth


def ct_org_mirror(folder: Path) -> Truth:
    return ct_org(folder, images="volumes", masks="labels")


def save_with_slope(path: Path, ras: np.ndarray, codes: str) -> None:
    """Whole numbers up to 6 in eight bits behind a slope, as CT-ORG's labels are stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array, affine = as_orientation(ras, codes)
    content = bytearray(nib.Nifti1Image(np.rint(array * (255 / 6)).astype(np.uint8), affine).to_bytes())
    struct.pack_into("<f", content, 112, 6 / 255)  # scl_slope; nibabel would choose one of its own
    path.write_bytes(gzip.compress(bytes(content)))


def btcv(folder: Path) -> Truth:
    truth = Truth()
    for number in (1, 2, 3, 40):
        id = f"{number:04d}"
        truth.cases[id] = case = phantom(BTCV_ORGANS, id)
        save_nifti(folder / "RawData/Training/img" / f"img{id}.nii.gz", case.hu)
        save_nifti(folder / "RawData/Training/label" / f"label{id}.nii.gz", label_map(case, numbered(BTCV_ORGANS)))
        merged(case, {"kidney": ("right kidney", "left kidney"),
                      "adrenal gland": ("right adrenal gland", "left adrenal gland")})  # fmt: skip
    return truth


def amos22(folder: Path) -> Truth:
    """Numbers above 500 are MRI, in both folders; value 15 is not used."""
    truth = Truth(excluded=("amos_0507", "amos_0600"))
    for part, number in [("Tr", 1), ("Tr", 4), ("Tr", 500), ("Tr", 507), ("Va", 8), ("Va", 600)]:
        id = f"amos_{number:04d}"
        case = phantom(AMOS_ORGANS, id)
        save_nifti(folder / f"amos22/images{part}/{id}.nii.gz", case.hu, "RAS")
        save_nifti(folder / f"amos22/labels{part}/{id}.nii.gz", label_map(case, numbered(AMOS_ORGANS)), "RAS")
        merged(case, {"kidney": ("right kidney", "left kidney"),
                      "adrenal gland": ("right adrenal gland", "left adrenal gland")})  # fmt: skip
        case.masks = {label: mask for label, mask in case.masks.items() if label != "prostate or uterus"}
        case.split = {"Tr": "train", "Va": "val"}[part]
        if id not in truth.excluded:
            truth.cases[id] = case
    return truth


def flare22(folder: Path) -> Truth:
    truth = Truth()
    for number in (1, 2, 49, 50):
        id = f"FLARE22_Tr_{number:04d}"
        truth.cases[id] = case = phantom(FLARE_ORGANS, id)
        save_nifti(folder / f"images/{id}_0000.nii.gz", case.hu)
        save_nifti(folder / f"labels/{id}.nii.gz", label_map(case, numbered(FLARE_ORGANS)))
        merged(case, {"Kidney": ("Right kidney", "Left kidney"),
                      "Adrenal Gland": ("Right Adrenal Gland", "Left Adrenal Gland")})  # fmt: skip
    return truth


def word(folder: Path) -> Truth:
    truth = Truth()
    for part, number in [("Tr", 2), ("Tr", 4), ("Val", 1), ("Ts", 7), ("Ts", 150)]:
        id = f"word_{number:04d}"
        truth.cases[id] = case = phantom(WORD_ORGANS, id)
        save_nifti(folder / f"WORD-V0.1.0/images{part}/{id}.nii.gz", case.hu, "LPS")
        save_nifti(folder / f"WORD-V0.1.0/labels{part}/{id}.nii.gz", label_map(case, numbered(WORD_ORGANS)), "LPS")
        merged(case, {"kidney": ("left kidney", "right kidney"),
                      "head of femur": ("head of left femur", "head of right femur")})  # fmt: skip
        case.split = {"Tr": "train", "Val": "val", "Ts": "test"}[part]
    return truth


def kits23(folder: Path) -> Truth:
    """Kidney, tumour and cyst are apart in the file, and the kidney is all three; grids differ by less than a voxel."""
    truth = Truth()
    for number in (0, 1, 400, 588):
        id = f"case_{number:05d}"
        case = truth.cases[id] = phantom(("healthy", "kidney tumor", "kidney cyst"), id)
        save_nifti(folder / f"dataset/{id}/imaging.nii.gz", case.hu, "RAS")
        labels = label_map(case, {"healthy": 1, "kidney tumor": 2, "kidney cyst": 3})
        save_nifti(folder / f"dataset/{id}/segmentation.nii.gz", labels, "RAS", shift=0.048 if number == 1 else 0.0)
        merged(case, {"kidney": ("healthy", "kidney tumor", "kidney cyst")})
        case.masks = {label: mask for label, mask in case.masks.items() if label != "healthy"}
    return truth


def kipa22(folder: Path) -> Truth:
    """Images hold HU + 1000."""
    truth = Truth()
    for id in ("0", "1", "10", "69"):
        case = truth.cases[id] = phantom(("renal vein", "healthy", "renal artery", "kidney tumor"), f"kipa{id}")
        case.patient = id
        save_nifti(folder / f"train/image/{id}.nii.gz", case.hu + np.int16(1000), "LPS")
        values = {"renal vein": 1, "healthy": 2, "renal artery": 3, "kidney tumor": 4}
        save_nifti(folder / f"train/label/{id}.nii.gz", label_map(case, values), "LPS")
        merged(case, {"kidney": ("healthy", "kidney tumor")})
        case.masks = {label: mask for label, mask in case.masks.items() if label != "healthy"}
    return truth


def msd(task: str, stem: str, values: dict[str, int], merges: dict[str, tuple[str, ...]]) -> Callable[[Path], Truth]:
    """A task of the Decathlon; beside each file lies one of macOS whose name begins with a dot."""

    def write(folder: Path) -> Truth:
        truth = Truth()
        for number in ("1", "22", "103", "120") if stem == "liver" else ("001", "022", "103", "120"):
            id = f"{stem}_{number}"
            case = truth.cases[id] = phantom(tuple(values), id)
            case.patient = f"lits_{number}" if stem == "liver" else id
            for kind, array in [("imagesTr", case.hu), ("labelsTr", label_map(case, values))]:
                save_nifti(folder / f"{task}/{kind}/{id}.nii.gz", array, "RAS")
                (folder / f"{task}/{kind}/._{id}.nii.gz").write_bytes(b"Mac OS X        ")
            save_nifti(folder / f"{task}/imagesTs/{stem}_900.nii.gz", case.hu)
            merged(case, merges)
            case.masks = {label: mask for label, mask in case.masks.items() if label != "healthy"}
        return truth

    return write


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "abdomenct_1k": abdomenct_1k,
    "abdomenct_1k@spectre": abdomenct_1k_spectre,
    "ct_org": ct_org,
    "ct_org@mirror": ct_org_mirror,
    "btcv": btcv,
    "amos22": amos22,
    "flare22": flare22,
    "word": word,
    "kits23": kits23,
    "kipa22": kipa22,
    "msd_liver": msd("Task03_Liver", "liver", {"healthy": 1, "liver_tumor": 2}, {"liver": ("healthy", "liver_tumor")}),
    "msd_lung": msd("Task06_Lung", "lung", {"lung tumor": 1}, {}),
    "msd_pancreas": msd("Task07_Pancreas", "pancreas", {"healthy": 1, "pancreas tumor": 2},
                        {"pancreas": ("healthy", "pancreas tumor")}),
    "msd_hepaticvessel": msd("Task08_HepaticVessel", "hepaticvessel", {"liver vessel": 1, "liver tumor": 2}, {}),
    "msd_colon": msd("Task10_Colon", "colon", {"colon tumor": 1}, {}),
}  # fmt: skip

"""Replicas of the sets of the chest, and of the pelvis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.ct_files import write_itk
from tests.replicas.phantoms import label_map, merged, only, phantom, save_nifti
from tests.replicas.truth import Truth


def atm22(folder: Path) -> Truth:
    """Two batches; the mask of ATM_164 does not lie on its image."""
    truth = Truth(excluded=("ATM_164_0000",))
    for batch, number in [(1, "001"), (1, "002"), (2, "151"), (2, "164"), (2, "299")]:
        id = f"ATM_{number}_0000"
        case = phantom(("airway tree",), id)
        save_nifti(folder / f"TrainBatch{batch}/imagesTr/{id}.nii.gz", case.hu)
        save_nifti(folder / f"TrainBatch{batch}/labelsTr/{id}.nii.gz", label_map(case, {"airway tree": 1}))
        if id not in truth.excluded:
            truth.cases[id] = case
    return truth


def mm_whs(folder: Path) -> Truth:
    """Values beyond eight bits."""
    values = {"myocardium": 205, "left heart atrium": 420, "left heart ventricle": 500, "right heart atrium": 550,
              "right heart ventricle": 600, "heart ascending aorta": 820, "pulmonary artery": 850}  # fmt: skip
    truth = Truth()
    for number in (1001, 1002, 1003, 1020):
        id = f"ct_train_{number}"
        case = truth.cases[id] = phantom(tuple(values), id)
        save_nifti(folder / f"MM-WHS/ct_train/{id}_image.nii.gz", case.hu, "PIR")
        save_nifti(folder / f"MM-WHS/ct_train/{id}_label.nii.gz", label_map(case, values, np.uint16), "PIR")
        merged(case, {"heart atrium": ("left heart atrium", "right heart atrium"),
                      "heart ventricle": ("left heart ventricle", "right heart ventricle")})  # fmt: skip
        (folder / "MM-WHS/ct_test").mkdir(parents=True, exist_ok=True)
    save_nifti(folder / "MM-WHS/ct_test/ct_test_2001_image.nii.gz", phantom((), "test").hu)
    return truth


def luna16(folder: Path, masks: str = "seg-lungs-LUNA16", part: str = ".") -> Truth:
    """MetaImage headers with their voxels beside them; the masks of all subsets in one folder."""
    values = {"left lung": 3, "right lung": 4, "trachea": 5}
    truth = Truth()
    (folder / masks).mkdir(parents=True)
    for subset, end in [(0, "1"), (0, "105756658031515062000744821260"), (3, "31"), (9, "9")]:
        id = f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{end}"
        case = truth.cases[id] = phantom(tuple(values), id)
        (folder / part / f"subset{subset}").mkdir(parents=True, exist_ok=True)
        write_itk(folder / part / f"subset{subset}" / f"{id}.mhd", case.hu, lps_voxels=True)
        write_itk(folder / masks / f"{id}.mhd", label_map(case, values), lps_voxels=True, compress=True)
        merged(case, {"lung": ("left lung", "right lung")})
    return truth


def luna16_sat_ds(folder: Path) -> Truth:
    return luna16(folder, masks="part1/seg-lungs-LUNA16", part="part1")


def ribfrac(folder: Path) -> Truth:
    """Each fracture has a number of its own."""
    truth = Truth()
    for part, number in [("train1", 1), ("train1", 2), ("train2", 301), ("val", 421), ("val", 500)]:
        id = f"RibFrac{number}"
        case = truth.cases[id] = phantom(("one", "two", "three"), id)
        save_nifti(folder / f"ribfrac-{part}-image/{id}-image.nii.gz", case.hu)
        labels = label_map(case, {"one": 1, "two": 2, "three": 3})
        save_nifti(folder / f"ribfrac-{part}-labels/{id}-label.nii.gz", labels)
        only(merged(case, {"rib fraction": ("one", "two", "three")}), ("rib fraction",))
        case.split = "val" if part == "val" else "train"
    return truth


def covid19(folder: Path, masks: str = "Lung_and_Infection_Mask") -> Truth:
    """The infection takes its voxels from the lungs; images of radiopaedia hold a window of eight bits."""
    values = {"left": 1, "right": 2, "COVID-19 infection": 3}
    truth = Truth(excluded=("radiopaedia_10_85902_1", "radiopaedia_4_85506_1"))
    for id in ("coronacases_001", "coronacases_002", "coronacases_009", "coronacases_010", *truth.excluded):
        case = phantom(tuple(values), id)
        hu = case.hu if id.startswith("corona") else np.clip(case.hu, 0, 255).astype(np.uint8)
        save_nifti(folder / f"COVID-19-CT-Seg_20cases/{id}.nii.gz", hu)
        save_nifti(folder / masks / f"{id}.nii.gz", label_map(case, values))
        case.masks = {"left lung": case.masks["left"], "right lung": case.masks["right"], **case.masks}
        merged(case, {"lung": ("left", "right", "COVID-19 infection")})
        only(case, ("left lung", "right lung", "COVID-19 infection", "lung"))
        if id not in truth.excluded:
            truth.cases[id] = case
    return truth


def covid19_nested(folder: Path) -> Truth:
    return covid19(folder, masks="COVID-19-CT-Seg_20cases/Lung_and_Infection_Mask")


def segthor(folder: Path) -> Truth:
    values = {"esophagus": 1, "heart": 2, "trachea": 3, "aorta": 4}
    truth = Truth()
    for number in ("01", "02", "15", "40"):
        id = f"Patient_{number}"
        case = truth.cases[id] = phantom(tuple(values), id)
        save_nifti(folder / f"train/{id}/{id}.nii.gz", case.hu, "LAS")
        save_nifti(folder / f"train/{id}/GT.nii.gz", label_map(case, values), "LAS")
    return truth


def sega(folder: Path) -> Truth:
    """KiTS and Rider hold HU + 1000; folders of Rider have a remark behind the name."""
    truth = Truth()
    for part, name in [("Dongyang", "D1"), ("Dongyang", "D10"), ("KiTS", "K1"), ("KiTS", "K20"), ("Rider", "R1 (AD)"),
                       ("Rider", "R10")]:  # fmt: skip
        id = name.split(" ")[0]
        case = truth.cases[id] = phantom(("aorta",), id)
        (folder / part / name).mkdir(parents=True)
        hu = case.hu if part == "Dongyang" else case.hu + np.int16(1000)
        write_itk(folder / part / name / f"{id}.nrrd", hu, lps_voxels=True, compress=True)
        write_itk(folder / part / name / f"{id}.seg.nrrd", label_map(case, {"aorta": 1}), lps_voxels=True)
    return truth


def parse22(folder: Path) -> Truth:
    truth = Truth()
    for id in ("PA000005", "PA000016", "PA000024", "PA000327"):
        case = truth.cases[id] = phantom(("pulmonary artery",), id)
        save_nifti(folder / f"train/train/{id}/image/{id}.nii.gz", case.hu, "LPS")
        save_nifti(folder / f"train/train/{id}/label/{id}.nii.gz", label_map(case, {"pulmonary artery": 1}), "LPS")
    return truth


def lndb(folder: Path) -> Truth:
    """One to three readers, who do not agree, and number their nodules."""
    truth = Truth()
    (folder / "masks").mkdir(parents=True)
    for fold, number, readers in [(0, 1, 1), (0, 2, 2), (3, 150, 3), (5, 312, 2)]:
        id = f"LNDb-{number:04d}"
        names = [f"nodule {reader}" for reader in range(1, readers + 2)]
        case = truth.cases[id] = phantom(names, id)
        (folder / f"data{fold}").mkdir(exist_ok=True)
        write_itk(folder / f"data{fold}/{id}.mhd", case.hu, lps_voxels=True)
        for reader in range(1, readers + 1):
            seen = label_map(case, {names[reader - 1]: 1, names[reader]: 2})
            write_itk(folder / f"masks/{id}_rad{reader}.mhd", seen, lps_voxels=True)
        only(merged(case, {"lung nodule": names}), ("lung nodule",))
    return truth


def ctpelvic1k(folder: Path) -> Truth:
    """Two of seven sets, whose masks are named in two ways."""
    values = {"sacrum": 1, "left hip": 2, "right hip": 3, "lumbar vertebrae": 4}
    truth = Truth()
    for id in ("CLINIC_0001", "CLINIC_0103", "CLINIC_metal_0000", "CLINIC_metal_0013"):
        case = truth.cases[id] = phantom(tuple(values), id)
        number, mask = (7, f"{id}_mask_4label") if "metal" in id else (6, f"dataset6_{id}_mask_4label")
        masks = "CTPelvic1K_dataset7_mask" if number == 7 else "CTPelvic1K_dataset6_Anonymized_mask"
        save_nifti(folder / f"CTPelvic1K_dataset{number}_data/dataset{number}_{id}_data.nii.gz", case.hu)
        save_nifti(folder / masks / f"{mask}.nii.gz", label_map(case, values))
        merged(case, {"hip": ("left hip", "right hip")})
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "atm22": atm22,
    "mm_whs": mm_whs,
    "luna16": luna16,
    "luna16@sat_ds": luna16_sat_ds,
    "ribfrac": ribfrac,
    "covid19": covid19,
    "covid19@nested": covid19_nested,
    "segthor": segthor,
    "sega": sega,
    "parse22": parse22,
    "lndb": lndb,
    "ctpelvic1k": ctpelvic1k,
}

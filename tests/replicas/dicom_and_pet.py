"""Replicas of the sets with DICOM images, and of those with PET beside CT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.io import savemat

from tests.ct_files import as_orientation, write_dicom
from tests.replicas.phantoms import label_map, merged, only, phantom, save_nifti
from tests.replicas.truth import Truth

FACTS = Path(__file__).resolve().parents[2] / "data" / "pretraining_tasks.json"


def nsclc(folder: Path) -> Truth:
    """Several series a patient, of which one is the CT; masks lie along other axes, and not every patient has both."""
    truth = Truth(excluded=("LUNG1-128",))
    for number, effusion in [("001", True), ("002", False), ("005", True), ("422", False), ("128", None)]:
        id = f"LUNG1-{number}"
        case = phantom(("thoracic cavity", "lung effusion"), id)
        study = folder / f"NSCLC-Radiomics/{id}/09-18-2008-StudyID-NA-69331"
        ct = study / "0.000000-NA-82046"
        ct.mkdir(parents=True)
        write_dicom(ct, case.hu, slope=1)
        structures = study / "3.000000-NA-28595"
        structures.mkdir()
        (structures / "1-1.dcm").write_bytes(b"\0" * 128 + b"DICM")
        if effusion is None:
            continue
        for label, place in [
            ("thoracic cavity", f"Thoracic_Cavities/{id}/{id}_thor_cav_primary_reviewer.nii.gz"),
            ("lung effusion", f"Effusions/{id}/{id}_effusion_first_reviewer.nii.gz"),
        ]:
            if label == "thoracic cavity" or effusion:
                save_nifti(folder / place, case.masks[label].astype(np.uint8), "LAS")
        truth.cases[id] = case if effusion else only(case, ("thoracic cavity",))
    return truth


def pancreas_ct(folder: Path, own_affine: bool = False) -> Truth:
    """Slices of the labels run against those of the series, with an affine that does not tell; two cases withdrawn."""
    truth = Truth(excluded=("PANCREAS_0025",))
    for number in ("0001", "0002", "0025", "0082"):
        id = f"PANCREAS_{number}"
        case = phantom(("pancreas",), id)
        series = folder / id / "11-24-2015-PANCREAS0001-Pancreas-18957" / "Pancreas-99667"
        if id not in truth.excluded:
            series.mkdir(parents=True)
            write_dicom(series, case.hu, slope=1)
            truth.cases[id] = case
        place = folder / f"labels/label{number}.nii.gz"
        if own_affine:
            save_nifti(place, case.masks["pancreas"].astype(np.uint8), "LAS")
        else:
            save_without_place(place, as_orientation(case.masks["pancreas"], "LPS")[0][:, :, ::-1])
    return truth


def pancreas_ct_placed(folder: Path) -> Truth:
    return pancreas_ct(folder, own_affine=True)


def save_without_place(path: Path, array: np.ndarray) -> None:
    """An array as NIfTI whose affine has a spacing alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array.astype(np.uint8)), np.diag([0.8, 0.9, 2.5, 1.0])), path)


def fumpe(folder: Path) -> Truth:
    """Masks are MATLAB arrays of rows, columns and slices."""
    truth = Truth()
    (folder / "GroundTruth").mkdir(parents=True)
    for id in ("PAT001", "PAT002", "PAT020", "PAT035"):
        case = truth.cases[id] = phantom(("pulmonary embolism",), id)
        (folder / "CT_scans" / id).mkdir(parents=True)
        write_dicom(folder / "CT_scans" / id, case.hu, slope=1)
        rows_and_columns = as_orientation(case.masks["pulmonary embolism"], "PLS")[0]
        savemat(folder / f"GroundTruth/{id}.mat", {"Mask": rows_and_columns.astype(np.uint8)})
    return truth


def autopet(folder: Path) -> Truth:
    """PET, the CT, and the CT on the PET's grid, on which the mask lies; one patient has two studies, one no tumour."""
    truth = Truth()
    for hash, study in [
        ("0011f3deaf", "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"),
        ("01140d52d8", "08-13-2005-NA-PET-CT Ganzkoerper  primaer mit KM-56839"),
        ("01140d52d8", "12-02-2006-NA-PET-CT Ganzkoerper  primaer mit KM-11111"),
        ("ffff3deaf0", "01-01-2004-NA-Unspecified CT ABDOMEN-22222"),
    ]:
        id = f"PETCT_{hash}/{study}"
        case = truth.cases[id] = phantom(("tumor",), id, absent=("tumor",) if hash[0] == "f" else ())
        case.patient = f"PETCT_{hash}"
        save_nifti(folder / id / "CTres.nii.gz", case.hu, "RAS")
        save_nifti(folder / id / "SUV.nii.gz", np.abs(case.hu).astype(np.float32) / 500, "RAS")
        save_nifti(folder / id / "SEG.nii.gz", case.masks["tumor"].astype(np.uint8), "RAS")
        save_nifti(folder / id / "CT.nii.gz", np.repeat(case.hu, 2, axis=0), "RAS")
    return truth


def hecktor22(folder: Path, place: str = ".", end: str = "") -> Truth:
    """CT and PET side by side; the mask belongs to both."""
    values = {"head and neck tumor": 1, "lymph node": 2}
    truth = Truth()
    for id in ("CHUM-001", "CHUS-004", "MDA-201", "USZ-099"):
        case = truth.cases[id] = phantom(tuple(values), id)
        save_nifti(folder / place / f"imagesTr{end}/{id}__CT.nii.gz", case.hu)
        save_nifti(folder / place / f"imagesTr{end}/{id}__PT.nii.gz", np.abs(case.hu).astype(np.float32))
        save_nifti(folder / place / f"labelsTr{end}/{id}.nii.gz", label_map(case, values))
    return truth


def hecktor22_sat_ds(folder: Path) -> Truth:
    return hecktor22(folder, "hecktor2022_training/hecktor2022", "_resampled")


def dap(folder: Path, first: int = 1) -> Truth:
    """Masks of CTs that are AutoPET's, found by patient and the last part of the study; one CT has none.

    first: the value of muscle.  Each further label has the next one, and behind the colon one is the rectum's.
    """
    truth = Truth(excluded=("AutoPET_ffff3deaf0_22222",))
    labels = next(task["labels"] for task in json.loads(FACTS.read_text()) if task["name"] == "DAP_segmentation")
    single = labels[: labels.index("left subclavian artery") + 1]
    numbered = [*single[:9], "rectum", *single[9:]]
    for hash, study, last in [
        ("0011f3deaf", "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445", "10445"),
        ("01140d52d8", "08-13-2005-NA-PET-CT Ganzkoerper  primaer mit KM-56839", "56839"),
        ("01140d52d8", "12-02-2006-NA-PET-CT Ganzkoerper  primaer mit KM-11111", "11111"),
        ("0143bab87a", "07-17-2005-NA-PET-CT Ganzkoerper  primaer mit KM-33529", "33529"),
        ("ffff3deaf0", "01-01-2004-NA-Unspecified CT ABDOMEN-22222", "22222"),
    ]:
        id = f"AutoPET_{hash}_{last}"
        case = phantom(numbered, id)
        case.patient = f"PETCT_{hash}"
        save_nifti(folder / f"PETCT_{hash}" / study / "CT.nii.gz", case.hu, "RAS")
        if id in truth.excluded:
            continue
        values = {label: value for value, label in enumerate(numbered, start=first)}
        save_nifti(folder / "Atlas_final_dataset_V1_533" / f"{id}.nii.gz", label_map(case, values), "RAS")
        truth.cases[id] = only(merged(case, {label: dap_parts(label, single) for label in labels[142:]}), labels)
    return truth


def dap_parts(label: str, single: list[str]) -> list[str]:
    """What a label of the second half of the list is made of."""
    if label.endswith("lung"):
        lobes = ["left lung lower lobe", "left lung upper lobe", "right lung lower lobe", "right lung middle lobe",
                 "right lung upper lobe"]  # fmt: skip
        return [lobe for lobe in lobes if lobe.startswith(label) or label == "lung"]
    if label.endswith("vertebrae"):
        return [name for name in single if "vertebrae" in name and name.startswith(label.removesuffix("vertebrae"))]
    if label in ("rib", "left rib", "right rib"):
        sides = ("left", "right") if label == "rib" else (label.split()[0],)
        return [f"{side} rib {number}" for side in sides for number in range(1, 13)]
    return [f"left {label}", f"right {label}"]


def dap_from_two(folder: Path) -> Truth:
    return dap(folder, first=2)


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "nsclc": nsclc,
    "pancreas_ct": pancreas_ct,
    "pancreas_ct@placed": pancreas_ct_placed,
    "fumpe": fumpe,
    "autopet": autopet,
    "hecktor22": hecktor22,
    "hecktor22@sat_ds": hecktor22_sat_ds,
    "dap": dap,
    "dap@from_two": dap_from_two,
}

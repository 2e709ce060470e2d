"""Replicas of the sets of single slices, and of CC-CCII, whose volumes are folders of slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.replicas.text_truth import seen, write_csv, write_json, write_slice, write_text
from tests.replicas.truth import Truth

COVID, NOT_COVID = "affected COVID", "not affected COVID"


def sars_cov(folder: Path) -> Truth:
    """Names with blanks and brackets; no lists, no patients."""
    truth = Truth()
    for number in range(1, 7):
        for kind, stem, label in (("COVID", "Covid", COVID), ("non-COVID", "Non-Covid", NOT_COVID)):
            id = f"{kind}/{stem} ({number}).png"
            write_slice(folder / id, number)
            truth.cases[id] = seen(id, None, classes=label)
    return truth


# List: names and the patient (the figure that the slices were cut from).
UCSD = {
    ("COVID", "train"): {"2020.01.24.919183-p27-132.png": "2020.01.24.919183-p27-132.png",
                         "2020.02.10.20021584-p6-52%0.png": "2020.02.10.20021584-p6-52.png",
                         "2020.02.10.20021584-p6-52%1.png": "2020.02.10.20021584-p6-52.png"},
    ("COVID", "val"): {"2020.03.13.20035212-p23-155.png": "2020.03.13.20035212-p23-155.png"},
    ("COVID", "test"): {"2020.03.22.20040782-p25-1541.png": "2020.03.22.20040782-p25-1541.png"},
    ("NonCOVID", "train"): {"14.png": "14.png", "91%0.jpg": "91.jpg", "91%1.jpg": "91.jpg"},
    ("NonCOVID", "val"): {"23.png": "23.png", "33%0.jpg": "33.jpg"},
    ("NonCOVID", "test"): {"102.png": "102.png"},
}  # fmt: skip


def ucsd_covid_ct(folder: Path, images: str = "Images-processed/") -> Truth:
    """The official lists, one of which ends in a blank line; one slice is in none of them."""
    truth = Truth(excluded=("CT_NonCOVID/1029.png",))
    for (kind, split), names in UCSD.items():
        ending = "\n\n" if split == "val" else "\n"
        write_text(folder / f"Data-split/{kind}/{split}CT_{kind}.txt", "\n".join(names) + ending)
        for number, (name, patient) in enumerate(names.items()):
            id = f"{images}CT_{kind}/{name}"
            write_slice(folder / id, number)
            label = COVID if kind == "COVID" else NOT_COVID
            truth.cases[id] = seen(f"{images}CT_{kind}/{patient}", split, classes=label)
    write_slice(folder / f"{images}CT_NonCOVID/1029.png", 9)
    return truth


def ucsd_covid_ct_plain(folder: Path) -> Truth:
    """The folders of slices directly beside Data-split."""
    return ucsd_covid_ct(folder, images="")


# Folder of a region and class, how often, its label (None: not of the task).
RADIMAGENET = {
    "lung/normal": (2, "normal in the lung"),
    "lung/airspace_opacity": (3, "airspace opacity in the lung"),
    "lung/Interstitial_lung_disease": (1, "interstitial lung disease in the lung"),
    "abd/gallstone": (2, "gallstone in the abdomen"),
    "abd/normal": (1, "normal in the abdomen"),
    "abd/bil_dil": (1, "bil dil in the abdomen"),
    "abd/spleen_lesion": (2, None),
}
RADIMAGENET_UNLISTED = "radiology_ai/CT/abd/normal/abd-normal000009.png"


def radimagenet(folder: Path) -> Truth:
    """Tables of all modalities, whose label strings are not those of the folders; slices of MR do not belong."""
    truth = Truth(excluded=(RADIMAGENET_UNLISTED,))
    rows: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    splits = ("train", "train", "val", "test")
    count = 0
    for name, (slices, label) in RADIMAGENET.items():
        region, _, kind = name.partition("/")
        for number in range(1, slices + 1):
            id = f"radiology_ai/CT/{name}/{region}-{kind}{number:06d}.png"
            write_slice(folder / id, count)
            split = splits[count % 4]
            rows[split].append((id, "normal-ct" if kind == "normal" else "some, words"))
            if label is not None:
                truth.cases[id] = seen(id, split, classes=label)
            count += 1
    write_slice(folder / RADIMAGENET_UNLISTED, 99)
    write_slice(folder / "radiology_ai/MR/brain/normal/brain-normal000001.png", 98)
    rows["train"].append(("radiology_ai/MR/brain/normal/brain-normal000001.png", "normal"))
    rows["test"].append(("radiology_ai/CT/lung/nodule/lung-nodule000007.png", "nodule"))  # not downloaded
    for split, table in rows.items():
        write_csv(folder / f"RadiologyAI_{split}.csv", ("filename", "label"), table)
    return truth


# Scan: class, split, slices on the disk and in the list; None where it is in neither list.
CC_CCII = {
    "NCP/1/1001": ("novel coronavirus pneumonia", "train", 5, 5),
    "NCP/1/1002": ("novel coronavirus pneumonia", "train", 4, 4),
    "NCP/2/1003": ("novel coronavirus pneumonia", "test", 12, 12),
    "CP/7/3001": ("common pneumonia", "train", 3, 3),
    "CP/8/3002": ("common pneumonia", "test", 6, 4),
    "Normal/20/4001": ("normal", "train", 3, 3),
    "Normal/21/4002": ("normal", "test", 3, 3),
    "Normal/22/4003": ("normal", None, 3, 0),
}


def cc_ccii(folder: Path) -> Truth:
    """Slices 0000.png, ...; one scan holds more than the cleaned list takes, one is in no list."""
    truth = Truth(excluded=("Normal/22/4003",))
    lists: dict[str, dict[str, dict[str, dict[str, list[str]]]]] = {"train": {}, "test": {}}
    for id, (label, split, slices, listed) in CC_CCII.items():
        kind, patient, scan = id.split("/")
        names = [f"{number:04d}.png" for number in range(slices)]
        for number, name in enumerate(names):
            write_slice(folder / id / name, number)
        if split is not None:
            lists[split].setdefault(kind, {}).setdefault(patient, {})[scan] = names[:listed]
            truth.cases[id] = seen(f"{kind}/{patient}", split, classes=label)
    for split, items in lists.items():
        write_json(folder / f"ct_{split}.json", items)
    return truth


REPLICAS: dict[str, Callable[[Path], Truth]] = {
    "sars_cov": sars_cov,
    "ucsd_covid_ct": ucsd_covid_ct,
    "ucsd_covid_ct@plain": ucsd_covid_ct_plain,
    "radimagenet": radimagenet,
    "cc_ccii": cc_ccii,
}

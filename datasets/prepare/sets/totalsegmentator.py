"""TotalSegmentator, versions 1 and 2: a folder a subject, with ct.nii.gz and a binary mask for each class.

Pretraining takes the classes that are new in version 2, the tuning task and the benchmark take 20 organs that both
versions have; each with the unions of some left and right ones.  So a subject of version 2 makes two cases.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets.prepare.case import Case, Findings, Mask, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.path_patterns import find_base, find_paths
from datasets.prepare.segmentation import is_empty
from datasets.prepare.tables import nearest, read_table

TASK, TUNING, BENCHMARK = "TotalSegmentor_segmentation", "TotalSegmentator_Organ_Seg", "TotalSegmentator"
IMAGES = r"<id:s\d{4}>/ct.nii.gz"
_SPLITS: dict[str, Split] = {"train": "train", "val": "val", "test": "test"}

# By label, the files of its classes.
NEW_CLASSES: dict[str, tuple[str, ...]] = {
    "left auricle of heart": ("atrial_appendage_left",),
    "brachiocephalic trunk": ("brachiocephalic_trunk",),
    "left brachiocephalic vein": ("brachiocephalic_vein_left",),
    "right brachiocephalic vein": ("brachiocephalic_vein_right",),
    "left common carotid artery": ("common_carotid_artery_left",),
    "right common carotid artery": ("common_carotid_artery_right",),
    "costal cartilage": ("costal_cartilages",),
    "heart": ("heart",),
    "left kidney cyst": ("kidney_cyst_left",),
    "right kidney cyst": ("kidney_cyst_right",),
    "prostate": ("prostate",),
    "pulmonary vein": ("pulmonary_vein",),
    "skull": ("skull",),
    "spinal cord": ("spinal_cord",),
    "sternum": ("sternum",),
    "left subclavian artery": ("subclavian_artery_left",),
    "right subclavian artery": ("subclavian_artery_right",),
    "superior vena cava": ("superior_vena_cava",),
    "thyroid": ("thyroid_gland",),
    "sacral vertebrae 1 (S1)": ("vertebrae_S1",),
    "brachiocephalic vein": ("brachiocephalic_vein_left", "brachiocephalic_vein_right"),
    "common carotid artery": ("common_carotid_artery_left", "common_carotid_artery_right"),
    "kidney cyst": ("kidney_cyst_left", "kidney_cyst_right"),
    "subclavian artery": ("subclavian_artery_left", "subclavian_artery_right"),
}
ORGANS: dict[str, tuple[str, ...]] = {
    "left adrenal gland": ("adrenal_gland_left",),
    "right adrenal gland": ("adrenal_gland_right",),
    "colon": ("colon",),
    "duodenum": ("duodenum",),
    "esophagus": ("esophagus",),
    "gallbladder": ("gallbladder",),
    "left kidney": ("kidney_left",),
    "right kidney": ("kidney_right",),
    "liver": ("liver",),
    "left lung lower lobe": ("lung_lower_lobe_left",),
    "right lung lower lobe": ("lung_lower_lobe_right",),
    "right lung middle lobe": ("lung_middle_lobe_right",),
    "left lung upper lobe": ("lung_upper_lobe_left",),
    "right lung upper lobe": ("lung_upper_lobe_right",),
    "pancreas": ("pancreas",),
    "small bowel": ("small_bowel",),
    "spleen": ("spleen",),
    "stomach": ("stomach",),
    "trachea": ("trachea",),
    "urinary bladder": ("urinary_bladder",),
    "adrenal gland": ("adrenal_gland_left", "adrenal_gland_right"),
    "kidney": ("kidney_left", "kidney_right"),
    "lung lower lobe": ("lung_lower_lobe_left", "lung_lower_lobe_right"),
    "lung upper lobe": ("lung_upper_lobe_left", "lung_upper_lobe_right"),
}


def read_totalsegmentator(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """The cases of either version; splits are those of meta.csv."""
    if not source.is_dir():
        findings.problems.append(f"{source}: no such folder; give the folder that was downloaded")
        return []
    base, _ = find_base(source, [IMAGES])
    images = {found.fields["id"]: found.path for found in find_paths(base, IMAGES)}
    if not images:
        findings.problems.append(f"{base}: no image s*/ct.nii.gz; is this TotalSegmentator, and all unpacked?")
        return []
    splits = _splits(base, images, findings)
    files = {id: _mask_files(image) for id, image in images.items()}
    known = set().union(*files.values())
    _refuse_odd_names(images, files, findings)
    organs, new = _known(ORGANS, known), _known(NEW_CLASSES, known)
    findings.version = "v2" if new else "v1"
    if not new:
        findings.warnings.append(f"{base}: version 1 has no class of {TASK}, which is not made; version 2 has them")
    for label in (*(set(ORGANS) - set(organs)), *(set(NEW_CLASSES) - set(new) if new else ())):
        findings.warnings.append(f"{base}: no subject has the masks of {label!r}, which is not asked for")
    cases: list[Case] = []
    for id, image in sorted(images.items()):
        if is_empty(image):
            findings.problems.append(f"{image}: the file is empty; download it again")
        elif _is_whole(image, files[id], (*organs.values(), *new.values()), findings):
            split = splits.get(id)
            for name, classes, tasks in ((f"{id}_organs", organs, (TUNING, BENCHMARK)), (id, new, (TASK,))):
                masks = {label: Mask(tuple(_mask(image, name) for name in names)) for label, names in classes.items()}
                if masks:
                    cases.append(Case(name, id, image, split, masks=masks, tasks=tasks))
    return cases


def _mask(image: Path, name: str) -> Path:
    return image.parent / "segmentations" / f"{name}.nii.gz"


def _mask_files(image: Path) -> dict[str, int]:
    """The size of each class's mask of a subject; nothing where there is no folder."""
    try:
        with os.scandir(image.parent / "segmentations") as entries:
            return {
                entry.name.removesuffix(".nii.gz"): entry.stat().st_size
                for entry in entries
                if entry.name.endswith(".nii.gz") and entry.name[0] != "."
            }
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _refuse_odd_names(images: Mapping[str, Path], files: Mapping[str, Mapping[str, int]], findings: Findings) -> None:
    """A class that one subject alone has, of several, is a misspelt one, or none."""
    counts = Counter(name for names in files.values() for name in names)
    taken = {name for names in (*ORGANS.values(), *NEW_CLASSES.values()) for name in names}
    several = sum(bool(names) for names in files.values()) > 2
    for id, names in sorted(files.items()) if several else ():
        for name in sorted(names):
            if counts[name] == 1 and name not in taken:
                findings.problems.append(
                    f"{_mask(images[id], name)}: no other subject has this class{nearest(name, set(counts) - {name})}; "
                    "rename the file, or remove it"
                )


def _known(classes: Mapping[str, tuple[str, ...]], known: Collection[str]) -> dict[str, tuple[str, ...]]:
    """The labels of which some subject has every file."""
    return {label: names for label, names in classes.items() if all(name in known for name in names)}


def _is_whole(image: Path, files: Mapping[str, int], classes: Sequence[tuple[str, ...]], findings: Findings) -> bool:
    """Whether a subject has every mask that others have; what is missing or empty is a problem."""
    names = sorted({name for names in classes for name in names})
    missing = [name for name in names if name not in files]
    if not files:
        findings.problems.append(f"{image.parent / 'segmentations'}: no masks, though its image is there; get them")
    elif missing:
        shown = ", ".join(f"{name}.nii.gz" for name in missing[:3])
        findings.problems.append(
            f"{image.parent / 'segmentations'}: {len(missing)} of {len(names)} masks that others have are missing "
            f"({shown}); download the subject again"
        )
    empty = [name for name in names if files.get(name) == 0]
    findings.problems += [f"{_mask(image, name)}: the file is empty; download it again" for name in empty]
    return not missing and not empty


def _splits(base: Path, images: Mapping[str, Path], findings: Findings) -> dict[str, Split]:
    """The split of each subject by meta.csv, whose cells are parted by semicolons."""
    path = base / "meta.csv"
    if not path.is_file():
        findings.warnings.append(f"{path}: no such file, so the splits are drawn by patient, not those of the data set")
        return {}
    table = read_table(path, ("image_id", "split"), findings, "image_id", separator=";")
    if table is None:
        return {}
    splits: dict[str, Split] = {}
    for row in table.rows:
        id, split = row["image_id"], row["split"]
        if split not in _SPLITS:
            findings.problems.append(f"{path}: row {row.number}, column split: {split!r} is not train, val or test")
        elif id not in images:
            findings.problems.append(
                f"{path}: row {row.number}: {id} has no {id}/ct.nii.gz; download it, or drop the row"
            )
        else:
            splits[id] = _SPLITS[split]
    listed = {row["image_id"] for row in table.rows}
    findings.problems += [f"{images[id]}: {id} is not in meta.csv; remove it, or get the right meta.csv"
                          for id in sorted(set(images) - listed)]  # fmt: skip
    return splits


DATA_SETS: tuple[DataSet, ...] = (
    DataSet(
        name="totalsegmentator",
        title="TotalSegmentator",
        read=read_totalsegmentator,
        marks=("s[0-9][0-9][0-9][0-9]/ct.nii.gz",),
        pretraining=(TASK,),
        instruction=(TUNING,),
        benchmarks=(BENCHMARK,),
        size="1,228 CTs (version 2), about 30 GB",
        licence="CC BY 4.0",
        address="https://zenodo.org/records/10047292",
    ),
)

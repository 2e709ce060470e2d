"""SAT-DS's splits: one JSON file a data set, {"train": [ids], "test": [ids]}, as its repository has in data/split_json.

A file goes with the data set or the task that its name begins with, whatever the case and the punctuation; ids are the
names of image files, folders or patients, with or without their extension.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Case, Split
from datasets.prepare.data_set import DataSet

WITHOUT_SPLIT = {"ATM22_structure_segmentation", "RibFrac_disease_segmentation"}  # tasks that SAT-DS has no split of
_EXTENSIONS = re.compile(r"(\.seg)?\.(nii\.gz|nii|nrrd|mhd|mha|npz|npy|png|jpe?g|mat)$", re.IGNORECASE)
_TASK_ENDS = re.compile(r"_(structure_|disease_)?segmentation$|_disease_classification$|_image_text$")


def split_file(folder: Path, data_set: DataSet) -> Path:
    """The file of a data set; InputError where there is none, or several that fit alike."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give --sat_ds_splits the folder data/split_json of SAT-DS")
    names = [data_set.name, data_set.title, *(_TASK_ENDS.sub("", task) for task in data_set.pretraining)]
    keys = {_key(name) for name in names if name}
    files = {path: _key(path.stem) for path in sorted(folder.glob("*.json"))}
    exact = [path for path, key in files.items() if key in keys]
    near = [path for path, key in files.items() if any(key.startswith(k) or k.startswith(key) for k in keys)]
    found = exact or near
    if len(found) == 1:
        return found[0]
    if not found:
        raise InputError(f"{folder}: no split file of {data_set.name}; call it {data_set.name}.json")
    listed = ", ".join(path.name for path in found)
    raise InputError(f"{folder}: {listed} may all be of {data_set.name}; call the right one {data_set.name}.json")


def with_sat_ds_split(cases: Sequence[Case], path: Path) -> tuple[list[Case], dict[str, str]]:
    """The cases that the file lists, with its splits; and why the others are left out, by id.

    Raises InputError for a file that is no such JSON, or that names no case at all.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a JSON file ({error})") from error
    parts = {split: content.get(split) for split in ("train", "test")} if isinstance(content, dict) else {}
    if not parts or not all(isinstance(ids, list) for ids in parts.values()):
        raise InputError(f'{path}: must hold {{"train": [...], "test": [...]}} with the ids of the cases')
    train, test = ({_plain(str(name)) for name in parts[split] or []} for split in ("train", "test"))
    listed: list[Case] = []
    excluded: dict[str, str] = {}
    for case in cases:
        names = {_plain(case.id), _plain(case.image.name), _plain(case.image.parent.name), _plain(case.patient)}
        split: Split | None = "test" if names & test else "train" if names & train else None
        if split is None:
            excluded[case.id] = f"not in SAT-DS's split ({path.name})"
        else:
            listed.append(replace(case, split=split))
    if cases and not listed:
        raise InputError(
            f"{path}: none of its {len(train) + len(test)} ids is a case that was found, such as {cases[0].id}"
        )
    return listed, excluded


def _plain(name: str) -> str:
    """An id without folders, extension and the channel number of nnU-Net's file names."""
    return _EXTENSIONS.sub("", Path(name.rstrip("/")).name).removesuffix("_0000").casefold()


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())

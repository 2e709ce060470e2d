"""RP3D: volumes of Radiopaedia with the text of their article, by RadFM's public index.

The index (`radiology_article_npy_{train,test}.json`) names arrays by paths of its authors' machine; they are found by
the end of the path.  Which of these records the published task was made of, and with which text, is not known.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from datasets.errors import InputError
from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.tables import examples, read_json
from datasets.prepare.trees import files_under

_FILES: dict[str, Split] = {"radiology_article_npy_train.json": "train", "radiology_article_npy_test.json": "test"}
_ENDINGS = (".npy", ".npz", ".nii.gz", ".nii")
_TEXTS = ("finding", "impression", "pre", "pat", "title", "articles", "radiographic_features")
_NOTHING = ("", "none", "nan")


def read(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an array of the index with its text; images of one article are one patient's."""
    data_set = DATA_SETS[0]
    fields = [name.strip() for name in data_set.setting(settings, "text", findings).split(";")]
    if unknown := [name for name in fields if name not in _TEXTS]:
        raise InputError(f"--set text: {unknown[0]!r} is not a field of the index; choose from {', '.join(_TEXTS)}")
    indices = {path.name: path for path in files_under(source, ".json") if path.name in _FILES}
    if not indices:
        findings.problems.append(
            f"{source}: {' and '.join(_FILES)} are missing; download them from {data_set.address} into this folder"
        )
    arrays = _by_file_name(files_under(Path(settings.get("images") or source), _ENDINGS))
    cases: list[Case] = []
    absent: list[str] = []
    records = _records(indices, findings)
    names = Counter(_stem(PurePosixPath(path).name) for path in records)
    patients = _patients({path: item for path, (_, item) in records.items()})
    for path, (split, item) in records.items():
        image = _located(path, arrays, names, findings)
        if image is None:
            absent.append(path)
        elif report := _text(item, fields):
            cases.append(Case(path, patients[path], image, split, report=report))
        else:
            findings.excluded[path] = f"has no {' or '.join(fields)}"
    if absent:
        lines = findings.warnings if cases else findings.problems
        lines.append(f"{source}: arrays of the index that are not here are left out: {examples(absent)}")
    return cases


def _records(indices: Mapping[str, Path], findings: Findings) -> dict[str, tuple[Split, Mapping[str, Any]]]:
    """The records of both indices by their path, and the split."""
    found: dict[str, tuple[Split, Mapping[str, Any]]] = {}
    for name, split in _FILES.items():
        items = read_json(indices[name], findings) if name in indices else []
        if items is not None and not isinstance(items, list):
            findings.problems.append(f"{indices[name]}: must hold a list of records; download it again")
            continue
        for number, item in enumerate(items or []):
            where = f"{indices[name]}: item {number} (from 0)"
            path = item.get("npy_path") if isinstance(item, dict) else None
            if not isinstance(path, str) or not path:
                findings.problems.append(f"{where}: has no npy_path")
            elif path in found:
                findings.problems.append(f"{where}: {path} is listed twice; keep one")
            else:
                found[path] = split, item
    return found


def _by_file_name(paths: Iterable[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(_stem(path.name), []).append(path)
    return found


def _stem(name: str) -> str:
    return next((name[: -len(ending)] for ending in _ENDINGS if name.endswith(ending)), name)


def _located(name: str, arrays: Mapping[str, list[Path]], names: Mapping[str, int], findings: Findings) -> Path | None:
    """The file whose path ends most like `name`; two that end alike are a problem.

    names: how many records have a file name.  Where several have it, the folder must be the record's too.
    """
    if Path(name).is_file():
        return Path(name)
    wanted = PurePosixPath(name.replace("\\", "/"))
    stem = _stem(wanted.name)
    common = {path: _common_end(path.parent.parts, wanted.parent.parts) for path in arrays.get(stem, [])}
    most = max(common.values(), default=0)
    best = [path for path, count in common.items() if count == most and (count or names[stem] == 1)]
    if len(best) > 1:
        findings.problems.append(f"{name} may be {best[0]} or {best[1]}; keep the folders of the index")
    return best[0] if best else None


def _common_end(first: Sequence[str], second: Sequence[str]) -> int:
    count = 0
    for one, other in zip(reversed(first), reversed(second), strict=False):
        if one != other:
            break
        count += 1
    return count


def _text(item: Mapping[str, Any], fields: Sequence[str]) -> str:
    parts = [" ".join(str(item.get(name) or "").split()) for name in fields]
    return " ".join(part for part in parts if part.casefold() not in _NOTHING)


def _patients(items: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The patient of each record, by its path.

    Articles have no name in the index: what they say of the case stands for one.  A text that most records have tells
    no case, nor do a title and an age alone; each of these records counts as a patient.
    """
    articles = {path: _article(item) for path, item in items.items()}
    counts = Counter(articles.values())
    patients = {}
    for path, article in articles.items():
        text = article if article and 2 * counts[article] <= len(items) else path
        patients[path] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return patients


def _article(item: Mapping[str, Any]) -> str:
    """All that is the same for the studies of one case; empty where nothing tells it from another."""
    if not any(str(item.get(name) or "").strip("[]{} ") for name in ("articles", "pre")):
        return ""
    return "\n".join(str(item.get(name) or "") for name in ("title", "articles", "pat", "pre"))


DATA_SETS = (
    DataSet(
        name="rp3d",
        title="RP3D (RadFM's index of Radiopaedia)",
        read=read,
        marks=("radiology_article_npy_*.json",),
        pretraining=("RP3D_image_text",),
        size="some 51,000 volumes",
        licence="images by permission of Radiopaedia alone",
        address="https://huggingface.co/datasets/chaoyi-wu/RadFM_data_csv",
        settings={
            "text": Setting(
                "finding;impression",
                f"which fields make the text, parted by ; ({', '.join(_TEXTS)})",
                "RP3D: the published task's own file is not public; RadFM's index is taken, with finding and "
                "impression as the text (others by --set text=finding;articles)",
            ),
            "images": Setting("", "folder that holds the arrays, where it is not the source"),
        },
    ),
)

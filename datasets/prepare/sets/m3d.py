"""M3D-Cap and M3D-VQA: volumes of Radiopaedia as arrays (1, 32, 256, 256) of grey, with reports and with questions.

The arrays are those that M3D's own script `m3d_cap_data_prepare.py` makes of the pictures; both data sets name them by
`M3D_Cap_npy/ct_case/<case>/<series>.npy`.  A case is a patient, whose series share the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.prepare.case import Case, Findings, Question, Split
from datasets.prepare.data_set import DataSet, Setting
from datasets.prepare.tables import Row, examples, read_json, read_table, read_text
from datasets.prepare.trees import inside

ADDRESS = "https://huggingface.co/datasets/GoodBaiBai88/M3D-Cap"
_ARRAYS = "M3D_Cap_npy"
_INDEX = "M3D_Cap.json"
_PARTS = ("ct_case", "ct_quizze")
_SPLITS: dict[str, Split] = {"train": "train", "validation": "val", "test": "test"}
_BEGINNINGS = ("study_findings:", "discussion:")
_AXES = (
    "the arrays run (slice, row, column) and hold grey of pictures; which way the slices run is not recorded, and "
    "differs from case to case.  Train and evaluate with --array_axes as_stored"
)
_COLUMNS = ("Image Path", "Question", "Choice A", "Choice B", "Choice C", "Choice D", "Answer", "Answer Choice")
_KINDS = ("open", "closed")


def read_captions(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an array of the index with the report of its text file."""
    index = _first_file((source / "M3D_Cap", source / _ARRAYS, source, source.resolve().parent / _ARRAYS), _INDEX)
    arrays = _arrays(source)
    items = _items(source, index, findings)
    cases: list[Case] = []
    absent: list[str] = []
    seen: dict[str, str] = {}
    for part, split in _SPLITS.items():
        for number, item in enumerate(items.get(part, ())):
            where = f"{part}, item {number} (from 0)"
            if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in ("image", "text")):
                findings.problems.append(f"{index}: {where}: must have image and text")
                continue
            array = item["image"]
            if array in seen:
                findings.problems.append(f"{index}: {where}: {array} was already given by {seen[array]}; keep one")
                continue
            seen[array] = where
            image = _below(arrays, array)
            if image is None:
                absent.append(array)
                continue
            name, patient = _names(array)
            text = _below(arrays, item["text"])
            report = "" if text is None else report_of(read_text(text, findings))
            if not report:
                findings.excluded[name] = "has no text" if text is None else "its text is empty"
                continue
            cases.append(Case(name, patient, image, split, report=report))
    _note_absent(arrays, absent, len(seen), findings)
    return cases


def _items(source: Path, index: Path | None, findings: Findings) -> dict[str, list[Any]]:
    """The lists of the index by split; empty where it cannot be used, which is then among the problems."""
    if index is None:
        findings.problems.append(f"{source}: {_INDEX}, the index, is missing; download it from {ADDRESS}")
        return {}
    items = read_json(index, findings)
    if isinstance(items, dict) and any(isinstance(items.get(part), list) for part in _SPLITS):
        return items
    if items is not None:
        findings.problems.append(f"{index}: must hold lists named train, validation and test; download it again")
    return {}


def report_of(text: str) -> str:
    """What a text of M3D-Cap says of the study: what follows "study_findings:", or "discussion:", or all of it."""
    for beginning in _BEGINNINGS:
        _, found, rest = text.partition(beginning)
        if found:
            return rest.strip()
    return text.strip()


def read_questions(source: Path, settings: Mapping[str, str], findings: Findings) -> list[Case]:
    """A case an array of the tables with its questions, each openly and with its choices (see the settings)."""
    data_set = DATA_SETS[1]
    test = data_set.setting(settings, "test", findings)
    kinds = {split: _kinds(settings, name) for name, split in (("training", "train"), ("testing", "test"))}
    folder = inside(source, "M3D_VQA")
    arrays = _arrays(source, settings.get("m3d_cap", ""))
    files: dict[str, Split] = {
        "M3D_VQA_train.csv": "train", "M3D_VQA_yn_train.csv": "train", "M3D_VQA_val.csv": "val",
        f"M3D_VQA_{test}.csv": "test",
    }  # fmt: skip
    asked: dict[str, tuple[Split, list[Question]]] = {}
    counts: Counter[str] = Counter()
    unlike: list[str] = []
    for name, split in files.items():
        path = folder / name
        if not path.is_file():
            findings.warnings.append(f"{path}: is missing; its questions are left out")
            continue
        table = read_table(path, _COLUMNS, findings)
        for row in () if table is None else table.rows:
            _add_row(path, row, split, kinds.get(split, kinds["train"]), asked, counts, unlike, findings)
    if unlike:
        findings.warnings.append(
            f"the answers of {examples(unlike)} are not the choices that their letters name; a closed question is "
            "answered by its letter, an open one by Answer"
        )
    findings.facts["questions"] = dict(sorted(counts.items()))
    if not asked:
        findings.problems.append(f"{folder}: no question was read; give the folder with M3D_VQA_train.csv")
    cases = []
    absent = []
    for name, (split, questions) in asked.items():
        image = _below(arrays, name)
        if image is None:
            absent.append(name)
        else:
            cases.append(Case(*_names(name), image, split, questions=tuple(questions)))
    _note_absent(arrays, absent, len(asked), findings)
    return cases


def _add_row(
    path: Path,
    row: Row,
    split: Split,
    kinds: tuple[str, ...],
    asked: dict[str, tuple[Split, list[Question]]],
    counts: Counter[str],
    unlike: list[str],
    findings: Findings,
) -> None:
    number, name = row.number, row["Image Path"]
    known, questions = asked.setdefault(name, (split, []))
    if known != split:
        findings.problems.append(f"{path}: row {number}: {name} is in {known} already and cannot be in {split} too")
        return
    if not name or not row["Question"] or not row["Answer"]:
        findings.problems.append(f"{path}: row {number}: Image Path, Question and Answer must not be empty")
        return
    choices = {letter: row[f"Choice {letter}"] for letter in "ABCD" if row[f"Choice {letter}"] not in ("", "nan")}
    letter = row["Answer Choice"].strip(" .").upper()
    if choices and letter not in choices:
        findings.problems.append(
            f"{path}: row {number}, column Answer Choice: {row['Answer Choice']!r} is not one of the choices "
            f"{', '.join(choices)}"
        )
        return
    if choices and _plain(choices[letter]) != _plain(row["Answer"]):
        counts["answer is not the choice of its letter"] += 1
        unlike.append(f"{path.name}: row {number}")
    is_yes_no = row["Answer"].strip(" .").lower() in ("yes", "no")
    if is_yes_no:
        questions.append(Question(row["Question"], row["Answer"], task="yes_no"))
        counts["yes or no"] += 1
        return
    if "closed" in kinds and choices:
        questions.append(Question(row["Question"], letter, choices, "multiple_choice"))
        counts["closed"] += 1
    if "open" in kinds:
        questions.append(Question(row["Question"], row["Answer"], task="open_vqa"))
        counts["open"] += 1


def _plain(text: str) -> str:
    return " ".join(text.strip(" .").casefold().split())


def _kinds(settings: Mapping[str, str], name: str) -> tuple[str, ...]:
    given = tuple(part.strip() for part in settings.get(name, DATA_SETS[1].settings[name].default).split(";"))
    if unknown := [part for part in given if part not in _KINDS]:
        raise InputError(f"--set {name}: {unknown[0]!r} is not one of {', '.join(_KINDS)}")
    return given


def _first_file(folders: Iterable[Path], name: str) -> Path | None:
    return next((folder / name for folder in folders if (folder / name).is_file()), None)


def _arrays(source: Path, given: str = "") -> Path:
    """The folder that holds ct_case and ct_quizze of the prepared arrays."""
    named = [Path(given) / _ARRAYS, Path(given)] if given else []
    up = source.resolve().parent
    beside = (up / _ARRAYS, up / "M3D_Cap" / _ARRAYS)
    for folder in (*named, source / _ARRAYS, source / "M3D_Cap" / _ARRAYS, source, *beside):
        if any((folder / part).is_dir() for part in _PARTS):
            return folder
    return named[0] if named else source / _ARRAYS


def _below(folder: Path, name: str) -> Path | None:
    """A file that an index names, in the folder of the arrays or in that of the pictures, which has the texts too."""
    rest = "/".join(_parts(name))
    for path in (folder / rest, folder.parent / "M3D_Cap" / rest):
        if path.is_file():
            return path
    return None


def _parts(name: str) -> list[str]:
    """`M3D_Cap_npy/ct_case/000006/Axial.npy` from ct_case on."""
    parts = name.replace("\\", "/").split("/")
    begin = next((number for number, part in enumerate(parts) if part in _PARTS), 0)
    return parts[begin:]


def _names(image: str) -> tuple[str, str]:
    """The id and the patient of `M3D_Cap_npy/ct_case/000006/Axial.npy`: ct_case/000006/Axial and ct_case/000006."""
    parts = _parts(image.removesuffix(".npy"))
    return "/".join(parts), "/".join(parts[:-1])


def _note_absent(folder: Path, absent: list[str], count: int, findings: Findings) -> None:
    if absent and len(absent) == count:
        findings.problems.append(
            f"{folder}: none of the {count:,} arrays is here, such as {absent[0]}; make them of the pictures with "
            "M3D's m3d_cap_data_prepare.py, or name the folder that holds M3D_Cap_npy"
        )
    elif absent:
        findings.warnings.append(f"arrays that are not here are left out: {examples(absent)} of {count:,}")
    findings.warnings.append(_AXES)
    findings.facts["array_axes"] = "as_stored"


DATA_SETS = (
    DataSet(
        name="m3d_cap",
        title="M3D-Cap",
        read=read_captions,
        marks=("M3D_Cap*/M3D_Cap.json",),
        instruction=("M3D_Caption",),
        benchmarks=("M3D-Cap",),
        size="some 120,000 volumes, of which 2,000 test",
        licence="see its page; images of Radiopaedia",
        address=ADDRESS,
        patients="m3d",
    ),
    DataSet(
        name="m3d_vqa",
        title="M3D-VQA",
        read=read_questions,
        marks=("M3D_VQA_train.csv",),
        instruction=("M3D_Question_Answer",),
        benchmarks=("M3D-VQA",),
        size="questions about the volumes of M3D-Cap",
        licence="see its page; images of Radiopaedia",
        address="https://huggingface.co/datasets/GoodBaiBai88/M3D-VQA",
        patients="m3d",
        settings={
            "test": Setting(
                "test5k",
                "which table is the test set: test5k or test",
                "M3D-VQA: of which of its two test tables the published numbers are is not known; "
                "M3D_VQA_test5k.csv is taken, the other by --set test=test",
            ),
            "training": Setting("closed;open", "how the questions of training are put: closed, open, or both"),
            "testing": Setting("open", "how the questions of the test set are put: closed, open, or both"),
            "m3d_cap": Setting("", "folder that holds M3D_Cap_npy, where it is not beside the tables"),
        },
    ),
)

"""One data set from its folder as downloaded to its manifests."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.case import Findings, Question
from datasets.prepare.checking import Checked, Options, counts_by_split, read_and_check
from datasets.prepare.converted_masks import with_converted_masks
from datasets.prepare.data_set import DataSet
from datasets.prepare.manifests import build_manifests, paths_of, segmentation_takers, tasks_of
from datasets.prepare.measured_questions import measured_questions
from datasets.prepare.prepared import Record, former_splits, makers, patients_elsewhere, read_prepared, record_of
from datasets.prepare.present_structures import NAME as PRESENT
from datasets.prepare.present_structures import present_structures
from datasets.prepare.uses import taken_by
from datasets.prepare.writing import write_prepared


@dataclass
class Prepared:
    """What came of it.  records: by manifest.  changed: files that are new or other than before.

    left_out: tasks that another data set makes, with its name.  With `checked.problems` nothing was written.
    """

    checked: Checked
    records: dict[str, int] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def check(data_set: DataSet, source: Path, options: Options, out: Path | None = None) -> Checked:
    """Read and check a data set; `out` is looked at for the patients that it shares with prepared ones."""
    records = read_prepared(out) if out is not None else {}
    elsewhere = patients_elsewhere(records, data_set.name, data_set.pool)
    return read_and_check(data_set, source, options, elsewhere, former_splits(records, data_set.name, options))


def prepare(
    data_set: DataSet, source: Path, out: Path, options: Options, preferred: Collection[str] | None = None
) -> Prepared:
    """Read, check and write a data set.

    preferred: other data sets whose manifests stay theirs; what others have made is replaced.  None: a manifest that
    another data set made is refused, or replaced under `options.replace`.

    Faults are in the result's `checked.problems`; InputError where `out` cannot be used.
    """
    _refuse_inside(out.resolve(), source.resolve())
    records = read_prepared(out)
    made_by = makers(records, data_set.name)
    taken = {
        task: maker for task in tasks_of(data_set) for path in paths_of(task, data_set) if (maker := made_by.get(path))
    }
    if preferred is None:
        _refuse_taken(taken, data_set, options)
        left_out: dict[str, str] = {}
    else:
        left_out = {task: maker for task, maker in taken.items() if maker in preferred}
    checked = check(data_set, source, options, out)
    if not options.replace:
        checked.problems += _lost_splits(checked, records.get(data_set.name))
    result = Prepared(checked, left_out=left_out)
    if checked.problems:
        return result
    folder = out.resolve() / data_set.name
    before = {path for path in (folder.parent, folder, *folder.rglob("*")) if path.exists()}
    cases, faults = with_converted_masks(checked.cases, checked.scan.elsewhere, folder / "masks", options.workers)
    checked.cases = cases
    checked.refuse(faults, options.skip_bad)
    present: dict[str, list[str]] = {}
    if takers := segmentation_takers(data_set, checked.cases, left_out):
        asked = [case for case in checked.cases if case.masks and any(taken_by(case, task.name) for task in takers)]
        present, faults = present_structures(
            asked, lambda label: any(task.takes(label) for task in takers), folder / PRESENT, options.workers
        )
        checked.refuse(faults, options.skip_bad)
    measured: dict[str, list[Question]] = {}
    if data_set.measured is not None and data_set.measured.name not in left_out:
        measured, faults = measured_questions(data_set.measured, checked.cases, options.seed, options.workers)
        checked.refuse(faults, options.skip_bad)
    manifests, faults = build_manifests(data_set, checked.cases, options.seed, present, left_out, measured)
    if faults and options.skip_bad:
        checked.refuse(faults, True)
        manifests, faults = build_manifests(data_set, checked.cases, options.seed, present, left_out, measured)
    checked.refuse(faults, options.skip_bad)
    if not manifests and not left_out and not checked.problems:
        checked.problems.append(f"{source}: no case has what {', '.join(tasks_of(data_set))} needs")
    if checked.problems:
        _remove_new(folder, before)
        return result
    result.records = {manifest.path: len(manifest.rows) for manifest in manifests}
    stale = [path for path in (records.get(data_set.name) or {}).get("manifests", {}) if path not in result.records]
    stale = [path for path in stale if path not in made_by]
    result.changed = write_prepared(
        out,
        record_of(checked, options, {}, result.records),
        manifests,
        _without(records, data_set.name, result.records),
        stale,
    )
    return result


def with_neighbours(
    data_set: DataSet, source: Path, settings: Mapping[str, str], places: Mapping[str, Sequence[Path]]
) -> dict[str, str]:
    """The settings, with the folders of other data sets where `source` alone gives no case.

    A setting that is called as another data set is that one's folder.
    """
    others = {name: str(places[name][0]) for name in data_set.settings if name in places and name not in settings}
    if others:
        try:
            if data_set.read(source.resolve(), settings, Findings()):
                return dict(settings)
        except InputError:
            pass  # the reading that counts will say it
    return {**settings, **others}


def _remove_new(folder: Path, before: Collection[Path]) -> None:
    """Leave a folder as it was: without the files that are not among `before`, and without folders that are empty."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path not in before and not path.is_dir():
            path.unlink()
    for path in (*sorted(folder.rglob("*"), reverse=True), folder, folder.parent):
        if path.is_dir() and path not in before and not any(path.iterdir()):
            path.rmdir()


def _refuse_inside(out: Path, source: Path) -> None:
    if out == source or out.is_relative_to(source):
        raise InputError(f"--out {out}: lies in the source, which is left as it is; give another folder")


def _refuse_taken(taken: Mapping[str, str], data_set: DataSet, options: Options) -> None:
    if taken and not options.replace:
        task, maker = next(iter(taken.items()))
        more = f" and {len(taken) - 1} more tasks" if len(taken) > 1 else ""
        raise InputError(f"{data_set.name}: {task}{more} was made of {maker} before; give --replace, or another --out")


def _lost_splits(checked: Checked, former: Record | None) -> list[str]:
    """A line where another folder of the data set was prepared before, with a split that this one lacks.

    Held-out cases are often kept apart; to prepare them must not remove the manifests that a model is trained on.
    """
    if checked.problems or former is None or former["source"] == str(checked.source):
        return []
    found = counts_by_split(checked.cases)
    lost = [split for split in former["cases"] if split not in found]
    if not lost:
        return []
    what = f"{checked.source}: has no case for {' and '.join(lost)}, whose manifests were made of {former['source']}"
    return [f"{what}; give another --out, or --replace to remove them"]


def _without(records: Mapping[str, Record], data_set: str, new: Collection[str]) -> dict[str, Record]:
    """The records of other data sets that lose a manifest to this one."""
    changed = {}
    for name, record in records.items():
        if name != data_set and set(record["manifests"]) & set(new):
            kept = {part: {path: value for path, value in record[part].items() if path not in new}
                    for part in ("manifests", "records")}  # fmt: skip
            changed[name] = {**record, **kept}
    return changed

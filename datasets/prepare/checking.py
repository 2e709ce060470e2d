"""A data set read and checked, before anything is written: tables and names by its reader, then files.

Of every file the header is read, of a few masks the voxels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets.catalog import published_tasks
from datasets.errors import InputError
from datasets.label_descriptions import canonical
from datasets.prepare.case import Case, Findings, Split
from datasets.prepare.data_set import DataSet
from datasets.prepare.mask_voxels import look_at_masks
from datasets.prepare.sat_ds_splits import WITHOUT_SPLIT, split_file, with_sat_ds_split
from datasets.prepare.scan import Scan, scan
from datasets.prepare.splits import SPLITS, TEST_SHARE, VAL_SHARE, Elsewhere, assign
from datasets.prepare.uses import classes_of, label_set_of, labels_of
from datasets.vocabulary import diagnosis_facts

NO_CONTENT = "has no label, report, mask or question"


@dataclass(frozen=True)
class Options:
    """What a person may choose; the names are those of the command's options."""

    workers: int = 1
    seed: int = 0
    split: str = "official"
    sat_ds_splits: Path | None = None
    test_share: float = TEST_SHARE
    val_share: float = VAL_SHARE
    skip_bad: bool = False
    resample_masks: bool = False
    replace: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Checked:
    """cases: those that may be used, with their splits.  skipped: the faults of cases that --skip_bad left out.
    passed_over: faults that belong to no case, under --skip_bad.  problems: with any of them nothing may be written."""

    data_set: DataSet
    source: Path
    cases: list[Case]
    findings: Findings
    scan: Scan
    problems: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    passed_over: list[str] = field(default_factory=list)
    not_official: int = 0

    def refuse(self, faults: Mapping[str, Sequence[str]], skip_bad: bool) -> None:
        """Cases that turn out to be bad: left out under --skip_bad, else their faults are problems."""
        if not skip_bad:
            self.problems += [line for lines in faults.values() for line in lines]
            return
        for case, lines in faults.items():
            self.skipped.setdefault(case, []).extend(lines)
        self.cases = [case for case in self.cases if case.id not in faults]


def read_and_check(
    data_set: DataSet,
    source: Path,
    options: Options,
    elsewhere: Mapping[str, Elsewhere] | None = None,
    former: Mapping[str, Split] | None = None,
) -> Checked:
    """Read a data set and look at its files.

    elsewhere: the splits of patients that it shares with data sets which were prepared before.
    former: those of its own patients in a former run with the same options.
    A fault is a line of `problems`; an InputError of the reader is one too.
    """
    findings = Findings()
    source = source.resolve()
    checked = Checked(data_set, source, [], findings, Scan())
    try:
        if not source.exists():
            raise InputError(f"{source}: no such folder; give --source the folder of {data_set.title} as downloaded")
        refuse_unknown_settings(data_set, options.settings)
        cases = data_set.read(source, options.settings, findings)
        if options.split == "sat_ds" and _is_of_sat_ds(data_set, findings):
            cases = _with_sat_ds_split(data_set, cases, options, findings)
    except InputError as error:
        checked.problems = [*findings.problems, str(error)]
        return checked
    checked.cases = _with_content(cases, findings)
    if not checked.cases and not findings.problems:
        findings.problems.append(f"{source}: no case of {data_set.title} was found; it should hold "
                                 f"{' and '.join(data_set.marks)}")  # fmt: skip
    if options.skip_bad and checked.cases:
        checked.passed_over = list(findings.problems)
    else:
        checked.problems = list(findings.problems)
    checked.refuse(_duplicates(checked), options.skip_bad)
    checked.scan = scan(checked.cases, options.workers, options.resample_masks, f"{data_set.name}: headers")
    checked.refuse(checked.scan.faults, options.skip_bad)
    whole = [case for case in checked.cases if case.id not in checked.scan.faults]
    voxels = look_at_masks(whole, options.workers, f"{data_set.name}: voxels of some masks")
    checked.refuse(voxels.faults, options.skip_bad)
    checked.problems += [voxels.problem] if voxels.problem else []
    findings.warnings += voxels.notes
    if checked.skipped and not checked.cases:
        checked.problems += [line for lines in checked.skipped.values() for line in lines]
    assigned = assign(checked.cases, data_set.name, data_set.pool, options.seed, elsewhere, options.test_share,
                      options.val_share, former)  # fmt: skip
    checked.cases, checked.not_official = assigned.cases, assigned.not_official
    findings.excluded |= assigned.excluded
    _note_headers(checked)
    return checked


def refuse_unknown_settings(data_set: DataSet, given: Mapping[str, str]) -> None:
    """InputError for a --set of a name that the data set does not have."""
    if unknown := [name for name in given if name not in data_set.settings]:
        known = ", ".join(data_set.settings) or "none"
        raise InputError(f"--set {unknown[0]}: is no setting of {data_set.name}; it has {known}")


def counts_by_split(cases: Sequence[Case]) -> dict[str, int]:
    """How many cases each split has, in the order train, val, test."""
    counts = Counter(case.split for case in cases)
    return {split: counts[split] for split in SPLITS if counts[split]}


@dataclass(frozen=True)
class LabelCount:
    """How often a label is 1, 0 and unknown; `published`: the share of 1 that its published positive weight tells."""

    label: str
    positive: int
    negative: int
    unknown: int
    published: float | None = None

    @property
    def share(self) -> float | None:
        """Of 1 among what is known."""
        known = self.positive + self.negative
        return self.positive / known if known else None


def label_counts(cases: Sequence[Case]) -> list[LabelCount]:
    """Of every label of the cases' classes; of a task with one class a volume each class against the others.

    The published positive weight of a disease is negatives over positives, so its share of positives is 1 / (1 + it).
    """
    labels = labels_of(cases)
    with_classes = [case for case in cases if case.classes]
    one_class = any(isinstance(case.classes, str) for case in with_classes)
    counts: dict[str, Counter[int | None]] = defaultdict(Counter)
    for case in with_classes:
        classes = classes_of(case)
        for label in labels:
            counts[label][classes.get(label, 0 if one_class else None)] += 1
    label_set = label_set_of(labels)
    weights = {canonical(disease): weight for disease, weight in diagnosis_facts().get(label_set or "", ())}
    return [
        LabelCount(label, found[1], found[0], found[None], _share_of(weights.get(canonical(label))))
        for label, found in counts.items()
    ]


def _share_of(weight: float | None) -> float | None:
    return None if weight is None else 1 / (1 + weight)


def _is_of_sat_ds(data_set: DataSet, findings: Findings) -> bool:
    """Whether SAT-DS has a split of the data set; where it has masks but none, a warning says which is taken."""
    tasks = [task for task in data_set.pretraining if task.endswith("segmentation")]
    published = {task.name for task in published_tasks()} - WITHOUT_SPLIT
    if tasks and not published & set(tasks):
        findings.warnings.append(f"SAT-DS has no split of {data_set.title}; the official one is taken, or one is drawn")
    return bool(published & set(tasks))


def _with_sat_ds_split(data_set: DataSet, cases: Sequence[Case], options: Options, findings: Findings) -> list[Case]:
    if options.sat_ds_splits is None:
        raise InputError("--split sat_ds: give --sat_ds_splits the folder data/split_json of SAT-DS")
    path = split_file(options.sat_ds_splits, data_set)
    findings.tables.append(path)
    listed, excluded = with_sat_ds_split(cases, path)
    findings.excluded |= excluded
    return listed


def _with_content(cases: Sequence[Case], findings: Findings) -> list[Case]:
    kept = []
    for case in cases:
        if case.classes or case.report.strip() or case.masks or case.questions or case.record is not None:
            kept.append(_absolute(case))
        else:
            findings.excluded[case.id] = NO_CONTENT
    return kept


def _absolute(case: Case) -> Case:
    """With absolute paths, which a setting may have given as others."""
    if case.image.is_absolute() and all(path.is_absolute() for mask in case.masks.values() for path in mask.files):
        return case
    masks = {
        label: replace(mask, files=tuple(path.absolute() for path in mask.files)) for label, mask in case.masks.items()
    }
    return replace(case, image=case.image.absolute(), masks=masks)


def _duplicates(checked: Checked) -> dict[str, list[str]]:
    """A line for each id that several cases have; the first of them is kept."""
    first: dict[str, Case] = {}
    faults: dict[str, list[str]] = {}
    kept = []
    for case in checked.cases:
        if case.id in first:
            line = f"{case.image}: its id {case.id} is that of {first[case.id].image} too; keep one of them"
            faults.setdefault(f"{case.id} (again)", []).append(line)
        else:
            kept.append(case)
            first[case.id] = case
    checked.cases = kept
    return faults


def _note_headers(checked: Checked) -> None:
    checked.findings.warnings += dict.fromkeys(checked.scan.notes)
    off = checked.scan.off
    if off:
        path, worst = max(off.items(), key=lambda item: item[1])
        checked.findings.warnings.append(
            f"{len(off)} masks lie slightly off their image and are used as they are; furthest is "
            f"{path}, {worst:.2f} voxels"
        )


def lines_of_problems(checked: Checked) -> Iterator[str]:
    """Each problem once, on one line."""
    for line in dict.fromkeys(checked.problems):
        yield line.replace("\n", " ")

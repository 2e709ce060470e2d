"""Which split each case goes to: the official one, SAT-DS's, or one drawn by patient from a seed.

The draw: a number in [0, 1) from the SHA-256 of seed, pool and patient.  Below `test_share` the patient is a test one,
below `test_share + val_share` a validation one; so a patient has the same split in every data set of a pool, and other
patients keep theirs when some are added.  A data set with official splits but no validation takes the same part of its
training patients.  Of fewer than 20 patients the ones with the lowest numbers are taken, so that no split is empty.

No patient is in two splits: where a data set says otherwise, or another that shares its patients was prepared before,
the split of most weight counts (test, then val), and what contradicts it is left out.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from datasets.prepare.case import Case, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")
TEST_SHARE = 0.1
VAL_SHARE = 0.1
FEW = 20  # patients


@dataclass(frozen=True)
class Elsewhere:
    """The split that a patient has in a data set which was prepared before."""

    split: Split
    data_set: str


@dataclass
class Assignment:
    """cases: with their splits, in the order given.  excluded: why others were left out, by id.  not_official: how
    many patients have no official split."""

    cases: list[Case] = field(default_factory=list)
    excluded: dict[str, str] = field(default_factory=dict)
    not_official: int = 0


def patient_hash(pool: str, patient: str) -> str:
    """What a patient goes by in prepared.json, which may be passed on: 16 hexadecimal digits."""
    return hashlib.sha256(f"{pool}/{patient}".encode()).hexdigest()[:16]


def draw(seed: int, pool: str, patient: str) -> float:
    """A number in [0, 1) that the same arguments always give."""
    digest = hashlib.sha256(f"{seed}/{pool}/{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign(
    cases: Sequence[Case],
    data_set: str,
    pool: str,
    seed: int = 0,
    elsewhere: Mapping[str, Elsewhere] | None = None,
    test_share: float = TEST_SHARE,
    val_share: float = VAL_SHARE,
    former: Mapping[str, Split] | None = None,
) -> Assignment:
    """Give every case its split.

    elsewhere, former: by `patient_hash`, what other data sets of the pool have, and what a former run drew from the
    same seed.
    """
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        by_patient[case.patient].append(case)
    official: dict[str, Split] = {}
    for patient, theirs in by_patient.items():
        if given := {case.split for case in theirs} - {None}:
            official[patient] = next(split for split in reversed(SPLITS) if split in given)
    known = {patient: (elsewhere or {}).get(patient_hash(pool, patient)) for patient in by_patient}
    kept = {patient: split for patient in by_patient if (split := (former or {}).get(patient_hash(pool, patient)))}
    splits: dict[str, Split] = {}
    for tasks, patients in _by_tasks(by_patient).items():
        has_val = any(
            case.split == "val" and case.tasks == tasks for patient in patients for case in by_patient[patient]
        )
        splits |= _split_of_patients(patients, official, known, kept, has_val, seed, pool, test_share, val_share)
    result = Assignment(not_official=sum(patient not in official for patient in by_patient))
    for case in cases:
        split, other = splits[case.patient], known[case.patient]
        if other is not None and other.split != split:
            result.excluded[case.id] = f"patient is in {other.split} of {other.data_set}"
        elif case.split not in (None, official.get(case.patient)):
            result.excluded[case.id] = f"patient is in {official[case.patient]} of {data_set}"
        else:
            result.cases.append(replace(case, split=split))
    return result


def _by_tasks(by_patient: Mapping[str, Sequence[Case]]) -> dict[tuple[str, ...], list[str]]:
    """The patients by the tasks of their first case: a collection of data sets has splits for each of them."""
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for patient, cases in by_patient.items():
        groups[cases[0].tasks].append(patient)
    return groups


def _split_of_patients(
    patients: Sequence[str],
    official: Mapping[str, Split],
    known: Mapping[str, Elsewhere | None],
    former: Mapping[str, Split],
    has_val: bool,
    seed: int,
    pool: str,
    test_share: float,
    val_share: float,
) -> dict[str, Split]:
    """By patient; where no split is official and none known, drawn."""
    splits: dict[str, Split] = {}
    undecided: dict[str, list[str]] = {"free": [], "train": []}
    for patient in patients:
        fixed, other = official.get(patient), known[patient]
        open_val = fixed == "train" and not has_val
        if fixed is not None and not open_val:
            splits[patient] = fixed
        elif other is not None and (fixed is None or other.split != "test"):
            splits[patient] = other.split
        elif patient in former and (fixed is None or former[patient] != "test"):
            splits[patient] = former[patient]
        else:
            undecided["free" if fixed is None else "train"].append(patient)
    places = {patient: draw(seed, pool, patient) for group in undecided.values() for patient in group}
    splits |= _drawn(undecided["free"], places, test_share, val_share)
    # Numbers below `test_share` mean nothing where the official split has said who is tested.
    splits |= _drawn(undecided["train"], places, 0.0, val_share, test_share)
    return splits


def _drawn(
    patients: Sequence[str], places: Mapping[str, float], test_share: float, val_share: float, start: float = 0.0
) -> dict[str, Split]:
    """test for numbers from `start` on, then val, else train; of few patients the same shares by rank, rounded up."""
    if len(patients) >= FEW:
        ends = (start + test_share, start + test_share + val_share)
        return {
            patient: "test" if start <= place < ends[0] else "val" if ends[0] <= place < ends[1] else "train"
            for patient, place in ((patient, places[patient]) for patient in patients)
        }
    counts: list[tuple[Split, int]] = [
        ("test", math.ceil(test_share * len(patients))),
        ("val", math.ceil(val_share * len(patients))),
    ]
    splits: dict[str, Split] = dict.fromkeys(patients, "train")
    order = sorted(patients, key=lambda patient: places[patient])
    for split, count in counts:
        while count and len(order) > 1:  # one stays for training
            splits[order.pop(0)] = split
            count -= 1
    return splits

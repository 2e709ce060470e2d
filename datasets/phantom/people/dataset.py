"""Write a data set of person phantoms: volumes, masks, and manifests for pretraining and for instruction tuning.

    python -m datasets.phantom --style people --out runs/people --count 200 --workers 2

The folder then holds volumes/ and masks/ (NIfTI), train.json, val.json, test.json (questions for masks), pretraining/
{image_text,segmentation}_{train,val,test}.json, cases.json (what each phantom is) and structures.json (names and values
of the masks).  The same seed, index and features give the same bytes, whatever the number of cases or workers.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datasets.commands import told
from datasets.errors import InputError
from datasets.phantom.case import nifti_bytes, stream
from datasets.phantom.case_files import split_of, write_cases, write_json
from datasets.phantom.people.features import FEATURES, Features
from datasets.phantom.people.person import MAX_VOXELS, Person, build_person
from datasets.phantom.people.structures import STRUCTURES_FILE, UNIONS, VALUES
from datasets.phantom.questions import SEGMENT_ONE, QuestionWriter
from datasets.phantom.topics import inline
from datasets.vocabulary import SEGMENTATION
from datasets.whole_files import write_whole_bytes

PRETRAINING = ("image_text", "segmentation")
MIN_VOXELS = 8  # a structure of fewer is not asked for


@dataclass(frozen=True)
class PeopleOptions:
    """What is written. questions_per_case: masks that are asked for in each volume."""

    out: Path
    count: int = 20
    seed: int = 0
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    questions_per_case: int = 6
    features: Features = field(default_factory=lambda: Features.of(["all"]))
    max_voxels: float = MAX_VOXELS

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0 or self.questions_per_case < 0:
            raise InputError("--count must be at least 1, --seed and --questions-per-case at least 0")
        if not (min(self.split) >= 0 and abs(sum(self.split) - 1) <= 1e-6):
            raise InputError(f"--split {' '.join(map(str, self.split))}: give three shares that sum to 1")
        if not 1e4 <= self.max_voxels <= 1e8:
            raise InputError(f"--max-voxels {self.max_voxels}: give a number from 1e4 to 1e8")


def report_of(person: Person, present: Sequence[str]) -> str:
    """What a radiologist could say of a healthy phantom: the part of the body, contrast agent, organs in view."""
    agent = {
        "none": "without contrast agent",
        "arterial": "in the arterial phase",
        "portal": "in the portal-venous phase",
    }
    arms = {"absent": "", "beside": " The arms lie beside the body.", "raised": " The arms are raised."}
    organs = ", ".join(present) if present else "no organ"
    return f"CT of the {person.window} {agent[person.phase]}. In view: {organs}.{arms[person.arms]} No finding."


def write_case(index: int, options: PeopleOptions) -> dict:
    """Build and write person ``index``; gives its truth and its manifest records."""
    person = build_person(options.seed, index, options.features, options.max_voxels)
    name = f"person_{options.seed}_{index:05d}"
    image, mask = f"volumes/{name}.nii.gz", f"masks/{name}_structures.nii.gz"
    for path, array in ((image, person.ct), (mask, person.labels)):
        write_whole_bytes(options.out / path, nifti_bytes(array, person.affine))
    counts = np.bincount(person.labels.ravel(), minlength=len(VALUES) + 1)
    present = [label for label, value in VALUES.items() if counts[value] >= MIN_VOXELS]
    report = report_of(person, present)
    truth = {
        "id": name,
        "split": split_of(index, options.split),
        "image_path": image,
        "structures_path": mask,
        "window": person.window,
        "phase": person.phase,
        "arms": person.arms,
        "orientation": person.orientation,
        "shape": list(person.ct.shape),
        "voxels": {label: int(counts[VALUES[label]]) for label in present},
    }
    values: dict[str, int | list[int]] = {**VALUES, **UNIONS}
    pretraining = {
        "image_text": [{"image_path": f"../{image}", "report": report}],
        "segmentation": [
            {"image_path": f"../{image}", "labels": list(values), "mask_path": f"../{mask}", "mask_values": values}
        ],
    }
    return {
        "truth": truth,
        "instruction": _questions(options, index, name, image, mask, present),
        "pretraining": pretraining,
    }


def _questions(
    options: PeopleOptions, index: int, name: str, image: str, mask: str, present: Sequence[str]
) -> list[dict]:
    rng = stream(options.seed, index, "people questions")
    writer = QuestionWriter(name, {"image_path": image, "patient_id": name}, {}, rng)
    chosen = rng.permutation(np.array(present, dtype=object))[: options.questions_per_case]
    return [
        writer.record(
            "segmentation",
            turn,
            str(rng.choice(SEGMENT_ONE)).format(inline(str(label))),
            f"It is {SEGMENTATION}.",
            labels=[str(label)],
            mask_path=mask,
            mask_values={str(label): VALUES[str(label)]},
        )
        for turn, label in enumerate(chosen)
    ]


def write_people(options: PeopleOptions, workers: int = 1) -> list[dict]:
    """Write the phantoms and their manifests; gives the truth of every case, as in cases.json.

    Raises InputError for less than one worker.
    """
    truths = write_cases(options.out, options.count, partial(write_case, options=options), PRETRAINING, workers)
    named: Mapping[str, object] = {"features": options.features.names, "labels": {**VALUES, **UNIONS}}
    write_json(options.out / STRUCTURES_FILE, named)
    return truths


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    prog = "python -m datasets.phantom --style people"
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=20, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other people")
    parser.add_argument("--workers", type=int, default=1, help="processes; does not change the result")
    parser.add_argument("--split", type=float, nargs=3, default=(0.8, 0.1, 0.1), metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--questions-per-case", type=int, default=6, help="masks asked for in each volume")
    parser.add_argument("--max-voxels", type=float, default=MAX_VOXELS, help="coarser voxels above this")
    parser.add_argument(
        "--features", nargs="+", default=["all"], metavar="NAME", help=f"all, none, or some of {', '.join(FEATURES)}"
    )
    values = parser.parse_args(arguments)
    options = PeopleOptions(
        values.out,
        values.count,
        values.seed,
        tuple(values.split),
        values.questions_per_case,
        Features.of(values.features),
        values.max_voxels,
    )
    truths = write_people(options, values.workers)
    organs = sum(len(truth["voxels"]) for truth in truths) / len(truths)
    print(f"{len(truths)} phantoms, {organs:.1f} of {len(VALUES)} structures in view each, in {options.out}")
    return 0

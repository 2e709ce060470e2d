"""Write a data set of phantom CTs: volumes, masks, truth, and manifests for pretraining and instruction tuning.

    python -m datasets.phantom --out runs/phantoms --count 60 --seed 0 --workers 2

The folder then holds volumes/ and masks/ (NIfTI), train.json, val.json, test.json (instruction manifests, split by
patient), pretraining/{classification,details,image_text,segmentation}_{train,val,test}.json and cases.json, the truth
of every case. Paths in a manifest are relative to the manifest. The same seed and options give the same bytes, whatever
the number of workers, and case i is the same whatever the count.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datasets.commands import told
from datasets.errors import InputError
from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.phantom.case import ORIENTATIONS, CaseOptions, PhantomCase, build_case, nifti_bytes, stream
from datasets.phantom.case_files import split_of, write_cases
from datasets.phantom.details import detail_targets
from datasets.phantom.lesions import DISEASES, lesion_parts, lesion_values
from datasets.phantom.questions import QuestionWriter
from datasets.phantom.text import write_report
from datasets.whole_files import write_whole_bytes

PRETRAINING = ("classification", "details", "image_text", "segmentation")
MIN_LESION_ML = 0.3  # a smaller lesion is not asked for


@dataclass(frozen=True)
class DatasetOptions:
    """What is written. questions_per_case: limit for each of the open, multiple-choice, yes/no, segmentation tasks."""

    out: Path
    count: int = 20
    seed: int = 0
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    questions_per_case: int = 4
    case: CaseOptions = field(default_factory=CaseOptions)

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError(f"--count {self.count}: give the number of phantoms, at least 1")
        if self.seed < 0:
            raise InputError(f"--seed {self.seed}: give 0 or more")
        if not (min(self.split) >= 0 and abs(sum(self.split) - 1) <= 1e-6):  # so that nan is refused
            raise InputError(
                f"--split {' '.join(map(str, self.split))}: give three shares of train, val, test that sum to 1"
            )
        if self.questions_per_case < 0:
            raise InputError(f"--questions-per-case {self.questions_per_case}: give 0 or more")


def write_case(index: int, options: DatasetOptions) -> dict:
    """Build case ``index``, write its three files, and give its truth and its manifest records."""
    case = build_case(options.seed, index, options.case)
    name = f"phantom_{options.seed}_{index:05d}"
    paths = {
        "image": f"volumes/{name}.nii.gz",
        "structures": f"masks/{name}_structures.nii.gz",
        "lesions": f"masks/{name}_lesions.nii.gz",
    }
    for key, array in (("image", case.ct), ("structures", case.structures), ("lesions", case.written_lesions)):
        write_whole_bytes(options.out / paths[key], nifti_bytes(array, case.affine))
    report = write_report(case.findings, stream(options.seed, index, "report"))
    base = {"image_path": paths["image"], "patient_id": name}
    writer = QuestionWriter(name, base, case.findings, stream(options.seed, index, "questions"))
    limit = options.questions_per_case
    records = [
        *writer.report(report),
        *writer.diagnosis(),
        *writer.open_vqa(limit),
        *writer.multiple_choice(limit),
        *writer.yes_no(limit),
        *writer.segmentation(limit, paths["structures"], paths["lesions"]),
    ]
    truth = {
        "id": name,
        "split": split_of(index, options.split),
        **{f"{key}_path": path for key, path in paths.items()},
        "orientation": case.orientation,
        "shape": list(case.ct.shape),
        "cardiothoracic_ratio": round(case.cardiothoracic_ratio, 3),
        "targets": case.targets,
        "findings": [
            {k: round(v, 2) if isinstance(v, float) else v for k, v in f.to_dict().items()}
            for f in case.findings.values()
        ],
        "report": report,
    }
    return {"truth": truth, "instruction": records, "pretraining": _pretraining_records(truth, case)}


def _pretraining_records(truth: dict, case: PhantomCase) -> dict[str, list[dict]]:
    """Records of each of `PRETRAINING`; their manifests lie one folder below."""
    image = {"image_path": f"../{truth['image_path']}"}
    values = {**STRUCTURES, **GROUPS}
    masks = [{**image, "labels": list(values), "mask_path": f"../{truth['structures_path']}", "mask_values": values}]
    voxel_ml = abs(float(np.linalg.det(case.affine[:3, :3]))) / 1000
    volumes = np.bincount(case.written_lesions.ravel(), minlength=256) * voxel_ml
    # an absent lesion is an empty mask; one too small to be seen is neither
    whole = {
        name.lower(): lesion_values(name)
        for name in DISEASES
        if not truth["targets"][name] or volumes[lesion_values(name)].sum() >= MIN_LESION_ML
    }
    details = detail_targets(case.findings)
    parts = {
        part: values
        for name in DISEASES
        for part, values in lesion_parts(name).items()
        if not details[part] or volumes[values].sum() >= MIN_LESION_ML
    }
    lesions = {**whole, **parts}
    masks.append({**image, "labels": list(lesions), "mask_path": f"../{truth['lesions_path']}", "mask_values": lesions})
    return {
        "classification": [{**image, "disease_label": truth["targets"]}],
        "details": [{**image, "disease_label": {**truth["targets"], **details}}],
        "image_text": [{**image, "report": truth["report"]}],
        "segmentation": masks,
    }


def write_dataset(options: DatasetOptions, workers: int = 1) -> list[dict]:
    """Write ``count`` phantoms and their manifests; gives the truth of every case, as in cases.json.

    Raises InputError for less than one worker.
    """
    return write_cases(options.out, options.count, partial(write_case, options=options), PRETRAINING, workers)


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m datasets.phantom", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--count", type=int, default=20, help="number of phantoms")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other patients")
    parser.add_argument("--workers", type=int, default=1, help="processes; does not change the result")
    parser.add_argument("--split", type=float, nargs=3, default=(0.7, 0.1, 0.2), metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--questions-per-case", type=int, default=4, help="limit for each kind of question")
    parser.add_argument("--prevalence", type=float, default=0.3, help="probability of each finding")
    parser.add_argument(
        "--body-scale", type=float, nargs=2, default=(0.62, 0.78), help="size range, 1 is a standard adult"
    )
    parser.add_argument("--in-plane", type=float, nargs=2, default=(0.7, 1.5), help="range of the spacing in plane, mm")
    parser.add_argument("--between", type=float, nargs=2, default=(1.0, 5.0), help="range of that of slices, mm")
    parser.add_argument(
        "--spacing-scale", type=float, default=1.0, help="multiplies every spacing: 2 gives an eighth of the voxels"
    )
    parser.add_argument("--max-voxels", type=float, default=4e6, help="draw the spacing again above this")
    parser.add_argument(
        "--orientations", nargs="+", default=ORIENTATIONS, metavar="CODE", help="axis codes of the stored arrays"
    )
    values = parser.parse_args(arguments)
    scale = values.spacing_scale
    case = CaseOptions(
        values.prevalence,
        tuple(values.body_scale),
        (scale * values.in_plane[0], scale * values.in_plane[1]),
        (scale * values.between[0], scale * values.between[1]),
        values.max_voxels,
        tuple(values.orientations),
    )
    options = DatasetOptions(
        values.out, values.count, values.seed, tuple(values.split), values.questions_per_case, case
    )
    truths = write_dataset(options, values.workers)
    positive = sum(sum(truth["targets"].values()) for truth in truths)
    print(f"{len(truths)} phantoms, {positive / len(truths):.1f} of {len(DISEASES)} findings each, in {options.out}")
    return 0

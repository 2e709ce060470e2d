"""Our masks beside the peer's: the same patients and organs, scored by the same code, with the difference in pairs.

    python -m benchmarks.beside_peer --ours runs/open_kbp/evaluation --peer runs/dynunet

ours: a folder of evaluate_CTInstruct.py, whose masks are read and scored anew at the peer's tolerance.  peer: the
run_dir of benchmarks.dynunet_peer; without one, ours are scored alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.segmentation_peer.scoring import summary
from benchmarks.segmentation_peer.table import estimate, peer_table
from datasets.errors import InputError
from datasets.whole_files import write_whole_text
from evaluation.metrics.segmentation import missing_mask_scores, segmentation_scores
from evaluation.predictions import read_predictions
from evaluation.report.mask_cases import read_case
from training.arguments import parse
from training.script import run_script

Row = dict[str, Any]
FILES = ("cases.json", "result.json")  # of the peer


@dataclass
class Options:
    """Compare the masks of an evaluation with those of the peer."""

    ours: str  # folder that evaluate_CTInstruct.py wrote
    peer: str = ""  # folder that benchmarks.dynunet_peer wrote; empty scores ours alone
    name: str = "CTInstruct, 2D1D"  # what to call ours in the table
    minutes: float | None = None  # that ours was trained for, for the table
    tolerance_mm: float = 4.0  # of NSD, where there is no peer that has one
    output: str = ""  # a file for the table and the difference; none prints them alone


def score_ours(folder: Path, tolerance_mm: float) -> list[Row]:
    """A row for each mask that was asked for: label, patient_id and the figures of `segmentation_scores`.

    Raises InputError where the folder has no predictions, or a file that they name is gone.
    """
    rows: list[Row] = []
    for record in read_predictions(folder / "predictions.json"):
        for entry in record.get("segmentation") or () if record.get("error") is None else ():
            case = read_case(folder, record, entry, entry.get("truth_values"))
            if case.truth is None:
                raise InputError(f"{folder}: {record['id']}, {entry['label']}: {case.problem or 'it has no true mask'}")
            if case.prediction is None:
                scores = missing_mask_scores(case.truth, case.spacing)
            else:
                scores = segmentation_scores(case.prediction, case.truth, case.spacing, tolerance_mm)
            rows.append({"label": entry["label"], "patient_id": record.get("patient_id"), **scores})
    return rows


def in_common(ours: Sequence[Row], peer: Sequence[Row]) -> tuple[list[Row], list[Row], int]:
    """The rows of either whose patient and organ both have, and how many pairs these are; InputError for none."""
    keys = {_key(row) for row in ours} & {_key(row) for row in peer}
    if not keys:
        raise InputError("no patient and organ stand in both evaluations; give two of the same manifest's patients")
    return [row for row in ours if _key(row) in keys], [row for row in peer if _key(row) in keys], len(keys)


def differences(ours: Sequence[Row], peer: Sequence[Row]) -> list[Row]:
    """Ours less the peer's for each patient and organ; where one was asked for several times, its mean counts."""
    figures: defaultdict[tuple[str, str], list[list[Row]]] = defaultdict(lambda: [[], []])
    for side, rows in enumerate((ours, peer)):
        for row in rows:
            figures[_key(row)][side].append(row)
    return [
        {"patient_id": patient, "label": label, "hd95": None}
        | {name: fmean(row[name] for row in mine) - fmean(row[name] for row in theirs) for name in ("dice", "nsd")}
        for (patient, label), (mine, theirs) in figures.items()
    ]


def compare(options: Options) -> str:
    """The table of both, and a line with the difference; or of ours alone."""
    if not options.peer:
        ours = summary(score_ours(Path(options.ours), options.tolerance_mm), options.tolerance_mm)
        alone = {"scores": ours, "minutes": options.minutes, "tolerance_mm": options.tolerance_mm}
        return peer_table({options.name: alone})
    folder = Path(options.peer)
    try:
        peer, result = (json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: holds no scores of benchmarks.dynunet_peer ({error}); run that first") from error
    tolerance = result["tolerance_mm"]
    mine, theirs, pairs = in_common(score_ours(Path(options.ours), tolerance), peer)
    table = peer_table(
        {
            "MONAI DynUNet": {**result, "scores": summary(theirs, tolerance)},
            options.name: {"scores": summary(mine, tolerance), "minutes": options.minutes, "tolerance_mm": tolerance},
        }
    )
    mean = summary(differences(mine, theirs), tolerance)["mean"]
    line = f"Ours less the peer's over {pairs} organs of {len({row['patient_id'] for row in theirs})} patients: "
    line += f"Dice {estimate(mean['dice'])}, NSD {estimate(mean['nsd'])}."
    return f"{table}\n\n{line}"


def _key(row: Row) -> tuple[str, str]:
    return str(row["patient_id"]), str(row["label"])


def main() -> None:
    """Command line."""
    options = parse(Options)
    text = compare(options)
    if options.output:
        write_whole_text(Path(options.output), text + "\n")
    print(text)


if __name__ == "__main__":
    run_script(main)

"""Our masks beside the peer's: the same patients and organs, scored by the same code, with the difference in pairs.

    python -m benchmarks.beside_peer --ours runs/open_kbp/evaluation --peer runs/dynunet

ours: a folder of evaluate_CTInstruct.py, whose masks are read and scored anew at the peer's tolerance.  peer: the
run_dir of benchmarks.dynunet_peer; without one, ours are scored alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.segmentation_peer.scoring import OWN_SLICES, own_slices_dice, own_slices_summary, slice_axis, summary
from benchmarks.segmentation_peer.table import estimate, peer_table
from datasets.errors import InputError
from datasets.whole_files import write_whole_text
from evaluation.metrics.segmentation import missing_mask_scores, segmentation_scores
from evaluation.predictions import read_predictions
from evaluation.report.mask_cases import read_case
from evaluation.report.tables import mean_of_known
from training.arguments import parse
from training.script import run_script

Row = dict[str, Any]
FILES = ("cases.json", "result.json")  # of the peer
NAMES = ("label", "patient_id", "image_path")  # in a row; all else are figures


@dataclass
class Options:
    """Compare the masks of an evaluation with those of the peer."""

    ours: str  # folder that evaluate_CTInstruct.py wrote
    peer: str = ""  # folder that benchmarks.dynunet_peer wrote; empty scores ours alone
    name: str = "CTInstruct, 2D1D"  # what to call ours in the table
    minutes: float | None = None  # that ours was trained for, for the table
    tolerance_mm: float = 4.0  # of NSD, where there is no peer that has one
    leave_out: tuple[str, ...] = ()  # contours that are none of the organ, as "pt_215:spinal cord"
    output: str = ""  # a file for the table and the difference; none prints them alone


def score_ours(folder: Path, tolerance_mm: float) -> list[Row]:
    """A row for each mask that was asked for: label, patient_id, `segmentation_scores` and own_slices_dice.

    Raises InputError where the folder has no predictions, or a file that they name is gone.
    """
    rows: list[Row] = []
    for record in read_predictions(folder / "predictions.json"):
        for entry in record.get("segmentation") or () if record.get("error") is None else ():
            case = read_case(folder, record, entry, entry.get("truth_values"))
            if case.truth is None:
                raise InputError(f"{folder}: {record['id']}, {entry['label']}: {case.problem or 'it has no true mask'}")
            if case.prediction is None:
                scores, within = missing_mask_scores(case.truth, case.spacing), 0.0
            else:
                scores = segmentation_scores(case.prediction, case.truth, case.spacing, tolerance_mm)
                within = own_slices_dice(case.prediction, case.truth, slice_axis(case.affine))
            names = {"label": entry["label"], "patient_id": record.get("patient_id")}
            rows.append({**names, **scores, OWN_SLICES: within})
    return rows


def in_common(ours: Sequence[Row], peer: Sequence[Row]) -> tuple[list[Row], list[Row], int]:
    """A row of either for each patient and organ that both have, and how many these are; InputError for none."""
    keys = {_key(row) for row in ours} & {_key(row) for row in peer}
    if not keys:
        raise InputError("no patient and organ stand in both evaluations; give two of the same manifest's patients")
    mine, theirs = ([row for row in by_contour(rows) if _key(row) in keys] for rows in (ours, peer))
    return mine, theirs, len(keys)


def without(rows: Sequence[Row], contours: Sequence[str]) -> list[Row]:
    """The rows but for those of "patient:organ"; raises InputError for a contour that has none."""
    known = {":".join(_key(row)) for row in rows}
    for contour in contours:
        if contour not in known:
            raise InputError(f"--leave_out {contour}: no such patient and organ; write it as {min(known, default='-')}")
    return [row for row in rows if ":".join(_key(row)) not in contours]


def by_contour(rows: Sequence[Row]) -> list[Row]:
    """A row for each patient and organ: the mean where it was asked for several times, as the peer is never asked."""
    found: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        found[_key(row)].append(row)
    return [
        {**same[0], **{name: mean_of_known(row[name] for row in same) for name in same[0] if name not in NAMES}}
        for same in found.values()
    ]


def differences(ours: Sequence[Row], peer: Sequence[Row]) -> list[Row]:
    """Ours less the peer's for each patient and organ, of the rows that `in_common` gives."""
    theirs = {_key(row): row for row in peer}
    return [
        {"patient_id": row["patient_id"], "label": row["label"], "hd95": None}
        | {name: row[name] - theirs[_key(row)][name] for name in ("dice", "nsd")}
        for row in ours
    ]


def compare(options: Options) -> str:
    """The table of both, and a line with the difference; or of ours alone."""
    if not options.peer:
        scored = without(score_ours(Path(options.ours), options.tolerance_mm), options.leave_out)
        alone = {
            "scores": summary(scored, options.tolerance_mm),
            "minutes": options.minutes,
            "tolerance_mm": options.tolerance_mm,
        }
        return f"{peer_table({options.name: alone})}\n\n{within_slices({options.name: scored})}{left_out(options)}"
    folder = Path(options.peer)
    try:
        peer, result = (json.loads((folder / name).read_text(encoding="utf-8")) for name in FILES)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: holds no scores of benchmarks.dynunet_peer ({error}); run that first") from error
    tolerance = result["tolerance_mm"]
    scored = without(score_ours(Path(options.ours), tolerance), options.leave_out)
    mine, theirs, pairs = in_common(scored, peer)
    table = peer_table(
        {
            "MONAI DynUNet": {**result, "scores": summary(theirs, tolerance)},
            options.name: {"scores": summary(mine, tolerance), "minutes": options.minutes, "tolerance_mm": tolerance},
        }
    )
    mean = summary(differences(mine, theirs), tolerance)["mean"]
    line = f"Ours less the peer's over {pairs} organs of {len({row['patient_id'] for row in theirs})} patients: "
    line += f"Dice {estimate(mean['dice'])}, NSD {estimate(mean['nsd'])}."
    return f"{table}\n\n{line}\n\n{within_slices({'MONAI DynUNet': theirs, options.name: mine})}{left_out(options)}"


def left_out(options: Options) -> str:
    """A line that names the contours that are not counted; empty where all are."""
    return f"\n\nLeft out: {', '.join(options.leave_out)}." if options.leave_out else ""


def within_slices(rows: Mapping[str, Sequence[Row]]) -> str:
    """A line with the Dice of each model in the slices that hold the organ; of what is told, see `own_slices_dice`."""
    found = {name: own_slices_summary(of_model) for name, of_model in rows.items()}
    words = [f"{name} {estimate(value) if value else 'not measured'}" for name, value in found.items()]
    return f"Dice in the slices that hold the organ: {', '.join(words)}."


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

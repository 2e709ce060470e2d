"""Ours beside the peer's: masks on disk are scored anew, and pairs are compared."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.beside_peer import Options, compare, differences, in_common, score_ours, without
from benchmarks.segmentation_peer.scoring import own_slices_dice, slice_axis, summary
from datasets.errors import InputError
from tests.peer_patients import AFFINE, write_patient


def write_evaluation(folder: Path, patient: str, shift: int) -> None:
    """An evaluation whose liver is the truth, moved by so many slices of 4 mm; of the spleen it gives no mask."""
    row = write_patient(folder, {"liver": 1, "spleen": 2}, patient)
    truth = np.asarray(nib.load(folder / row["mask_path"]).dataobj)
    (folder / "masks").mkdir()
    nib.save(nib.Nifti1Image(np.roll(truth == 1, shift, 2).astype(np.uint8), AFFINE), folder / "masks" / "liver.nii.gz")
    paths = {"liver": str(folder / "masks" / "liver.nii.gz"), "spleen": None}
    masks = [
        {"label": label, "mask_path": path, "truth_path": str(folder / row["mask_path"]), "truth_values": value}
        for value, (label, path) in enumerate(paths.items(), 1)
    ]
    image = [str(folder / row["image_path"])]
    record = {"id": "0", "patient_id": patient, "image_path": image, "segmentation": masks, "error": None}
    failed = {**record, "id": "1", "error": "out of memory"}
    (folder / "predictions.json").write_text(json.dumps([record, failed]))


def test_our_masks_are_scored_at_the_peers_tolerance(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "a", 1)
    liver, spleen = score_ours(tmp_path, 4.0)
    assert (liver["patient_id"], liver["label"], liver["nsd"]) == ("a", "liver", 1)
    assert liver["dice"] == pytest.approx(5 / 6)  # six slices, moved by one
    assert liver["own_slices_dice"] == pytest.approx(10 / 11)  # five of them hold the moved one as well
    assert spleen["dice"] == spleen["nsd"] == spleen["own_slices_dice"] == 0
    assert score_ours(tmp_path, 2.0)[0]["nsd"] < 1


def row_of(patient: str, label: str, dice: float) -> dict:
    return {"patient_id": patient, "label": label, "dice": dice, "nsd": dice, "hd95": None}


def test_differences_are_of_pairs() -> None:
    ours = [row_of("a", "liver", 0.9), row_of("b", "liver", 0.5), row_of("a", "spleen", 0.7), row_of("c", "liver", 1)]
    ours.append(row_of("b", "liver", 0.7))  # asked for twice
    peer = [row_of("a", "liver", 0.8), row_of("b", "liver", 0.8), row_of("a", "spleen", 0.3), row_of("d", "liver", 1)]
    mine, theirs, pairs = in_common(ours, peer)
    assert (len(mine), len(theirs), pairs) == (3, 3, 3)
    assert [row["dice"] for row in mine] == pytest.approx([0.9, 0.6, 0.7])
    mean = summary(differences(mine, theirs), 4.0)["mean"]["dice"]
    assert mean["value"] == pytest.approx(((0.1 - 0.2) / 2 + 0.4) / 2)
    with pytest.raises(InputError, match="stand in both"):
        in_common(ours[:1], peer[1:])


def test_the_table_has_both_and_the_difference(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "a", 0)
    options = Options(ours=str(tmp_path), peer=str(tmp_path / "peer"), name="ours", minutes=38)
    with pytest.raises(InputError, match=r"peer: holds no scores of benchmarks\.dynunet_peer"):
        compare(options)
    (tmp_path / "peer").mkdir()
    rows = [row_of("a", "liver", 0.75), row_of("z", "liver", 0.25)]
    result = {"tolerance_mm": 4.0, "minutes": 40.0, "seconds_per_volume": 2.0, "parameters": 5e6}
    for name, value in (("cases.json", rows), ("result.json", result)):
        (tmp_path / "peer" / name).write_text(json.dumps(value))
    lines = compare(options).splitlines()
    assert lines[2:4] == [
        "| MONAI DynUNet | 0.750 | 0.750 | 0.750 | 40.0 | 2.0 | 5.0 M |",
        "| ours | 1.000 | 1.000 | 1.000 | 38.0 | – | – |",
    ]
    assert lines[-3] == "Ours less the peer's over 1 organs of 1 patients: Dice 0.250, NSD 0.250."
    start = "Dice in the slices that hold the organ: MONAI DynUNet"
    assert lines[-1] == f"{start} not measured, ours 1.000.", "its rows are of before this was measured"
    rows[0]["own_slices_dice"] = 0.8
    (tmp_path / "peer" / "cases.json").write_text(json.dumps(rows[:1]))
    assert compare(options).splitlines()[-1] == f"{start} 0.800, ours 1.000."


def test_contours_that_are_none_of_the_organ_are_left_out() -> None:
    rows = [row_of("a", "liver", 0.9), row_of("b", "liver", 0.1), row_of("a", "spleen", 0.7), row_of("b", "liver", 0.2)]
    assert without(rows, ()) == rows
    assert without(rows, ("b:liver", "a:spleen")) == rows[:1]
    with pytest.raises(InputError, match="--leave_out b:spleen: no such patient and organ; write it as a:liver"):
        without(rows, ("b:spleen",))


@pytest.mark.parametrize("code", ["RAS", "LPI", "SAR", "AIL"])
def test_slices_that_hold_the_organ_lie_along_the_body(code: str) -> None:
    axis = next(i for i, letter in enumerate(code) if letter in "SI")
    affine = np.eye(4)
    for column, letter in enumerate(code):
        world = ["RL", "AP", "SI"].index(next(pair for pair in ("RL", "AP", "SI") if letter in pair))
        affine[:3, column] = 0
        affine[world, column] = 4.0 if letter in "RAS" else -4.0
    assert slice_axis(affine) == axis
    truth, prediction = np.zeros((2, 6, 6, 6), bool)
    np.moveaxis(truth, axis, 0)[2:4, :2, :2] = True
    np.moveaxis(prediction, axis, 0)[1:4, :2, :1] = True  # of 4 voxels a slice 2, and a slice too many
    assert own_slices_dice(prediction, truth, axis) == pytest.approx(2 * 4 / (4 + 8))
    assert own_slices_dice(prediction, np.zeros_like(truth), axis) == 0
    assert own_slices_dice(np.zeros_like(truth), np.zeros_like(truth), axis) == 1


def test_ours_may_be_scored_alone(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "a", 1)
    header, _, row, _, last = compare(Options(str(tmp_path), tolerance_mm=2.0)).splitlines()
    assert last == "Dice in the slices that hold the organ: CTInstruct, 2D1D 0.455."
    assert "NSD at 2 mm" in header and "liver" in header
    assert row.startswith(f"| CTInstruct, 2D1D | {5 / 12:.3f} | ")

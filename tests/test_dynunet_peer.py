"""The whole comparison on two made-up patients: it learns, scores, and says what is wrong with its input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.dynunet_peer import HyperParameters, augmentation_of, evaluate, train, validate
from datasets.errors import InputError
from tests.peer_patients import write_patient


def settings_of(folder: Path) -> HyperParameters:
    """Two patients, of which the second lacks an organ; a network of 4 channels, for a second."""
    rows = [write_patient(folder, {"liver": 1, "spleen": 2}), write_patient(folder, {"liver": 3}, "b")]
    (folder / "train.json").write_text(json.dumps(rows))
    (folder / "val.json").write_text(json.dumps(rows))
    small = {"patch": (16, 16, 16), "width": 4, "deep_supervision": 0, "minutes": 0.02, "threads": 1, "clock": "cpu"}
    manifests = {"manifest_dir": str(folder), "train": "train.json", "validation": "val.json"}
    return HyperParameters(**{**small, **manifests, "run_dir": str(folder / "run")})  # type: ignore[arg-type]


def test_it_trains_scores_and_writes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(tmp_path)
    validate(settings)
    torch.manual_seed(0)
    train(settings)
    evaluate(settings)
    folder = tmp_path / "run"
    result, rows = (json.loads((folder / name).read_text()) for name in ("result.json", "cases.json"))
    assert [(row["patient_id"], row["label"]) for row in rows] == [("a", "liver"), ("a", "spleen"), ("b", "liver")]
    assert result["about"]["training"]["steps"] > 0 and result["minutes"] >= 0.02
    assert (folder / "table.md").read_text(encoding="utf-8") in capsys.readouterr().out

    settings.output = str(tmp_path / "again")
    evaluate(settings)
    assert json.loads((tmp_path / "again" / "cases.json").read_text()) == rows

    (tmp_path / "other").mkdir()
    settings.validation = str(tmp_path / "other" / "test.json")
    Path(settings.validation).write_text(json.dumps([write_patient(tmp_path / "other", {"kidney": 1}, "c")]))
    with pytest.raises(InputError, match="'kidney' was not learned, only liver, spleen"):
        evaluate(settings)


def test_wrong_input_is_said_in_a_line(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    for change, message in (({"minutes": 0.0}, "--minutes"), ({"foreground": 2.0}, "--foreground")):
        with pytest.raises(InputError, match=message):
            validate(HyperParameters(**change))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"network\.pt: is missing; train first"):
        evaluate(settings)
    with pytest.raises(InputError, match=r"--augment turn=1: 'turn' is not one of rotate"):
        augmentation_of(HyperParameters(augment=("turn=1",)), ["liver"])
    assert augmentation_of(HyperParameters(augmentation=False), ["liver"]) is None
    row = {**write_patient(tmp_path, {"liver": 1}), "mask_path": "nowhere.nii"}
    (tmp_path / "train.json").write_text(json.dumps([row]))
    with pytest.raises(InputError, match=r"train.json.*nowhere.nii"):
        train(settings)

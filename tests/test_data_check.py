"""What a training script does about its data before it begins: all faults at once, or bad records left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import train_encoder_2D1D
from datasets.errors import InputError
from datasets.manifest_check.needs import instruction_source
from datasets.mixture import load_mixture
from datasets.phantom.dataset import DatasetOptions, write_dataset
from tests.test_recipes import settings_of
from training.data_check import check_data
from training.pretraining.data import read_data
from training.settings import TrainingSettings

STRICT, LENIENT = TrainingSettings(), TrainingSettings(skip_bad_samples=True)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_dataset(DatasetOptions(folder, 2, seed=1), workers=1)
    return folder


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    np.save(tmp_path / "good.npy", np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    (tmp_path / "empty.npy").touch()
    rows = [
        {"question": "What?", "image_path": name, "answer": "Air."} for name in ("good.npy", "empty.npy", "gone.npy")
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    return tmp_path / "mine.json"


def test_all_faults_are_printed_and_the_run_does_not_begin(manifest, capsys):
    with pytest.raises(InputError, match=r"row 1, .*empty\.npy.*and 1 faults more.*--skip_bad_samples"):
        check_data([instruction_source(manifest)], STRICT)
    said = capsys.readouterr().err
    assert "row 1, field image_path" in said and "row 2, field image_path: no such file" in said
    assert check_data([instruction_source(manifest)], replace(STRICT, check_data="off")) == {}


def test_bad_records_are_left_out_and_counted(manifest, capsys):
    bad = check_data([instruction_source(manifest)], LENIENT)
    assert "left out under --skip_bad_samples: 2 records" in capsys.readouterr().out
    records, _ = load_mixture([f"{manifest}=2"], leave_out=bad)
    assert [Path(record.image_path[0]).name for record in records["mine"]] == ["good.npy"]


def test_what_leaving_out_does_not_mend_stops_all_the_same(manifest):
    rows = json.loads(manifest.read_text())[1:]
    manifest.write_text(json.dumps(rows))
    with pytest.raises(InputError, match=r"row 0, .*empty\.npy.* 1 faults more, named above\)$"):
        check_data([instruction_source(manifest)], LENIENT)


def test_pretraining_leaves_bad_volumes_out_and_names_manifests_of_no_task(phantoms, tmp_path, capsys):
    source = phantoms / "pretraining"
    for split in ("train", "val"):
        rows = json.loads((source / "image_text_train.json").read_text())
        rows = [{**row, "image_path": str((source / row["image_path"]).resolve())} for row in rows]
        if split == "train":
            (tmp_path / "cut.nii.gz").write_bytes(Path(rows[0]["image_path"]).read_bytes()[:2000])
            rows.append({**rows[0], "image_path": "cut.nii.gz", "patient_id": "x"})
        (tmp_path / f"CTRATE_image_text_{split}.json").write_text(json.dumps(rows))
    (tmp_path / "CTRATE_imagetext_train.json").write_text("[]")
    line = f"--preset tiny --manifest_dir {tmp_path} --skip_missing_tasks True"
    with pytest.raises(InputError, match=r"cut\.nii\.gz: truncated"):
        read_data(settings_of(train_encoder_2D1D, line))
    data = read_data(settings_of(train_encoder_2D1D, f"{line} --skip_bad_samples True"))
    assert "phantoms" not in data.source and str(tmp_path) in data.source
    images = [Path(record.image_path).name for record in data.records["CTRATE_image_text"]]
    assert images and "cut.nii.gz" not in images and data.validation_records["CTRATE_image_text"]
    said = capsys.readouterr().out
    assert "CTRATE_imagetext_train.json (nearest: CTRATE_image_text_train.json)" in said


def test_a_folder_of_test_manifests_alone_is_evaluated_on(phantoms, tmp_path):
    """Held-out cases have no training manifests beside them; tasks that are not the paper's are found, too."""
    source = phantoms / "pretraining"
    rows = json.loads((source / "segmentation_train.json").read_text())
    for row in rows:
        row |= {name: str((source / row[name]).resolve()) for name in ("image_path", "mask_path")}
    (tmp_path / "open_kbp_segmentation_test.json").write_text(json.dumps(rows))
    line = f"--preset tiny --manifest_dir {tmp_path} --skip_missing_tasks True"
    with pytest.raises(InputError, match="have no manifest"):
        read_data(settings_of(train_encoder_2D1D, line))
    line += " --eval_only True"
    with pytest.raises(InputError, match="have no manifest"):
        read_data(settings_of(train_encoder_2D1D, line))
    data = read_data(settings_of(train_encoder_2D1D, f"{line} --validation_split test"))
    assert not data.records and list(data.validation_records) == ["open_kbp_segmentation"]
    assert len(data.validation_records["open_kbp_segmentation"]) == len(rows)
    (tmp_path / "open_kbp_segmentation_test.json").rename(tmp_path / "open_kbp_segmentation_train.json")
    with pytest.raises(InputError, match="no task has a manifest of the test split to evaluate on"):
        read_data(settings_of(train_encoder_2D1D, f"{line} --validation_split test"))

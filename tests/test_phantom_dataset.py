"""A written data set of phantoms: files, manifests, splits, and the same bytes for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from datasets.manifest import load_manifest
from datasets.phantom.anatomy import STRUCTURES
from datasets.phantom.case import CaseOptions, build_case, nifti_bytes
from datasets.phantom.case_files import split_of
from datasets.phantom.dataset import DatasetOptions, main, write_dataset

COARSE = CaseOptions(in_plane=(1.2, 1.5), between=(2.0, 4.0), max_voxels=2.2e6)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    write_dataset(DatasetOptions(folder, count=9, seed=3, case=COARSE))
    return folder


def load_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """An array in RAS order as nibabel finds it from the file, and the spacing in mm."""
    image = nib.as_closest_canonical(nib.load(path))
    return np.asarray(image.dataobj), np.asarray(image.header.get_zooms())


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_written_files_share_a_grid_and_hold_a_patient_the_right_way_round(dataset: Path) -> None:
    cases = json.loads((dataset / "cases.json").read_text())
    assert len({case["orientation"] for case in cases}) > 3
    for case in cases:
        stored = nib.load(dataset / case["image_path"])
        assert "".join(nib.aff2axcodes(stored.affine)) == case["orientation"]
        assert stored.get_data_dtype() == np.int16
        ct, spacing = load_ras(dataset / case["image_path"])
        masks, _ = load_ras(dataset / case["structures_path"])
        lesions = nib.load(dataset / case["lesions_path"])
        assert masks.shape == ct.shape and np.array_equal(lesions.affine, stored.affine)
        centre = {n: np.array(ndimage.center_of_mass(masks == v)) * spacing for n, v in STRUCTURES.items()}
        assert centre["liver"][0] > centre["spleen"][0] + 40  # x grows to the right
        assert centre["right lung"][0] > centre["left lung"][0] + 40
        assert centre["right kidney"][0] > centre["left kidney"][0] + 30
        assert centre["heart"][0] < (centre["right lung"][0] + centre["left lung"][0]) / 2
        assert centre["spine"][1] < centre["heart"][1] - 40  # y grows to the front
        assert centre["liver"][2] < centre["heart"][2] < centre["trachea"][2]  # z grows to the head
        air = np.concatenate([ct[:2, :2].ravel(), ct[-2:, -2:].ravel()])
        assert abs(np.median(air) + 1000) < 15 and 5 < air.std() < 25


def test_same_seed_gives_the_same_bytes_whatever_the_workers_and_the_count(tmp_path: Path, dataset: Path) -> None:
    truths = write_dataset(DatasetOptions(tmp_path / "a", count=3, seed=3, case=COARSE), workers=2)
    first, second = files_of(tmp_path / "a"), files_of(dataset)
    volumes = [name for name in first if name.endswith(".nii.gz")]
    assert len(volumes) == 9 and all(first[name] == second[name] for name in volumes)
    assert truths == json.loads(second["cases.json"])[:3]
    own = json.loads(first["train.json"])
    assert own == [r for r in json.loads(second["train.json"]) if r["patient_id"] in {q["patient_id"] for q in own}]
    other = build_case(4, 0, COARSE)
    assert nifti_bytes(other.ct, other.affine) != first[volumes[0]]


def test_manifests_load_and_agree_with_the_truth(dataset: Path) -> None:
    truth = {case["id"]: case for case in json.loads((dataset / "cases.json").read_text())}
    patients: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        records = load_manifest(dataset / f"{split}.json")
        patients[split] = {record.patient_id for record in records}
        assert patients[split] == {name for name, case in truth.items() if case["split"] == split}
        for record in records:
            case = truth[record.patient_id]
            if record.task == "report_generation":
                assert record.answer == case["report"]
            if record.task == "diagnosis":
                assert dict(record.targets) == case["targets"] and record.label_set == "CT-RATE"
            if record.task == "segmentation":
                mask = np.asarray(nib.load(record.mask_path).dataobj)
                for label in record.labels:
                    assert np.isin(mask, record.mask_values[label]).sum() > 10
        for kind in ("classification", "details", "image_text", "segmentation"):
            rows = json.loads((dataset / "pretraining" / f"{kind}_{split}.json").read_text())
            assert {Path(row["image_path"]).name for row in rows} == {f"{name}.nii.gz" for name in patients[split]}
            for row in rows:
                name = Path(row["image_path"]).name.removesuffix(".nii.gz")
                assert (dataset / "pretraining" / row["image_path"]).is_file()
                if kind == "classification":
                    assert row["disease_label"] == truth[name]["targets"]
                elif kind == "segmentation":
                    assert set(row["mask_values"]) == set(row["labels"])
                    assert (dataset / "pretraining" / row["mask_path"]).is_file()
    assert not patients["train"] & patients["test"] and all(patients.values())


def test_file_names_hold_nothing_but_seed_and_index(dataset: Path) -> None:
    for case in json.loads((dataset / "cases.json").read_text()):
        assert case["image_path"] == f"volumes/{case['id']}.nii.gz"
        assert case["id"] == f"phantom_3_{int(case['id'][-5:]):05d}"


def test_split_keeps_its_shares() -> None:
    counts = Counter(split_of(index, (0.7, 0.1, 0.2)) for index in range(200))
    assert counts == {"train": 140, "val": 20, "test": 40} or all(
        abs(counts[name] - share) <= 2 for name, share in (("train", 140), ("val", 20), ("test", 40))
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--count", "0"], "--count"),
        (["--split", "0.5", "0.1", "0.1"], "--split"),
        (["--max-voxels", "10"], "--max-voxels"),
        (["--seed", "-1"], "--seed"),
        (["--prevalence", "2"], "--prevalence"),
        (["--body-scale", "0.8", "0.6"], "--body-scale"),
        (["--spacing-scale", "0"], "--spacing-scale"),
        (["--in-plane", "2", "1"], "--in-plane"),
        (["--in-plane", "1", "inf"], "--in-plane"),
        (["--spacing-scale", "inf"], "--spacing-scale"),
        (["--spacing-scale", "1e6"], "--spacing-scale"),
        (["--spacing-scale", "1e-6", "--max-voxels", "inf"], "--spacing-scale"),
        (["--max-voxels", "inf"], "--max-voxels inf"),
        (["--max-voxels", "nan"], "--max-voxels nan"),
        (["--split", "nan", "nan", "nan"], "--split nan"),
        (["--split", "0.5", "0.5", "nan"], "--split 0.5"),
        (["--workers", "0"], "--workers 0"),
        (["--orientations", "RAS", "RLS"], "--orientations RLS"),
    ],
)
def test_bad_options_give_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list, named: str
) -> None:
    assert main(["--out", str(tmp_path), "--count", "1", *options]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and named in message


@pytest.mark.parametrize("below", ["file", "file/deeper"])
def test_a_file_where_the_folder_belongs_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], below: str
) -> None:
    (tmp_path / "file").write_text("keep")
    assert main(["--out", str(tmp_path / below), "--count", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / below}") and line.endswith("give another path")
    assert (tmp_path / "file").read_text() == "keep"

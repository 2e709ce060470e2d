"""Patches that are counted without a voxel, against those of volumes that are read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.manifest import InstructionRecord
from datasets.patch_counts import patch_count, patch_counts
from datasets.volume.cache import VolumeLoader, volume_key
from datasets.volume.preprocessing import Preprocessing
from tests.ct_files import as_orientation, random_affine, write_dicom, write_itk, write_nifti
from train_CTInstruct import HyperParameters
from training.distributed import Ranks
from training.tuning import patches
from training.tuning.patches import KEPT, patches_of
from training.tuning.sampler import sampler_of

RECORD = Preprocessing.standard((32, 32, 8), 6)
ALONE = Ranks(0, 1, 0, torch.device("cpu"))
SHAPES = [(40, 40, 6), (33, 30, 5), (50, 44, 24), (24, 44, 50)]  # of 4, 2, 6 and 5 patches


def bright(shape: tuple[int, int, int]) -> np.ndarray:
    """A volume that is cropped to itself."""
    return np.random.default_rng(0).integers(1, 900, shape).astype(np.int16)


def read_count(loader: VolumeLoader, path: Path) -> int:
    return len(loader.volume(path)[0].patches)


def files(folder: Path) -> list[Path]:
    """Each kind of file in other axes, so that a size along the wrong one would show."""
    found = []
    for number, shape in enumerate(SHAPES):
        array, affine = as_orientation(bright(shape), ("RAS", "SPL", "IAR", "LPS")[number])
        found.append(write_nifti(folder / f"{number}.nii.gz", array, affine))
    found.append(write_itk(folder / "five.nrrd", bright(SHAPES[1]), lps_voxels=True))
    found.append(write_dicom(folder / "series", bright(SHAPES[1])))
    np.save(folder / "array.npy", bright((44, 24, 50)))
    np.savez(folder / "rad.npz", ct=bright((24, 50, 44)))
    np.savez(folder / "other.npz", bright((24, 44, 50)))
    return [*found, folder / "array.npy", folder / "rad.npz", folder / "other.npz"]


@pytest.mark.parametrize("axes", [None, "SPL", "as_stored"])
@pytest.mark.parametrize("record", [RECORD, Preprocessing.released((32, 32, 8))], ids=["standard", "released"])
def test_headers_tell_what_reading_finds_where_nothing_is_cropped(tmp_path, record, axes) -> None:
    loader = VolumeLoader(record, array_axes=axes)
    paths = files(tmp_path)
    expected = {volume_key(path): read_count(loader, path) for path in paths}
    assert patch_counts(loader, [(str(path), 0.0) for path in paths]) == expected
    assert set(expected.values()) >= {2, 4, 5, 6}


def test_a_field_of_view_is_counted_without_a_voxel(tmp_path) -> None:
    whole, narrow = VolumeLoader(RECORD), VolumeLoader(RECORD.with_field_of_view((20, 24)))
    paths = files(tmp_path)[: len(SHAPES)]  # those of 0.8 x 0.9 x 2.5 mm a voxel
    counts = [patch_count(narrow, (str(path), 0.0)) for path in paths]
    assert counts == [read_count(narrow, path) for path in paths]
    assert counts != [read_count(whole, path) for path in paths]


def test_a_cached_volume_is_counted_as_it_was_cropped(tmp_path) -> None:
    array = np.full((64, 64, 40), -1000, np.int16)
    array[10:30, 20:40, 3:7] = bright((20, 20, 4))
    path = write_nifti(tmp_path / "air.nii.gz", array, random_affine("RAS", (1, 1, 1), np.random.default_rng(0)))
    loader = VolumeLoader(RECORD, tmp_path / "cache")
    volume = (str(path), 0.0)
    whole = patch_count(loader, volume)
    cropped = read_count(loader, path)
    assert whole > cropped == patch_count(loader, volume)
    assert patch_count(loader, (str(path), -10.0)) == whole, "read otherwise, it is another entry"
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    entry.write_bytes(entry.read_bytes()[:50])
    assert patch_count(loader, volume) == whole, "a damaged entry is none"


def test_what_cannot_be_told_is_left_out(tmp_path) -> None:
    (tmp_path / "damaged.nii").write_bytes(b"no header")
    (tmp_path / "notes.txt").write_text("no volume")
    good = write_nifti(tmp_path / "good.nii", bright(SHAPES[0]), np.eye(4))
    volumes = [(str(tmp_path / name), 0.0) for name in ("damaged.nii", "notes.txt", "missing.nii")]
    loader = VolumeLoader(RECORD)
    assert patch_counts(loader, [*volumes, (str(good), 0.0)]) == {volume_key(good): read_count(loader, good)}


def record_of(*paths: Path) -> InstructionRecord:
    question = [{"type": "image"}] * len(paths) + [{"type": "text", "text": "What?"}]
    return InstructionRecord(question=question, image_path=[str(path) for path in paths], answer="This.")


def test_a_run_counts_once_and_goes_on_with_what_it_counted(tmp_path, monkeypatch, capsys) -> None:
    small, large = (
        write_nifti(tmp_path / f"{name}.nii", bright(shape), np.eye(4))
        for name, shape in (("s", SHAPES[0]), ("l", SHAPES[2]))
    )
    missing = tmp_path / "missing.nii"
    records = {"one": [record_of(small), record_of(), record_of(small, large)], "two": [record_of(missing)]}
    loader, run_dir = VolumeLoader(RECORD), tmp_path / "run"
    begins, goes_on = (HyperParameters(run_dir=str(run_dir), resume=resume) for resume in ("", "auto"))
    few, many = read_count(loader, small), read_count(loader, large)
    expected = {"one": [few, 0, few + many], "two": [round((few + many) / 2)]}
    assert patches_of(records, loader, begins) == expected
    assert "the patches of 1 of 3 volumes cannot be told" in capsys.readouterr().out

    looked_at: list = []
    counted = patches.patch_counts
    monkeypatch.setattr(
        patches, "patch_counts", lambda loader, asked: looked_at.append(set(asked)) or counted(loader, asked)
    )
    write_nifti(small, bright(SHAPES[2]), np.eye(4))  # what would be found by now is not asked
    write_nifti(missing, bright(SHAPES[2]), np.eye(4))
    assert patches_of(records, loader, goes_on) == expected and not looked_at
    assert patches_of(records, loader, replace(goes_on, overwrite=True)) == expected, "it is not begun afresh"
    other = HyperParameters(run_dir=str(tmp_path / "other"), resume=str(run_dir / "checkpoints" / "step_000004"))
    assert patches_of(records, loader, other) == expected, "it goes on from another run's checkpoint"
    assert patches_of(records, loader, replace(other, resume="auto")) == expected and not looked_at
    assert patches_of({"one": [record_of(large)]}, VolumeLoader(Preprocessing.standard((32, 32, 4), 6)), begins)
    assert looked_at == [{(str(large), 0.0)}], "prepared otherwise, it is another count"
    assert patches_of(records, loader, replace(begins, overwrite=True))["one"] == [many, 0, 2 * many]
    (run_dir / KEPT).write_text("{damaged")
    assert patches_of(records, loader, goes_on)["two"] == [many]


def test_a_folder_that_holds_another_run_keeps_its_counts(tmp_path) -> None:
    large = write_nifti(tmp_path / "l.nii", bright(SHAPES[2]), np.eye(4))
    records, run = {"one": [record_of(large)]}, HyperParameters(run_dir=str(tmp_path / "run"))
    patches_of(records, VolumeLoader(RECORD), run)
    kept = (tmp_path / "run" / KEPT).read_text()
    (tmp_path / "run" / "checkpoints" / "step_000004").mkdir(parents=True)
    patches_of(records, VolumeLoader(Preprocessing.standard((32, 32, 4), 6)), run)  # is refused by `train` afterwards
    assert (tmp_path / "run" / KEPT).read_text() == kept


def test_the_option_shares_out_what_the_run_draws_anyway(tmp_path) -> None:
    paths = [write_nifti(tmp_path / f"{n}.nii", bright(shape), np.eye(4)) for n, shape in enumerate(SHAPES)]
    records = {"vqa": [record_of(paths[n % 4]) for n in range(9)], "text": [record_of()] * 3}

    def steps(**options) -> list:
        settings = HyperParameters(run_dir=str(tmp_path / "run"), micro_batch=2, **options)
        settings.accumulation_steps = 2
        samplers = [
            sampler_of(settings, records, None, RECORD, Ranks(rank, 2, rank, torch.device("cpu"))) for rank in range(2)
        ]
        assert len({json.dumps(sampler.fingerprint()) for sampler in samplers}) == 1
        return [[s.references(step, m) for m in range(2) for s in samplers] for step in range(20)]

    before, after = steps(), steps(balance_ranks=True)
    assert before != after

    def sample_of(step: list) -> set:
        return {reference for micro_batch in step for reference in micro_batch}

    assert [sample_of(step) for step in before] == [sample_of(step) for step in after]
    counts = patches_of(records, VolumeLoader(RECORD), HyperParameters(run_dir=str(tmp_path / "run")))

    def heaviest(step: list) -> int:
        return max(sum(counts[r.task][r.index] for r in micro_batch) for micro_batch in step)

    assert sum(map(heaviest, after)) < sum(map(heaviest, before))
    assert all(heaviest(new) <= heaviest(old) for old, new in zip(before, after, strict=True))

"""Volumes that are counted, and changed while laid out, have the bits that nibabel and numpy give step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from datasets.volume import loading, normalisation
from datasets.volume.geometry import foreground_box
from datasets.volume.loading import load_volume, read_volume
from datasets.volume.normalisation import known_change
from datasets.volume.preprocessing import Preprocessing, SourceSteps
from tests.ct_files import write_dicom, write_itk

AFFINES = {"RAS": np.diag([0.8, 0.8, 1.5, 1]), "LPS": np.diag([-0.8, -0.8, 1.5, 1])}
AFFINES["SLP"] = np.array([[0, -0.7, 0, 3], [0, 0, -0.7, 4], [2, 0, 0, 5], [0, 0, 0, 1.0]])
TYPES = ("i1", "u1", "<i2", ">i2", "<u2", "<i4", "<f4", "<f8")


def _ct(dtype: str, seed: int = 0) -> np.ndarray:
    """Noise around a body, with a border of air that the crop takes off."""
    random = np.random.default_rng(seed)
    wide = np.dtype(dtype).itemsize > 1
    voxels = random.normal(40, 400, (23, 19, 17)) if wide else random.normal(20, 30, (23, 19, 17))
    low = max(-1024, np.iinfo(dtype).min) if np.dtype(dtype).kind in "iu" else -1024.0
    voxels[:3], voxels[:, -2:], voxels[:, :, :4] = low, low, low
    limits = (low, 3000 if wide else 100)
    return np.clip(voxels, *limits).astype(dtype)


def _stepwise(path: Path) -> np.ndarray:
    """A NIfTI cropped, clipped and normalised, by nibabel and whole arrays."""
    image = nib.as_closest_canonical(nib.load(path))
    array = image.get_fdata(dtype=np.float32)
    if (array > 0).any():
        inside = np.nonzero(array > 0)
        array = array[tuple(slice(axis.min(), axis.max() + 1) for axis in inside)]
    array = np.ascontiguousarray(array)
    if array.max() - array.min() > 1000:
        array = np.clip(array, *np.percentile(array, (0.5, 99.5)).astype(np.float32))
    array = array - np.float32(array.mean(dtype=np.float64))
    return array / np.float32(np.sqrt(np.square(array, dtype=np.float64).mean()))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_types_of_voxels(dtype: str, ending: str, tmp_path: Path) -> None:
    for codes, (slope, intercept) in zip(
        ("RAS", "LPS", "SLP", "LPS"), ((1, 0), (1, 0), (1, -1024), (1.1, 3)), strict=True
    ):
        image = nib.Nifti1Image(_ct(dtype), AFFINES[codes], dtype=np.dtype(dtype))
        image.header.set_slope_inter(slope, intercept)
        nib.save(image, tmp_path / f"ct.{ending}")
        with open(tmp_path / f"ct.{ending}", "rb") as file:
            assert (file.read(2) == b"\x1f\x8b") == ending.endswith("gz")
        found, _ = load_volume(tmp_path / f"ct.{ending}")
        expected = _stepwise(tmp_path / f"ct.{ending}")
        assert found.dtype == np.float32 and found.flags.c_contiguous
        assert found[0].tobytes() == expected.tobytes(), (codes, slope, intercept)
        for orientation in ("RAS", "as_stored"):
            whole: Any = nib.load(tmp_path / f"ct.{ending}")
            whole = nib.as_closest_canonical(whole) if orientation == "RAS" else whole
            stored, _ = read_volume(tmp_path / f"ct.{ending}", orientation)
            assert stored.dtype == np.float32
            assert np.array_equal(stored[0], whole.get_fdata(dtype=np.float32))


STEPS = {
    "z-score": SourceSteps(),
    "of a window": SourceSteps(clip=(-250.5, 400.0)),
    "unclipped": SourceSteps(clip="none"),
    "window": SourceSteps(clip=(-250.0, 400.0), normalisation="window"),
    "clipped alone": SourceSteps(normalisation="none"),
    "as it is": SourceSteps(crop="none", clip="none", normalisation="none"),
}


@pytest.mark.parametrize("steps", STEPS)
def test_kinds_of_files(steps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ct, record = _ct("<i2"), STEPS[steps]
    np.save(tmp_path / "a.npy", ct)
    np.savez_compressed(tmp_path / "a.npz", ct=ct)
    paths = [tmp_path / "a.npy", tmp_path / "a.npz", write_dicom(tmp_path / "dicom", ct)]
    paths += [write_itk(tmp_path / name, ct, True) for name in ("a.nrrd", "a.mha")]
    preprocessing = Preprocessing((32, 32, 8), 1, "published", record, record, record)
    counted = [load_volume(path, preprocessing=preprocessing)[0] for path in paths]
    monkeypatch.setattr(loading, "known_change", lambda *_: None)
    monkeypatch.setattr(normalisation, "percentiles", np.percentile)
    for path, found in zip(paths, counted, strict=True):
        assert found.tobytes() == load_volume(path, preprocessing=preprocessing)[0].tobytes(), path.name


@pytest.mark.parametrize("intercept", [-1024, 0, 0.5, 30_000])
def test_a_dicom_series_with_numbers_of_any_size(intercept: float, tmp_path: Path) -> None:
    ct = _ct("<i2").astype(np.float32) + np.float32(intercept)  # at 30,000 beyond what int16 holds
    folder = write_dicom(tmp_path / "dicom", ct, slope=1, intercept=intercept)
    assert np.array_equal(read_volume(folder)[0][0], ct)
    assert load_volume(folder)[0].std() == pytest.approx(1, abs=1e-3)


def test_counting_says_where_it_cannot_tell() -> None:
    fractions = np.random.default_rng(0).normal(0, 900, (9, 9, 9)).astype(np.float32)
    assert known_change(fractions, SourceSteps()) is None
    between = np.full((4, 4, 2), 2**19, dtype=np.int32)
    between[0, 0, 0] += 1  # a mean of 2^19 + 1/32, in the middle between two neighbours in float32
    assert known_change(between, SourceSteps()) is None


def test_the_box_of_the_foreground() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        array = np.zeros(tuple(random.integers(1, 9, 3)), dtype=np.int16) - 5
        count = random.integers(0, 4)
        array[tuple(random.integers(0, size, count) for size in array.shape)] = 7
        for view in (array, array.T, array[::-1, :, ::-1], array.transpose(1, 2, 0)):
            inside = np.argwhere(view > 0)
            least = inside.min(0) if len(inside) else np.zeros(3)
            most = inside.max(0) + 1 if len(inside) else view.shape
            assert foreground_box(view) == (tuple(least), tuple(most))

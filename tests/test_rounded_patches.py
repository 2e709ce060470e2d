"""The cache keeps patches in half their bytes: how far a voxel moves, what stays exact, and entries of before."""

from __future__ import annotations

import json
import logging
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.volume.cache import VolumeLoader
from datasets.volume.cache_files import save_cached
from datasets.volume.preprocessing import Preprocessing, SourceSteps
from datasets.volume.rounded_patches import ERROR, WIDEST, restored, rounded
from tests.ct_files import write_itk


def _ct(path: Path, low: int = -500, high: int = 500) -> Path:
    return write_itk(path, np.random.default_rng(0).integers(low, high, (12, 10, 6)).astype("i2"), True)


def _loader(cache: Path | None, **steps: str) -> VolumeLoader:
    record = SourceSteps(**steps)
    return VolumeLoader(Preprocessing((32, 32, 8), 1, "published", record, record, record), cache)


@pytest.mark.parametrize("low", [-2.5, -1e-3, 0.0, 1.0, 60.0, -63.9])
@pytest.mark.parametrize("width", [1e-6, 1.0, 6.5, 63.9])
def test_no_voxel_moves_by_more_than_its_share_of_the_range(low: float, width: float) -> None:
    generator = torch.Generator().manual_seed(0)
    patches = low + width * torch.rand((2, 30, 30, 20), generator=generator)
    patches[0, 0, 0] = torch.linspace(low, low + width, 20)
    patches[1, :, :, :5] = 0  # padding
    spread = (patches.max() - patches.min()).item()
    if spread > WIDEST:
        assert rounded(patches) is None
        return
    codes = rounded(patches)
    assert codes is not None and codes["codes"].dtype == torch.int16
    back = restored(**codes)
    assert (back.double() - patches.double()).abs().max().item() <= ERROR * spread
    assert (back[patches == 0] == 0).all()
    again = rounded(back)
    assert again is not None and torch.allclose(restored(**again), back, rtol=0, atol=2 * ERROR * spread)


def test_what_has_no_range() -> None:
    zeros = torch.zeros((1, 4, 4, 2))
    codes = rounded(zeros)
    assert codes is not None and torch.equal(restored(**codes), zeros)
    assert rounded(torch.tensor([0.0, float("nan")])) is None
    assert rounded(torch.tensor([0.0, float("inf")])) is None


def test_an_entry_has_half_the_bytes_and_is_what_was_handed_out(tmp_path: Path) -> None:
    path, loader = _ct(tmp_path / "a.mha"), _loader(tmp_path / "cache")
    made, geometry = loader.volume(path)
    read, read_geometry = loader.volume(path)
    exact, _ = _loader(None).volume(path)
    assert torch.equal(made.patches, read.patches) and torch.equal(made.slice_marks, read.slice_marks)
    assert made.placement == read.placement and geometry == read_geometry
    moved = (made.patches - exact.patches).abs().max().item()
    assert 0 < moved <= ERROR * (exact.patches.max() - exact.patches.min()).item()
    (entry,) = (tmp_path / "cache").rglob("*.safetensors")
    assert entry.stat().st_size < exact.patches.nbytes / 2 + 4096


def test_a_volume_with_a_wide_range_is_kept_as_it_is(tmp_path: Path) -> None:
    path = _ct(tmp_path / "a.mha")
    steps = {"clip": "none", "normalisation": "none"}
    exact, _ = _loader(None, **steps).volume(path)
    for _ in range(2):
        assert torch.equal(_loader(tmp_path / "cache", **steps).volume(path)[0].patches, exact.patches)


def test_an_entry_of_before_is_read_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, loader = _ct(tmp_path / "a.mha"), _loader(tmp_path / "cache")
    exact, geometry = _loader(None).volume(path)
    entry = loader.cached("volume", [path], {})
    assert entry is not None
    details = json.dumps({"placement": exact.placement.to_dict(), "geometry": geometry.to_dict()})
    save_cached(entry, {"patches": exact.patches, "slice_marks": exact.slice_marks}, details)
    monkeypatch.setattr("datasets.volume.cache.load_volume", lambda *_, **__: pytest.fail("the file was decoded again"))
    read, read_geometry = loader.volume(path)
    assert torch.equal(read.patches, exact.patches) and read_geometry == geometry


def _quiet() -> None:
    logging.disable(logging.CRITICAL)  # of damaged entries
    torch.set_num_threads(1)  # a fork has none of its parent's threads


def _volumes(path: Path, cache: Path, times: int) -> float:
    sums = {_loader(cache).volume(path)[0].patches.double().sum().item() for _ in range(times)}
    (found,) = sums
    return found


def test_processes_that_write_read_and_lose_an_entry_at_once(tmp_path: Path) -> None:
    path = _ct(tmp_path / "a.mha")
    expected = _volumes(path, tmp_path / "alone", 1)
    with get_context("fork").Pool(4, _quiet) as pool:
        found = [pool.apply_async(_volumes, (path, tmp_path / "cache", 25)) for _ in range(4)]
        for number in range(20):
            for entry in (tmp_path / "cache").rglob("*.safetensors"):
                if number % 2:
                    entry.unlink(missing_ok=True)
                else:
                    entry.write_bytes(b"")
        assert {result.get(60) for result in found} == {expected}
    assert not list((tmp_path / "cache").rglob("*.part"))

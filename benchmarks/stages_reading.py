"""Files to volumes, beside the same reader with zlib, sorting, a step at a time and one thread, bit for bit."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import nibabel as nib
import numpy as np
from isal import igzip

from benchmarks.measure import Aim, Row, best_seconds, peak_gib
from benchmarks.stages_data import hounsfield_volume, write_dicom_series
from datasets.volume import dicom_series, loading, nifti_files, normalisation
from datasets.volume.loading import load_volume
from datasets.volume.readers import RawVolume, read_raw


def _by_nibabel(image: nib.Nifti1Image, _: bool) -> np.ndarray:
    return image.get_fdata(dtype=np.float32, caching="unchanged")


def _in_float32(path: Path, array_axes: str | None, _: bool) -> RawVolume:
    return read_raw(path, array_axes)


def _in_one_go(array: np.ndarray, _: None) -> np.ndarray:
    return np.ascontiguousarray(array)


@contextmanager
def plain_reader() -> Iterator[None]:
    """Without the faster parts, while the context lasts."""
    with (
        patch.object(nifti_files, "igzip", gzip),
        patch.object(nifti_files, "_voxels", _by_nibabel),
        patch.object(loading, "read_raw", _in_float32),
        patch.object(loading, "known_change", lambda *_: None),
        patch.object(loading, "laid_out", _in_one_go),
        patch.object(normalisation, "percentiles", np.percentile),
        patch.object(dicom_series, "_READERS", 1),
    ):
        yield


def unpacked(path: Path) -> None:
    """What reading a packed file cannot do without: the bytes, and the checksum at their end."""
    with igzip.open(path) as file:
        while file.read(2**20):
            pass


def _volume(path: Path) -> np.ndarray:
    return load_volume(path)[0]


def reading(quick: bool) -> tuple[list[Row], list[Aim]]:
    """A CT of usual size as NIfTI, packed and not, and as DICOM, to what the encoder is given."""
    shape = (512, 512, 64) if quick else (512, 512, 200)
    rows, aims = [], []
    with TemporaryDirectory() as temporary:
        folder, volume = Path(temporary), hounsfield_volume(shape)
        image = nib.Nifti1Image(volume, np.diag([-0.8, -0.8, 1.5, 1.0]))  # stored as LPS, as most are
        nib.save(image, folder / "ct.nii.gz")
        nib.save(image, folder / "ct.nii")
        write_dicom_series(folder / "dicom", volume)
        for name, place, target in (
            ("packed NIfTI", folder / "ct.nii.gz", 2.5),
            ("NIfTI", folder / "ct.nii", 1.0),
            ("DICOM series", folder / "dicom", 1.0),
        ):
            load = partial(_volume, place)
            ours, array = best_seconds(load, 2), load()
            peak = peak_gib()
            with plain_reader():
                plain, expected = best_seconds(load, 2), load()
            assert np.array_equal(array, expected), f"{name} is read otherwise"
            note = f"{plain:.2f} s by zlib, sorting and one thread; {'×'.join(map(str, shape))}"
            if name == "packed NIfTI":
                note = f"{best_seconds(partial(unpacked, place), 2) / ours:.0%} of it unpacking; {note}"
            rows.append(Row(f"{name} to a normalised volume", ours, peak_gib=peak, voxels=volume.size, note=note))
            aims.append(Aim(f"{name} to a normalised volume, faster than plainly", plain / ours, target, at_least=True))
    return rows, aims

"""Every kind of file that is written appears whole or not at all, and one that was there before stays."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from datasets.errors import WriteError
from datasets.export.dicom_segmentation import save_dicom_segmentation
from datasets.export.findings import Findings, save_findings
from datasets.export.slicer_segmentation import save_slicer_segmentation
from datasets.phantom.case import CaseOptions
from datasets.phantom.dataset import DatasetOptions
from datasets.phantom.dataset import write_case as write_phantom
from datasets.phantom.people import dataset as people
from datasets.volume import overlay
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_volume, save_mask
from datasets.volume.nifti_files import save_nifti
from datasets.whole_files import save_picture, write_whole_bytes, write_whole_text
from models.answering.familiarity import Familiarity
from tests.ct_files import ras_affine, write_dicom
from tests.full_disk import largest_file

LARGEST = 100  # bytes that a file may have, as on a full disk
_NOISE = np.random.default_rng(0)
VOLUME = _NOISE.normal(0, 300, (30, 28, 12))


def _figure() -> Figure:
    figure = Figure()
    figure.subplots().plot([1, 2])
    return figure


def _familiarity(folder: Path) -> Path:
    known = np.random.default_rng(1).normal(size=(40, 6))
    return Familiarity.fit(known, known + 0.1, 0.99, (4, 2)).save(folder)


def _phantom(folder: Path) -> Path:
    for name in ("volumes", "masks"):
        (folder / name).mkdir(exist_ok=True)
    coarse = CaseOptions(in_plane=(6.0, 6.0), between=(9.0, 9.0))
    truth = write_phantom(0, DatasetOptions(folder, count=1, case=coarse))["truth"]
    return folder / truth["image_path"]


def _person(folder: Path) -> Path:
    for name in ("volumes", "masks"):
        (folder / name).mkdir(exist_ok=True)
    truth = people.write_case(0, people.PeopleOptions(folder, count=1, max_voxels=100_000))["truth"]
    return folder / truth["image_path"]


MASK = (VOLUME > 0).astype(np.uint8)
GEOMETRY = VolumeGeometry.of_source("ct.nii", VOLUME.shape, ras_affine())
FOUND = Findings("What do you see?", "An effusion.", {"pleural effusion": 0.75})


def _series(folder: Path) -> VolumeGeometry:
    """Of a DICOM series beside the folder."""
    place = folder.parent / "series"
    if not place.is_dir():
        ct = np.random.default_rng(1).integers(-512, 700, (14, 11, 9)).astype(np.int16) * 2
        with largest_file(resource.RLIM_INFINITY):
            write_dicom(place, ct)
    return read_volume(place)[1]


def _dicom_segmentation(folder: Path) -> Path:
    geometry = _series(folder)
    save_dicom_segmentation({"spleen": np.ones(geometry.shape, np.uint8)}, geometry, folder / "a.dcm")
    return folder / "a.dcm"


WRITERS: dict[str, Callable[[Path], Path]] = {
    "text": lambda d: write_whole_text(d / "new" / "a.txt", "word\n" * 100),
    "bytes": lambda d: write_whole_bytes(d / "a", bytes(1000)),
    "picture": lambda d: save_picture(Image.fromarray(VOLUME[:, :, 0].astype(np.uint8)), d / "a.png"),
    "figure": lambda d: save_picture(_figure(), d / "a.png", dpi=40),
    "overlay": lambda d: overlay.save_overlay(VOLUME, {"ball": VOLUME > 500}, (1, 1, 1), d / "a.png"),
    "viewer's copy": lambda d: save_nifti(nib.Nifti1Image(VOLUME, np.eye(4)), d / "a.nii"),
    "mask": lambda d: save_mask(MASK, GEOMETRY, d / "mask.nii.gz"),
    "DICOM segmentation": _dicom_segmentation,
    "segmentation of 3D Slicer": lambda d: save_slicer_segmentation({"spleen": MASK}, GEOMETRY, d / "a.seg.nrrd"),
    "findings": lambda d: save_findings(FOUND, GEOMETRY, d / "a.json"),
    "structured report": lambda d: save_findings(FOUND, _series(d), d / "a.dcm"),
    "familiarity": _familiarity,
    "phantom": _phantom,
    "person": _person,
}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_nothing_half(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlay, "overlay_figure", lambda *_: _figure())  # which takes seconds
    folder = tmp_path / "out"
    folder.mkdir()
    with largest_file(LARGEST), pytest.raises(WriteError) as caught:
        WRITERS[kind](folder)
    assert str(folder) in str(caught.value) and "cannot be written (File too large)" in str(caught.value)
    assert _files(folder) == {}
    path = WRITERS[kind](folder)
    whole = _files(folder)
    assert len(whole[str(path.relative_to(folder))]) > LARGEST
    path.write_bytes(b"of before")
    with largest_file(LARGEST), pytest.raises(WriteError):
        WRITERS[kind](folder)
    assert _files(folder) == {**whole, str(path.relative_to(folder)): b"of before"}


def test_pictures_are_what_they_were(tmp_path: Path) -> None:
    pixels = VOLUME[:, :, 0].astype(np.uint8)
    path = save_picture(Image.fromarray(pixels), tmp_path / "new" / "a.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and np.array_equal(np.asarray(image), pixels)
    with Image.open(save_picture(_figure(), tmp_path / "b.png", dpi=40)) as image:
        assert image.size == (256, 192)  # matplotlib's 6.4 by 4.8 inches

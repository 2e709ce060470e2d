"""Files that can be read and are no CT, or not as they say: refused in one line, or warned about, by docs/data.md."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from datasets.volume.geometry import VolumeError
from datasets.volume.loading import read_volume
from tests.ct_files import write_dicom, write_nifti

VOXELS = np.arange(6 * 5 * 8, dtype=np.int16).reshape(6, 5, 8) * 2


def _series(folder: Path, edit: Callable[[pydicom.Dataset], None], which: int | None = None) -> Path:
    """A series of which one slice, or every slice, is edited."""
    for number, path in enumerate(sorted(write_dicom(folder, VOXELS).iterdir())):
        if which in (None, number):
            data = pydicom.dcmread(path)
            edit(data)
            data.save_as(path)
    return folder


def _setting(**values: object) -> Callable[[pydicom.Dataset], None]:
    return lambda data: [setattr(data, name, value) for name, value in values.items()] and None


def _nifti(path: Path, spacing: float = 1.0, first: float = 0.0) -> Path:
    array = VOXELS.astype(np.float32)
    array[0, 0, 0] = first
    return write_nifti(path, array, np.diag([spacing, spacing, spacing, 1.0]))


def _pixdim(path: Path, size: float) -> Path:
    """Without sform and qform, so that pixdim places the voxels."""
    image = nib.Nifti1Image(VOXELS, None)
    image.header["qform_code"] = image.header["sform_code"] = 0
    content = bytearray(image.to_bytes())
    content[80:84] = struct.pack("<f", size)
    path.write_bytes(content)
    return path


def _meta(path: Path, **fields: str) -> Path:
    values = {
        "ObjectType": "Image", "NDims": "3", "DimSize": "6 5 8", "ElementType": "MET_SHORT", "ElementSpacing": "1 1 1",
        "ElementByteOrderMSB": "False", "ElementDataFile": "LOCAL",
    } | fields  # fmt: skip
    last = values.pop("ElementDataFile")
    header = "".join(f"{name} = {value}\n" for name, value in {**values, "ElementDataFile": last}.items())
    path.write_bytes(header.encode() + (VOXELS.T.tobytes() if last == "LOCAL" else b""))
    return path


def _detached(folder: Path, ending: str, named: str) -> Path:
    """A header in a folder of its own, whose voxels are outside it."""
    inner = folder / "inner"
    inner.mkdir()
    (folder / "outside.raw").write_bytes(VOXELS.T.tobytes())
    if ending == ".mhd":
        return _meta(inner / "a.mhd", ElementDataFile=named)
    path = inner / f"a{ending}"
    path.write_text(
        "NRRD0004\ntype: short\ndimension: 3\nsizes: 6 5 8\nspacings: 1 1 1\nendian: little\nencoding: raw\n"
        f"data file: {named}\n"
    )
    return path


def _nrrd(path: Path, spacings: str) -> Path:
    header = f"type: short\ndimension: 3\nsizes: 6 5 8\nspacings: {spacings}\nendian: little\nencoding: raw\n\n"
    path.write_bytes(b"NRRD0004\n" + header.encode() + VOXELS.T.tobytes())
    return path


def _empty_last_slice(folder: Path) -> Path:
    """A slice without an ending to its name, as scanners write them, whose loss leaves no gap."""
    paths = sorted(write_dicom(folder, VOXELS).iterdir(), key=lambda p: pydicom.dcmread(p).ImagePositionPatient[2])
    for path in paths:
        path.rename(path.with_suffix(""))
    paths[-1].with_suffix("").write_bytes(b"")
    return folder


REFUSED = {
    "two patients": (lambda d: _series(d / "s", _setting(PatientID="B"), 3), "two patients"),
    "two studies": (lambda d: _series(d / "s", _setting(StudyInstanceUID="1.2.3"), 3), "two patients or studies"),
    "MR": (lambda d: _series(d / "s", _setting(Modality="MR")), "modality is MR"),
    "PET": (lambda d: _series(d / "s", _setting(Modality="PT")), "modality is PT"),
    "MR as MetaImage": (lambda d: _meta(d / "a.mha", Modality="MET_MOD_MR"), "modality MR"),
    "slope 0": (lambda d: _series(d / "s", _setting(RescaleSlope=0), 2), "RescaleSlope is 0"),
    "negative slope": (lambda d: _series(d / "s", _setting(RescaleSlope=-1)), "RescaleSlope is -1"),
    "negative PixelSpacing": (lambda d: _series(d / "s", _setting(PixelSpacing=[-0.9, 0.8])), "PixelSpacing is"),
    "PixelSpacing 0": (lambda d: _series(d / "s", _setting(PixelSpacing=[0, 0])), "PixelSpacing is"),
    "PixelSpacing of km": (lambda d: _series(d / "s", _setting(PixelSpacing=[1e6, 1e6])), "mm, a CT's are"),
    "empty slice": (lambda d: _empty_last_slice(d / "s"), "is empty"),
    "NIfTI in metres": (lambda d: _nifti(d / "a.nii", 0.0008), "0.01 to 100 mm"),
    "NIfTI in micrometres": (lambda d: _nifti(d / "a.nii", 800), "0.01 to 100 mm"),
    "pixdim 0": (lambda d: _pixdim(d / "a.nii", 0), "voxels of 0 x 1 x 1 mm"),
    "negative pixdim": (lambda d: _pixdim(d / "a.nii", -2), "voxels of -2 x 1 x 1 mm"),
    "MetaImage spacing 0": (lambda d: _meta(d / "a.mha", ElementSpacing="1 0 1"), "voxels of 1 x 0 x 1 mm"),
    "negative MetaImage": (lambda d: _meta(d / "a.mha", ElementSpacing="1 1 -3"), "voxels of 1 x 1 x -3 mm"),
    "negative NRRD": (lambda d: _nrrd(d / "a.nrrd", "-1 1 1"), "voxels of -1 x 1 x 1 mm"),
    "1e30": (lambda d: _nifti(d / "a.nii", first=1e30), "replace those that are none"),
    "-1e30": (lambda d: _nifti(d / "a.nii", first=-1e30), "replace those that are none"),
    "mhd to a folder above": (lambda d: _detached(d, ".mhd", "../outside.raw"), "outside its folder"),
    "mhd to an absolute path": (lambda d: _detached(d, ".mhd", str(d / "outside.raw")), "outside its folder"),
    "mhd by a list": (lambda d: _detached(d, ".mhd", "LIST\n../outside.raw"), "outside its folder"),
    "nhdr to a folder above": (lambda d: _detached(d, ".nhdr", "../outside.raw"), "outside its folder"),
    "nhdr by a list": (lambda d: _detached(d, ".nhdr", "LIST\n../outside.raw"), "outside its folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = REFUSED[case]
    path = make(tmp_path)
    with pytest.raises(VolumeError, match=message) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""  # the libraries say nothing of their own


@pytest.mark.parametrize(
    ("spacing", "first", "message"), [(0.05, 0, "unusual for a CT"), (30, 0, "unusual"), (1, -1e5, "Hounsfield units?")]
)
def test_warned_about(
    spacing: float, first: float, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _nifti(tmp_path / "a.nii", spacing, first)
    with caplog.at_level(logging.WARNING):
        array, geometry = read_volume(path)
    assert array.min() == first
    assert geometry.spacing == pytest.approx((spacing,) * 3)
    assert [message in line and str(path) in line for line in caplog.messages] == [True]


def test_a_usual_ct_and_voxels_beside_their_header_pass_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "voxels").mkdir()
    (tmp_path / "voxels" / "a.raw").write_bytes(VOXELS.T.tobytes())
    header = _meta(tmp_path / "a.mhd", ElementDataFile="voxels/a.raw", Modality="MET_MOD_CT")
    with caplog.at_level(logging.WARNING):
        for path in (header, _nifti(tmp_path / "a.nii", 0.8, -1024), write_dicom(tmp_path / "s", VOXELS)):
            read_volume(path)
    assert caplog.messages == []
    stored = np.abs(read_volume(header, orientation="as_stored")[0][0])
    assert np.array_equal(stored, VOXELS)

"""What users may send: every kind of CT; and what is refused in one line, with nothing left on the disk."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx2 as httpx
import nibabel as nib
import numpy as np
import pytest

from datasets.errors import InputError
from serving.safe_names import safe_relative_path
from serving.session_folder import temporary_root
from tests.ct_files import write_dicom
from tests.page import IMAGE, SMALL, client, opened, page, send, tiny_answering_model

CT = IMAGE.read_bytes()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def address(root, tmp_path_factory):
    with page(tiny_answering_model(tmp_path_factory.mktemp("model")), root, limits=SMALL) as found:
        yield found


@pytest.fixture
def user(address):
    with client(address) as found:
        yield found
        found.delete("/api/session")


def kept(root: Path) -> set[Path]:
    """All files of users."""
    return {path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock")}


def test_the_viewer_gets_the_voxels_of_the_file(user, root):
    described = send(user, ("Ärzte <b>.nii.gz", CT)).json()["volumes"][0]
    source = nib.load(IMAGE)
    assert described["name"] == "Ärzte <b>.nii.gz" and described["shape"] == list(source.shape)
    assert described["in_hu"] and described["window"][0] < 0 < described["window"][1]
    content = user.get(f"/api/volumes/{described['id']}/image.nii").content
    shown = nib.Nifti1Image.from_bytes(content)
    assert np.array_equal(shown.get_fdata(), source.get_fdata()) and np.allclose(shown.affine, source.affine, atol=1e-4)
    user.delete(f"/api/volumes/{described['id']}")
    assert not [path for path in kept(root) if path.stat().st_size > 1000]


def test_a_dicom_folder_and_other_files_beside_it(user, tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 400, (40, 44, 12)).astype(np.int16)
    write_dicom(tmp_path, voxels, slope=1)
    slices = [(f"study é/{path.name}", path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    answer = send(user, *slices, ("study é/.DS_Store", b"x"), ("b/broken.nii.gz", b"\x1f\x8b no more")).json()
    assert [volume["name"] for volume in answer["volumes"]] == ["study é"]
    assert answer["volumes"][0]["shape"] == [40, 44, 12]
    assert len(answer["refused"]) == 1 and answer["refused"][0].startswith("b/broken.nii.gz: cannot be read")
    assert send(user, *[(name.split("/")[1], content) for name, content in slices]).status_code == 200


def test_a_file_without_an_extension_is_told_by_its_content(user):
    assert send(user, ("scan", gzip.decompress(CT))).status_code == 200


OUTSIDE = ["../ct.nii.gz", "a/../../ct.nii.gz", "/etc/ct.nii.gz", "..\\ct.nii.gz", ".."]


@pytest.mark.parametrize("name", [*OUTSIDE, "a/" * 40 + "ct.nii.gz"])
def test_names_that_lead_elsewhere_are_refused(user, root, name):
    before = kept(root)
    answer = send(user, (name, CT))
    assert answer.status_code == 422 and "\n" not in answer.json()["detail"]
    assert kept(root) == before and not list(root.parent.glob("ct*"))


@pytest.mark.parametrize("name", ["a b/ü.dcm", "x" * 500 + ".nii.gz", "CON/a:b?.nii", "a//b/./c.nii", "\n.nii"])
def test_names_on_the_disk_are_plain(name):
    path = safe_relative_path(name)
    assert path.name.isascii() and len(path.name) <= 120 and path.suffix == Path(name).suffix and ".." not in path.parts
    for outside in (f"../{name}", f"C:\\{name}", f"/{name}"):
        with pytest.raises(InputError, match="out of its folder"):
            safe_relative_path(outside)


def test_archives_are_refused_unread(user, root):
    packed, tarred = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../escaped.nii.gz", CT)
    with tarfile.open(fileobj=tarred, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    for name, content in (("a.zip", packed), ("a.tar.gz", tarred), ("a.tgz", tarred), ("ct.gz", packed)):
        answer = send(user, (name, content.getvalue()))
        assert answer.status_code == 422 and "unpack it" in answer.json()["detail"]
    hidden = send(user, ("ct.nii.gz", packed.getvalue()))
    assert hidden.status_code == 422 and hidden.json()["detail"].startswith("ct.nii.gz: ")
    assert not list(root.parent.rglob("escaped*"))


def test_a_header_reads_no_file_of_the_server(user, tmp_path):
    secret = tmp_path / "secret.raw"
    secret.write_bytes(bytes(range(256)) * 32)
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 16 16 32\nElementType = MET_UCHAR\nElementDataFile = {}\n"
    nrrd = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 16 16 32\nencoding: raw\n{}\n\n"
    places = [str(secret), f"../{secret.name}", "LIST", "a%03d.raw 1 2 1"]
    headers = [("ct.mhd", meta.format(place)) for place in places] + [("ct.mha", meta.format(secret))]
    headers += [("ct.nhdr", nrrd.format(f"data file: {secret}")), ("ct.nrrd", nrrd.format(f"DATAFILE: {secret}"))]
    headers += [("ct", meta.format(secret)), ("ct.mhd", "Comment = x\n" + meta.format(secret))]
    for name, header in headers:
        answer = send(user, (name, header.encode()))
        assert answer.status_code == 422 and "in another file" in answer.json()["detail"], (name, header)
    both = send(user, ("ct.mhd", meta.format("ct.raw").encode()), ("ct.raw", secret.read_bytes()))
    assert both.status_code == 200 and both.json()["volumes"][0]["shape"] == [16, 16, 32]


def test_garbage_is_refused_in_one_line_and_removed(user, root):
    before = kept(root)
    garbage = os.urandom(2 * 10**6)
    for name in ("ct.nii.gz", "ct.nii", "ct.mha", "ct.nrrd", "ct.dcm", "ct.npz", "ct.npy", "ct", "ct.exe"):
        answer = send(user, (name, garbage))
        assert answer.status_code == 422, name
        detail = answer.json()["detail"]
        assert detail.startswith(name) and "\n" not in detail and len(detail) < 400 and str(root) not in detail
    assert kept(root) == before


def test_what_is_no_upload(user):
    for kind, body in (("text/plain", b"x"), ("multipart/form-data", b"x"), ("multipart/form-data; boundary=b", b"x")):
        assert user.post("/api/volumes", content=body, headers={"content-type": kind}).status_code == 422
    assert user.post("/api/volumes", files={"a": (None, "no file")}).status_code == 422
    endless = b"--b\r\ncontent-disposition: " + b"x" * 10**6
    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert user.post("/api/volumes", content=endless, headers=kind).status_code == 422
    assert user.post("/api/served", content=b"{" * 2**21).status_code == 413
    assert user.post("/api/served", content=iter([b"{}"])).status_code == 413  # tells no length
    twice = send(user, ("a/ct.nii", b"1"), ("a/CT.nii".replace("CT", "ct"), b"2"))
    assert twice.status_code == 422 and "has this name" in twice.json()["detail"]


def test_too_large_and_too_many(user, root):
    before = kept(root)
    large = send(user, ("ct.nii", bytes(4_500_000)))
    assert large.status_code == 413 and "GB" in large.json()["detail"]

    def without_length():
        yield b'--b\r\ncontent-disposition: form-data; name="a"; filename="ct.nii"\r\n\r\n'
        for _ in range(40):
            yield bytes(10**5)

    kind = {"content-type": "multipart/form-data; boundary=b"}
    assert user.post("/api/volumes", content=without_length(), headers=kind).status_code == 413
    many = send(user, *[(f"{number}.dcm", b"x") for number in range(SMALL.upload_files + 1)])
    assert many.status_code == 413 and "more than 50 files" in many.json()["detail"]
    assert kept(root) == before


def test_an_upload_that_breaks_off_leaves_nothing(user, root):
    before = kept(root)

    def broken():
        yield b'--b\r\ncontent-disposition: form-data; name="a"; filename="ct.nii"\r\n\r\n' + bytes(10**5)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        user.post("/api/volumes", content=broken(), headers={"content-type": "multipart/form-data; boundary=b"})
    for _ in range(100):
        if kept(root) == before:
            return
        threading.Event().wait(0.05)
    raise AssertionError(kept(root) - before)


def test_ten_users_upload_at_once(address):
    def whole(number: int) -> list[int]:
        with client(address) as user:
            volume = opened(user, f"{number}.nii.gz")
            shape = user.get(f"/api/volumes/{volume}/image.nii").content[42:48]
            user.delete("/api/session")
            return list(np.frombuffer(shape, np.int16))

    with ThreadPoolExecutor(10) as pool:
        assert set(map(tuple, pool.map(whole, range(10)))) == {nib.load(IMAGE).shape}


def test_the_files_go_with_the_session(address, root):
    with client(address) as user:
        before = kept(root)
        volume = opened(user)
        assert len(kept(root)) > len(before)
        user.delete("/api/session")
        assert kept(root) == before
        assert user.get(f"/api/volumes/{volume}/image.nii").status_code == 401


def test_an_idle_session_ends(tmp_path):
    model = tiny_answering_model(tmp_path / "model")
    with page(model, tmp_path, limits=replace(SMALL, session_seconds=2, sessions=1)) as address:
        with client(address) as user:
            opened(user)
            full = httpx.post(f"{address}/api/session")
            assert full.status_code == 422 and "no more are taken" in full.json()["detail"]
            threading.Event().wait(5)  # two looks at who is idle, and some
            assert user.get("/api/session.zip").status_code == 401
        assert not kept(tmp_path) - set((tmp_path / "model").rglob("*"))
    assert not list(tmp_path.glob("ctinstruct_page_*"))


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / "ctinstruct_page_killed"
    left.mkdir()
    (left / "ct.nii").write_bytes(b"x")
    (tmp_path / "ctinstruct_page_killed.lock").touch()
    with temporary_root(tmp_path) as one, temporary_root(tmp_path) as other:
        assert not left.exists() and one.is_dir() and other.is_dir() and one != other
        assert one.stat().st_mode & 0o77 == 0
    assert not list(tmp_path.iterdir())

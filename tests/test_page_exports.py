"""What is taken home from the page: reports without anything that runs, masks under plain names, whole sessions."""

from __future__ import annotations

import io
import json
import zipfile
from html.parser import HTMLParser
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest

from datasets.volume.geometry import AS_STORED
from datasets.volume.loading import read_volume
from serving.session_report import readable
from tests.ct_files import write_dicom
from tests.page import IMAGE, ask, client, decoding, masks_of_truth, page, send, tiny_answering_model
from tests.test_asking import saying
from tests.tiny_model import ANSWERS

HOSTILE = '<script>alert(1)</script> $\\frac{$ & "quoted"'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def told(model, tmp_path_factory):
    """A user after a question, a diagnosis and masks with odd names, and the volume's id."""
    with page(model, tmp_path_factory.mktemp("root")) as address, client(address) as user:
        volume = send(user, ("<b>scan</b>.nii.gz", IMAGE.read_bytes())).json()["volumes"][0]["id"]
        assert user.get(f"/api/volumes/{volume}/masks").status_code == 422
        with saying(model, ANSWERS["open_vqa"]):
            ask(user, volume, HOSTILE)
        with saying(model, ANSWERS["diagnosis"]):
            ask(user, volume, "", kind="diagnosis")
        with masks_of_truth(model):
            ask(user, volume, "", kind="organs", labels=["../heart", HOSTILE, ".. heart"])
        yield user, volume


class Tags(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))


def test_the_report_shows_all_and_runs_nothing(told):
    user, volume = told
    answer = user.get(f"/api/volumes/{volume}/report.html")
    assert (
        answer.headers["content-disposition"].startswith("attachment")
        and "sandbox" in answer.headers["content-security-policy"]
    )
    tags = Tags(answer.text).found
    assert not {"script", "b", "iframe", "link"} & {tag for tag, _ in tags}
    assert all(attributes["src"].startswith("data:image/png") for tag, attributes in tags if tag == "img")
    shares = [float(attributes["value"]) for tag, attributes in tags if tag == "meter"]
    assert len(shares) == 18 and shares == sorted(shares, reverse=True)
    assert "&lt;script&gt;alert(1)" in answer.text and "On the left side." in answer.text


def test_masks_are_packed_under_plain_names(told):
    user, volume = told
    answer = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "nifti"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        names = archive.namelist()
        assert len(names) == len(set(map(str.lower, names))) == 3
        for name in names:
            assert name == name.strip(".") and "/" not in name and ".." not in name and name.endswith(".nii.gz")
    unknown = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "../nifti"})
    assert unknown.status_code == 422 and "choose nifti" in unknown.json()["detail"]


def test_masks_are_one_segmentation_for_3d_slicer_or_one_map_of_labels(told, tmp_path):
    user, volume = told
    answer = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "seg.nrrd"})
    (tmp_path / "masks.seg.nrrd").write_bytes(answer.content)
    _, header = nrrd.read(str(tmp_path / "masks.seg.nrrd"))
    assert sum(key.endswith("_Name") for key in header) == 3
    answer = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "labels"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(Path(name).suffix for name in archive.namelist()) == [".gz", ".json"]
    refused = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "dicom-seg"})
    assert refused.status_code == 422 and "not written as" in refused.json()["detail"]


def test_a_session_is_packed_with_its_questions_and_masks(told, tmp_path):
    user, _ = told
    answer = user.get("/api/session.zip")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        described = json.loads(archive.read("session.json"))["volumes"][0]
        archive.extractall(tmp_path)
    assert [asked["kind"] for asked in described["asked"]] == ["question", "diagnosis", "organs"]
    assert described["name"] == "<b>scan</b>.nii.gz" and len(described["files"]) == 3
    for mask in described["masks"]:
        written = nib.load(tmp_path / described["files"][mask["id"]])
        assert written.shape == nib.load(IMAGE).shape and np.allclose(written.affine, nib.load(IMAGE).affine, atol=1e-4)
        voxel = np.prod(written.header.get_zooms()) / 1000
        assert np.asarray(written.dataobj).sum() * voxel == pytest.approx(mask["millilitres"], abs=0.02)


def test_a_refused_export_names_no_path_of_the_server(model, tmp_path):
    voxels = np.random.default_rng(0).integers(-1000, 400, (40, 44, 12)).astype(np.int16)
    study = write_dicom(tmp_path / "study", voxels, slope=1)
    (tmp_path / "root").mkdir()
    with page(model, tmp_path / "root") as address, client(address) as user:
        slices = [(f"study/{path.name}", path.read_bytes()) for path in sorted(study.iterdir())]
        volume = send(user, *slices).json()["volumes"][0]["id"]
        with decoding(model, study, [np.zeros(read_volume(study, AS_STORED)[1].shape, np.uint8)]):
            ask(user, volume, "", kind="organs", labels=["heart"])
        refused = user.get(f"/api/volumes/{volume}/masks", params={"file_format": "dicom-seg"})
        assert refused.status_code == 422
        assert refused.json()["detail"].startswith("masks.dcm: every mask is empty")
        assert user.get(f"/api/volumes/{volume}/findings").json()["source"] == "study"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("The liver is <SEG> and the spleen <SEG>.", "The liver is and the spleen."),
        ("Emphysema <disease_confidence> Nodule <disease_confidence>", "Emphysema Nodule"),
        ("<multiple_choice> B", "B"),
    ],
)
def test_answers_are_told_without_special_tokens(answer, words):
    assert readable(answer) == words

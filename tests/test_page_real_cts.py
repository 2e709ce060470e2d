"""The page in Chromium with real CTs: dropped as a user drops them, masks on their grids in every format, refusals."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import highdicom as hd
import nibabel as nib
import nrrd
import numpy as np
import pytest

from datasets.volume.geometry import AS_STORED
from datasets.volume.loading import read_volume
from tests.chromium import chromium, drop
from tests.page import decoding, page, tiny_answering_model
from tests.shared_data import shared_path
from tests.test_asking import saying
from tests.tiny_model import ANSWERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
PATIENCE = 600_000  # ms: a busy machine draws slowly
BONE = 250  # HU


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tab(model, tmp_path_factory) -> Iterator:
    """A tab with the page, which must complain of nothing."""
    with page(model, tmp_path_factory.mktemp("root")) as address, chromium() as browser:
        found = browser.new_page(viewport={"width": 1100, "height": 760}, accept_downloads=True)
        found.set_default_timeout(PATIENCE)
        complaints: list[str] = []
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.goto(address)
        found.wait_for_selector("#views button", state="attached")
        yield found
        assert not complaints


def dropped(tab, *paths: Path, refused: str = "") -> dict:
    """Drop files or folders on the page; what the server said.  refused: a name that a line of the page tells of."""
    with tab.expect_response("**/api/volumes") as answer:
        drop(tab, "#stage", *paths)
    if refused:
        tab.locator("#messages p", has_text=refused).wait_for()
    tab.wait_for_selector("#loading", state="hidden")
    return answer.value.json()


def answered(tab, question: str) -> None:
    tab.fill("#question", question)
    with tab.expect_response("**/questions"):
        tab.press("#question", "Enter")
    tab.wait_for_selector("#stop", state="hidden")
    tab.wait_for_selector("#mask-list li")


def exported(tab) -> dict[str, bytes]:
    """Every file of the Export menu, by its title."""
    taken = {}
    for link in tab.locator("#exports a").all():
        tab.locator("#export-menu").evaluate("menu => { menu.open = true; }")
        with tab.expect_download() as download:
            link.click()
        taken[link.text_content()] = Path(download.value.path()).read_bytes()
    return taken


def bone_of(path: Path) -> np.ndarray:
    return (read_volume(path, AS_STORED)[0][0] > BONE).astype(np.uint8)


def test_a_dropped_dicom_folder_and_all_that_is_taken_home(model, tab, tmp_path):
    folder = shared_path("data/real_ct/example_ct_dicom")
    bone = bone_of(folder)
    told = dropped(tab, folder)
    assert [volume["name"] for volume in told["volumes"]] == ["example_ct_dicom"] and not told["refused"]
    assert told["volumes"][0]["shape"] == list(bone.shape)
    with saying(model, "The bone is <SEG>."), decoding(model, folder, [bone]):
        answered(tab, "Where is the bone?")
    with saying(model, ANSWERS["diagnosis"]):
        tab.click("[data-kind=diagnosis]")
        tab.wait_for_selector(".bars meter")
        tab.wait_for_selector("#stop", state="hidden")
    taken = exported(tab)
    assert len(taken) == 8, list(taken)
    (tmp_path / "m.nii.gz").write_bytes(taken["Masks (NIfTI)"])
    mask = nib.load(tmp_path / "m.nii.gz").get_fdata()
    # the tiny model's grid is eight times as coarse as the slices: the bone comes back in place, not to the voxel
    assert 2 * (mask * bone).sum() / (mask.sum() + bone.sum()) > 0.55
    (tmp_path / "seg.dcm").write_bytes(taken["Masks (DICOM segmentation)"])
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    assert segmentation.number_of_segments == 1
    frames = segmentation.get_volume(combine_segments=True, allow_missing_positions=True).array
    assert frames.sum() == mask.sum()
    (tmp_path / "m.seg.nrrd").write_bytes(taken["Masks (3D Slicer segmentation)"])
    voxels, header = nrrd.read(str(tmp_path / "m.seg.nrrd"))
    assert np.array_equal(voxels, mask) and header["Segment0_Name"]
    with zipfile.ZipFile(io.BytesIO(taken["Findings (DICOM structured report)"])) as archive:
        archive.extractall(tmp_path)
    report = hd.sr.srread(tmp_path / "findings.dcm")
    assert len(report.content.get_image_measurement_groups()) == 18
    assert len(json.loads(taken["Findings with codes (JSON)"])["structures"]) == 1


def begin_anew(tab) -> None:
    """A new session, as of another user."""
    tab.context.clear_cookies()
    tab.reload()
    tab.wait_for_selector("#drop", state="visible")


def choose(tab, name: str) -> None:
    tab.select_option("#volumes", label=name)
    tab.wait_for_selector("#loading", state="hidden")
    tab.wait_for_timeout(500)


def told_where_it_was_clicked(tab) -> tuple[float, list[float]]:
    """The value under the crosshair and its place (RAS, mm), by the page's own words, after a click off the middle."""
    box = tab.locator("#canvas").bounding_box()
    tab.locator("#canvas").click(position={"x": 0.47 * box["width"], "y": 0.55 * box["height"]})
    tab.wait_for_timeout(500)
    words = tab.locator("#place").inner_text()
    value = re.match(r"(-?[\d.]+) HU", words)
    assert value, words
    return float(value[1]), [float(number) for number in re.findall(r"[RAS] (-?[\d.]+)", words)[-3:]]


def test_several_cts_dropped_at_once_are_each_a_volume_to_choose(model, tab):
    names = ["example_ct.nii.gz", "example_ct_sm.nii.gz", "example_ct_dicom"]
    paths = {name: shared_path("data/real_ct", name) for name in names}
    patient = shared_path("data/open_kbp/validation/pt_201.nii.gz")
    paths[patient.name] = patient
    begin_anew(tab)
    told = dropped(tab, *paths.values())
    assert not told["refused"] and {volume["name"] for volume in told["volumes"]} == set(paths)
    assert sorted(tab.locator("#volumes option").all_inner_texts()) == sorted(paths)
    tab.click("#views >> text=Axial")
    for name, path in paths.items():
        choose(tab, name)
        value, mm = told_where_it_was_clicked(tab)
        array, geometry = read_volume(path, AS_STORED)
        exact = np.linalg.inv(np.asarray(geometry.source_affine)) @ [*mm, 1]
        # the page rounds to 0.1 mm, so that a place on the border of two voxels may be told of either
        near = [
            np.round(exact[:3] + 0.06 * np.array(by) / geometry.spacing).astype(int)
            for by in product((-1, 1), repeat=3)
        ]
        assert min(abs(float(array[0][tuple(voxel)]) - value) for voxel in near) < 0.51, (name, mm, value)
    choose(tab, names[0])
    with saying(model, "The bone is <SEG>."), decoding(model, paths[names[0]], [bone_of(paths[names[0]])]):
        answered(tab, "Where is the bone?")
    choose(tab, names[1])
    assert tab.locator(".turn, #mask-list li").count() == 0
    choose(tab, names[0])
    tab.wait_for_selector("#mask-list li")
    assert tab.locator(".asked").all_inner_texts() == ["Where is the bone?"]


def test_what_is_odd_about_a_ct_stands_below_its_answer(model, tab, tmp_path):
    real = shared_path("data/real_ct/example_ct_sm.nii.gz")
    image = nib.load(real)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) + 1024, image.affine), tmp_path / "stored.nii.gz")
    nib.save(image.slicer[..., 10:14], tmp_path / "thin.nii.gz")
    begin_anew(tab)
    dropped(tab, tmp_path / "stored.nii.gz", tmp_path / "thin.nii.gz", real)
    said = {
        "stored.nii.gz": "stored.nii.gz: no air: the darkest voxel is",
        "thin.nii.gz": "thin.nii.gz: 4 slices: with fewer than 5",
        real.name: "",
    }
    for name, expected in said.items():
        choose(tab, name)
        with saying(model, "It is <SEG>."):
            answered(tab, "Where is the liver?")
        notes = tab.locator(".answered .state:visible").all_inner_texts()
        assert len(notes) == bool(expected) and all(note.startswith(expected) for note in notes), (name, notes)

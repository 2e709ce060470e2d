"""The page in a real Chromium: load, ask, masks where the truth is, export, reload, phone width; no request elsewhere."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from serving.volume_files import served_volumes
from tests.ct_files import write_dicom
from tests.page import IMAGE, LABELS, masks_of_truth, page, tiny_answering_model, truth
from tests.test_asking import saying
from tests.tiny_model import ANSWERS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is absent; it drives the browser")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]
DRAWING_WITHOUT_A_GPU = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip
HOSTILE = '<img src=x onerror="document.title=1"> <b>bold</b> <SEG>'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    return tiny_answering_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def address(model, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("scans")
    shutil.copy(IMAGE, folder / "phantom.nii.gz")
    voxels = np.random.default_rng(0).integers(-1000, 400, (40, 44, 12)).astype(np.int16)
    (folder / "series").mkdir()
    write_dicom(folder / "series", voxels, slope=1)
    with page(model, tmp_path_factory.mktemp("root"), served=served_volumes(str(folder))) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=DRAWING_WITHOUT_A_GPU)
        yield started
        started.close()


@pytest.fixture
def tab(browser, address):
    """A tab with the page; it must ask nobody else, and complain of nothing."""
    context = browser.new_context(viewport={"width": 1100, "height": 760}, accept_downloads=True)
    found = context.new_page()
    found.set_default_timeout(60_000)
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    ours = (address, "data:", f"blob:{address}")
    found.on("request", lambda asked: None if asked.url.startswith(ours) else complaints.append(asked.url))
    found.goto(address)
    found.wait_for_selector("#views button")
    yield found
    assert not complaints
    context.close()


def open_ct(tab, path: Path = IMAGE) -> None:
    tab.set_input_files("#files", path)
    in_view(tab)


def in_view(tab) -> None:
    tab.wait_for_selector("#toolbar")
    tab.wait_for_selector("#loading", state="hidden")
    tab.wait_for_timeout(500)


def answered(tab, act: Callable[[], None]) -> None:
    """Do what asks, and wait for the end of the answer."""
    with tab.expect_response("**/questions") as asked:
        act()
    asked.value.finished()
    tab.wait_for_selector("#stop", state="hidden")
    tab.wait_for_timeout(800)


def ask(tab, question: str) -> None:
    tab.fill("#question", question)
    answered(tab, lambda: tab.press("#question", "Enter"))


def canvas(tab) -> np.ndarray:
    """The canvas as it is seen, (rows, columns, 3)."""
    return np.asarray(Image.open(io.BytesIO(tab.locator("#canvas").screenshot())).convert("RGB")).astype(int)


def coloured(picture: np.ndarray) -> np.ndarray:
    """Pixels that are not grey: masks."""
    return np.ptp(picture, axis=-1) > 40


def placed(tab) -> str:
    return tab.locator("#place").inner_text()


def test_a_mask_is_drawn_where_the_truth_is(model, tab):
    open_ct(tab)
    tab.click("#views >> text=Axial")
    with saying(model, "The heart is <SEG>."), masks_of_truth(model):
        ask(tab, "Where is the heart?")
    assert tab.locator(".answered p").last.inner_text().startswith("The heart is heart")
    tab.click("#mask-list .name")  # the crosshair goes to the middle of the mask
    tab.wait_for_timeout(500)
    assert "heart" in placed(tab) and "HU" in placed(tab)
    shown = canvas(tab)
    tab.keyboard.press("m")
    tab.wait_for_timeout(500)
    hidden = canvas(tab)
    drawn = np.abs(shown - hidden).max(-1) > 15
    assert drawn.sum() > 500 and coloured(shown)[drawn].mean() > 0.9
    # the same slice of the truth, as radiologists look at it, stretched over the body in the picture
    structure = truth("heart")
    level = int(np.argwhere(structure).mean(0).round()[2])
    expected = np.rot90(structure[:, :, level])[:, ::-1] if _runs_to_the_right() else np.rot90(structure[:, :, level])
    assert box_overlap(drawn, expected, hidden) > 0.75


def _runs_to_the_right() -> bool:
    """Whether the file's first axis grows to the patient's right, which is on the left of the picture."""
    return nib.aff2axcodes(nib.load(IMAGE).affine)[:3] == ("R", "A", "S")


def box_overlap(drawn: np.ndarray, expected: np.ndarray, picture: np.ndarray) -> float:
    """Dice of a mask in a picture and of the truth's slice scaled onto the slice's place there."""
    rows, columns = (np.flatnonzero((picture.max(-1) > 12).any(axis)) for axis in (1, 0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    scaled = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST))
    placed_there = np.zeros(drawn.shape, bool)
    placed_there[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = scaled > 0
    return float(2 * (drawn & placed_there).sum() / (drawn.sum() + placed_there.sum()))


def test_masks_have_a_switch_and_an_opacity_each(model, tab):
    open_ct(tab)
    tab.click("#views >> text=Axial")
    with masks_of_truth(model):
        answered(tab, lambda: tab.click("[data-kind=organs]"))
    assert tab.locator("#mask-list .name").all_inner_texts() == LABELS
    tab.click("#mask-list .name >> text=heart")
    tab.wait_for_timeout(500)
    half = canvas(tab)
    assert coloured(half).sum() > 500
    tab.locator("#mask-list li", has_text="heart").locator("input[type=range]").fill("100")
    tab.wait_for_timeout(500)
    assert np.ptp(canvas(tab), axis=-1).max() > np.ptp(half, axis=-1).max() + 40
    tab.locator("#mask-list li", has_text="heart").locator("input[type=checkbox]").uncheck()
    tab.wait_for_timeout(500)
    assert coloured(canvas(tab)).sum() < coloured(half).sum() / 2
    assert "heart" not in placed(tab)


def test_windows_views_and_keys(tab):
    open_ct(tab)
    tab.click("#views >> text=Axial")
    tab.click("#windows >> text=Bone")
    tab.wait_for_timeout(400)
    bone = canvas(tab)
    tab.click("#windows >> text=Lung")
    tab.wait_for_timeout(400)
    assert canvas(tab).mean() > bone.mean() + 20  # air is grey in a lung window
    assert tab.locator("#windows [aria-pressed=true]").inner_text() == "Lung"
    heights = []
    for key in ("ArrowUp", "ArrowUp", "ArrowDown", "Shift+ArrowUp"):
        tab.keyboard.press(key)
        tab.wait_for_timeout(200)
        heights.append(float(placed(tab).split("S ")[1].split()[0]))
    up, down, far = heights[1] - heights[0], heights[2] - heights[1], heights[3] - heights[2]
    assert up > 0 and down == pytest.approx(-up, abs=0.11) and far > 3 * up
    tab.keyboard.press("5")
    assert tab.locator("#views [aria-pressed=true]").inner_text() == "3D"
    tab.keyboard.press("/")
    tab.keyboard.type("m1")
    assert tab.input_value("#question") == "m1" and tab.locator("#views [aria-pressed=true]").inner_text() == "3D"


def test_confidences_are_bars(model, tab):
    open_ct(tab)
    with saying(model, ANSWERS["diagnosis"]):
        answered(tab, lambda: tab.click("[data-kind=diagnosis]"))
    shares = [float(value) for value in tab.locator(".bars meter").evaluate_all("all => all.map((each) => each.value)")]
    assert len(shares) == 18 and shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] < 1
    assert "<disease_confidence>" not in tab.locator(".answered").inner_text()


def test_markup_in_names_and_answers_is_text(model, tab, tmp_path):
    name = "<img src=x onerror=alert(1)>.nii.gz"
    open_ct(tab, Path(shutil.copy(IMAGE, tmp_path / name)))
    with saying(model, ANSWERS["open_vqa"]):
        ask(tab, HOSTILE)
    assert tab.locator(".asked").inner_text() == HOSTILE and tab.title() == "CTInstruct"
    assert tab.locator(".turn img, .turn b, header img").count() == 0
    assert tab.locator("#volumes option").inner_text() == name


def test_what_is_exported(model, tab):
    open_ct(tab)
    with saying(model, "It is <SEG>."), masks_of_truth(model):
        ask(tab, "Where is the heart?")
    taken = {}
    for words in ("Report", "Masks (NIfTI)", "Session"):
        tab.click("#export-menu summary")
        with tab.expect_download() as download:
            tab.locator("#exports a", has_text=words).first.click()
        taken[words] = Path(download.value.path()).read_bytes()
        tab.click("#export-menu summary")
    assert taken["Masks (NIfTI)"][:2] == b"\x1f\x8b" and b"<script" not in taken["Report"]
    with zipfile.ZipFile(io.BytesIO(taken["Session"])) as archive:
        told = json.loads(archive.read("session.json"))
        assert told["volumes"][0]["asked"][0]["question"] == "Where is the heart?"
        assert sum(name.endswith(".nii.gz") for name in archive.namelist()) == 1


def test_the_page_loaded_again_shows_the_same(model, tab):
    open_ct(tab)
    with saying(model, "The heart is <SEG>."), masks_of_truth(model):
        ask(tab, "Where is the heart?")
    said = tab.locator("#turns").inner_text()
    tab.reload()
    in_view(tab)
    tab.wait_for_selector("#mask-list li")
    assert tab.locator("#turns").inner_text() == said
    tab.click("#close-menu summary")
    tab.click("#end-session")
    tab.wait_for_selector("#drop")
    assert tab.locator("#volumes").is_hidden()


def test_served_cts_and_a_refusal(tab, tmp_path):
    tab.locator("#drop-served button", has_text="series").click()
    in_view(tab)
    assert tab.locator("#volumes option").all_inner_texts() == ["series"]
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"\x1f\x8b nothing")
    refused = tab.expect_response("**/api/volumes")
    with refused:
        tab.set_input_files("#files", broken)
    assert tab.locator("#messages p").inner_text().startswith("broken.nii.gz: cannot be read")


def test_a_phones_width_holds_everything(model, browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    phone = context.new_page()
    phone.goto(address)
    phone.wait_for_selector("#views button")
    open_ct(phone)
    with saying(model, "It is <SEG>."):
        ask(phone, "Where is the heart?")
    assert phone.locator("#views [aria-pressed=true]").inner_text() == "Axial"
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.locator("#send").is_visible() and canvas(phone).max() > 100
    context.close()

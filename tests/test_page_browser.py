"""The page in a real Chromium: load, ask, masks where the truth is, export, reload, phone; no request elsewhere."""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from serving.volume_files import served_volumes
from tests.chromium import chromium
from tests.ct_files import write_dicom
from tests.page import IMAGE, LABELS, STRUCTURES, masks_of_truth, page, tiny_answering_model, truth
from tests.test_asking import saying
from tests.tiny_model import ANSWERS

pytestmark = pytest.mark.slow
PATIENCE = 120_000  # ms: a busy machine draws slowly
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
    with chromium() as started:
        yield started


@pytest.fixture
def tab(browser, address):
    """A tab with the page; it must ask nobody else, and complain of nothing."""
    context = browser.new_context(viewport={"width": 1100, "height": 760}, accept_downloads=True)
    context.set_default_timeout(PATIENCE)
    found = context.new_page()
    complaints: list[str] = []
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.on("console", lambda said: complaints.append(said.text) if is_complaint(said) else None)
    ours = (address, "data:", f"blob:{address}")
    found.on("request", lambda asked: None if asked.url.startswith(ours) else complaints.append(asked.url))
    found.goto(address)
    found.wait_for_selector("#views button", state="attached")
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
    with tab.expect_response("**/questions"):
        act()
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


def is_complaint(said) -> bool:
    """Errors of the console, but for the answers by which the server refuses something."""
    return said.type == "error" and "Failed to load resource" not in said.text


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
    inside, outside = binary_erosion(drawn, iterations=6), ~binary_dilation(drawn, iterations=9) & (hidden.max(-1) > 12)
    for pixels, expected in ((inside, True), (outside, False)):
        for row, column in some_of(pixels):
            tab.locator("#canvas").click(position={"x": int(column), "y": int(row)})
            tab.wait_for_timeout(120)
            assert structure_at(millimetres(tab)) == expected, (row, column, placed(tab))


def some_of(pixels: np.ndarray, count: int = 6) -> np.ndarray:
    """Places (row, column) of some of them."""
    return np.random.default_rng(0).choice(np.argwhere(pixels), count, replace=False)


def millimetres(tab) -> list[float]:
    """Where the crosshair is, RAS, by the page's own words."""
    return [float(value) for value in re.findall(r"[RAS] (-?[\d.]+)", placed(tab))[-3:]]


def structure_at(mm: list[float]) -> bool:
    """Whether the phantom's heart is at a place, by nibabel."""
    inverse = np.linalg.inv(nib.load(STRUCTURES).affine)
    voxel = (inverse @ [*mm, 1])[:3].round().astype(int)
    return bool(truth("heart")[tuple(voxel)])


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
    tab.locator("#mask-list li", has_text="heart").locator("input[type=range]").evaluate(
        "slider => { slider.value = 100; slider.dispatchEvent(new Event('input')); }"
    )
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
    assert canvas(tab).mean() > bone.mean() + 8  # air is grey in a lung window
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
    with tab.expect_response("**/api/volumes"):
        tab.set_input_files("#files", broken)
    tab.wait_for_selector("#messages p")
    assert tab.locator("#messages p").inner_text().startswith("broken.nii.gz: cannot be read")


def test_a_phones_width_holds_everything(model, browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    phone = context.new_page()
    phone.goto(address)
    phone.wait_for_selector("#views button", state="attached")
    open_ct(phone)
    with saying(model, "It is <SEG>."):
        ask(phone, "Where is the heart?")
    assert phone.locator("#views [aria-pressed=true]").inner_text() == "Axial"
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    assert phone.locator("#send").is_visible() and canvas(phone).max() > 100
    context.close()

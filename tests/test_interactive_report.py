"""The interactive report: what is embedded is the file's, once; it shows masks in a real Chromium without a server."""

from __future__ import annotations

import base64
import gzip
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from evaluation.metrics.summarize import summarize
from evaluation.predictions import write_json
from evaluation.report.html_report import ReportOptions, write_report
from evaluation.report.interactive import EmbeddedFiles
from evaluation.report.mask_cases import CaseImages
from tests.chromium import chromium
from tests.report_evaluation import Page, segmentation_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    records = segmentation_records(root)
    write_json(records, root / "evaluation" / "predictions.json")
    write_json(summarize(records, resamples=20), root / "evaluation" / "metrics.json")
    return root / "evaluation"


@pytest.fixture(scope="module")
def report(folder) -> Path:
    return write_report([folder], folder / "interactive.html", options=ReportOptions(interactive=True))


def embedded(page: Page, text: str, key: str) -> bytes:
    """The bytes of a file within the page."""
    content = text.split(f'id="{key}">')[1].split("<")[0]
    return gzip.decompress(base64.b64decode(content))


def test_volumes_and_masks_are_in_the_page_once(folder, report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    cases = [json.loads(attributes["data-case"]) for _, attributes in page.tags if "data-case" in attributes]
    assert len(cases) == 3 and [mask["name"] for mask in cases[0]["masks"]] == ["ground truth", "prediction"]
    records = {record["id"]: record for record in json.loads((folder / "predictions.json").read_text())}
    best = max((r for r in records.values() if r["segmentation"]), key=lambda r: r["segmentation"][0]["dice"])
    source = nib.load(best["image_path"][0])
    volume = nib.Nifti1Image.from_bytes(embedded(page, text, cases[0]["volume"]))
    assert np.array_equal(volume.get_fdata(), source.get_fdata()) and np.allclose(volume.affine, source.affine)
    truth = np.frombuffer(embedded(page, text, cases[0]["masks"][0]["file"]), np.uint8).reshape(source.shape, order="F")
    labels = np.asarray(nib.load(best["segmentation"][0]["truth_path"]).dataobj)
    assert np.array_equal(truth, labels == best["segmentation"][0]["truth_values"])
    assert truth[tuple(cases[0]["centre"])] == 1
    assert [mask["name"] for mask in cases[-1]["masks"]] == ["ground truth"]  # the worst has no prediction


def test_a_volume_that_two_cases_show_is_embedded_once():
    files, one = EmbeddedFiles(), np.ones((3, 4, 5), np.uint8)
    case = CaseImages(np.arange(60.0).reshape(3, 4, 5), one, None, (1, 1, 1), np.eye(4), None)
    first, second = (files.case("a.nii.gz", case) for _ in range(2))
    assert first["volume"] == second["volume"] and first["masks"] != second["masks"] and len(files.files) == 3
    assert files.case("a.nii.gz", CaseImages(case.volume, None, None, (1, 1, 1), np.eye(4), "gone")) is None


def test_it_fetches_nothing_and_the_plain_report_has_no_viewer(folder, report):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.open == []
    assert not [attributes for _, attributes in page.tags if attributes.get("src", "data:")[:5] != "data:"]
    plain = write_report([folder]).read_text(encoding="utf-8")
    assert "<script" not in plain and 'class="look"' not in plain


@pytest.mark.slow
def test_a_browser_shows_the_masks_without_a_server(report):
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1100, "height": 900})
        complaints: list[str] = []
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda asked: complaints.append(asked.url) if asked.url.startswith("http") else None)
        tab.goto(report.as_uri())
        tab.locator("button.look").first.click()
        tab.wait_for_selector("#viewer .controls label")
        tab.click("#viewer .controls >> text=Axial")
        assert becomes(tab, lambda: coloured(tab) > 1000), "masks are drawn"  # the crosshair has 150
        assert "ground truth" in tab.locator("#viewer output").inner_text()
        for box in tab.locator("#viewer input[type=checkbox]").all():
            box.uncheck()
        assert becomes(tab, lambda: coloured(tab) < 400), "masks are gone"
        assert not complaints


def coloured(tab) -> int:
    """Pixels of the canvas, as it is seen, that are not gray."""
    shown = Image.open(io.BytesIO(tab.locator("#viewer canvas").screenshot())).convert("RGB")
    return int((np.ptp(np.asarray(shown).astype(int), axis=-1) > 20).sum())  # two masks blend


def becomes(tab, holds: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether a condition comes true; a busy machine draws late."""
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        tab.wait_for_timeout(200)
    return found

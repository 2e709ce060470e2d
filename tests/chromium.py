"""A real Chromium for tests, which draws without a GPU; the calling test skips, with a line, where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
DRAWING_WITHOUT_A_GPU = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
]  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, by playwright."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is absent; it drives the browser")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=DRAWING_WITHOUT_A_GPU)
        try:
            yield browser
        finally:
            browser.close()


def drop(tab: Any, selector: str, *paths: Path) -> None:
    """Drop files or folders of the disk on an element, as a user does, by the browser's own protocol."""
    box = tab.locator(selector).bounding_box()
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path.resolve()) for path in paths], "dragOperationsMask": 1}
    protocol = tab.context.new_cdp_session(tab)
    for kind in ("dragEnter", "dragOver", "dragOver", "drop"):
        protocol.send("Input.dispatchDragEvent", {"type": kind, "data": data, **place})
        tab.wait_for_timeout(500)  # a drop before the page has answered that it takes one is lost
    protocol.detach()

"""assets/page.png: the page with a CT, masks and answers of a trained model, as Chromium shows it.

    python assets/make_page_figure.py --checkpoint demo_output/run --folder demo_output/test_phantoms/volumes

The committed picture is of a model of OpenKBP (docs/real_data.md) and the patient of median Dice in its
validation, cropped to the body:

    python assets/make_page_figure.py --checkpoint runs/open_kbp/tuned --folder FOLDER_WITH_PT_236 --at mandible \
        --ask "Where is the mandible? Please output segmentation mask." organs \
        "Does the brainstem reach above 93 % of the scan's height? <binary_answer>"
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from tests.chromium import chromium  # noqa: E402  the repository has to be importable first

BUTTONS = ("report", "diagnosis", "organs")
ASKED = ("organs", "diagnosis", "Where is the liver? Please output segmentation mask.")


def take_picture(address: str, browser: Any, values: argparse.Namespace) -> None:
    """Open the first CT that the server offers, ask, and keep what is seen; values: the options below."""
    width, height = values.size
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.set_default_timeout(600_000)
    tab.goto(address)
    tab.locator("#drop-served button").first.click()
    tab.wait_for_selector("#toolbar")
    tab.wait_for_selector("#loading", state="hidden")
    for asked in values.ask:
        if asked in BUTTONS:
            tab.click(f"[data-kind={asked}]")
        else:
            tab.fill("#question", asked)
            tab.press("#question", "Enter")
        tab.wait_for_selector("#stop")
        tab.wait_for_selector("#stop", state="hidden")
    tab.wait_for_timeout(3000)
    tab.locator("#mask-list .name", has_text=values.at).first.click()
    tab.wait_for_timeout(1000)
    tab.screenshot(path=values.output)
    print(f"wrote {values.output}")


def main() -> None:
    """Start a server, take the picture, end the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--folder", required=True, help="with the CT to show, the first by name")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "assets" / "page.png")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 800), help="width and height")
    parser.add_argument("--ask", nargs="+", default=ASKED, help=f"questions in turn, or buttons: {', '.join(BUTTONS)}")
    parser.add_argument("--at", default="liver", help="the mask that the crosshair is put into")
    values = parser.parse_args()
    options = ["--checkpoint", values.checkpoint, "--folder", values.folder, "--port", "0"]
    command = [sys.executable, "serve_CTInstruct.py", *options]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(line.split()[1] for line in server.stdout if line.startswith("open "))
            with chromium() as browser:
                take_picture(address, browser, values)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()

"""assets/page.png: the page with a CT, masks and answers of a trained model, as Chromium shows it.

python assets/make_page_figure.py --checkpoint demo_output/run --folder demo_output/test_phantoms/volumes
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

QUESTION = "Where is the liver? Please output segmentation mask."


def take_picture(address: str, browser: Any, width: int, height: int, output: Path) -> None:
    """Open the first CT that the server offers, ask, and keep what is seen; sizes in pixels."""
    tab = browser.new_page(viewport={"width": width, "height": height})
    tab.set_default_timeout(600_000)
    tab.goto(address)
    tab.locator("#drop-served button").first.click()
    tab.wait_for_selector("#toolbar")
    tab.wait_for_selector("#loading", state="hidden")
    asks = (
        lambda: tab.click("[data-kind=organs]"),
        lambda: tab.click("[data-kind=diagnosis]"),
        lambda: (tab.fill("#question", QUESTION), tab.press("#question", "Enter")),
    )
    for ask in asks:
        ask()
        tab.wait_for_selector("#stop")
        tab.wait_for_selector("#stop", state="hidden")
    tab.wait_for_timeout(3000)
    tab.locator("#mask-list .name", has_text="liver").first.click()
    tab.wait_for_timeout(1000)
    tab.screenshot(path=output)
    print(f"wrote {output}")


def main() -> None:
    """Start a server, take the picture, end the server."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--folder", required=True, help="with the CT to show, the first by name")
    parser.add_argument("--output", type=Path, default=REPOSITORY / "assets" / "page.png")
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 800), help="width and height")
    values = parser.parse_args()
    options = ["--checkpoint", values.checkpoint, "--folder", values.folder, "--port", "0"]
    command = [sys.executable, "serve_CTInstruct.py", *options]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            address = next(line.split()[1] for line in server.stdout if line.startswith("open "))
            with chromium() as browser:
                take_picture(address, browser, *values.size, values.output)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

"""What makes the gallery of a report interactive: volumes and masks within the page, and the viewer's code."""

from __future__ import annotations

import base64
import gzip
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from datasets.volume.overlay import MASK_COLOURS, display_window, plane_indices
from datasets.volume.viewer_copy import viewer_copy
from evaluation.report.mask_cases import CaseImages
from evaluation.report.report_figures import AIR_HU

VIEWER = Path(__file__).resolve().parent / "viewer"
_CODE = ("layers.js", "viewer.js", "gallery.js")  # each after those that it imports
_IMPORT = re.compile(r"^import .*?;\n", re.MULTILINE | re.DOTALL)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_PRESETS = ("lung", "abdomen", "bone")


class EmbeddedFiles:
    """Volumes and masks of a page, each once however many cases show it: id -> base64 of its gzipped bytes."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}
        self._of_volume: dict[str, dict[str, Any]] = {}  # by the volume's path, what the page is told of it

    def case(self, path: str, case: CaseImages) -> dict[str, Any] | None:
        """What the viewer needs to show a case, with ids of what is embedded; None where no mask can be shown."""
        masks = {"ground truth": case.truth, "prediction": case.prediction}
        given = {name: mask for name, mask in masks.items() if mask is not None}
        if not given:
            return None
        told = self._of_volume.get(path) or self._volume(path, case)
        shown = next((mask for mask in given.values() if mask.any()), None)
        centre = None if shown is None else [int(index) for index in plane_indices(shown.shape, {"": shown > 0})]
        return told | {"masks": [self._mask(name, mask) for name, mask in given.items()], "centre": centre}

    def _volume(self, path: str, case: CaseImages) -> dict[str, Any]:
        image = viewer_copy(case.volume, case.affine)
        in_hu = bool(case.volume.min() < AIR_HU)
        told = self._of_volume[path] = {
            "volume": self._keep(image.to_bytes()),
            "window": display_window(case.volume, {}, "auto" if in_hu else None),
            "in_hu": in_hu,
        }
        return told

    def _mask(self, name: str, mask: np.ndarray) -> dict[str, Any]:
        colour = MASK_COLOURS[0 if name == "ground truth" else 1]
        voxels = np.asfortranarray(mask, dtype=np.uint8).tobytes(order="F")  # as NIfTI orders them
        return {"name": name, "colour": colour, "file": self._keep(voxels)}

    def _keep(self, content: bytes) -> str:
        key = f"file-{len(self.files)}"
        self.files[key] = base64.b64encode(gzip.compress(content, 6)).decode("ascii")
        return key


def viewer_code() -> Mapping[str, Any]:
    """The viewer for a page without a server: "library" and "code", scripts to be put into it as they are; windows."""
    library = (VIEWER / "niivue.umd.js").read_text(encoding="utf-8")
    ours = "\n".join((VIEWER / name).read_text(encoding="utf-8") for name in _CODE)
    return {
        "library": Markup(_within_a_script(library)),
        "code": Markup(_within_a_script(_EXPORT.sub("", _IMPORT.sub("", ours)))),
        "windows": {name: display_window(np.zeros(1), {}, name) for name in _PRESETS},
    }


def _within_a_script(text: str) -> str:
    """JavaScript that cannot end the element that holds it; within its strings the backslash means nothing."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")

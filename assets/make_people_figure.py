"""Draw assets/people.png: person phantoms, and their masks, beside real CT.

python assets/make_people_figure.py FOLDER

FOLDER holds the real CTs as real_ct/example_ct.nii.gz and open_kbp/train/pt_101.nii.gz.
Real CT: example of TotalSegmentator (Apache-2.0), patient pt_101 of OpenKBP (MIT); both may be shown with attribution.
"""

from __future__ import annotations

import colorsys
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from datasets.phantom.people.features import FEATURES, Features  # noqa: E402
from datasets.phantom.people.person import build_person  # noqa: E402

MM = 2.0  # of a pixel
WINDOW = (-160, 300)  # HU
TILE = (190, 190)
LEVELS = (0.12, 0.45, 0.8)  # of the axial slices, as shares of the height
FIXED = [name for name in FEATURES if name != "crops"]
COLOURS = np.array([(0, 0, 0)] + [colorsys.hsv_to_rgb(0.381 * n % 1, 0.8, 1) for n in range(255)]) * 255


def phantom(window: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, labels and spacing of one part of a body."""
    case = build_person(seed, 0, Features.of(FIXED), 1.8e6, ("RAS",), window)
    return case.ct, case.labels, np.abs(np.diag(case.affine)[:3])


def real(path: Path, low: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """HU, no labels and spacing of a CT above a share of its height, within the box of its body."""
    image = nib.as_closest_canonical(nib.load(path))
    hu = np.asarray(image.dataobj).astype(np.int16)
    hu = hu[:, :, int(low * hu.shape[2]) :]
    box = ndimage.find_objects(ndimage.binary_opening(hu > -300).astype(int))[0]
    hu = hu[box]
    return hu, np.zeros(hu.shape, np.uint8), np.asarray(image.header.get_zooms())


def tile(plane: np.ndarray, labels: np.ndarray, spacing: tuple[float, float], masks: bool) -> Image.Image:
    """One plane, upright, the patient's right on the left, with or without its masks, at MM a pixel."""
    grey = np.clip((plane.T[::-1] - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), 0, 1)[..., None] * 255
    shown = labels.T[::-1]
    rgb = np.where((shown > 0)[..., None] & masks, 0.6 * grey + 0.4 * COLOURS[shown], grey).astype(np.uint8)
    size = [max(round(n * s / MM), 1) for n, s in zip(plane.shape, spacing, strict=True)]
    picture = Image.fromarray(rgb).resize((size[0], size[1]), Image.Resampling.BILINEAR)
    picture.thumbnail(TILE)
    frame = Image.new("RGB", TILE)
    frame.paste(picture, ((TILE[0] - picture.width) // 2, (TILE[1] - picture.height) // 2))
    return frame


def row(volume: tuple[np.ndarray, np.ndarray, np.ndarray], title: str, masks: bool = False) -> Image.Image:
    """Three axial planes, a coronal and a sagittal one."""
    hu, labels, (a, b, c) = volume
    across, deep, tall = hu.shape
    cuts: list[tuple[Any, tuple[float, float]]] = [(np.s_[::-1, :, int(level * tall)], (a, b)) for level in LEVELS]
    cuts += [(np.s_[::-1, int(0.42 * deep)], (a, c)), (np.s_[across // 2], (b, c))]
    strip = Image.new("RGB", (TILE[0] * len(cuts), TILE[1] + 14), "white")
    for place, (cut, spacing) in enumerate(cuts):
        strip.paste(tile(hu[cut], labels[cut], spacing, masks), (place * TILE[0], 14))
    ImageDraw.Draw(strip).text((4, 1), title, fill="black")
    return strip


def main() -> None:
    """Write the figure."""
    if len(sys.argv) != 2:
        sys.exit("error: give the folder that holds real_ct/example_ct.nii.gz and open_kbp/train/pt_101.nii.gz")
    data = Path(sys.argv[1])
    trunk, head = phantom("neck to hips", 12), phantom("head and neck", 5)
    rows = [
        row(real(data / "real_ct/example_ct.nii.gz", 0), "Real: TotalSegmentator's example"),
        row(phantom("abdomen", 3), "Phantom, abdomen"),
        row(trunk, "Phantom, neck to hips: masks", masks=True),
        row(real(data / "open_kbp/train/pt_101.nii.gz", 0.1), "Real: OpenKBP, pt_101"),
        row(head, "Phantom, head and neck"),
        row(head, "The same: masks", masks=True),
    ]
    sheet = Image.new("RGB", (rows[0].width, sum(each.height for each in rows)), "white")
    for place, each in enumerate(rows):
        sheet.paste(each, (0, place * each.height))
    sheet.quantize(128, kmeans=1).save(HERE / "people.png", optimize=True)


if __name__ == "__main__":
    main()

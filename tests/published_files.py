"""Small replicas of published data, with masks that are known voxel by voxel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

BOX_FIELD = "renorm_y1x1z1_y2x2z2"
QUESTION = [{"type": "image"}, {"type": "text", "text": "Segment them. <segmentation>"}]
SHAPE = (12, 16, 6)
# first voxel and one past the last, along the three axes of the stored array
BOXES = {"liver": (2, 3, 1, 7, 9, 4), "spleen": (5, 8, 2, 12, 16, 6)}


def replica(folder: Path, suffix: str = ".npy") -> dict:
    """A volume (1, H, W, D) and masks in boxes of two labels of three; gives the published record.

    The masks are random inside their boxes, but reach each of their sides, as prepared ones do.
    """
    rng = np.random.default_rng(4)
    np.save(folder / "ct.npy", rng.normal(size=(1, *SHAPE)).astype(np.float32))
    masks = folder / "masks" / "0001"
    masks.mkdir(parents=True)
    for label, (y1, x1, z1, y2, x2, z2) in BOXES.items():
        mask = rng.random((y2 - y1, x2 - x1, z2 - z1)) < 0.5
        mask[0, 0, 0] = mask[-1, -1, -1] = True
        if suffix == ".npy":
            np.save(masks / f"{label}.npy", mask)
        else:
            np.savez_compressed(masks / f"{label}.npz", mask)
    return {
        "question": QUESTION,
        "image_path": ["ct.npy"],
        "answer": "They are <SEG>.",
        "choose_labels": [["liver", "spleen", "pancreas"]],
        "mask_path": ["masks/0001"],
        BOX_FIELD: [[list(BOXES["liver"]), list(BOXES["spleen"]), False]],
    }


def mask_by_loops(folder: Path, label: str) -> np.ndarray:
    """A label's mask on the stored array (H, W, D), copied voxel by voxel from its box."""
    whole = np.zeros(SHAPE, dtype=bool)
    if label not in BOXES:
        return whole
    path = next((folder / "masks" / "0001").glob(f"{label}.np*"))
    content = np.load(path)
    boxed = content["arr_0"] if path.suffix == ".npz" else content
    y1, x1, z1, y2, x2, z2 = BOXES[label]
    for y in range(y1, y2):
        for x in range(x1, x2):
            for z in range(z1, z2):
                whole[y, x, z] = boxed[y - y1, x - x1, z - z1]
    return whole


def write_json(path: Path, content: object, encoding: str = "utf-8") -> Path:
    path.write_text(json.dumps(content), encoding=encoding)
    return path


def write_lines(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path

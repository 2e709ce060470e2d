"""A folder of slices as PNG or JPEG, in the order of their names, as a volume of grey."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from datasets.volume.declared_size import check_voxels
from datasets.volume.geometry import VolumeError

ENDINGS = (".png", ".jpg", ".jpeg")


def slices_in(folder: Path) -> list[Path]:
    """The slices of a folder in the order of their names, numbers by value; hidden files and others are left out."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(ENDINGS) and entry.name[0] != "."]
    return [folder / name for name in sorted(names, key=_by_number)]


def read_slice_folder(folder: Path) -> np.ndarray:
    """Array (rows, columns, slices) float32 of the grey values as stored.

    Raises VolumeError for fewer than two slices, one that is damaged, or slices that differ in size.
    """
    paths = slices_in(folder)
    if len(paths) < 2:
        raise VolumeError(f"{folder}: holds {len(paths)} slices; a volume needs two or more")
    first = _pixels(paths[0])
    check_voxels(folder, (*first.shape, len(paths)))
    array = np.empty((*first.shape, len(paths)), dtype=np.float32)
    for index, path in enumerate(paths):
        pixels = first if index == 0 else _pixels(path)
        if pixels.shape != first.shape:
            raise VolumeError(
                f"{path}: has {pixels.shape[0]} x {pixels.shape[1]} pixels, {paths[0].name} has {first.shape[0]} x "
                f"{first.shape[1]}; remove the slices that do not belong"
            )
        array[:, :, index] = pixels
    return array


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(grey(ImageOps.exif_transpose(image)), dtype=np.float32)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VolumeError(f"{path}: cannot be read as an image, damaged or truncated? ({error})") from error


def grey(image: Image.Image) -> Image.Image:
    """One channel; modes I, I;16 and F are grey already, with more than 8 bits."""
    return image if image.mode == "F" or image.mode.startswith("I") else image.convert("L")


def _by_number(name: str) -> list[tuple[int, str]]:
    """`2.png` before `10.png`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

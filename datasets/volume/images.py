"""2D images, PNG or JPEG, as volumes of depth 1, for the pretraining tasks that consist of single slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.volume.geometry import VolumeError, VolumeGeometry, foreground_box
from datasets.volume.normalisation import normalised_in_place, normalize
from datasets.volume.preprocessing import SourceSteps
from datasets.volume.slice_folder import grey

# Rows run to the patient's back and columns to the left, as radiologists look at a slice: axis codes PLS.
ROWS_AND_COLUMNS = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def load_image(path: str | Path, orientation: str = "RAS") -> tuple[np.ndarray, VolumeGeometry]:
    """A slice as the encoder sees it: array (1, H, W, 1) float32, grey, cropped and normalised as a volume is.

    With orientation RAS the slice lies like the slices of a volume; "as_stored" keeps (rows, columns).  The geometry's
    millimetres are pixels: an image file does not know better.  Colours are turned to grey, 16 bits are kept.

    Raises VolumeError where the file is missing, damaged, not an image, or one constant value.
    """
    pixels, _ = _read(path)
    array, geometry = _laid_out(path, pixels, orientation)
    try:
        return normalize(array), geometry
    except VolumeError as error:
        raise VolumeError(f"{path}: {error}") from error


def load_image_by_window(path: str | Path, orientation: str = "RAS") -> tuple[np.ndarray, VolumeGeometry]:
    """As `load_image`, but the same grey level is the same number in every image.

    For `normalisation="window"`: the window is that of all levels that the file's type has, since an image has no HU.
    Raises VolumeError also for levels without a largest one, as of a TIFF of 32 bits.
    """
    pixels, white = _read(path)
    if white is None:
        raise VolumeError(f"{path}: its grey levels have no largest one; leave out --normalisation window")
    array, geometry = _laid_out(path, pixels, orientation)
    steps = SourceSteps(clip=(0.0, white), normalisation="window")
    return normalised_in_place(np.array(array, dtype=np.float32), steps), geometry


def _read(path: str | Path) -> tuple[np.ndarray, float | None]:
    """Grey levels (rows, columns), and the largest that the type has, None for types of 32 bits."""
    try:
        with Image.open(path) as image:
            one_channel = grey(ImageOps.exif_transpose(image))
            white = _largest(one_channel.mode, image.format)
            pixels = np.asarray(one_channel, dtype=np.float32)
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        raise VolumeError(f"{path}: not a PNG or JPEG image, which this 2D task needs") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise VolumeError(f"{path}: cannot be read as an image, damaged or truncated? ({error})") from error
    if pixels.min() == pixels.max():
        raise VolumeError(f"{path}: every pixel is {pixels.min():g}; there is nothing to see")
    return pixels, white


def _largest(mode: str, file_format: str | None) -> float | None:
    """Grey level of white; PNG's 16 bits come as I;16 or as I, which in other files are 32 bits."""
    if mode == "L":
        return 255.0
    return 65535.0 if mode.startswith("I;16") or (mode == "I" and file_format == "PNG") else None


def _laid_out(path: str | Path, pixels: np.ndarray, orientation: str) -> tuple[np.ndarray, VolumeGeometry]:
    """Oriented and cropped: (1, H, W, 1)."""
    array = pixels[..., None]
    geometry = VolumeGeometry.of_source(str(path), array.shape, ROWS_AND_COLUMNS, orientation)
    geometry = geometry.cropped(*foreground_box(geometry.from_source(array)))
    return geometry.from_source(array)[None], geometry

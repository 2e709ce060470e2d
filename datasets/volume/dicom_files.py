"""DICOM files by pydicom, which believes every length that a file states, and warns beside what it raises."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement

from datasets.volume.geometry import VolumeError

warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom(\.|$)")  # its errors are raised as well


class BoundedFile(io.BufferedReader):
    """A file of which no more is asked than it has: Python takes the memory for a read before it reads.

    A damaged length of an element asks for up to 4 GiB.
    """

    def __init__(self, path: Path) -> None:
        self._end = path.stat().st_size
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._end - self.tell(), 0)
        return super().read(left if size is None or size < 0 else min(size, left))


def read_dicom(path: Path, **options: Any) -> pydicom.Dataset:
    """What `pydicom.dcmread` gives and raises for a file."""
    with BoundedFile(path) as file:
        return pydicom.dcmread(file, **options)


def check_pixel_data(path: Path, data: pydicom.Dataset) -> None:
    """VolumeError where the pixel data state another length than the file has of them; before they are looked at."""
    element = data.get_item("PixelData")
    if not isinstance(element, RawDataElement) or element.value is None:
        return
    if element.length not in (len(element.value), 0xFFFFFFFF):  # the last: of compressed ones, which end by a mark
        raise VolumeError(f"{path}: damaged or truncated DICOM slice (its pixel data are cut off); copy it again")

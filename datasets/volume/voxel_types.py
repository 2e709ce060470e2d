"""In which type voxels are held between the file and what the encoder sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike


def held_type(stored: DTypeLike, integers: bool) -> np.dtype:
    """float32; with `integers`, whole numbers of at most 16 bits as they are stored, in the machine's order of bytes.

    As they are stored they take half of the memory, and what is counted or compared takes half of the time.
    """
    dtype = np.dtype(stored)
    small = integers and dtype.kind in "iu" and dtype.itemsize <= 2
    return dtype.newbyteorder("=") if small else np.dtype(np.float32)

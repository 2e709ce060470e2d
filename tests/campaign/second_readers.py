"""Readings of damaged files without this project and without the library that it reads them by.

Each gives the voxels in the order that the file stores them, and may raise anything: what cannot be read here is not
confirmed.  NIfTI by the standard's table of its header, MetaImage and .npy by their text headers, NRRD by pynrrd,
DICOM by the bytes behind its tags, safetensors by the format's description.
"""

from __future__ import annotations

import ast
import json
import re
import zlib
from pathlib import Path

import nrrd
import numpy as np

_NIFTI_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_MET_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_FLOAT": "f4", "MET_DOUBLE": "f8", "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
}  # fmt: skip


def nifti_voxels(path: Path) -> np.ndarray:
    """Of an unpacked NIfTI-1 file, with scl_slope and scl_inter where the slope is not 0."""
    content = path.read_bytes()
    order = "<" if 1 <= int.from_bytes(content[40:42], "little") <= 7 else ">"  # by dim[0], as the standard has it
    dim = np.frombuffer(content, f"{order}i2", 8, 40)
    kind = int(np.frombuffer(content, f"{order}i2", 1, 70)[0])
    offset, slope, intercept = np.frombuffer(content, f"{order}f4", 3, 108).astype(float)
    shape = [int(size) for size in dim[1 : dim[0] + 1]]
    voxels = np.frombuffer(content, f"{order}{_NIFTI_TYPES[kind]}", int(np.prod(shape)), int(offset))
    scaled = np.isfinite(slope) and slope != 0
    return np.squeeze((voxels * slope + intercept if scaled else voxels).reshape(shape, order="F"))


def nrrd_voxels(path: Path) -> np.ndarray:
    """By pynrrd."""
    return np.squeeze(nrrd.read(str(path))[0])


def meta_image_voxels(path: Path) -> np.ndarray:
    """Of a MetaImage with its voxels in the same file."""
    head, _, body = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    fields = {
        key.strip(): value.strip()
        for key, _, value in (line.partition("=") for line in head.decode("latin1").split("\n"))
    }
    shape = [int(size) for size in fields["DimSize"].split()]
    if fields.get("CompressedData") == "True":
        body = zlib.decompressobj().decompress(body)
    order = ">" if "True" in (fields.get("BinaryDataByteOrderMSB"), fields.get("ElementByteOrderMSB")) else "<"
    voxels = np.frombuffer(body, order + _MET_TYPES[fields["ElementType"]], int(np.prod(shape)))
    return np.squeeze(voxels.reshape(shape, order="F"))


def npy_voxels(path: Path) -> np.ndarray:
    """Of a .npy file of version 1.0."""
    content = path.read_bytes()
    start = 10 + int.from_bytes(content[8:10], "little")
    header = ast.literal_eval(content[10:start].decode("latin1").strip())
    voxels = np.frombuffer(content, header["descr"], int(np.prod(header["shape"])), start)
    return np.squeeze(voxels.reshape(header["shape"], order="F" if header["fortran_order"] else "C"))


def has_dicom_slice(path: Path, voxels: np.ndarray) -> bool:
    """Whether an unpacked DICOM file's pixel data, as they lie behind their tag, rescaled, are these voxels.

    voxels: (columns, rows).
    """
    content = path.read_bytes()
    slope, intercept = (
        float(found[1]) if (found := re.search(rb"\x28\0%s\x10DS..([-+.\dE]+)" % last, content, re.DOTALL)) else default
        for last, default in ((b"\x53", 1.0), (b"\x52", 0.0))
    )
    size = 2 * voxels.size
    for found in re.finditer(rb"\xe0\x7f\x10\x00O[WB]\0\0....", content, re.DOTALL):
        stored = content[found.end() : found.end() + size]
        if len(stored) == size:
            rescaled = np.frombuffer(stored, "<i2").reshape(voxels.T.shape) * slope + intercept
            if np.allclose(rescaled.T, voxels):
                return True
    return False


def safetensors_values(path: Path) -> dict[str, bytes]:
    """The bytes of each tensor behind its name, type and shape."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        found[f"{name} {entry['dtype']} {entry['shape']}"] = content[start + first : start + last]
    return found

"""What ITK passes over in the text headers of NRRD and MetaImage: words where numbers belong, bytes that are no text.

It reads 2&5 as 2, and prints lines of its own about a header that lacks one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from datasets.volume.geometry import VolumeError

_NO_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_NRRD_NUMBERS = re.compile(rb"(?im)^(dimension|sizes|spacings|space directions|space origin):[ \t]*(.*?)[ \t\r]*$")
_META_NUMBERS = re.compile(
    rb"(?m)^[ \t]*(NDims|DimSize|Element(?:Spacing|Size)|TransformMatrix|Rotation|Orientation|Offset|Position|Origin"
    rb"|CompressedDataSize|HeaderSize)[ \t]*=[ \t]*(.*?)[ \t\r]*$"
)
_META_NO_LINE = re.compile(rb"(?m)^(?=[^\r\n]*\S)[^=\r\n]*$")
_META_NO_SWITCH = re.compile(
    rb"(?im)^[ \t]*(?:BinaryData|CompressedData|\w+ByteOrderMSB)[ \t]*=(?![ \t]*(?:true|false|[01])[ \t\r]*$)"
)
_META_TYPE = re.compile(rb"(?m)^ElementType\s*=\s*MET_(U?(CHAR|SHORT|INT|LONG|LONG_LONG)|FLOAT|DOUBLE)(_ARRAY)?\s*$")
_OTHER_SCANS = re.compile(rb"(?m)^Modality\s*=\s*MET_MOD_(MR|NM|US)\s*$")


def check_nrrd_header(path: Path, header: bytes) -> None:
    """VolumeError where a number is none, a spacing not above 0, or the header no text."""
    fields = _numbers(path, header, _NRRD_NUMBERS, no_number=(b"none", b"nan"))
    _check_spacing(path, fields.get("spacings", []))


def check_meta_image_header(path: Path, header: bytes) -> None:
    """VolumeError as above, where a needed line is absent, and where the header names another modality than CT.

    header: up to the line ElementDataFile.
    """
    if scan := _OTHER_SCANS.search(header):
        raise VolumeError(f"{path}: its header says modality {scan[1].decode()}, this is no CT")
    fields = _numbers(path, header, _META_NUMBERS)
    if _META_NO_LINE.search(header) or _META_NO_SWITCH.search(header):
        raise _damaged(path, "has a line that says nothing")
    for name in ("NDims", "DimSize"):
        if name not in fields:
            raise _damaged(path, f"has no line {name}")
    if next(name for name in fields if name != "HeaderSize") != "NDims":
        raise _damaged(path, "does not begin with NDims")
    if fields["NDims"] != [len(fields["DimSize"])]:
        raise _damaged(path, "has another number of sizes than of dimensions")
    for name in ("ElementSpacing", "ElementSize", "Offset", "Position", "Origin"):
        if name in fields and len(fields[name]) != len(fields["DimSize"]):
            raise _damaged(path, f"has not a number for each dimension in the line {name}")
    if re.search(rb"(?im)^CompressedData\s*=\s*True", header) and "CompressedDataSize" not in fields:
        raise _damaged(path, "has no line CompressedDataSize")
    if not _META_TYPE.search(header):
        raise _damaged(path, "has no known ElementType")
    _check_spacing(path, fields.get("ElementSpacing", []))
    _check_spacing(path, fields.get("ElementSize", []))


def _numbers(
    path: Path, header: bytes, lines: re.Pattern[bytes], no_number: Iterable[bytes] = ()
) -> dict[str, list[float]]:
    """The numbers of each line that `lines` finds, by the line's name and in the order of the header."""
    if _NO_TEXT.search(header):
        raise _damaged(path, "is no text")
    found = {}
    for name, value in lines.findall(header):
        words = re.sub(rb"[(),]", b" ", value).split()
        try:
            found[name.decode()] = [float(word) for word in words if word.lower() not in no_number]
        except ValueError as error:
            raise _damaged(path, f"has no number in the line {name.decode()}") from error
    return found


def _check_spacing(path: Path, spacing: list[float]) -> None:
    """ITK turns a negative spacing round, or makes it 1; what is meant by it is not known."""
    if any(size <= 0 for size in spacing[:3]):
        found = " x ".join(f"{size:g}" for size in spacing[:3])
        raise VolumeError(f"{path}: its header says voxels of {found} mm; write a spacing above 0")


def _damaged(path: Path, what: str) -> VolumeError:
    return VolumeError(f"{path}: damaged: its header {what}; copy it again")

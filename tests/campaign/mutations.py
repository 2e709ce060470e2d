"""Damage to the bytes of a file, drawn by a generator: the same seed gives the same damage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_NUMBERS = (
    b"\0\0",
    b"\xff\xff",
    b"\xff\x7f",
    b"\0\x80",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\x80",
    b"\0\0\xc0\x7f",
    b"\xff" * 8,
)


def mutated(content: bytes, random: np.random.Generator, header: int) -> bytes:
    """`content` with one to three damages, half of them in its first `header` bytes; never equal to `content`."""
    found = content
    while found == content:
        for _ in range(int(random.integers(1, 4))):
            kind = _KINDS[int(random.integers(len(_KINDS)))]
            reach = min(header, len(found)) if random.random() < 0.5 else len(found)
            found = kind(found, int(random.integers(max(reach, 1))), random)
    return found


def _flip_bit(content: bytes, place: int, random: np.random.Generator) -> bytes:
    return _overwrite(content, place, bytes([content[place] ^ 1 << int(random.integers(8))])) if content else b"\0"


def _set_byte(content: bytes, place: int, random: np.random.Generator) -> bytes:
    return _overwrite(content, place, random.bytes(1))


def _set_number(content: bytes, place: int, random: np.random.Generator) -> bytes:
    """A number that programs trip over, where numbers of a header lie: at even places."""
    return _overwrite(content, place & ~1, _NUMBERS[int(random.integers(len(_NUMBERS)))])


def _set_digit(content: bytes, place: int, random: np.random.Generator) -> bytes:
    """The next digit of a text header becomes another digit, a sign, a dot or a letter."""
    digits = [index for index in range(place, min(place + 400, len(content))) if 48 <= content[index] <= 57]
    if not digits:
        return _flip_bit(content, place, random)
    return _overwrite(content, digits[0], bytes([b"0123456789-.eN \n"[int(random.integers(16))]]))


def _set_letter(content: bytes, place: int, random: np.random.Generator) -> bytes:
    """Another letter, as somebody's slip in a text."""
    return _overwrite(content, place, bytes([97 + int(random.integers(26))]))


def _scramble(content: bytes, place: int, random: np.random.Generator) -> bytes:
    return _overwrite(content, place, random.bytes(int(random.integers(2, 64))))


def _blank(content: bytes, place: int, random: np.random.Generator) -> bytes:
    """A page that never reached the disk."""
    return _overwrite(content, place, bytes(int(random.integers(16, 4096))))


def _cut(content: bytes, place: int, _: np.random.Generator) -> bytes:
    return content[:place]


def _remove(content: bytes, place: int, random: np.random.Generator) -> bytes:
    return content[:place] + content[place + int(random.integers(1, 64)) :]


def _repeat(content: bytes, place: int, random: np.random.Generator) -> bytes:
    piece = content[place : place + int(random.integers(1, 64))]
    return content[:place] + piece * int(random.integers(2, 9)) + content[place + len(piece) :]


def _append(content: bytes, _: int, random: np.random.Generator) -> bytes:
    return content + random.bytes(int(random.integers(1, 512)))


def _overwrite(content: bytes, place: int, piece: bytes) -> bytes:
    return content[:place] + piece[: max(len(content) - place, 0)] + content[place + len(piece) :]


_KINDS: tuple[Callable[[bytes, int, np.random.Generator], bytes], ...] = (
    _flip_bit, _flip_bit, _set_byte, _set_number, _set_number, _set_digit, _set_digit, _set_letter, _scramble, _blank,
    _cut, _remove, _repeat, _append,
)  # fmt: skip

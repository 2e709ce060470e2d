"""NAME=NUMBER on the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from datasets.errors import InputError


def named_numbers(items: Iterable[str], names: Collection[str], option: str, what: str) -> dict[str, float]:
    """Numbers of 0 or more by name; raises InputError, which begins with the option and the item, for anything else.

    names: what may be named; ``what`` says of them what they are.
    """
    numbers: dict[str, float] = {}
    for item in items:
        name, _, number = item.partition("=")
        if name not in names:
            raise InputError(f"{option} {item}: {name!r} is not one of {what}{', '.join(names)}")
        try:
            numbers[name] = float(number)
        except ValueError:
            numbers[name] = -1.0
        if not 0 <= numbers[name] < float("inf"):
            raise InputError(f"{option} {item}: {number!r} is not a number of 0 or more; write NAME=NUMBER")
    return numbers

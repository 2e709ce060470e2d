"""Numbers behind an equals sign on the command line: NAME=NUMBER, PATH=NUMBER."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from datasets.errors import InputError


def named_numbers(items: Iterable[str], names: Collection[str], option: str, what: str) -> dict[str, float]:
    """Numbers of 0 or more by name; raises InputError, which begins with the option and the item, for anything else.

    names: those that are allowed.  what: words that go before them in the message ("the tasks ").
    """
    numbers: dict[str, float] = {}
    for item in items:
        name, _, number = item.partition("=")
        if name not in names:
            raise InputError(f"{option} {item}: {name!r} is not one of {what}{', '.join(names)}")
        numbers[name] = number_of(number, f"{option} {item}")
    return numbers


def number_of(text: str, item: str) -> float:
    """A number of 0 or more; raises InputError, which begins with ``item``, for anything else."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise InputError(f"{item}: {text!r} is not a number of 0 or more; give one behind the =")
    return number

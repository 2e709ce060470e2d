"""What a run does otherwise than the published recipe: printed at its start, and kept with its checkpoints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from training.arguments import NamedDefaults, plain
from training.settings import TrainingSettings


def describe_run(settings: TrainingSettings, presets: NamedDefaults, data: str, precision: str) -> dict[str, Any]:
    """What a checkpoint tells of the training behind it: recipe, preset, data, and departures as JSON types.

    A field's default is its published value, unless its metadata name another.  A preset's sizes are no departure
    beside the preset itself, and fields of `NO_PART_OF_THE_METHOD` are left out.

    presets: of the script.  data: the source, in words.  precision: as resolved for this machine.
    """
    preset = getattr(settings, "preset", "full")
    sizes = presets.get(preset, {})
    departures: dict[str, dict[str, Any]] = {}
    fields = {field.name: field for field in dataclasses.fields(settings)}
    for field in fields.values():
        if field.name in settings.NO_PART_OF_THE_METHOD or not field.init:
            continue
        published = field.metadata.get("published", _default(field))
        value = getattr(settings, field.name)
        if field.name == "precision":
            published, value = _default(fields["cuda_precision"]), precision
        if value not in (published, sizes.get(field.name, published)):
            departures[field.name] = {"published": plain(published), "this_run": plain(value)}
    return {
        "recipe": getattr(settings, "recipe", "published"),
        "preset": preset,
        "data": data,
        "departures": departures,
    }


def print_run(description: Mapping[str, Any]) -> None:
    """The table of `describe_run` on the terminal."""
    table = Table(title="What departs from the published recipe", title_justify="left")
    for heading in ("setting", "published", "this run"):
        table.add_column(heading, overflow="fold")
    rows: list[tuple[str, Any, Any]] = [("size (--preset)", "full", description["preset"])]
    rows += [("recipe (--recipe)", "published", description["recipe"]), ("data", "the release's", description["data"])]
    rows += [(name, both["published"], both["this_run"]) for name, both in description["departures"].items()]
    for name, published, value in rows:
        table.add_row(Text(name), Text(_shown(published)), Text(_shown(value)))  # Text takes brackets as they are
    Console().print(table)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

"""Scores as rows of a Markdown table: means with intervals by patient, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def peer_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each model by name; the organs are those of the first.

    A result has "scores" as `scoring.summary` gives them and "tolerance_mm", the same for all, and may have "minutes",
    "seconds_per_volume" and "parameters".
    """
    first = next(iter(results.values()))
    organs = list(first["scores"]["structures"])
    header = ["Model", "Dice, mean of organs", f"NSD at {first['tolerance_mm']:g} mm", *organs]
    header += ["Minutes", "Seconds a volume", "Parameters"]
    lines = [header, [":---"] + ["---:"] * (len(header) - 1)]
    for name, result in results.items():
        scores = result["scores"]
        cells = [name, estimate(scores["mean"]["dice"]), estimate(scores["mean"]["nsd"])]
        cells += [estimate(scores["structures"][organ]["dice"]) for organ in organs]
        cells += [_figure(result.get("minutes")), _figure(result.get("seconds_per_volume"))]
        parameters = result.get("parameters")
        lines.append([*cells, "–" if parameters is None else f"{_figure(parameters / 1e6)} M"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def estimate(value: Mapping[str, Any]) -> str:
    """0.812 (0.790 to 0.833), 0.812 where one patient gives no interval, or a dash where there is no value."""
    if value["value"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"

"""Scores as a row of a Markdown table: means with intervals by patient, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def peer_table(name: str, result: Mapping[str, Any]) -> str:
    """Header and one row.

    result: "scores" as `scoring.summary` gives them, "tolerance_mm", "minutes", "seconds_per_volume", "parameters".
    """
    scores = result["scores"]
    organs: Sequence[str] = list(scores["structures"])
    header = ["Model", "Dice, mean of organs", f"NSD at {result['tolerance_mm']:g} mm", *organs]
    header += ["Minutes", "Seconds a volume", "Parameters"]
    cells = [name, estimate(scores["mean"]["dice"]), estimate(scores["mean"]["nsd"])]
    cells += [estimate(scores["structures"][organ]["dice"]) for organ in organs]
    cells += [f"{result['minutes']:.1f}", f"{result['seconds_per_volume']:.1f}", f"{result['parameters'] / 1e6:.1f} M"]
    ruler = [":---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ruler, cells))


def estimate(value: Mapping[str, Any]) -> str:
    """0.812 (0.790 to 0.833), 0.812 where one patient gives no interval, or a dash where there is no value."""
    if value["value"] is None:
        return "–"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

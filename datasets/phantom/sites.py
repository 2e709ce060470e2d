"""Where the findings that are counted can be: zones of the lungs, lymph node stations, coronary arteries."""

from __future__ import annotations

ZONES = ("left upper", "left lower", "right upper", "right lower")
STATIONS: dict[str, tuple[float, float, float]] = {
    "right paratracheal": (32.0, -14.0, 72.0),
    "prevascular": (-26.0, 44.0, 62.0),
    "subcarinal": (12.0, -26.0, 2.0),
    "left hilar": (-60.0, -14.0, 24.0),
    "right hilar": (64.0, -14.0, 22.0),
}
"""Lymph node stations in the standard adult, mm: so far apart that nodes in two of them never touch."""
CORONARY_ARTERIES: dict[str, tuple[list[float], list[float]]] = {
    "left anterior descending": ([-0.15, 0.9, 0.55], [-0.55, 0.8, -0.5]),
    "circumflex": ([-0.8, 0.1, 0.65], [-0.95, -0.3, -0.1]),
    "right coronary": ([0.65, 0.7, 0.4], [0.75, 0.6, -0.5]),
}
"""Where each begins and ends on the surface of a heart that is the unit sphere."""
SITES: dict[str, dict[str, str]] = {
    "Coronary artery wall calcification": {artery: f"calcified {artery} artery" for artery in CORONARY_ARTERIES},
    "Lung nodule": {zone: f"nodule in the {zone} zone" for zone in ZONES},
    "Lymphadenopathy": {station: f"{station} lymph node" for station in STATIONS},
}
"""For each finding that is counted, what pretraining calls one that is there."""

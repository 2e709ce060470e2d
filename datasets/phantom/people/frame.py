"""The standard adult's lines along the body, in mm: the spine, the cavity of the trunk, the outline of the lean body.

Heights: 0 at the top of the first thoracic vertebra, the skull's base at 122, the vertex at 275, the diaphragm's right
dome at -215, the lowest lumbar disc at -442, the hip joints at -545.  Proportions are of a textbook adult of 1.72 m.
"""

from __future__ import annotations

import numpy as np

from datasets.phantom.people.profiles import Profile

TOP_OF_SPINE = 120.0


def _lower_ends() -> dict[str, float]:
    heights = {"C1": 14.0, "C2": 24.0, **{f"C{n}": 16.4 for n in range(3, 8)}}
    heights |= {f"T{n}": 18.0 + 0.7 * n for n in range(1, 13)} | {f"L{n}": 32.0 + 0.8 * n for n in range(1, 6)}
    ends = TOP_OF_SPINE - np.cumsum(list(heights.values()))
    return dict(zip(heights, ends.tolist(), strict=True))


VERTEBRAE = _lower_ends()
"""Height of the lower end of each vertebra with the disc below it, from C1 down to L5."""

SPINE = Profile(
    [(120, -8), (82, -10), (50, -8), (17, -16), (0, -26), (-60, -50), (-135, -62), (-200, -62), (-270, -50),
     (-340, -36), (-400, -30), (-442, -38), (-480, -62), (-520, -84), (-555, -80)]
)  # fmt: skip
"""y of the middle of the vertebral bodies."""
BODY_WIDTH = Profile([(120, 11), (60, 12), (0, 14), (-135, 15.5), (-270, 20), (-340, 23), (-440, 25)])
BODY_DEPTH = Profile([(120, 7), (60, 8.5), (0, 9.5), (-135, 13.5), (-270, 15.5), (-340, 17), (-440, 17.5)])
CANAL_RADIUS = Profile([(120, 13), (80, 9.5), (0, 9), (-250, 8.5), (-300, 9.5), (-440, 10)])
CANAL = Profile.of_table(SPINE.table - BODY_DEPTH.table - 0.9 * CANAL_RADIUS.table)
"""y of the middle of the spinal canal."""

CAVITY_HALF = Profile(
    [(12, 30), (0, 44), (-30, 78), (-60, 102), (-120, 124), (-200, 136), (-280, 135), (-340, 127), (-400, 120),
     (-450, 116), (-500, 96), (-540, 64), (-590, 46)]
)  # fmt: skip
CAVITY_FRONT = Profile(
    [(12, 12), (0, 20), (-30, 36), (-60, 52), (-120, 78), (-200, 92), (-280, 96), (-340, 95), (-400, 92), (-450, 88),
     (-500, 76), (-540, 60), (-590, 40)]
)  # fmt: skip
CAVITY_BACK = Profile(
    [(12, -40), (0, -52), (-30, -74), (-60, -86), (-120, -96), (-200, -97), (-280, -86), (-340, -70), (-400, -62),
     (-450, -60), (-500, -74), (-540, -80), (-590, -72)]
)  # fmt: skip
"""The inside of rib cage and abdominal wall."""

LEAN_HALF = Profile(
    [(110, 50), (60, 56), (30, 58), (8, 72), (-10, 100), (-30, 138), (-50, 158), (-90, 162), (-150, 156), (-220, 152),
     (-300, 147), (-380, 143), (-430, 152), (-480, 162), (-550, 166), (-640, 168)]
)  # fmt: skip
LEAN_FRONT = Profile(
    [(110, 55), (60, 58), (30, 58), (8, 48), (-10, 48), (-50, 70), (-100, 94), (-150, 104), (-200, 108), (-280, 109),
     (-340, 106), (-400, 104), (-450, 100), (-500, 94), (-560, 86), (-640, 76)]
)  # fmt: skip
LEAN_BACK = Profile(
    [(110, -68), (60, -72), (30, -78), (0, -94), (-50, -112), (-100, -121), (-200, -122), (-280, -112), (-340, -104),
     (-400, -100), (-450, -104), (-500, -114), (-560, -118), (-640, -104)]
)  # fmt: skip
"""The body without the fat below its skin."""
FAT_SHARE = Profile(
    [(110, 0.25), (30, 0.3), (0, 0.4), (-60, 0.5), (-150, 0.6), (-300, 0.9), (-400, 1.0), (-500, 1.2), (-640, 0.8)]
)
"""Thickness of that fat as a share of the abdomen's."""
TRUNK_TOP, TRUNK_BOTTOM = 112.0, -632.0

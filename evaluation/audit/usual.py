"""What structures are like in people: their usual median HU, and more millilitres than any is large.

The ranges are wide: what lies outside them is no variant, but a mask of something else, or one of another image.
"""

from __future__ import annotations

import re

HU = tuple(
    (re.compile(pattern), span)
    for pattern, span in (
        (r"^(left |right )?lungs?$", (-1000.0, -250.0)),
        (r"^(airway|trachea)$", (-1100.0, -500.0)),
        (r"^(liver|spleen|(left |right )?kidneys?|heart|brain)$", (-50.0, 350.0)),
        (r"^(spinal cord|brainstem|(left |right )?parotid glands?)$", (-150.0, 150.0)),
        (r"^(o?esophagus)$", (-200.0, 200.0)),  # with some air in it
        (r"^(spine|ribs|skull|mandible|bone|vertebrae?\b.*|(left |right )?hip|sacrum)$", (50.0, 1500.0)),
    )
)
MOST_MILLILITRES = tuple(
    (re.compile(pattern), most)
    for pattern, most in (
        (r"^spinal cord$", 150.0),  # the whole canal has less
        (r"^brainstem$", 80.0),
        (r"^(left|right) parotid gland$", 150.0),
        (r"^mandible$", 200.0),
        (r"^(larynx|o?esophagus)$", 200.0),
        (r"^(left|right) lung$", 6000.0),
        (r"^liver$", 6000.0),
        (r"^spleen$", 4000.0),
        (r"^(left|right) kidney$", 2500.0),
        (r"^heart$", 2500.0),
        (r"^brain$", 2200.0),
        (r"^(pancreas|gallbladder)$", 800.0),
        (r"^urinary bladder$", 3000.0),
    )
)

"""What structures are like in people: their usual median HU, and millilitres that hardly any of them exceeds.

The ranges are wide: what lies outside them is the mask of something else, one of another image, or a rare disease.
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
        (r"^(o?esophagus)$", (-200.0, 350.0)),  # with some air in it, or contrast
        (r"^(spine|ribs|skull|mandible|bone|vertebrae?\b.*|(left |right )?hip|sacrum)$", (50.0, 1500.0)),
    )
)
MOST_MILLILITRES = tuple(
    (re.compile(pattern), most)
    for pattern, most in (
        (r"^spinal cord$", 250.0),  # the whole canal has less
        (r"^brainstem$", 80.0),
        (r"^(left|right) parotid gland$", 150.0),
        (r"^mandible$", 200.0),
        (r"^larynx$", 200.0),
        (r"^(left|right) lung$", 8000.0),
        (r"^liver$", 15000.0),
        (r"^spleen$", 10000.0),
        (r"^(left|right) kidney$", 6000.0),
        (r"^heart$", 2500.0),
        (r"^brain$", 3000.0),
        (r"^(o?esophagus|pancreas)$", 1000.0),
        (r"^gallbladder$", 2000.0),
        (r"^urinary bladder$", 5000.0),
    )
)

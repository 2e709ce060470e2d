"""The share of positives of each label beside the one that its published weight tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets.prepare.case import Findings
from datasets.vocabulary import diagnosis_facts

_FAR = 0.1  # of all volumes
_FEWEST = 200  # rows; the share of fewer tells little


def note_shares(label_set: str, labels: Sequence[Mapping[str, int | None]], findings: Findings) -> None:
    """Compare 1 or 0 by label, of each volume, with the published positive weights (negatives by positives).

    Both shares go to the facts; a label that is far off is a warning.
    """
    shares = {}
    far = []
    for label, weight in diagnosis_facts()[label_set]:
        known = [value for value in (volume[label] for volume in labels) if value is not None]
        found, published = sum(known) / max(len(known), 1), 1 / (1 + weight)
        shares[label] = {"found": round(found, 3), "published": round(published, 3)}
        if len(known) >= _FEWEST and abs(found - published) > _FAR:
            far.append(f"{label} {found:.0%} (published {published:.0%})")
    findings.facts[f"share of positives ({label_set})"] = shares
    if far:
        findings.warnings.append(
            f"{label_set}: shares of positives that are far from what the published weights tell: {', '.join(far)}"
        )

"""What can come of one damaged input, and a table of how often each came."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

SAME = "same"  # the answer of the undamaged input
REFUSED = "refused"  # one line that names the file
FOLLOWED = "followed"  # another answer, where the format has no checksum: a second reader finds the same in the file
DIFFERENT = "different"  # another answer, though the format could have told, or a second reader finds something else
TRACEBACK = "traceback"  # an exception that is no InputError
UNCLEAR = "unclear"  # a refusal of several lines, or one that does not name the file
NOISE = "noise"  # words of a library on stderr
MEMORY = "memory"  # more than three times the volume
HANG = "hang"
CRASH = "crash"  # the process is gone
NOT_STRUCK = "not struck"  # the run ended before its kill or fault could come: it shows nothing
SURVIVED = (SAME, REFUSED, FOLLOWED)


@dataclass(frozen=True)
class Verdict:
    """Of one input.  detail: what was said or done, for whoever looks into a fault."""

    target: str
    number: int
    outcome: str
    detail: str = ""

    @property
    def survived(self) -> bool:
        return self.outcome in SURVIVED

    @property
    def is_fault(self) -> bool:
        return self.outcome not in (*SURVIVED, NOT_STRUCK)

    def line(self) -> str:
        """One line that is enough to make the input again."""
        return f"{self.target} {self.number}: {self.outcome}: {self.detail}"


def table(verdicts: Iterable[Verdict]) -> str:
    """Markdown: for each target how many inputs were tried, how many survived and how, how many were not struck."""
    counts: dict[str, Counter[str]] = {}
    for verdict in verdicts:
        counts.setdefault(verdict.target, Counter())[verdict.outcome] += 1
    columns = ("what", "tried", "survived", *SURVIVED, NOT_STRUCK, "faults")
    lines = [f"| {' | '.join(columns)} |", "| :--- |" + " ---: |" * (len(columns) - 2) + " :--- |"]
    for target, found in [*counts.items(), ("**all**", sum(counts.values(), Counter()))]:
        survived = [found[outcome] for outcome in SURVIVED]
        apart = (*SURVIVED, NOT_STRUCK)
        faults = ", ".join(f"{count} {outcome}" for outcome, count in sorted(found.items()) if outcome not in apart)
        cells = [target, found.total(), sum(survived), *survived, found[NOT_STRUCK], faults or "none"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)

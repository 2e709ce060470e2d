"""How tables and pages name a control: a run whose questions were asked without their own images.

The controls themselves are in `evaluation.answering.controls`.
"""

from __future__ import annotations

from dataclasses import replace

from evaluation.report.tables import Table

CAPTIONS = {"shuffled": "images of another patient", "no_image": "no image"}


def caption(control: str | None) -> str:
    """ " (control: ...)" to stand behind a name; nothing without a control."""
    return f" (control: {CAPTIONS[control]})" if control in CAPTIONS else ""


def captioned(table: Table, control: str) -> Table:
    """The table with the control in its title, where there is one."""
    return replace(table, title=f"{table.title}{caption(control)}")

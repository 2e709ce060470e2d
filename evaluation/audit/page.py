"""The page of an audit: one self-contained HTML file, which opens anywhere, without a network."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from datasets.errors import InputError
from datasets.whole_files import write_whole_text
from evaluation.audit.cases import AuditCase
from evaluation.audit.pictures import colours_of, histogram_figure, planes_uri
from evaluation.audit.rules import Oddity, oddities
from evaluation.audit.view import View, read_view
from evaluation.report.report_data import readable
from evaluation.report.report_figures import to_svg

TEMPLATES = Path(__file__).resolve().parents[1] / "report" / "templates"
TEXTS = 12  # of a case; some data sets ask a hundred questions about a volume
UNREADABLE = "cannot be read"


def describe_case(case: AuditCase) -> dict[str, Any]:
    """What the page shows of one case; of one that cannot be read the reason, as an oddity."""
    shown: dict[str, Any] = {
        "image": str(case.image),
        "manifests": case.manifests,
        "texts": [(readable(heading), text) for heading, text in case.texts[:TEXTS]],
        "more_texts": max(0, len(case.texts) - TEXTS),
        "picture": None,
    }
    try:
        view = read_view(case)
    except (InputError, OSError) as error:
        return shown | {"oddities": [Oddity(UNREADABLE, " ".join(str(error).split()))]}
    return shown | {
        "oddities": oddities(view),
        "picture": planes_uri(view),
        "histogram": Markup(to_svg(histogram_figure(view), f"Histogram of {case.image.name}")),
        "facts": _facts(view, case),
        "structures": _structures(view),
    }


def _facts(view: View, case: AuditCase) -> list[tuple[str, str]]:
    low, high = np.percentile(view.volume, (1, 99))
    unit = " HU" if view.in_hu else ""
    facts = [
        ("Values", f"{view.lowest:.4g} to {view.highest:.4g}{unit}, 98 % from {low:.4g} to {high:.4g}"),
        ("Voxels along RAS", " × ".join(map(str, view.geometry.shape))),
        ("Spacing", " × ".join(f"{side:.3g}" for side in view.source_spacing) + " mm"),
        ("Stored as", view.geometry.source_orientation),
    ]
    return facts + ([("Offset to HU", f"{case.hu_offset:g}")] if case.hu_offset else [])


def _structures(view: View) -> list[dict[str, str]]:
    voxel = float(np.prod(view.source_spacing)) / 1000
    colours = colours_of(view)
    return [
        {
            "label": label,
            "colour": colours[label],
            "volume": f"{view.voxels[label] * voxel:.1f} ml",
            "median": f"{np.median(view.volume[mask]):.0f}" if view.in_hu and mask.any() else "–",
        }
        for label, mask in view.masks.items()
    ]


def write_page(data_set: str, cases: Sequence[dict[str, Any]], output: Path, seed: int) -> Path:
    """Write the page of cases that `describe_case` described; folders are made."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("audit.html.j2").render(
        data_set=data_set,
        cases=cases,
        odd=sum(bool(case["oddities"]) for case in cases),
        rules=Counter(rule for case in cases for rule in {oddity.rule for oddity in case["oddities"]}),
        seed=seed,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    return write_whole_text(output, page)

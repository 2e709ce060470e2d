"""Figures that others publish for the same benchmarks, in tables of their own: their protocols differ from ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from datasets.errors import InputError
from datasets.vocabulary import Task
from evaluation.report.result_tables import TASK_NAMES
from evaluation.report.tables import NO_VALUE, Table

Text = Annotated[str, Field(min_length=1)]
TASKS_IN_ORDER = (
    "diagnosis",
    "segmentation",
    "multiple_choice",
    "yes_no",
    "report_generation",
    "open_vqa",
)  # of tables
NOTE = (
    "As others publish them, by their own protocols and under their names for the metrics: not to be ranked with ours."
)


class Peer(BaseModel):
    """What one system is said to reach on one benchmark.

    task: what was asked.  figures: shares by the source's name of the metric.  protocol: on which cases, or how scored.
    source: where the figures were read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    system: Text
    benchmark: Text
    task: Task
    figures: Annotated[dict[str, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    protocol: Text
    source: Text


def read_peers(path: str | Path) -> list[Peer]:
    """The entry "peers" of a file of published figures; none without it.

    Raises:
        InputError: the file is unreadable, or a row has no protocol or source, or a figure that is no share.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8")).get("peers", [])
        return TypeAdapter(list[Peer]).validate_python(rows)
    except ValidationError as error:
        first = error.errors()[0]
        row, *field = first["loc"] or (0,)
        raise InputError(f"{path}: peers, row {row}, {'.'.join(map(str, field))}: {first['msg']}") from error
    except (OSError, json.JSONDecodeError, AttributeError) as error:
        raise InputError(f"{path}: cannot read published figures ({error})") from error


def peer_tables(summaries: Mapping[str, Mapping[str, Any]], peers: Sequence[Peer]) -> list[Table]:
    """A table a task, of the benchmarks that are in `summaries`, in their order; every row with protocol and source.

    Args:
        summaries: {benchmark name: result of `summarize`}; those under a control are passed over.
    """
    order = [name for name, summary in summaries.items() if summary.get("run", {}).get("control", "none") == "none"]
    tables = []
    for task in TASKS_IN_ORDER:
        rows = [peer for name in order for peer in peers if (peer.benchmark, peer.task) == (name, task)]
        metrics = list(dict.fromkeys(metric for peer in rows for metric in peer.figures))
        cells = [
            (
                *(peer.benchmark, peer.system, peer.protocol, peer.source),
                *(str(peer.figures.get(metric, NO_VALUE)) for metric in metrics),
            )
            for peer in rows
        ]
        columns = ("Benchmark", "System", "Protocol", "Source", *metrics)
        if cells:
            tables.append(
                Table(f"{TASK_NAMES[task]}: figures of others", columns, tuple(cells), (NOTE,), text_columns=4)
            )
    return tables

"""The model card of a checkpoint folder: README.md, filled in from config.json and an evaluation's metrics.json."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from datasets.errors import InputError
from datasets.json_text import parse_json
from datasets.volume.guards import BODY
from models.checkpoints.folder import read_config
from models.hub.names import hub_name

TEMPLATE = Path(__file__).with_name("templates") / "model_card.md.j2"
NO_LICENCE = "other"  # the hub's word for a licence that it has no name for


def model_card(
    folder: str | Path,
    repository: str,
    *,
    metrics: Mapping[str, Any] | str | Path | None = None,
    licence: str = NO_LICENCE,
) -> str:
    """The text of the card.

    Args:
        folder: a checkpoint folder of this project (`save_checkpoint`).
        repository: where it goes, "owner/name".
        metrics: metrics.json of an evaluation, or of several together, or its content.
        licence: of the weights, in the hub's words ("apache-2.0", "cc-by-nc-sa-4.0").

    Raises:
        InputError: config.json or metrics.json cannot be read.
    """
    config = read_config(Path(folder))
    training = dict(config.get("training", {}))
    departures = training.pop("departures", {})
    training.pop("labels", None)  # hundreds, which `labels` of the model lists
    training.pop(BODY, None)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    preprocessing = config.get("preprocessing")
    base = hub_name(config["lora"]["base"], bare=True) if "lora" in config else None
    return environment.get_template(TEMPLATE.name).render(
        name=repository.rpartition("/")[2],
        repository=repository,
        licence=licence,
        base_model=base.repository if base else None,
        parts=_parts(config),
        training=list(training.items()),
        departures=[(name, both["published"], both["this_run"]) for name, both in departures.items()],
        preprocessing=json.dumps(preprocessing, indent=2) if preprocessing else "",
        results=list(_results(read_metrics(metrics))) if metrics else [],
    )


def read_metrics(metrics: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    """Evaluation's name -> its summary; raises InputError where it is not what an evaluation writes."""
    source = "the metrics"
    if isinstance(metrics, (str, Path)):
        source, path = str(metrics), Path(metrics)
        try:
            metrics = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: not a readable JSON file ({error}); give an evaluation's metrics.json"
            ) from error
    if isinstance(metrics, Mapping) and "tasks" in metrics:
        run = metrics.get("run") or {}
        metrics = {run.get("benchmark") or Path(run.get("manifest") or "evaluation").stem: metrics}
    if not isinstance(metrics, Mapping) or not all(
        isinstance(summary, Mapping) and isinstance(summary.get("tasks"), Mapping) for summary in metrics.values()
    ):
        raise InputError(f"{source}: no tasks with metrics; give the metrics.json that evaluate_CTInstruct.py wrote")
    return metrics


def _parts(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    vision, language = config["vision"], config["language_model"]
    text = language.get("text_config") or language
    parts = [
        ("Volume encoder and mask decoder", str(vision.get("encoder"))),
        ("Patches", f"{' x '.join(map(str, vision['crop_size']))} voxels, at most {vision['patch_max']} a volume"),
        (
            "Language model",
            f"{language.get('model_type')}, {text.get('num_hidden_layers')} layers, {text.get('hidden_size')} wide",
        ),
    ]
    if lora := config.get("lora"):
        parts.append(("Adapter", f"LoRA of rank {lora['rank']} on {', '.join(lora['modules'])} of {lora['base']}"))
    return parts


def _results(metrics: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Rows: evaluation, task, metric, value, interval, samples."""
    for evaluation, summary in metrics.items():
        control = (summary.get("run") or {}).get("control", "none")
        shown = evaluation if control == "none" else f"{evaluation} (control: {control})"
        for task, result in summary["tasks"].items():
            groups = {task: result, **{f"{task}, {name}": part for name, part in result.get("label_sets", {}).items()}}
            for group, part in groups.items():
                for metric, estimate in (part.get("metrics") or {}).items():
                    if isinstance(estimate, Mapping) and estimate.get("value") is not None:
                        low, high = estimate.get("low"), estimate.get("high")
                        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
                        yield shown, group, metric, f"{estimate['value']:.3f}", interval, str(estimate.get("n", ""))


def _cell(value: Any) -> str:
    """A value as the text of one cell of a Markdown table."""
    text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return " ".join(text.split()).replace("|", "\\|")

"""One self-contained report.html of one or several evaluations: it opens anywhere, without a network.

python -m evaluation.report.html_report runs/evaluation
python -m evaluation.report.html_report runs/benchmarks/CT-ORG runs/benchmarks/M3D-Cap --output report.html
"""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from datasets.commands import told
from datasets.errors import InputError
from datasets.volume.overlay import MASK_COLOURS
from datasets.whole_files import write_whole_text
from evaluation.report.control_captions import caption
from evaluation.report.interactive import EmbeddedFiles, viewer_code
from evaluation.report.mask_cases import read_case
from evaluation.report.peer_tables import peer_tables, read_peers
from evaluation.report.report_data import (
    Evaluation,
    dice_values,
    gallery_cases,
    question_groups,
    read_evaluation,
)
from evaluation.report.report_figures import (
    CALIBRATION_BINS,
    box_figure,
    calibration_error,
    calibration_figure,
    known_pairs,
    overlay_panels,
    roc_figure,
    to_svg,
)
from evaluation.report.result_tables import (
    PUBLISHED_RESULTS,
    TASK_NAMES,
    benchmark_table,
    diagnosis_table,
    paper_tables,
    read_published,
    segmentation_table,
)
from evaluation.report.tables import format_estimate, format_number

TEMPLATE = Path(__file__).resolve().parent / "templates" / "report.html.j2"


@dataclass(frozen=True)
class ReportOptions:
    """How much is shown.

    Attributes:
        gallery_structures: structures of each evaluation that get overlays, the most frequent first.
        questions: questions a task, spread evenly over the evaluation's order so that none is picked by hand.
        interactive: whether the page holds the gallery's volumes, to look through their slices; it is then larger.
    """

    gallery_structures: int = 4
    questions: int = 6
    interactive: bool = False


def disease_cards(evaluation: Evaluation) -> list[dict[str, Any]]:
    """For each label set, a card a disease: its AUC, ROC and calibration curves; without curves where a class is
    missing."""
    sets = []
    for label_set, part in evaluation.summary["tasks"].get("diagnosis", {}).get("label_sets", {}).items():
        records = [r for r in evaluation.of_task("diagnosis") if (r.get("label_set") or "unnamed") == label_set]
        cards, left_out = [], []
        for disease, result in part["diseases"].items():
            targets, probabilities = known_pairs(
                [(r.get("targets") or {}).get(disease) for r in records],
                [(r.get("probabilities") or {}).get(disease) for r in records],
            )
            if len(set(targets.tolist())) < 2:
                left_out.append(disease)
                continue
            name = f"{evaluation.name}, {label_set}, {disease}"
            cards.append(
                {
                    "disease": disease,
                    "auc": format_estimate(result["auc"]),
                    "counts": f"{targets.sum()} of {len(targets)} positive",
                    "ece": format_number(calibration_error(targets, probabilities)),
                    "roc": Markup(to_svg(roc_figure(targets, probabilities, result["threshold"]), f"ROC, {name}")),
                    "calibration": Markup(to_svg(calibration_figure(targets, probabilities), f"Calibration, {name}")),
                }
            )
        sets.append({"label_set": label_set, "cards": cards, "left_out": left_out})
    return sets


def gallery(evaluation: Evaluation, structures: int, embedded: EmbeddedFiles | None = None) -> list[dict[str, Any]]:
    """The overlays of `gallery_cases`; a case whose files are gone is shown with the reason in place of a picture.

    embedded: takes the volumes and masks of an interactive page.
    """
    shown = []
    for label, ranked in gallery_cases(evaluation, structures):
        pictures = []
        for rank, record, entry in ranked:
            values = evaluation.mask_values.get((record["id"], label))
            panels, problem, viewed = [], None, None
            try:
                case = read_case(evaluation.folder, record, entry, values)
                panels = overlay_panels(case.volume, case.truth, case.prediction, case.spacing)
                problem = case.problem
                if embedded:
                    viewed = embedded.case(str(record["image_path"][record.get("mask_image") or 0]), case)
            except (InputError, OSError) as error:
                problem = " ".join(str(error).split())
            pictures.append(
                {
                    "rank": rank,
                    "id": record["id"],
                    "dice": format_number(entry["dice"]),
                    "hd95": None if entry.get("hd95") is None else format_number(entry["hd95"], "hd95"),
                    "given": bool(entry.get("mask_path")),
                    "panels": panels,
                    "problem": problem,
                    "viewed": viewed,
                }
            )
        shown.append({"structure": label, "pictures": pictures})
    return shown


def _sections(evaluation: Evaluation, options: ReportOptions, embedded: EmbeddedFiles | None) -> dict[str, Any]:
    """Everything that the page shows of one evaluation."""
    label_sets = evaluation.summary["tasks"].get("diagnosis", {}).get("label_sets", {})
    dice = dice_values(evaluation)
    boxes = Markup(to_svg(box_figure(dice), f"Dice of each structure, {evaluation.name}")) if dice else None
    return {
        "name": evaluation.name,
        "counts": evaluation.summary["counts"],
        "run": evaluation.run,
        "diagnosis": [diagnosis_table(evaluation.summary, name) for name in label_sets],
        "curves": disease_cards(evaluation),
        "segmentation": segmentation_table(evaluation.summary) if dice else None,
        "boxes": boxes,
        "gallery": gallery(evaluation, options.gallery_structures, embedded),
        "questions": question_groups(evaluation, options.questions),
        "notes": [
            f"{evaluation.name}, {TASK_NAMES[task]}: {note}"
            for task, result in evaluation.summary["tasks"].items()
            for note in result.get("notes", [])
        ],
    }


def write_report(
    sources: Sequence[str | Path],
    output: str | Path | None = None,
    manifests: Sequence[str | Path] = (),
    checkpoint: str | None = None,
    title: str = "CTInstruct evaluation",
    published: str | Path | None = PUBLISHED_RESULTS,
    options: ReportOptions | None = None,
) -> Path:
    """Write one HTML file that holds all its figures and pictures.

    Args:
        sources: folders of evaluate_CTInstruct.py, or their predictions.json; each is a benchmark of the report.
        output: the file; ``report.html`` in the first source's folder by default.
        manifests: none, or the answered manifest of each source (see `read_evaluation`).
        checkpoint: shown in the header; by default what the evaluations' metrics.json tell.
        published: figures to set beside ours (see `result_tables.read_published`); None for no such column.

    Raises:
        InputError: no source is given, one cannot be read, or there are not as many manifests as sources.
    """
    if not sources:
        raise InputError("report: name at least one evaluation folder")
    if manifests and len(manifests) != len(sources):
        raise InputError(f"report: {len(manifests)} manifests for {len(sources)} evaluations; give one for each")
    answered: Sequence[str | Path | None] = manifests or [None] * len(sources)
    evaluations = [read_evaluation(source, manifest) for source, manifest in zip(sources, answered, strict=True)]
    controls = [caption(evaluation.run.get("control")) for evaluation in evaluations]
    for evaluation, control in zip(evaluations, controls, strict=True):
        evaluation.name += control
    _tell_names_apart(evaluations)
    checkpoints = dict.fromkeys(str(e.run["checkpoint"]) for e in evaluations if e.run.get("checkpoint"))
    file = None if published is None else Path(published)
    figures, others = (read_published(file), read_peers(file)) if file and file.is_file() else ({}, [])
    summaries = {evaluation.name: evaluation.summary for evaluation in evaluations}
    options = options or ReportOptions()
    embedded = EmbeddedFiles() if options.interactive else None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template(TEMPLATE.name).render(
        title=title + (controls[0] if len(set(controls)) == 1 else ""),
        checkpoint=checkpoint or ", ".join(checkpoints) or "not recorded",
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        overview=paper_tables(summaries, figures),
        peers=peer_tables(summaries, others),
        evaluations=[_sections(evaluation, options, embedded) for evaluation in evaluations],
        embedded=embedded.files if embedded else {},
        viewer=viewer_code() if embedded and embedded.files else None,
        calibration_bins=CALIBRATION_BINS,
        truth_colour=MASK_COLOURS[0],
        prediction_colour=MASK_COLOURS[1],
        all_figures=benchmark_table(summaries, figures, title="Every figure"),
    )
    output = Path(output) if output else evaluations[0].folder / "report.html"
    return write_whole_text(output, page)


def _tell_names_apart(evaluations: Sequence[Evaluation]) -> None:
    """A number behind a name that another evaluation has already."""
    seen: dict[str, int] = {}
    for evaluation in evaluations:
        number = seen[evaluation.name] = seen.get(evaluation.name, 0) + 1
        if number > 1:
            evaluation.name = f"{evaluation.name} ({number})"


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.report.html_report", description=__doc__.splitlines()[0]
    )
    parser.add_argument("evaluations", nargs="+", type=Path, help="folders of evaluate_CTInstruct.py")
    parser.add_argument("--output", type=Path, help="default: report.html in the first folder")
    parser.add_argument("--manifest", nargs="+", type=Path, default=[], help="the manifest of each evaluation")
    parser.add_argument("--checkpoint", help="as shown in the header")
    parser.add_argument("--title", default="CTInstruct evaluation")
    parser.add_argument("--gallery-structures", type=int, default=ReportOptions.gallery_structures)
    parser.add_argument("--questions", type=int, default=ReportOptions.questions, help="shown for each task")
    parser.add_argument("--interactive", action="store_true", help="hold the volumes, to look through their slices")
    values = parser.parse_args(arguments)
    options = ReportOptions(values.gallery_structures, values.questions, values.interactive)
    path = write_report(
        values.evaluations, values.output, values.manifest, values.checkpoint, values.title, options=options
    )
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())

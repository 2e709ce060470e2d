"""Manifests and benchmarks from questions to report: answered by all ranks, scored by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import InstructionRecord, load_manifest
from datasets.volume.cache import RecentLoader
from evaluation.answering.batches import plan_batches, share
from evaluation.answering.benchmarks import Benchmark, find_benchmarks, load_benchmark, with_manifests
from evaluation.answering.controls import Control, questions_under
from evaluation.answering.inference import answer_batches
from evaluation.answering.release_output import write_release_output
from evaluation.answering.run_record import check_run, record_run
from evaluation.metrics.bertscore import load_encoder
from evaluation.metrics.report_classifier import load_report_classifier
from evaluation.metrics.summarize import fit_thresholds_from_records, summarize
from evaluation.predictions import PredictionWriter, merge_predictions, read_predictions, write_json
from evaluation.report.control_captions import captioned
from evaluation.report.html_report import ReportOptions, write_report
from evaluation.report.peer_tables import peer_tables, read_peers
from evaluation.report.result_tables import PUBLISHED_RESULTS, paper_tables, read_published, summary_tables
from evaluation.report.tables import print_table, write_tables
from models.answering.predicting import GenerationOptions
from models.ctinstruct import CTInstruct
from training import distributed
from training.distributed import Ranks, wait_for_all


@dataclass(frozen=True)
class Job:
    """The records of one manifest and the folder that its predictions and figures go to.

    asked: by id, the records that are asked otherwise than they stand, as `control` has it
    (`evaluation.answering.controls`).
    """

    name: str
    folder: Path
    manifest: Path
    records: list[InstructionRecord]
    benchmark: Benchmark | None = None
    control: Control = "none"
    asked: dict[str, InstructionRecord] = field(default_factory=dict)


@dataclass(frozen=True)
class Scoring:
    """How records become figures; see `evaluation.metrics.summarize.summarize`."""

    bertscore_folder: str | None = None
    thresholds: Mapping[str, Mapping[str, float]] | None = None
    report_labeller: Callable[[str], Mapping[str, int]] | None = None
    interactive_report: bool = False  # see `evaluation.report.html_report.ReportOptions`

    @classmethod
    def of(
        cls, bertscore_model: str, validation_predictions: str, report_classifier: str, interactive_report: bool = False
    ) -> Scoring:
        """From the options of these names, empty where not given; raises InputError where one cannot be had."""
        if bertscore_model:
            try:
                load_encoder(bertscore_model)
            except InputError as error:
                raise InputError(f"--bertscore_model {bertscore_model}: {error}") from error
        thresholds = None
        if validation_predictions:
            thresholds = fit_thresholds_from_records(read_predictions(validation_predictions))
        labeller = load_report_classifier(report_classifier) if report_classifier else None
        return cls(bertscore_model or None, thresholds, labeller, interactive_report)


def plan_jobs(
    manifest: str,
    benchmarks: Sequence[str],
    benchmark_dir: str | None,
    output: Path,
    limit: int = 0,
    control: Control = "none",
    skip_missing: bool = False,
) -> list[Job]:
    """One job for a manifest, or one a benchmark; several benchmarks go to folders of their names in ``output``.

    Args:
        limit: take so many records of each, spread evenly; 0 takes all.
        control: see `evaluation.answering.controls`.
        skip_missing: leave benchmarks without a manifest out.
    Raises:
        InputError: a manifest is absent or wrong, or has no other patient to shuffle with; all are read before the
            first is answered.
    """

    def job(name: str, folder: Path, path: Path, records: list[InstructionRecord], of: Benchmark | None = None) -> Job:
        return Job(name, folder, path, _spread(records, limit), of, control, questions_under(control, records))

    jobs = [job(Path(manifest).stem, output, Path(manifest), load_manifest(manifest))] if manifest else []
    chosen = find_benchmarks(benchmarks)
    for benchmark in with_manifests(chosen, benchmark_dir, skip_missing) if chosen else []:
        records, _, path = load_benchmark(benchmark.name, benchmark_dir)
        folder = output / benchmark.name if len(chosen) > 1 else output
        jobs.append(job(benchmark.name, folder, path, records, benchmark))
    return jobs


def _spread(records: list[InstructionRecord], limit: int) -> list[InstructionRecord]:
    if not 0 < limit < len(records):
        return records
    return [records[index * len(records) // limit] for index in range(limit)]


def answer_jobs(
    jobs: Sequence[Job],
    model: CTInstruct,
    dataset: InstructionDataset,
    options: GenerationOptions,
    ranks: Ranks,
    settings: Mapping[str, Any],
    batch_size: int = 1,
    retry_failed: bool = False,
) -> None:
    """Answer the records of every job that no earlier run has answered, each on one rank.

    Args:
        settings: what answers depend on, written to each folder (see `evaluation.answering.run_record`).
    Raises:
        InputError: a folder holds predictions that were made with other settings.
    """
    dataset.loader = RecentLoader(dataset.loader, keep=batch_size + 1)
    made_with = [{**settings, "manifest": str(job.manifest.resolve()), "control": job.control} for job in jobs]
    for job, how in zip(jobs, made_with, strict=True):
        check_run(job.folder, how)
    distributed.barrier()  # every rank has looked before one writes
    if ranks.is_main:
        for job, how in zip(jobs, made_with, strict=True):
            record_run(job.folder, how)
    with ExitStack() as stack:
        work = []
        for job in jobs:
            writer = stack.enter_context(PredictionWriter(job.folder, ranks.rank, retry_failed=retry_failed))
            batches = plan_batches(job.records, batch_size)
            work.append((job, writer, share(batches, writer.done, ranks.rank, ranks.world_size)))
        distributed.barrier()  # every rank has read what is done before one writes more
        # No rank waits for another between the jobs: they may be hours apart.
        for job, writer, mine in work:
            total = sum(record.id not in writer.done for batch in mine for record in batch)
            answered = answer_batches(model, dataset, mine, writer, job.folder / "masks", options, job.asked)
            _exhaust(answered, total, job.name, shown=ranks.is_main)
    wait_for_all()


def _exhaust(answered: Iterator[str], total: int, name: str, shown: bool) -> None:
    for _ in tqdm(answered, total=total, desc=f"answering {name}", disable=not shown):
        pass


def score_jobs(
    jobs: Sequence[Job], scoring: Scoring, checkpoint: str, output: Path, release_name: str = ""
) -> list[Path]:
    """predictions.json, metrics.json, tables and report.html of each job, and of all together where there are several.

    Args:
        release_name: also write the answers in the published evaluator's form, under this name
            (`evaluation.answering.release_output`).
    Returns:
        The reports, that of all together last.
    """
    published, peers = read_published(PUBLISHED_RESULTS), read_peers(PUBLISHED_RESULTS)
    summaries, reports, options = {}, [], ReportOptions(interactive=scoring.interactive_report)
    for job in jobs:
        predictions = merge_predictions(job.folder, [record.id for record in job.records])
        summary = summarize(
            predictions,
            bertscore_folder=scoring.bertscore_folder,
            thresholds=scoring.thresholds,
            report_labeller=scoring.report_labeller,
        )
        if release_name:
            task = job.benchmark.release_task if job.benchmark else job.name
            write_release_output(output, release_name, task, predictions)
        name = job.benchmark.name if job.benchmark else None
        run = {"checkpoint": checkpoint, "manifest": str(job.manifest), "benchmark": name, "control": job.control}
        summary["run"] = run
        write_json(summary, job.folder / "metrics.json")
        tables = [*paper_tables({job.name: summary}, published), *summary_tables(summary)]
        tables = [captioned(table, job.control) for table in tables] + peer_tables({job.name: summary}, peers)
        write_tables(tables, job.folder / "tables")
        reports.append(write_report([job.folder], checkpoint=checkpoint, options=options))
        summaries[job.name] = summary
        if len(jobs) == 1:
            for table in tables:
                print_table(table)
    if len(jobs) > 1:
        write_json(summaries, output / "metrics.json")
        tables = [captioned(table, jobs[0].control) for table in paper_tables(summaries, published)]
        tables += peer_tables(summaries, peers)
        write_tables(tables, output / "tables")
        for table in tables:
            print_table(table)
        folders = [job.folder for job in jobs]
        reports.append(write_report(folders, output / "report.html", checkpoint=checkpoint, options=options))
    return reports


def refuse_failed_jobs(jobs: Sequence[Job]) -> None:
    """Raise InputError where not one record of a job was answered; call it when everything is written."""
    for job in jobs:
        predictions = read_predictions(job.folder / "predictions.json")
        reasons = [record["error"] for record in predictions if record.get("error")]
        if reasons and len(reasons) == len(predictions):
            raise InputError(
                f"{job.folder}: none of {len(predictions)} questions was answered; the first failed since {reasons[0]}"
            )

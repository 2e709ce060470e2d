"""Use or evaluate a trained CTInstruct.

One examination (a NIfTI, NRRD or MHA file, a DICOM folder, .npy or .npz):
    python evaluate_CTInstruct.py --checkpoint runs/CTInstruct_tiny --image ct.nii.gz \
        --question "Where is the liver? Please output segmentation mask."
A manifest of questions, on one process or several:
    deepspeed --include localhost:0,1 evaluate_CTInstruct.py --checkpoint runs/CTInstruct --manifest data/test.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from tqdm import tqdm

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import load_manifest
from evaluation.benchmarks import load_benchmark
from evaluation.html_report import write_report
from evaluation.inference import GenerationOptions, answer_manifest
from evaluation.predictions import PredictionWriter, merge_predictions, read_predictions, to_json
from evaluation.single_volume import answer_question
from evaluation.summarize import fit_thresholds_from_records, summarize
from evaluation.tables import (
    confidence_table,
    diagnosis_table,
    print_table,
    segmentation_table,
    summary_table,
    write_tables,
)
from models.checkpoint import load_checkpoint
from training import checkpoint_store, distributed
from training.arguments import parse
from training.distributed import Ranks
from training.script import run_script


@dataclass
class HyperParameters:
    checkpoint: str = ""  # a run folder (its newest checkpoint), a step folder, or a model folder
    output: str = "runs/evaluation"

    # one examination
    image: tuple[str, ...] = ()  # the volume of the question; several for a question about several
    question: str = ""
    label_set: Literal["CT-RATE", "RadChestCT"] = "CT-RATE"  # names the disease confidences of an answer

    # a manifest, or one of the eight benchmarks
    manifest: str = ""
    benchmark: str = ""  # RadChestCT, CT-RATE-diagnosis, AbdomenCT-1K, CT-ORG, TotalSegmentator, CT-RATE-VQA, M3D-...
    benchmark_dir: str = ""  # folder of the benchmarks' manifests; data/benchmarks where empty
    limit: int = 0  # answer so many records, spread evenly over the manifest; 0 answers all
    batch_size: int = 1
    validation_predictions: str = ""  # predictions.json of the validation split: fixes diagnosis thresholds
    bertscore_model: str = ""  # local folder of a BERT model; without it BERTScore is not computed
    retry_failed: bool = False  # answer again the samples that failed in an earlier run

    # reading and answering
    orientation: str = "RAS"
    resize: Literal["published", "isotropic"] = "published"
    cache: str = ""
    max_length: int = 4096
    num_beams: int = 5
    max_new_tokens: int = 4096
    precision: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 on CUDA, fp32 on CPU


def evaluate_one(settings: HyperParameters, model, dataset: InstructionDataset, options: GenerationOptions) -> None:
    """Print the answer and the confidences; masks and overlay go to the output folder."""
    output = Path(settings.output)
    answer = answer_question(model, dataset, settings.image, settings.question, settings.label_set, output, options)
    console = Console(highlight=False)
    console.print(f"Question: {settings.question}", markup=False)
    console.print(f"Answer:   {answer.prediction.text}", markup=False)
    if answer.prediction.confidences:
        print_table(confidence_table(answer.prediction.confidences))
    for path in [*answer.mask_files, *([answer.overlay_file] if answer.overlay_file else [])]:
        print(f"wrote {path}")


def evaluate_manifest(
    settings: HyperParameters, model, dataset: InstructionDataset, options: GenerationOptions, ranks: Ranks
) -> None:
    """Answer each record once, on whichever rank; then rank 0 writes predictions.json, metrics.json and tables."""
    benchmark, manifest = None, settings.manifest
    if settings.benchmark:
        records, benchmark, manifest = load_benchmark(settings.benchmark, settings.benchmark_dir or None)
    else:
        records = load_manifest(manifest)
    if 0 < settings.limit < len(records):
        records = [records[i * len(records) // settings.limit] for i in range(settings.limit)]
    output = Path(settings.output)
    with PredictionWriter(output, ranks.rank, retry_failed=settings.retry_failed) as writer:
        mine = [record for record in records if record.id not in writer.done][ranks.rank :: ranks.world_size]
        distributed.barrier()  # every rank has read what is done before one writes more
        answered = answer_manifest(model, dataset, mine, writer, output / "masks", options, settings.batch_size)
        for _ in tqdm(answered, total=len(mine), desc="answering", disable=not ranks.is_main):
            pass
    distributed.barrier()
    if not ranks.is_main:
        return
    predictions = merge_predictions(output, [record.id for record in records])
    thresholds = None
    if settings.validation_predictions:
        thresholds = fit_thresholds_from_records(read_predictions(settings.validation_predictions))
    summary = summarize(predictions, bertscore_folder=settings.bertscore_model or None, thresholds=thresholds)
    name = benchmark.name if benchmark else None
    summary["run"] = {"checkpoint": settings.checkpoint, "manifest": manifest, "benchmark": name}
    (output / "metrics.json").write_text(json.dumps(to_json(summary), indent=2) + "\n")
    tables = [summary_table(summary), segmentation_table(summary), diagnosis_table(summary)]
    tables = [table for table in tables if table.rows]
    write_tables(tables, output / "tables")
    for table in tables:
        print_table(table)
    report = write_report([output], checkpoint=settings.checkpoint)
    print(f"wrote {output / 'predictions.json'}, {output / 'metrics.json'}, {output / 'tables'}, {report}")


def main() -> None:
    settings = parse(HyperParameters)
    if not settings.checkpoint:
        raise InputError("--checkpoint is missing: name a run folder or a model folder")
    if sum(map(bool, (settings.manifest, settings.benchmark, settings.image))) != 1:
        raise InputError("give either --manifest, or --benchmark, or --image with --question")
    ranks = distributed.initialize()
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and ranks.device.type == "cuda")
    model = load_checkpoint(
        checkpoint_store.resolve_model_folder(settings.checkpoint),
        device=ranks.device,
        dtype=torch.bfloat16 if bf16 else torch.float32,
    )
    dataset = InstructionDataset(
        {},
        model.tokenizer,
        model.config,
        orientation=settings.orientation,
        resize=settings.resize,
        cache=settings.cache,
        max_length=settings.max_length,
        with_answers=False,
    )
    options = GenerationOptions(settings.num_beams, settings.max_new_tokens)
    if settings.image:
        evaluate_one(settings, model, dataset, options)
    else:
        evaluate_manifest(settings, model, dataset, options, ranks)


if __name__ == "__main__":
    run_script(main)

"""Use or evaluate a trained CTInstruct.

One examination (a NIfTI, NRRD or MHA file, a DICOM folder, .npy or .npz):
    python evaluate_CTInstruct.py --checkpoint runs/CTInstruct_tiny --image ct.nii.gz \
        --question "Where is the liver? Please output segmentation mask."
    python evaluate_CTInstruct.py --checkpoint runs/CTInstruct_tiny --image ct.nii.gz --segment liver "left kidney"
Many examinations, below a folder or listed in a file; one row each in <output>/results.csv and results.jsonl:
    python evaluate_CTInstruct.py --checkpoint runs/CTInstruct --images scans --question "Is there a nodule?"
A manifest of questions, or benchmarks by name, on one process or several; started again, it goes on where it stopped:
    deepspeed --include localhost:0,1 evaluate_CTInstruct.py --checkpoint runs/CTInstruct --manifest data/test.json
    deepspeed --include localhost:0,1 evaluate_CTInstruct.py --checkpoint runs/CTInstruct --benchmark all
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.volume.declared_size import allow_voxels
from datasets.volume.dicom_series import series_path
from datasets.volume.find_volumes import find_volumes
from datasets.volume.guards import BODY
from datasets.volume.preprocessing import print_changes
from evaluation.answering.benchmarks import find_benchmarks
from evaluation.answering.controls import Control
from evaluation.answering.label_masks import write_masks
from evaluation.answering.many_volumes import CSV, LINES, answer_volumes
from evaluation.answering.outputs import Outputs
from evaluation.answering.run_record import describe_checkpoint
from evaluation.answering.runner import Job, Scoring, answer_jobs, plan_jobs, refuse_failed_jobs, score_jobs
from evaluation.answering.single_volume import answer_question
from models.answering.familiarity import read_familiarity
from models.answering.interface import AnsweringCTInstruct
from models.answering.predicting import GenerationOptions
from models.checkpoints.folder import read_config
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.preprocessing import read_preprocessing
from models.checkpoints.pretrained import search_protocol
from models.compiled_steps import compile_steps
from models.ctinstruct import CTInstruct
from models.precision import answer_dtype
from training import checkpoint_store, distributed
from training.arguments import parse
from training.distributed import Ranks
from training.folder_lock import locked
from training.script import run_script


@dataclass
class HyperParameters:
    """Every setting, with its default; each is an option of the command line too."""

    checkpoint: str = ""  # a run folder (its newest checkpoint), a step or model folder, or a hub name
    output: str = "runs/evaluation"

    # one examination
    image: tuple[str, ...] = ()  # the volume of the question; several for a question about several
    question: str = ""
    segment: tuple[str, ...] = ()  # masks of these structures in place of a question, as liver "left kidney"
    # or many, each asked the question by itself: a folder, searched to its depths, or a .txt file with a path a line
    images: str = ""
    label_set: Literal["CT-RATE", "RadChestCT"] = "CT-RATE"  # names the disease confidences of an answer
    series: str = ""  # which of several DICOM series in the folder of --image: its UID, or its number
    format: str = "nifti"  # of masks, with commas: nifti (a file each), seg.nrrd, dicom-seg, labels (of all together)
    findings: str = ""  # write confidences and volumes in codes, with commas: json, dicom-sr

    # a manifest, or benchmarks: all, or RadChestCT, CT-RATE-diagnosis, AbdomenCT-1K, CT-ORG, TotalSegmentator,
    # CT-RATE-VQA, M3D-Cap, M3D-VQA
    manifest: str = ""
    benchmark: tuple[str, ...] = ()  # one or several names, or all; several go to folders of their names
    skip_missing: bool = False  # leave benchmarks out that have no manifest, naming them
    benchmark_dir: str = ""  # folder of the benchmarks' manifests; data/benchmarks where empty
    limit: int = 0  # answer so many records, spread evenly over the manifest; 0 answers all
    # none; shuffled: about another patient's volume; no_image: about none.  What is right with these two is not seen.
    # Of several, one after the other, the first is in output and the others in output_shuffled or output_no_image.
    control: tuple[Control, ...] = ("none",)
    batch_size: int = 1
    validation_predictions: str = ""  # predictions.json of the validation split: fixes diagnosis thresholds
    bertscore_model: str = ""  # local folder of a BERT model; without it BERTScore is not computed
    report_classifier: str = ""  # local folder of a report classifier for the 18 findings; rules where empty
    # also write the answers in the release's form, <output>/test_out/NAME/<task>.json; NAME is CTInstruct if not given
    release_output: str = field(default="", metadata={"const": "CTInstruct"})
    interactive_report: bool = False  # report.html holds the volumes of its gallery, to look through their slices
    retry_failed: bool = False  # answer again the samples that failed in an earlier run

    # reading and answering
    orientation: str | None = None  # axis codes of all volumes, or as_stored; none: as the checkpoint was trained
    resize: Literal["published", "isotropic", "shrink"] | None = None  # none: as the checkpoint was trained
    override_preprocessing: bool = False  # prepare volumes otherwise than the checkpoint was trained with
    array_axes: str | None = None  # what the axes of .npy and .npz volumes are, as LPS, or as_stored; none assumes RAS
    max_voxels: int | None = None  # a volume of more is refused; none: 2^30, as 1024 slices of 1024 x 1024
    cache: str = ""
    max_length: int = 4096
    # beams: the best of num_beams, never sampled.  release: as published, by task: text with num_beams beams, top_k 50
    # and temperature 0.7, sampled if the checkpoint's generation_config says so; diagnosis and segmentation by that
    # generation_config alone.  auto: release for a released checkpoint, beams for one of this project.
    generation: Literal["auto", "release", "beams"] = "auto"
    num_beams: int = 5
    max_new_tokens: int = 4096
    seed: int = 42  # of sampled answers
    # auto: bf16 on CUDA, with --quantize and on a CPU made for it, else fp32; autocast: bf16 by float32 weights
    precision: Literal["auto", "bf16", "fp32", "autocast"] = "auto"
    # hold the language model's weights in 8 or 4 bits (torchao), for machines with little memory; int4 on a CPU alone
    quantize: Literal["none", "int8", "int4"] = "none"
    compile: bool = False  # decode with compiled steps, on a GPU CUDA graphs; the first answers take minutes longer

    def validate(self) -> None:
        """Raise InputError for what no evaluation can use, naming the option."""
        if not self.checkpoint:
            raise InputError("--checkpoint is missing: name a run folder or a model folder")
        if not self.output:
            raise InputError("--output is empty: name the folder that the results go to")
        if sum(map(bool, (self.manifest, self.benchmark, self.image, self.images))) != 1:
            raise InputError("give --manifest, --benchmark, --image with --question or --segment, or --images")
        if (self.image or self.images) and self.control != ("none",):
            raise InputError(f"--control {' '.join(self.control)} is for many questions; leave it out with --image")
        if self.series and len(self.image) != 1:
            raise InputError(f"--series {self.series} chooses in the folder of one --image; give that alone")
        if self.segment and (len(self.image) != 1 or self.question):
            raise InputError(f"--segment {self.segment[0]} takes one --image and no --question; give these alone")
        if self.segment and self.compile:
            raise InputError("--compile is for answers in words, and --segment asks for none; leave it out")
        if self.images and not self.question.strip():
            raise InputError("--question is empty: write what you want to know about the volumes")
        if self.images and Path(self.output).resolve().is_relative_to(Path(self.images).resolve()):
            raise InputError(
                f"--output {self.output} lies in --images {self.images}: masks would pass for CTs; move it"
            )
        ranges = {"num_beams": (1, 100), "max_new_tokens": (1, 10**6), "batch_size": (1, 10**4)}
        for name, (low, high) in {**ranges, "max_length": (1, 10**7), "limit": (0, 10**9)}.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"--{name} is {getattr(self, name)}: give a value from {low} to {high}")


def autocast(settings: HyperParameters, ranks: Ranks) -> torch.autocast:
    """What a model with float32 weights is run under to compute in bf16; changes nothing with another precision."""
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=settings.precision == "autocast")


def generation_of(settings: HyperParameters, folder: Path) -> GenerationOptions:
    """How answers are searched for; folder: the model folder of the checkpoint."""
    protocol = search_protocol(read_config(folder)) if settings.generation == "auto" else settings.generation
    return GenerationOptions(settings.num_beams, settings.max_new_tokens, protocol, settings.seed)


def evaluate_one(
    settings: HyperParameters,
    model: CTInstruct,
    dataset: InstructionDataset,
    options: GenerationOptions,
    ranks: Ranks,
    written: tuple[Outputs, Mapping[str, Any] | None, tuple[str, ...]],
) -> None:
    """Print the answer and the confidences, or the masks' sizes; masks and overlay go to the output folder."""
    output = Path(settings.output)
    asked = (settings.image, settings.question, settings.label_set)
    with autocast(settings, ranks):
        if settings.segment:
            write_masks(model, dataset, settings.image[0], settings.segment, output, *written)
        else:
            answer_question(model, dataset, *asked, output, options, *written).show()


def evaluate_many(
    settings: HyperParameters,
    images: list[str],
    model: CTInstruct,
    dataset: InstructionDataset,
    options: GenerationOptions,
    ranks: Ranks,
    written: tuple[Outputs, Mapping[str, Any] | None, tuple[str, ...]],
) -> None:
    """A row for each volume; raises InputError where not one of them could be answered."""
    output = Path(settings.output)
    asked = (settings.question, settings.label_set, output, options, ranks)
    how = made_with(settings, model, dataset, options)
    with locked([output], ranks), autocast(settings, ranks):
        rows = answer_volumes(model, dataset, images, *asked, how, settings.retry_failed, *written)
    failed = [row["error"] for row in rows if row["error"] is not None]
    if ranks.is_main:
        print(f"{len(rows) - len(failed)} of {len(rows)} CTs answered; rows in {output / CSV} and {output / LINES}")
    if len(failed) == len(rows):
        raise InputError(f"{output}: none of {len(rows)} CTs was answered; the first failed since {failed[0]}")


def folders_of(settings: HyperParameters) -> dict[Control, Path]:
    """Where the evaluation under each control goes; raises InputError where one is given twice, or none at all."""
    if not settings.control or len(set(settings.control)) < len(settings.control):
        raise InputError(f"--control {' '.join(settings.control)}: name none, shuffled and no_image once at most each")
    first, *others = settings.control
    return {first: Path(settings.output), **{name: Path(f"{settings.output}_{name}") for name in others}}


def evaluate_jobs(
    settings: HyperParameters,
    plans: dict[Path, list[Job]],
    model: CTInstruct,
    dataset: InstructionDataset,
    options: GenerationOptions,
    ranks: Ranks,
) -> None:
    """Answer each record once, on whichever rank; then rank 0 writes predictions.json, metrics.json, tables, report.

    plans: for each output folder the jobs whose results go there.
    """
    given = (settings.bertscore_model, settings.validation_predictions, settings.report_classifier)
    scoring = Scoring.of(*given, settings.interactive_report)  # before hours of answering: a folder may be wrong
    how = made_with(settings, model, dataset, options)
    jobs = [job for planned in plans.values() for job in planned]
    with locked(plans, ranks), autocast(settings, ranks):
        answer_jobs(jobs, model, dataset, options, ranks, how, settings.batch_size, settings.retry_failed)
        if ranks.is_main:
            for folder, planned in plans.items():
                reports = score_jobs(planned, scoring, settings.checkpoint, folder, settings.release_output)
                print(f"predictions, metrics.json, tables and report.html are in {folder}; open {reports[-1]}")
            refuse_failed_jobs(jobs)


def made_with(
    settings: HyperParameters, model: CTInstruct, dataset: InstructionDataset, options: GenerationOptions
) -> dict[str, Any]:
    """What answers depend on, for `evaluation.answering.run_record`."""
    answered_with = ("array_axes", "max_length", "num_beams", "max_new_tokens", "quantize")
    precision = str(next(model.parameters()).dtype)
    return {
        "checkpoint": describe_checkpoint(checkpoint_store.resolve_model_folder(settings.checkpoint)),
        "precision": f"{precision}, autocast" if settings.precision == "autocast" else precision,
        "generation": options.protocol,
        "seed": options.seed,
        "orientation": dataset.preprocessing.orientation,
        "resize": dataset.preprocessing.resize,
        **{name: getattr(settings, name) for name in answered_with},
        **({"compile": True} if settings.compile else {}),  # absent in records that know no such option
    }


def main() -> None:
    """Command line; `run_script` prints an InputError as one line."""
    settings = parse(HyperParameters)
    settings.validate()
    allow_voxels(settings.max_voxels)
    images = find_volumes(settings.images) if settings.images else []
    if settings.series:
        settings.image = (str(series_path(settings.image[0], settings.series)),)
    outputs = Outputs.parse(settings.format, settings.findings)
    outputs.check(settings.image[:1] or images)
    manifests = (settings.manifest, settings.benchmark, settings.benchmark_dir or None)
    plans = {
        folder: plan_jobs(*manifests, folder, settings.limit, control, settings.skip_missing)
        for control, folder in folders_of(settings).items()
    }
    folder = checkpoint_store.resolve_model_folder(settings.checkpoint)
    wanted = {"orientation": settings.orientation, "resize": settings.resize}
    preprocessing, changes = read_preprocessing(folder).with_options(  # before a large model is read
        f"the checkpoint {folder}", settings.override_preprocessing, wanted
    )
    ranks = distributed.initialize()
    if ranks.is_main:
        print_changes(changes)
        if left_out := {b.name for b in find_benchmarks(settings.benchmark)} - {
            job.benchmark.name for jobs in plans.values() for job in jobs if job.benchmark
        }:
            print(f"left out, having no manifest: {', '.join(sorted(left_out))}", flush=True)
    quantize = None if settings.quantize == "none" else settings.quantize
    dtype = distributed.from_main(lambda: answer_dtype(settings.precision, ranks.device, quantize is not None))
    model = cast(AnsweringCTInstruct, load_checkpoint(folder, ranks.device, dtype, AnsweringCTInstruct, quantize))
    model.familiarity = read_familiarity(folder)
    if settings.compile:
        compile_steps(model.language_model)
    dataset = InstructionDataset(
        {},
        model.tokenizer,
        model.config,
        preprocessing=preprocessing,
        array_axes=settings.array_axes,
        cache=settings.cache,
        max_length=settings.max_length,
        with_answers=False,
    )
    options = generation_of(settings, folder)
    trained = read_config(folder).get("training") or {}
    written = (outputs, trained.get(BODY), tuple(trained.get("labels", ())))
    if settings.image:
        evaluate_one(settings, model, dataset, options, ranks, written)
    elif images:
        evaluate_many(settings, images, model, dataset, options, ranks, written)
    else:
        evaluate_jobs(settings, plans, model, dataset, options, ranks)


if __name__ == "__main__":
    run_script(main)

"""Vision pretraining, the same for every encoder: data, text encoder, model and the shared loop, put together."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch.nn import Parameter

from datasets.catalog import (
    PretrainingTask,
    available_tasks,
    load_records,
    phantom_tasks,
    published_tasks,
    select_tasks,
)
from datasets.errors import InputError
from datasets.label_descriptions import canonical, descriptions
from datasets.phantom.defaults import ensure_phantoms
from datasets.pretraining import PretrainingCollator, PretrainingDataset
from datasets.sampling import MixtureSampler
from datasets.volume.augmentation import STANDARD_AUGMENTATION
from models.checkpoints.pretrained_backbone import load_pretrained_backbone
from models.checkpoints.pretrained_vision import load_into, load_pretraining, save_pretraining
from models.configuration import VISION_PRESETS, VisionConfig, vision_preset
from models.encoders.attention import Transformer
from models.extensions.pretraining import pretraining_model
from models.extensions.settings import PretrainingExtensions
from models.pretraining import PretrainingModel
from models.text.text_encoder import PUBLISHED_TEXT_ENCODER, TextEncoder
from models.text.tiny_text_encoder import build_tiny_text_encoder
from models.vision import VisionModel
from training import checkpoint_store, distributed, random_state
from training.deepspeed_config import resolve_precision
from training.distributed import Ranks
from training.loop import train
from training.settings import TrainingSettings

# model, validation data, ranks, most samples a task, tasks for zero-shot alone -> scores
Scorer = Callable[[PretrainingModel, PretrainingDataset, Ranks, int, list[str]], dict[str, float]]

VALIDATION = "validation.json"  # in the run folder: the newest scores
TINY_PHANTOMS = "runs/phantoms"  # made at the first start of --preset tiny, where no data are named


@dataclass
class PretrainingSettings(TrainingSettings):
    """Hyper-parameters of the three encoder scripts; each script names its own run_dir."""

    preset: Literal["full", "small", "tiny"] = "full"  # published size, one for a single GPU, one for two CPU cores

    # data
    manifest_dir: str = "data/pretraining"  # holds <task>_train.json and <task>_val.json of the 39 tasks
    phantoms: str = ""  # a folder of phantoms to train on instead
    kinds: tuple[str, ...] = ("image_text", "classification", "segmentation")  # objectives
    task_weights: tuple[str, ...] = ()  # NAME=WEIGHT over the published ones; 0 leaves a task out
    skip_missing_tasks: bool = False  # leave out tasks without a manifest, naming them
    orientation: str = "RAS"
    resize: Literal["published", "isotropic"] = "published"
    cache: str = ""  # folder of preprocessed volumes and masks; empty reads every file anew
    augmentation: bool = True  # random flips, quarter turns, intensities, noise
    validation_samples: int = 100  # at most so many a task
    validation_split: Literal["val", "test"] = "val"  # whose manifests are validated on
    eval_only: bool = False  # evaluate run_dir's newest checkpoint and stop

    # model
    text_encoder: str = PUBLISHED_TEXT_ENCODER  # hub name or sentence-transformers folder, or "tiny"
    vision: Literal["full", "small", "tiny"] = "full"
    initial_vision: str = ""  # a pretrained folder to start from
    pretrained_backbone: str = ""  # ImageNet weights of ResNet-50 (2D1D, ResNet3D): timm or torchvision name, or a file
    queue_size: int = 512
    gradient_checkpointing: bool = True
    deep_supervision: float = 0.0  # weight of masks at the resolution of the feature maps; 0 leaves it out
    token_classification: float = 0.0  # weight of classification by single tokens; 0 leaves it out
    deep_only_tasks: tuple[str, ...] = ()  # learned by maps, tokens and embedding, without mask decoder
    mask_slices: int = 0  # slices of a volume on which masks are learned in one step; 0 for all

    # optimisation
    max_iters: int = 100_000
    micro_batch: int = 2
    segmentation_micro_batch: int = 1
    accumulation_steps: int = 8
    learning_rate: float = 1e-4
    attention_rate: float = 1.0  # the learning rate of 2D1D's transformers, as a share of the others'
    mask_decoder_rate: float = 1.0  # that of the mask decoder
    projection_rate: float = 1.0  # that of what compares maps, tokens and volumes with texts
    weight_decay: float = 1e-4
    warmup: float = 1000
    warmup_shape: Literal["linear", "log"] = "log"
    min_lr_ratio: float = 1e-4
    workers: int = 4
    save_interval: int = 1000
    eval_interval: int = 5000

    def validate(self) -> None:
        """As of every training, and what pretraining adds."""
        super().validate()
        self.require_at_least(1, "segmentation_micro_batch", "validation_samples")
        self.require_at_least(0, "queue_size", "deep_supervision", "token_classification", "mask_slices")
        self.require_at_least(0, "attention_rate", "mask_decoder_rate", "projection_rate")


SMALL_PRESET = {"vision": "small", "max_iters": 20_000, "warmup": 500, "save_interval": 500, "eval_interval": 1000}
TINY_PRESET = {
    "phantoms": TINY_PHANTOMS,
    "cache": f"{TINY_PHANTOMS}/cache",
    "text_encoder": "tiny",
    "vision": "tiny",
    "gradient_checkpointing": False,
    "augmentation": False,  # a run of minutes underfits as it is
    "deep_supervision": 2.0,
    "token_classification": 1.0,
    "mask_slices": 32,
    "max_iters": 1500,
    "micro_batch": 4,
    "accumulation_steps": 1,
    "learning_rate": 1e-3,
    "betas": (0.9, 0.99),  # gradients shrink tenfold within a hundred steps
    "attention_rate": 0.25,
    "mask_decoder_rate": 0.5,  # at 1 it may take a thousand steps to tell left from right
    "projection_rate": 10.0,
    "warmup": 0.1,
    "warmup_shape": "linear",
    "workers": 0,
    "validation_samples": 50,
    "save_interval": 500,
    "eval_interval": 500,
}


def vision_config(settings: PretrainingSettings, encoder: str, text_width: int) -> VisionConfig:
    """The preset's sizes for ``encoder``, with queries as wide as the text encoder's embeddings."""
    return replace(vision_preset(settings.vision, encoder), query_width=text_width)


def pretrain(settings: PretrainingSettings, encoder: str, score: Scorer) -> None:
    """Pretrain ``encoder`` as the settings say, or evaluate its newest checkpoint (``eval_only``)."""
    ranks = distributed.initialize()
    if not settings.eval_only:  # before data and text encoder are made
        settings.validate()
        resolve_precision(settings, ranks.device)
    random_state.seed_all(settings.seed)
    if settings.phantoms:
        manifest = f"{settings.phantoms}/train.json"
        distributed.from_main(lambda: ensure_phantoms(settings.phantoms, [manifest]))
    every = phantom_tasks(settings.phantoms) if settings.phantoms else published_tasks(settings.manifest_dir)
    tasks, missing = available_tasks(
        select_tasks(every, settings.kinds, settings.task_weights), settings.skip_missing_tasks
    )
    if missing and ranks.is_main:
        print(f"left out, having no manifest: {', '.join(task.name for task in missing)}", flush=True)
    if not settings.eval_only:
        check_deep_only(settings, tasks)
    records = load_records(tasks)
    decoded = [task for task in tasks if task.name not in settings.deep_only_tasks]
    validation_tasks, untrained = tasks_to_validate(every, decoded, settings.validation_split)
    validation_records = load_records(validation_tasks, settings.validation_split)

    reports = [row.report for rows in records.values() for row in rows if hasattr(row, "report")]
    text_encoder = _text_encoder(settings, reports)
    options = {"orientation": settings.orientation, "resize": settings.resize, "cache": settings.cache or None}
    config = vision_config(settings, encoder, text_encoder.width)
    validation = PretrainingDataset(
        validation_tasks, validation_records, text_encoder.encode, config, augmentation=None, **options
    )

    def evaluate(step: int) -> dict[str, float]:
        scores = score(model, validation, ranks, settings.validation_samples, untrained)
        if ranks.is_main:
            run = {"step": step, "encoder": encoder, "kinds": settings.kinds, "split": settings.validation_split}
            (Path(settings.run_dir) / VALIDATION).write_text(json.dumps({**run, **scores}, indent=2) + "\n")
        return scores

    if settings.eval_only:
        folder = checkpoint_store.resolve_model_folder(settings.run_dir)
        model = load_pretraining(folder).to(ranks.device)
        scores = evaluate(checkpoint_store.step_of(folder.parent))
        if ranks.is_main:
            Console().print_json(data=scores)
        return

    augmentation = STANDARD_AUGMENTATION if settings.augmentation else None
    dataset = PretrainingDataset(tasks, records, text_encoder.encode, config, augmentation=augmentation, **options)
    extensions = PretrainingExtensions(
        running_centre=True,
        prevalence=dataset.prevalence,
        deep_supervision=settings.deep_supervision,
        deep_only_tasks=frozenset(settings.deep_only_tasks),
        token_classification=settings.token_classification,
        mask_slices=settings.mask_slices if encoder == "2D1D" else 0,
    )
    model = pretraining_model(VisionModel(config), extensions, settings.queue_size)
    if settings.pretrained_backbone:
        load_pretrained_backbone(model.vision, settings.pretrained_backbone)
    if settings.initial_vision:
        load_into(model.vision, checkpoint_store.resolve_model_folder(settings.initial_vision))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    sampler = MixtureSampler(
        dataset.sizes,
        {task.name: task.weight for task in tasks},
        mode="one_task",
        micro_batch={
            task.name: settings.segmentation_micro_batch
            if task.kind == "segmentation" and task in decoded
            else settings.micro_batch
            for task in tasks
        },
        accumulation_steps=settings.accumulation_steps,
        seed=settings.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    train(
        model,
        settings,
        ranks,
        sampler=sampler,
        dataset=dataset,
        collate=PretrainingCollator(),
        save_model=lambda folder: save_pretraining(model, folder),
        parameter_groups=parameter_groups(
            model,
            settings.learning_rate,
            settings.attention_rate,
            settings.mask_decoder_rate,
            settings.projection_rate,
        ),
        evaluate=evaluate if validation_tasks else None,
    )


def check_deep_only(settings: PretrainingSettings, tasks: Sequence[PretrainingTask]) -> None:
    """Raises InputError where a name of ``deep_only_tasks`` is no segmentation, or deep supervision has no weight."""
    names = [task.name for task in tasks if task.kind == "segmentation"]
    for name in settings.deep_only_tasks:
        if name not in names:
            raise InputError(f"--deep_only_tasks {name}: not one of the segmentation tasks here, {', '.join(names)}")
        if not settings.deep_supervision:
            raise InputError(f"--deep_only_tasks {name}: nothing is learned from it with --deep_supervision 0")


def tasks_to_validate(
    every: Sequence[PretrainingTask], trained: Sequence[PretrainingTask], split: str
) -> tuple[list[PretrainingTask], list[str]]:
    """The tasks with a manifest of the split that are trained on, and all others of classification that have a weight.

    Of the others, those whose labels are all learned from another task are as good as trained on; the rest is for
    zero-shot, and the second result names it.
    """
    names = {task.name for task in trained}
    learned = {canonical(label) for task in trained if task.kind == "classification" for label in task.labels}
    found = [task for task in every if task.path(split).is_file()]
    others = [task for task in found if task.name not in names and task.kind == "classification" and task.weight]
    untrained = [task.name for task in others if not task.labels or not learned.issuperset(map(canonical, task.labels))]
    return [task for task in found if task.name in names] + others, untrained


def parameter_groups(
    model: PretrainingModel,
    rate: float,
    attention_rate: float,
    mask_decoder_rate: float = 1.0,
    projection_rate: float = 1.0,
) -> list[dict]:
    """What the optimiser steps: everything at `rate`, but three parts at shares of it.

    They are 2D1D's transformers, the mask decoder, and what compares maps, tokens and volumes with texts.

    The transformers' attention takes keys and values from the input as it is, so what a layer adds is multiplied by the
    next; at the rate that suits the convolutions they grow until all tokens are the same.  The mask decoder's queries
    stop following the label at such a rate.  The projections have a direction to find for every label, from features
    that change under them; at the rate that suits the convolutions they lag behind.  So do the scales and biases of the
    comparison: AdamW changes the logarithm of a scale by at most its rate a step, and cosines are small.
    """
    shares = {id(p): attention_rate for m in model.modules() if isinstance(m, Transformer) for p in m.parameters()}
    vision = model.vision
    for part in (vision.decoder, vision.projection_layer, vision.transformer_decoder, vision.mask_embed_proj):
        shares |= {id(p): mask_decoder_rate for p in part.parameters()}
    shares |= {id(p): projection_rate for p in model.comparison_parameters()}
    groups: dict[float, list[Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault(shares.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": parameters, "lr": rate * share} for share, parameters in groups.items()]


def _text_encoder(settings: PretrainingSettings, reports: list[str]) -> TextEncoder:
    """The frozen text encoder; the tiny one is learned from the reports on rank 0 and kept in the run folder."""
    cache = Path(settings.cache) / "texts" if settings.cache else None
    if settings.text_encoder != "tiny":
        return TextEncoder.load(settings.text_encoder, cache=cache)
    folder = Path(settings.run_dir) / "text_encoder"

    def build() -> None:
        if not folder.is_dir():
            width = VISION_PRESETS["tiny"].query_width
            build_tiny_text_encoder([*descriptions().values(), *reports], width).save(folder)

    distributed.from_main(build)
    return TextEncoder.load(folder, cache=cache)

"""A pretraining run: data, text encoder, model and the shared loop, put together."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.pretraining import PretrainingCollator, PretrainingDataset
from datasets.sampling import MixtureSampler
from datasets.volume.declared_size import allow_voxels
from datasets.volume.preprocessing import print_changes
from datasets.whole_files import write_whole_text
from models.checkpoints.pretrained_vision import load_pretraining, save_pretraining
from models.pretraining import PretrainingModel
from training import checkpoint_store, distributed, random_state
from training.arguments import NamedDefaults, to_dict
from training.departures import describe_run, print_run
from training.distributed import Ranks
from training.loop import train
from training.precision import resolve_precision
from training.preprocessing import with_preprocessing
from training.pretraining.data import PretrainingData, read_data, with_default_phantoms
from training.pretraining.model import (
    build_model,
    check_encoder,
    load_text_encoder,
    parameter_groups,
    preprocessing_of,
    vision_config,
)
from training.pretraining.settings import SCORES, PretrainingSettings, in_updates

# model, validation data, ranks, most samples a task, tasks for zero-shot alone -> scores
Scorer = Callable[[PretrainingModel, PretrainingDataset, Ranks, int, list[str]], dict[str, float]]


def pretrain(settings: PretrainingSettings, presets: NamedDefaults, encoder: str, score: Scorer) -> None:
    """Pretrain ``encoder`` as the settings say, or evaluate its newest checkpoint (``eval_only``).

    presets: of the script.  score: gives the scores of a model on validation data.
    """
    allow_voxels(settings.max_voxels)
    ranks = distributed.initialize()
    if not settings.eval_only:  # before data and text encoder are made
        settings.validate()
        check_encoder(settings, encoder)
        in_updates(settings, ranks.world_size)  # ranks that do not fit
    precision = resolve_precision(settings, ranks.device)
    settings = with_default_phantoms(settings)
    random_state.seed_all(settings.seed)
    data = read_data(settings)
    if data.missing and ranks.is_main:
        print(f"left out, having no manifest: {', '.join(task.name for task in data.missing)}", flush=True)
    preprocessing, changes = preprocessing_of(settings)
    settings = with_preprocessing(settings, preprocessing)
    about = describe_run(settings, presets, data.source, precision)
    if ranks.is_main:
        if not settings.eval_only:
            print_run(about)
        print_changes(changes)

    text_encoder = load_text_encoder(settings, data.reports)
    config = vision_config(settings, encoder, text_encoder.width)

    def dataset_of(tasks: Any, records: Any, **options: Any) -> PretrainingDataset:
        return PretrainingDataset(
            tasks,
            records,
            text_encoder.encode,
            config,
            preprocessing=preprocessing,
            array_axes=settings.array_axes,
            cache=settings.cache or None,
            **options,
        )

    validation = dataset_of(data.validation_tasks, data.validation_records, augmentation=None)

    def evaluate(model: PretrainingModel, step: int) -> dict[str, float]:
        scores = score(model, validation, ranks, settings.validation_samples, data.untrained)
        if ranks.is_main:
            split = settings.validation_split
            run = {"step": step, "encoder": encoder, "kinds": settings.kinds, "split": split}
            if not settings.eval_only:  # what is there of another split is of another state of the model
                for name in SCORES.values():
                    (Path(settings.run_dir) / name).unlink(missing_ok=True)
            write_whole_text(Path(settings.run_dir) / SCORES[split], json.dumps({**run, **scores}, indent=2) + "\n")
        return scores

    if settings.eval_only:
        folder = checkpoint_store.resolve_model_folder(settings.run_dir)
        scores = evaluate(load_pretraining(folder).to(ranks.device), checkpoint_store.step_of(folder.parent))
        if ranks.is_main:
            Console().print_json(data=scores)
        return

    dataset = dataset_of(
        data.tasks,
        data.records,
        augmentation=settings.augmentation_options,
        labels_per_step=settings.labels_per_step,
        absent_labels=settings.absent_labels,
        window_slices=settings.window_slices,
    )
    model = build_model(settings, config, dataset.prevalence if settings.prevalence else None)
    model.vision.preprocessing = preprocessing
    loop = in_updates(settings, ranks.world_size)
    train(
        model,
        loop,
        ranks,
        sampler=sampler_of(loop, data, dataset.sizes, ranks),
        dataset=dataset,
        collate=PretrainingCollator(),
        save_model=partial(save_pretraining, training=about),
        parameter_groups=parameter_groups(
            model,
            settings.learning_rate,
            settings.attention_rate,
            settings.mask_decoder_rate,
            settings.projection_rate,
            settings.muon_attention or settings.optimizer != "Muon",
        ),
        evaluate=(lambda step: evaluate(model, step)) if data.validation_tasks else None,
        record={"arguments": to_dict(settings), "training": about},
    )


def sampler_of(
    settings: PretrainingSettings, data: PretrainingData, sizes: dict[str, int], ranks: Ranks
) -> MixtureSampler:
    """One task a draw; those that the mask decoder learns from have a micro-batch of their own."""
    micro_batch = {
        task.name: settings.segmentation_micro_batch
        if task.kind == "segmentation" and task in data.decoded
        else settings.micro_batch
        for task in data.tasks
    }
    return MixtureSampler(
        sizes,
        {task.name: task.weight for task in data.tasks},
        mode="one_task",
        micro_batch=micro_batch,
        accumulation_steps=settings.accumulation_steps,
        seed=settings.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
        draw_ranks=settings.draw_ranks or None,
    )

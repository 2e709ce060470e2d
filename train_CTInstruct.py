"""Instruction tuning of CTInstruct.

    deepspeed --include localhost:0,1 train_CTInstruct.py --manifests data/CTRATE_Question_Answer.json=1.0
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_CTInstruct.py --preset tiny
    python train_CTInstruct.py --preset tiny

Every hyper-parameter below can be edited here or given on the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import torch

from datasets.errors import InputError
from datasets.instruction import InstructionCollator, InstructionDataset
from datasets.label_descriptions import canonical
from datasets.manifest import InstructionRecord, load_manifest, manifest_texts
from datasets.mixture import load_mixture
from datasets.named_numbers import named_numbers
from datasets.phantom.defaults import ensure_phantoms
from datasets.sampling import MixtureSampler, SharedVolumeSampler
from evaluation.validation import held_out_losses
from models.checkpoints.folder import build_ctinstruct, save_checkpoint
from models.checkpoints.loading import load_checkpoint
from models.checkpoints.pretrained_vision import labels_to_texts, load_into, load_pretrained_vision, tokens_to_texts
from models.checkpoints.released import load_released_vision
from models.configuration import vision_preset
from models.ctinstruct import CTInstruct, MakeModel
from models.extensions.grounded_start import start_grounded
from models.extensions.projector_start import start_projector
from models.extensions.settings import TuningExtensions
from models.extensions.tuning import tuning_model
from models.language.loading import load_language_model
from models.language.lora import LoraSettings, add_lora, lora_settings
from models.language.tiny_language_model import build_tiny_language_model, train_tokenizer
from models.parameters import freeze_encoder, freeze_unused, parameter_groups, print_parameters
from models.text.label_embeddings import label_embeddings
from training import checkpoint_store, distributed, random_state
from training.arguments import parse
from training.deepspeed_config import resolve_precision
from training.loop import train
from training.script import run_script
from training.settings import TrainingSettings

LOSSES = ("language", "diagnosis", "mask", "query")
TINY_PHANTOMS = "runs/phantoms"  # made at the first start of --preset tiny, where no manifest is given


@dataclass
class HyperParameters(TrainingSettings):
    preset: Literal["full", "small", "tiny"] = "full"  # published size, one for a single GPU, one for two CPU cores
    run_dir: str = "runs/CTInstruct"

    # data
    manifests: tuple[str, ...] = ("data/instruction_sft/VQA_CTRATE_example.json",)  # PATH or PATH=WEIGHT
    task_weights: tuple[str, ...] = ()  # mix by kind of question instead: segmentation=2 diagnosis=1 ...
    validation_manifest: str = ""  # its losses are logged every eval_interval steps
    validation_samples: int = 64  # at most so many of its records
    orientation: str = "RAS"  # "as_stored" keeps the axes of the file, as the release did
    resize: Literal["published", "isotropic"] = "published"
    cache: str = ""  # folder of preprocessed volumes; empty reads every file anew
    max_length: int = 4096  # tokens of question and answer
    # the text encoder (hub name or folder) that pretraining asked for masks with: queries of <SEG> are drawn to its
    # embeddings of the labels; empty leaves it to the mask's loss alone, as published.  With it, a "tiny" language
    # model also begins with its words for the labels at these embeddings (`models.extensions.grounded_start`)
    query_text_encoder: str = ""
    questions_per_volume: int = 1  # of a batch, that share one reading; micro_batch then counts volumes

    # model
    initial_checkpoint: str = ""  # a CTInstruct folder to start from
    pretrained_vision: str = ""  # a run of train_encoder_*.py, or a released vision file (.pt), to start from
    language_model: str = "Qwen/Qwen2-VL-7B-Instruct"  # hub name, local folder, .gguf file, or "tiny"
    encoder: Literal["2D1D", "ViT3D", "ResNet3D"] = "2D1D"  # where no pretrained vision or checkpoint decides
    vision: Literal["full", "small", "tiny"] = "full"  # size of encoder and mask decoder
    train_vision: bool = True  # False freezes the encoder; projector and mask decoder train all the same
    length_power: float = 1.0  # divides the sum over an answer's n tokens by n to this power: 1 is their mean
    loss_weights: tuple[str, ...] = ()  # of a sample's parts: language=1 diagnosis=1 mask=1 query=1, as published
    lora: bool = False  # adapters in place of the whole language model
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_modules: tuple[str, ...] = ("q_proj", "v_proj")
    vision_learning_rate: float = 2e-5  # peak for encoder and mask decoder
    gradient_checkpointing: bool = True
    mask_slices: int = 0  # slices of a volume on which a mask is learned in one step; 0 for all, as published
    mask_volumes: int = 0  # volumes of a micro-batch in which masks are learned in one step; 0 for all, as published

    # optimisation: batch 64 = 8 GPUs x micro_batch 1 x accumulation_steps 8
    max_iters: int = 10_000
    micro_batch: int = 1
    accumulation_steps: int = 8
    learning_rate: float = 2e-5
    weight_decay: float = 0.0
    warmup: float = 0.1  # a share of max_iters
    workers: int = 4
    eval_interval: int = 500

    def validate(self) -> None:
        """As of every training, and what instruction tuning adds."""
        super().validate()
        self.require_at_least(1, "max_length", "questions_per_volume", "lora_rank", "lora_alpha")
        self.require_at_least(0, "vision_learning_rate", "length_power", "lora_dropout")
        self.require_at_least(0, "mask_slices", "mask_volumes", "validation_samples")


PRESETS = {
    "full": {},
    "small": {
        "run_dir": "runs/CTInstruct_small",
        "language_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "vision": "small",
        "vision_learning_rate": 5e-5,
        "learning_rate": 1e-4,
    },
    "tiny": {
        "run_dir": "runs/CTInstruct_tiny",
        "manifests": (f"{TINY_PHANTOMS}/train.json",),
        "validation_manifest": f"{TINY_PHANTOMS}/val.json",
        "cache": f"{TINY_PHANTOMS}/cache",
        "language_model": "tiny",
        "vision": "tiny",
        "vision_learning_rate": 1e-3,
        "gradient_checkpointing": False,
        "mask_slices": 40,
        "max_iters": 300,
        "micro_batch": 4,
        "accumulation_steps": 1,
        "learning_rate": 1e-3,
        "workers": 0,
        "eval_interval": 100,
        "save_interval": 100,
    },
}


def build_model(
    settings: HyperParameters, records: list[InstructionRecord], device: torch.device, make: MakeModel
) -> CTInstruct:
    """A checkpoint that the run goes on from, or new vision before a loaded (or tiny random) language model.

    Weights are read in the type that DeepSpeed will hold them in: 7B of float32 on every rank would take 28 GB each.
    """
    dtype = torch.bfloat16 if resolve_precision(settings, device) == "bf16" else torch.float32
    resumed = checkpoint_store.find_checkpoint(settings.run_dir, settings.resume)
    start = resumed / "model" if resumed else settings.initial_checkpoint
    if start:
        return load_checkpoint(checkpoint_store.resolve_model_folder(start), dtype=dtype, make=make)
    if settings.language_model == "tiny":
        tokenizer = distributed.from_main(lambda: train_tokenizer(manifest_texts(records)))
        language_model = build_tiny_language_model(tokenizer)
    else:
        language_model, tokenizer = load_language_model(settings.language_model, dtype)
    if not settings.pretrained_vision:
        return build_ctinstruct(vision_preset(settings.vision, settings.encoder), language_model, tokenizer, make)
    return with_pretrained_vision(settings, records, language_model, tokenizer, make)


def with_pretrained_vision(
    settings: HyperParameters, records: list[InstructionRecord], language_model, tokenizer, make: MakeModel
) -> CTInstruct:
    """New projector between the language model and an encoder and mask decoder that were pretrained."""
    path = Path(settings.pretrained_vision)
    if path.is_file():
        model = build_ctinstruct(vision_preset(settings.vision, settings.encoder), language_model, tokenizer, make)
        load_released_vision(model.vision, path)
    else:
        folder = checkpoint_store.resolve_model_folder(path)
        config, _ = load_pretrained_vision(folder)
        model = build_ctinstruct(config, language_model, tokenizer, make)
        load_into(model.vision, folder)
        grounded = False
        if settings.language_model == "tiny" and settings.query_text_encoder:
            labels = [label for record in records for names in (*record.structures, record.targets) for label in names]
            named = set(map(canonical, labels))
            embeddings = label_embeddings(settings.query_text_encoder, named, config.query_width)
            start_grounded(
                model, labels_to_texts(model.vision, folder), tokens_to_texts(model.vision, folder), embeddings
            )
            grounded = True
        if not grounded:
            start_projector(model.vision, tokens_to_texts(model.vision, folder))
    return model


def loss_weights(items: Iterable[str]) -> dict[str, float]:
    """NAME=NUMBER for the parts of the loss; raises InputError for another name or what is no number of 0 or more."""
    return named_numbers(items, LOSSES, "--loss_weights", "")


def adapt(model: CTInstruct, settings: HyperParameters) -> None:
    """Put LoRA adapters into the language model, unless a checkpoint brought them."""
    if lora_settings(model.language_model):
        return
    base = settings.language_model
    if settings.initial_checkpoint:  # the very step, for the run may go on
        base = str(checkpoint_store.resolve_model_folder(settings.initial_checkpoint))
    if base == "tiny":
        raise InputError(
            "--lora adapts a model that can be loaded again: give --language_model or --initial_checkpoint"
        )
    lora = LoraSettings(
        base, settings.lora_rank, settings.lora_alpha, settings.lora_dropout, tuple(settings.lora_modules)
    )
    model.language_model = add_lora(model.language_model, model.tokenizer, lora)


def main() -> None:
    settings = parse(HyperParameters, PRESETS)
    settings.validate()  # before a large model is read
    weights_of_losses = loss_weights(settings.loss_weights)
    ranks = distributed.initialize()
    random_state.seed_all(settings.seed)
    if settings.preset == "tiny":
        distributed.from_main(lambda: ensure_phantoms(TINY_PHANTOMS, settings.manifests))

    records, weights = load_mixture(settings.manifests, settings.task_weights)
    validation = load_manifest(settings.validation_manifest) if settings.validation_manifest else []
    all_records = [record for part in records.values() for record in part]
    extensions = TuningExtensions(
        aligned_ranks=ranks.world_size > 1,
        share_volumes=settings.questions_per_volume > 1,
        mask_slices=settings.mask_slices,
        mask_volumes=settings.mask_volumes,
        length_power=settings.length_power,
        loss_weights=weights_of_losses,
        query_targets=bool(settings.query_text_encoder),
    )
    model = build_model(settings, all_records, ranks.device, tuning_model(extensions))
    if settings.lora:
        adapt(model, settings)
    if not settings.train_vision:
        freeze_encoder(model)
    freeze_unused(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if ranks.is_main:
        print_parameters(model)

    embeddings = None
    if settings.query_text_encoder:
        labels = [label for record in (*all_records, *validation) for names in record.structures for label in names]
        embeddings = label_embeddings(settings.query_text_encoder, labels, model.config.query_width)
    most_images = max(len(record.image_path) for record in all_records)
    dataset = InstructionDataset(
        records,
        model.tokenizer,
        model.config,
        orientation=settings.orientation,
        resize=settings.resize,
        cache=settings.cache,
        max_length=settings.max_length,
        label_embeddings=embeddings,
        keep_volumes=most_images if settings.questions_per_volume > 1 else 0,
    )
    collate = InstructionCollator(model.tokenizer.pad_token_id)
    sampler = MixtureSampler(
        {name: len(part) for name, part in records.items()},
        weights,
        mode="mixed",
        micro_batch=settings.micro_batch,
        accumulation_steps=settings.accumulation_steps,
        seed=settings.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    if settings.questions_per_volume != 1:
        volumes = {name: [tuple(record.image_path) for record in part] for name, part in records.items()}
        sampler = SharedVolumeSampler(sampler, volumes, settings.questions_per_volume, weights)
    held_out = Random(settings.seed).sample(validation, min(settings.validation_samples, len(validation)))
    train(
        model,
        settings,
        ranks,
        sampler=sampler,
        dataset=dataset,
        collate=collate,
        save_model=lambda folder: save_checkpoint(model, folder),
        parameter_groups=parameter_groups(model, settings.learning_rate, settings.vision_learning_rate),
        evaluate=(lambda step: held_out_losses(model, dataset, held_out, collate, ranks)) if held_out else None,
    )


if __name__ == "__main__":
    run_script(main)

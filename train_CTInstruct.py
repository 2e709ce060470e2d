"""Instruction tuning of CTInstruct.

    deepspeed --include localhost:0,1 train_CTInstruct.py --manifests data/CTRATE_Question_Answer.json=1.0
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_CTInstruct.py --preset tiny --batch_size 8 --max_iters 100
    python train_CTInstruct.py --preset tiny --batch_size 8 --max_iters 100

Every hyper-parameter below can be edited here or given on the command line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from datasets.instruction import InstructionCollator, InstructionDataset
from datasets.manifest import InstructionRecord, load_manifest
from datasets.manifest_check.needs import instruction_source
from datasets.mixture import load_mixture, manifest_and_weight, with_mixture_files
from datasets.phantom.defaults import DEFAULT_PHANTOMS, ensure_phantoms
from datasets.volume.declared_size import allow_voxels
from datasets.volume.guards import BODY
from datasets.volume.preprocessing import Preprocessing, print_changes
from evaluation.validation import held_out_losses
from models.checkpoints.folder import save_checkpoint
from models.configuration import VisionConfig
from models.parameters import parameter_groups, print_parameters
from models.text.label_embeddings import label_embeddings
from training import distributed, random_state
from training.arguments import parse, to_dict
from training.data_check import check_data
from training.departures import describe_run, print_run
from training.loop import train
from training.precision import resolve_precision
from training.preprocessing import with_preprocessing
from training.script import run_script
from training.tuning.bodies import bodies_of
from training.tuning.model import build_model, check_start, preprocessing_of
from training.tuning.open_kbp_recipe import OPEN_KBP_RECIPE
from training.tuning.people_recipe import PEOPLE_RECIPE
from training.tuning.phantom_recipe import PHANTOM_RECIPE
from training.tuning.sampler import sampler_of
from training.tuning.settings import TuningSettings, share_out_batch


@dataclass
class HyperParameters(TuningSettings):
    """Tune CTInstruct on instructions.  The defaults are the published recipe."""

    # size: published, for a single GPU, for real CT on two CPU cores, for phantoms on two CPU cores
    preset: Literal["full", "small", "compact", "narrow", "tiny"] = "full"
    # all that is no size: the release's, the demo's, that of docs/real_data.md or of docs/phantoms.md
    recipe: Literal["published", "phantom", "open_kbp", "people"] = "published"
    run_dir: str = "runs/CTInstruct"  # folder for checkpoints, TensorBoard events and the history of losses

    # data
    manifests: tuple[str, ...] = ("data/instruction_sft/VQA_CTRATE_example.json",)  # PATH or PATH=WEIGHT
    task_weights: tuple[str, ...] = ()  # mix by kind of question instead: segmentation=2 diagnosis=1 ...
    validation_manifest: str = ""  # its losses are logged every eval_interval steps
    validation_samples: int = 64  # at most so many of its records
    # axis codes of all volumes; "as_stored" keeps the axes of the file, as the release did; none: those of the weights
    # that training starts from, or RAS
    orientation: str | None = field(default=None, metadata={"published": "as_stored"})
    # how a volume is fitted to its grid of patches; none: as for the weights that training starts from, or published
    resize: Literal["published", "isotropic", "shrink"] | None = field(
        default=None, metadata={"published": "published"}
    )
    # mm of a patient's width and depth that are kept, around the middle, as 240 360; none: as resize, or all
    field_of_view: tuple[float, float] | None = None
    clip_hu: tuple[float, float] | None = None  # keep these HU of a volume, of a new model; none: as it was pretrained
    # window: HU alike in every volume, by the middle and width of --clip_hu; none: as resize
    normalisation: Literal["z-score", "window"] | None = field(default=None, metadata={"published": "z-score"})
    override_preprocessing: bool = False  # prepare volumes otherwise than for the weights that training starts from
    array_axes: str | None = None  # what the axes of .npy and .npz volumes are, as LPS, or as_stored; none assumes RAS
    crop_size: tuple[int, int, int] | None = None  # voxels of a patch, of a new model; none: as it was pretrained
    patch_max: int | None = None  # most patches of a volume, of a new model; none: as it was pretrained
    cache: str = ""  # folder of preprocessed volumes; empty reads every file anew
    max_length: int = 8192  # tokens of question and answer
    max_answer_tokens: int = 4096  # an answer is cut there
    workers: int = 4  # processes a rank loads samples with; 0 loads in the training process
    # look at all manifests, the headers of all files and a few masks before training; voxels: at all masks
    check_data: Literal["headers", "voxels", "off"] = "headers"
    skip_bad_samples: bool = False  # leave out records whose files cannot be used, and count them

    # model
    initial_checkpoint: str = ""  # a CTInstruct folder or hub name (owner/name@revision) to start from
    # a run of train_encoder_*.py, or a released vision file (.pt), or the hub name of either, to start from
    pretrained_vision: str = ""
    language_model: str = "Qwen/Qwen2-VL-7B-Instruct"  # hub name, local folder, .gguf file, or "tiny"
    encoder: Literal["2D1D", "ViT3D", "ResNet3D"] = "2D1D"  # where no pretrained vision or checkpoint decides
    # size of encoder and mask decoder, where no weights decide
    vision: Literal["full", "small", "compact", "narrow", "tiny"] = "full"
    train_vision: bool = True  # False freezes the encoder; projector and mask decoder train all the same
    gradient_checkpointing: bool = True  # trade time for memory
    lora: bool = False  # adapters in place of the whole language model
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_modules: tuple[str, ...] = ("q_proj", "v_proj")

    # optimisation
    max_iters: int = 10_000  # optimiser steps
    batch_size: int = 64  # samples a step, over all ranks; what is accumulated follows from it
    micro_batch: int = 1  # samples a rank puts through the model at once, at most its share of the batch
    optimizer: Literal["AdamW", "Muon"] = "AdamW"  # Muon: for matrices inside the network; needs --zero_stage 0
    learning_rate: float = 2e-5  # peak learning rate
    vision_learning_rate: float = 2e-5  # the same of encoder and mask decoder
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's decay rates of the two moments
    eps: float = 1e-8  # what AdamW adds to the root of the second moment
    weight_decay: float = 0.0  # AdamW's decoupled weight decay
    clip: float = 1.0  # largest norm of the whole gradient; 0 does not clip
    warmup: float = 0.1  # optimiser steps; below 1, as a share of the schedule; the cosine follows
    warmup_shape: Literal["linear", "log"] = "linear"  # how the rate rises during warm-up
    min_lr_ratio: float = 0.0  # the cosine ends at this share of the peak
    # auto: cuda_precision on CUDA, fp32 on the CPU; autocast: float32 weights, bf16 where torch takes it
    precision: Literal["auto", "fp16", "bf16", "fp32", "autocast"] = "auto"
    cuda_precision: Literal["fp16", "bf16"] = "bf16"  # what "auto" is on CUDA
    zero_stage: Literal[0, 1, 2, 3] = 2  # DeepSpeed ZeRO: 1 shares out the optimiser's state, 2 gradients, 3 weights
    deepspeed_config: str = ""  # a DeepSpeed JSON of your own, merged over these settings
    offload: Literal["none", "optimizer", "parameters"] = "none"  # what DeepSpeed keeps in the memory of the CPU
    seed: int = 42  # of weights, sample order and dropout

    # intervals, in optimiser steps
    log_interval: int = 10  # between two lines of the log
    save_interval: int = 2500  # between two checkpoints; 0 saves at the end only
    eval_interval: int = 500  # between two evaluations; 0 never evaluates
    keep_checkpoints: int = 0  # how many of the newest checkpoints stay on disk; 0 for all

    # off in the published recipe
    projector_start: Literal["random", "texts"] = "random"  # texts: at pretraining's projection to texts
    # the text encoder (hub name or folder) that pretraining asked for masks with: queries of <SEG> are drawn to its
    # embeddings of the labels; empty leaves them to the mask's loss alone
    query_text_encoder: str = ""
    grounded_start: bool = False  # a "tiny" language model begins with its words for labels at those embeddings
    balance_ranks: bool = False  # share out each batch so that ranks have about as many patches to encode
    questions_per_volume: int = 1  # that share one reading; batch_size and micro_batch then count volumes
    loss_weights: tuple[str, ...] = ()  # of a sample's parts: language=1 diagnosis=1 mask=1 query=1 where not given
    length_power: float = 1.0  # divides the sum over an answer's n tokens by n to this power: 1 is their mean
    mask_slices: int = 0  # slices of a volume on which a mask is learned in one step (2D1D); 0 for all
    mask_volumes: int = 0  # volumes of a micro-batch in which masks are learned in one step; 0 for all
    muon_rate: float = 1.0  # the rate of Muon's matrices, as a share of the others'
    muon_mask_decoder: bool = False  # Muon also for the matrices of the mask decoder


ON_TWO_CORES: dict[str, Any] = {"language_model": "tiny", "gradient_checkpointing": False, "workers": 1}
PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {
        "run_dir": "runs/CTInstruct_small",
        "language_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "vision": "small",
    },
    "compact": {"run_dir": "runs/CTInstruct_compact", "vision": "compact", **ON_TWO_CORES},
    "narrow": {"run_dir": "runs/CTInstruct_narrow", "vision": "narrow", **ON_TWO_CORES},
    "tiny": {
        "run_dir": "runs/CTInstruct_tiny",
        "manifests": (),  # phantoms are made where none is named
        "language_model": "tiny",
        "vision": "tiny",
        "gradient_checkpointing": False,
        "workers": 0,
    },
}
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "phantom": PHANTOM_RECIPE,
    "open_kbp": OPEN_KBP_RECIPE,
    "people": PEOPLE_RECIPE,
}


def with_default_phantoms(settings: HyperParameters) -> HyperParameters:
    """The settings, on phantoms made on the spot where no manifest is named (`--preset tiny` names none)."""
    if settings.manifests:
        return settings
    manifests = (f"{DEFAULT_PHANTOMS}/train.json",)
    distributed.from_main(lambda: ensure_phantoms(DEFAULT_PHANTOMS, manifests))
    return replace(
        settings,
        manifests=manifests,
        validation_manifest=settings.validation_manifest or f"{DEFAULT_PHANTOMS}/val.json",
        cache=settings.cache or f"{DEFAULT_PHANTOMS}/cache",
    )


def main() -> None:
    settings = parse(HyperParameters, PRESETS, recipes=RECIPES)
    settings.validate()  # before a large model is read
    allow_voxels(settings.max_voxels)
    check_start(settings)
    ranks = distributed.initialize()
    random_state.seed_all(settings.seed)
    settings = with_default_phantoms(settings)
    share_out_batch(settings, ranks.world_size)

    paths = [manifest_and_weight(item)[0] for item in with_mixture_files(settings.manifests)]
    paths += [settings.validation_manifest] if settings.validation_manifest else []
    bad = check_data([instruction_source(path) for path in dict.fromkeys(paths)], settings)
    records, weights = load_mixture(settings.manifests, settings.task_weights, bad)
    validation: list[InstructionRecord] = []
    if settings.validation_manifest:
        validation = load_manifest(
            settings.validation_manifest, leave_out=bad.get((Path(settings.validation_manifest), None), ())
        )
    all_records = [record for part in records.values() for record in part]
    source = f"manifests {', '.join(settings.manifests)}"
    preprocessing, changes = preprocessing_of(settings)
    shown = with_preprocessing(settings, preprocessing)
    about = describe_run(shown, PRESETS, source, resolve_precision(settings, ranks.device))
    about["labels"] = sorted(
        {label for record in all_records if record.mask_path is not None for label in record.labels}
    )
    if ranks.is_main:
        print_run(about)
        print_changes(changes)
    model = build_model(settings, all_records, ranks)
    if ranks.is_main:
        print_parameters(model)

    every = [*all_records, *validation]
    dataset = dataset_of(settings, records, every, model.tokenizer, model.config, preprocessing)
    about[BODY] = distributed.from_main(lambda: bodies_of(dataset, all_records))
    collate = InstructionCollator(model.tokenizer.pad_token_id, model.position_rule, model.layout_rule)
    held_out = Random(settings.seed).sample(validation, min(settings.validation_samples, len(validation)))
    train(
        model,
        settings,
        ranks,
        sampler=sampler_of(settings, records, weights, preprocessing, ranks),
        dataset=dataset,
        collate=collate,
        save_model=partial(save_checkpoint, training=about),
        parameter_groups=parameter_groups(model, settings.learning_rate, settings.vision_learning_rate),
        evaluate=(lambda step: held_out_losses(model, dataset, held_out, collate, ranks)) if held_out else None,
        record={"arguments": to_dict(shown), "training": about},
    )


def dataset_of(
    settings: HyperParameters,
    records: Mapping[str, Sequence[InstructionRecord]],
    every: Sequence[InstructionRecord],
    tokenizer: PreTrainedTokenizerBase,
    vision: VisionConfig,
    preprocessing: Preprocessing,
) -> InstructionDataset:
    """What is trained on; `every` record, those of the validation too, may ask for a label's embedding."""
    embeddings = None
    if settings.query_text_encoder:
        labels = [label for record in every for label in record.labels]
        embeddings = label_embeddings(settings.query_text_encoder, labels, vision.query_width)
    most_images = max(len(record.image_path) for part in records.values() for record in part)
    return InstructionDataset(
        records,
        tokenizer,
        vision,
        preprocessing=preprocessing,
        array_axes=settings.array_axes,
        cache=settings.cache,
        max_length=settings.max_length,
        max_answer_tokens=settings.max_answer_tokens,
        label_embeddings=embeddings,
        keep_volumes=most_images if settings.questions_per_volume > 1 else 0,
    )


if __name__ == "__main__":
    run_script(main)

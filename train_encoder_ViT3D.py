"""Multi-granular pretraining of ViT3D: a plain 3D vision transformer, the first ablation encoder.

    deepspeed --include localhost:0,1 train_encoder_ViT3D.py --skip_missing_tasks
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_encoder_ViT3D.py --preset tiny --recipe phantom

Every hyper-parameter below can be edited here or given on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from evaluation.pretraining_scores import evaluate_pretraining
from training.arguments import parse
from training.pretraining.open_kbp_recipe import OPEN_KBP_RECIPE
from training.pretraining.people_recipe import PEOPLE_RECIPE
from training.pretraining.phantom_recipe import PHANTOM_RECIPE
from training.pretraining.run import pretrain
from training.pretraining.settings import PretrainingSettings, size_preset
from training.script import run_script

ENCODER = "ViT3D"


@dataclass
class HyperParameters(PretrainingSettings):
    """Pretrain the ViT3D encoder.  The defaults are the published recipe."""

    # size: published, for a single GPU, for real CT on two CPU cores, for phantoms on two CPU cores
    preset: Literal["full", "small", "compact", "narrow", "tiny"] = "full"
    # all that is no size: the release's, the demo's, that of docs/real_data.md, that of docs/phantoms.md
    recipe: Literal["published", "phantom", "open_kbp", "people"] = "published"
    run_dir: str = "runs/encoder_ViT3D"  # folder for checkpoints, TensorBoard events and the history of losses

    # data
    manifest_dir: str = "data/pretraining"  # holds <task>_train.json and <task>_val.json of the 39 tasks
    phantoms: str = ""  # a folder of phantoms to train on instead
    kinds: tuple[str, ...] = ("image_text", "classification", "segmentation")  # objectives
    task_weights: tuple[str, ...] = ()  # NAME=WEIGHT over the published ones; 0 leaves a task out
    skip_missing_tasks: bool = False  # leave out tasks without a manifest, naming them
    # axis codes of all volumes; "as_stored" keeps the axes of the file, as the release did; none: those of the weights
    # that training starts from, or RAS
    orientation: str | None = field(default=None, metadata={"published": "as_stored"})
    # how a volume is fitted to its grid of patches; none: as for the weights that training starts from, or published
    resize: Literal["published", "isotropic", "shrink"] | None = field(
        default=None, metadata={"published": "published"}
    )
    # mm of a patient's width and depth that are kept, around the middle, as 240 360; none: as resize, or all
    field_of_view: tuple[float, float] | None = None
    clip_hu: tuple[float, float] | None = None  # keep these HU of a volume, as -250 400; none: percentiles of its own
    # window: HU alike in every volume, by the middle and width of --clip_hu; none: as resize
    normalisation: Literal["z-score", "window"] | None = field(default=None, metadata={"published": "z-score"})
    override_preprocessing: bool = False  # prepare volumes otherwise than for the weights that training starts from
    array_axes: str | None = None  # what the axes of .npy and .npz volumes are, as LPS, or as_stored; none assumes RAS
    crop_size: tuple[int, int, int] = (128, 128, 128)  # voxels of a patch: in plane x and y, slices
    patch_max: int = 6  # most patches of a volume
    labels_per_step: int = 60  # most structures asked for in a segmentation step; at random where there are more
    absent_labels: Literal["all", "balanced"] = "all"  # balanced: absent structures at most as many as present ones
    window_slices: int = 0  # so many slices of a volume make a segmentation sample; 0 takes all
    cache: str = ""  # folder of preprocessed volumes and masks; empty reads every file anew
    workers: int = 4  # processes a rank loads samples with; 0 loads in the training process
    # look at all manifests, the headers of all files and a few masks before training; voxels: at all masks
    check_data: Literal["headers", "voxels", "off"] = "headers"
    skip_bad_samples: bool = False  # leave out records whose files cannot be used, and count them
    validation_samples: int = 100  # at most so many a task
    validation_split: Literal["val", "test"] = "val"  # whose manifests are validated on
    eval_only: bool = False  # evaluate run_dir's newest checkpoint and stop

    # augmentation; intensities have a standard deviation of 1
    augmentation: bool = True  # False leaves all of it out
    augment_rotate: float = 0.5  # probability of a turn in plane by 90, 180 or 270 degrees
    augment_flip: float = 0.1  # of a flip along each axis; classification and image-text
    augment_segmentation_flip: float = 0.0  # the same for segmentation
    # flip also where a label or a report has a side, as the published runs did, which did not ask
    augment_flip_sided: bool = field(default=False, metadata={"published": True})
    augment_scale: float = 0.5  # of intensities times a factor
    augment_scale_by: float = 0.1  # the factor lies within 1 +- this
    augment_shift: float = 0.5  # of intensities plus an offset
    augment_shift_by: float = 0.1  # the offset lies within +- this
    augment_noise: float = 0.2  # of Gaussian noise; segmentation alone
    augment_noise_sigma: float = 0.05  # its standard deviation
    augment_draw_noise_sigma: bool = False  # draw the deviation of each volume from 0 to that one
    augment_contrast: float = 0.2  # of another contrast; segmentation alone
    augment_gamma: tuple[float, float] = (0.7, 1.5)  # range of the contrast's exponent
    augment_affine: float = 0.0  # of a small turn in plane, change of size and shift
    augment_affine_degrees: float = 10.0  # most of the turn
    augment_affine_scale: float = 0.1  # most of the change of size, as a share
    augment_affine_shift: float = 6.0  # most of the shift, in voxels
    augment_mirror: float = 0.0  # of a mirrored patient, whose left structures are called right; segmentation alone

    # model and objectives
    vision: Literal["full", "small", "compact", "narrow", "tiny"] = "full"  # size of encoder and mask decoder
    text_encoder: str = "FremyCompany/BioLORD-2023"  # hub name or sentence-transformers folder, or "tiny"
    initial_vision: str = ""  # a pretrained folder to start from
    temperature: float = 0.07  # of the contrastive loss, at the start; it is learned
    label_scale: float = 10.0  # of cosines between volumes and labels, at the start; it is learned
    queue_size: int = 512  # texts of earlier steps that are negatives too
    gradient_checkpointing: bool = True  # trade time for memory

    # optimisation; a draw is one micro-batch of one task, the same task on all ranks
    max_iters: int = 100_000  # draws; with 8 draws an update that is 12,500 updates
    accumulation_steps: int = 8  # draws an update
    micro_batch: int = 2  # volumes a rank and draw
    segmentation_micro_batch: int = 1  # the same of segmentation
    # draws are those of so many ranks, which fewer make in several micro-steps; 0: of the ranks that there are
    draw_ranks: int = 0
    optimizer: Literal["AdamW", "Muon"] = "AdamW"  # Muon: for matrices inside the network; needs --zero_stage 0
    learning_rate: float = 1e-4  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's decay rates of the two moments
    eps: float = 1e-8  # what AdamW adds to the root of the second moment
    weight_decay: float = 1e-4  # AdamW's decoupled weight decay
    clip: float = 1.0  # largest norm of the whole gradient; 0 does not clip
    warmup: float = 1000  # updates; below 1, as a share of the schedule
    warmup_shape: Literal["linear", "log"] = "log"  # how the rate rises during warm-up
    schedule_updates: int = 100_000  # updates that the cosine is laid out over: it ends at 0.97; 0: those of the run
    min_lr_ratio: float = 1e-4  # the cosine would end at this share of the peak
    # auto: cuda_precision on CUDA, fp32 on the CPU; autocast: float32 weights, bf16 where torch takes it
    precision: Literal["auto", "fp16", "bf16", "fp32", "autocast"] = "auto"
    cuda_precision: Literal["fp16", "bf16"] = "fp16"  # what "auto" is on CUDA
    loss_scale_power: int = 16  # fp16: the loss is first multiplied by 2 to this power
    loss_scale_window: int = 1000  # fp16: the factor doubles after so many updates without an overflow
    zero_stage: Literal[0, 1, 2, 3] = 2  # DeepSpeed ZeRO: 1 shares out the optimiser's state, 2 gradients too
    deepspeed_config: str = ""  # a DeepSpeed JSON of your own, merged over these settings
    offload: Literal["none", "optimizer", "parameters"] = "none"  # what DeepSpeed keeps in the memory of the CPU
    seed: int = 0  # of weights, sample order and dropout

    # intervals, in draws as max_iters
    log_interval: int = 80  # between two lines of the log
    save_interval: int = 5000  # between two checkpoints; 0 saves at the end only
    eval_interval: int = 5000  # between two evaluations; 0 never evaluates
    keep_checkpoints: int = 2  # how many of the newest checkpoints stay on disk; 0 for all

    # off in the published recipe
    pretrained_backbone: str = ""  # none is known for this encoder
    running_centre: bool = False  # take off what all volumes have in common before comparing them with texts
    prevalence: bool = False  # begin classification at the share of positives in the data, by a learned bias
    mask_bce_weight: float = 1.0  # of the masks' cross-entropy; Dice has no gradient where a structure is absent
    log_dice: bool = False  # the logarithm of Dice, for structures that most samples do not show
    deep_supervision: float = 0.0  # weight of masks at the resolution of the feature maps
    deep_tokens: bool = False  # with it, tokens are asked for the masks too, by their likeness to the label
    deep_only_tasks: tuple[str, ...] = ()  # learned by maps, tokens and embedding, without mask decoder
    token_classification: float = 0.0  # weight of classification by single tokens
    mask_slices: int = 0  # of 2D1D alone: this encoder's masks are learned whole
    attention_rate: float = 1.0  # of 2D1D's transformers alone
    mask_decoder_rate: float = 1.0  # rate of the mask decoder, as a share of the others'
    projection_rate: float = 1.0  # that of what compares maps, tokens and volumes with texts
    muon_rate: float = 1.0  # that of Muon's matrices
    muon_mask_decoder: bool = False  # Muon also for the matrices of the mask decoder
    muon_attention: bool = True  # of 2D1D's transformers alone


PRESETS: dict[str, dict[str, Any]] = {
    "full": {},
    "small": {**size_preset("small", ENCODER), "run_dir": "runs/encoder_ViT3D_small"},
    "compact": {**size_preset("compact", ENCODER), "run_dir": "runs/encoder_ViT3D_compact"},
    "narrow": {**size_preset("narrow", ENCODER), "run_dir": "runs/encoder_ViT3D_narrow"},
    "tiny": {**size_preset("tiny", ENCODER), "run_dir": "runs/encoder_ViT3D_tiny"},
}
RECIPES: dict[str, dict[str, Any]] = {
    "published": {},
    "phantom": PHANTOM_RECIPE,
    "open_kbp": OPEN_KBP_RECIPE,
    "people": PEOPLE_RECIPE,
}


def main() -> None:
    pretrain(parse(HyperParameters, PRESETS, recipes=RECIPES), PRESETS, ENCODER, evaluate_pretraining)


if __name__ == "__main__":
    run_script(main)

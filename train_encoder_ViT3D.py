"""Multi-granular pretraining of ViT3D: a plain 3D vision transformer, the first ablation encoder.

    deepspeed --include localhost:0,1 train_encoder_ViT3D.py --skip_missing_tasks
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_encoder_ViT3D.py --preset tiny

Every hyper-parameter below, and those of training/pretraining.py, can be given on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.pretraining_scores import evaluate_pretraining
from training.arguments import parse
from training.pretraining import SMALL_PRESET, TINY_PRESET, PretrainingSettings, pretrain
from training.script import run_script

ENCODER = "ViT3D"


@dataclass
class HyperParameters(PretrainingSettings):
    run_dir: str = "runs/encoder_ViT3D"


PRESETS = {
    "full": {},
    "small": {**SMALL_PRESET, "run_dir": "runs/encoder_ViT3D_small"},
    "tiny": {**TINY_PRESET, "run_dir": "runs/encoder_ViT3D_tiny"},
}


def main() -> None:
    pretrain(parse(HyperParameters, PRESETS), ENCODER, evaluate_pretraining)


if __name__ == "__main__":
    run_script(main)

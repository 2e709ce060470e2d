"""Multi-granular pretraining of ResNet3D: a 3D ResNet, the second ablation encoder.

    deepspeed --include localhost:0,1 train_encoder_ResNet3D.py --skip_missing_tasks
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_encoder_ResNet3D.py --preset tiny

Every hyper-parameter below, and those of training/pretraining.py, can be given on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.pretraining_scores import evaluate_pretraining
from training.arguments import parse
from training.pretraining import SMALL_PRESET, TINY_PRESET, PretrainingSettings, pretrain
from training.script import run_script

ENCODER = "ResNet3D"


@dataclass
class HyperParameters(PretrainingSettings):
    run_dir: str = "runs/encoder_ResNet3D"


PRESETS = {
    "full": {},
    "small": {**SMALL_PRESET, "run_dir": "runs/encoder_ResNet3D_small"},
    "tiny": {**TINY_PRESET, "run_dir": "runs/encoder_ResNet3D_tiny"},
}


def main() -> None:
    pretrain(parse(HyperParameters, PRESETS), ENCODER, evaluate_pretraining)


if __name__ == "__main__":
    run_script(main)

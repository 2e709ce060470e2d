"""Multi-granular pretraining of the 2D1D hybrid ResNet-ViT encoder.

    deepspeed --include localhost:0,1 train_encoder_2D1D.py --skip_missing_tasks
    DS_ACCELERATOR=cpu deepspeed --num_accelerators 2 train_encoder_2D1D.py --preset tiny

Every hyper-parameter below, and those of training/pretraining.py, can be given on the command line.
"""

from __future__ import annotations

from dataclasses import dataclass

from evaluation.pretraining_scores import evaluate_pretraining
from training.arguments import parse
from training.pretraining import SMALL_PRESET, TINY_PRESET, PretrainingSettings, pretrain
from training.script import run_script

ENCODER = "2D1D"


@dataclass
class HyperParameters(PretrainingSettings):
    run_dir: str = "runs/encoder_2D1D"


PRESETS = {
    "full": {},
    "small": {**SMALL_PRESET, "run_dir": "runs/encoder_2D1D_small"},
    "tiny": {**TINY_PRESET, "run_dir": "runs/encoder_2D1D_tiny"},
}


def main() -> None:
    pretrain(parse(HyperParameters, PRESETS), ENCODER, evaluate_pretraining)


if __name__ == "__main__":
    run_script(main)

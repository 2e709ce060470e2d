"""The sizes that the parts run at: the published ones with a language model of 2B shapes, and those of a rehearsal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gpu.figures import FigureFile

# config.json of Qwen/Qwen2-VL-2B-Instruct, what its text decoder takes of it
_QWEN2_VL_2B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    "tie_word_embeddings": True,
}
_TINY: dict[str, Any] = {
    **_QWEN2_VL_2B,
    "vocab_size": 1200,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 6, 6]},
}


@dataclass(frozen=True)
class Scale:
    """What is measured with.

    vision: a preset.  language: of a Qwen2-VL text decoder.  patches: of a usual volume.  volumes: numbers of them that
    the encoder is given at once, in inference and in training.  most_patches, most_volumes: where the search for what
    fits into memory ends.  phantoms: that the encoder learns on, for at most `updates` draws.
    """

    vision: str
    language: dict[str, Any]
    patches: int
    volumes: tuple[int, ...]
    training_volumes: tuple[int, ...]
    most_patches: int
    most_volumes: int
    new_tokens: int
    questions: int
    phantoms: int
    updates: int


FULL = Scale("full", _QWEN2_VL_2B, 6, (1, 4, 16), (1, 2, 4), 96, 48, 128, 16, 96, 1300)
REHEARSAL = Scale("tiny", _TINY, 2, (1, 2), (1,), 4, 2, 8, 2, 8, 12)


@dataclass(frozen=True)
class Given:
    """What every part is told.  seconds: to be done in; work: a folder that the parts share, and nobody keeps."""

    scale: Scale
    rehearsal: bool
    figures: FigureFile
    work: Path
    seconds: float


def given(
    part: str, description: str | None, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> tuple[Given, argparse.Namespace]:
    """A part's command line; `more` adds options of its own."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--figures", type=Path, default=Path("benchmarks_output/figures.json"), help="file of figures")
    parser.add_argument("--work", type=Path, default=Path("benchmarks_output/work"), help="folder for what is not kept")
    parser.add_argument("--seconds", type=float, default=600.0, help="to be done in")
    parser.add_argument("--part", default=part, help="name of the part in the table")
    if more:
        more(parser)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    options.figures.parent.mkdir(parents=True, exist_ok=True)
    scale = REHEARSAL if options.rehearsal else FULL
    figures = FigureFile(options.figures, options.part)
    return Given(scale, options.rehearsal, figures, options.work, options.seconds), options

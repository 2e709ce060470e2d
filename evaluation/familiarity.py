"""Teach a checkpoint what its training volumes are like, so that it warns of others; and score volumes.

    python -m evaluation.familiarity --checkpoint runs/CTInstruct --known runs/phantoms/train.json \\
        --held_out runs/phantoms/val.json runs/phantoms/test.json
    python -m evaluation.familiarity --checkpoint runs/CTInstruct --score scans

The first writes familiarity.safetensors into the model folder (see `models.answering.familiarity`), the second prints
the score of every CT below a folder.  The checkpoint is of CTInstruct or of an encoder's pretraining.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest_rows import read_rows
from datasets.sampling import evenly
from datasets.volume.anyres import patchify
from datasets.volume.find_volumes import find_volumes
from datasets.volume.loading import load_volume
from models.answering.familiarity import FILE, VOXEL_ENTRIES, Familiarity, describe, read_familiarity
from models.checkpoints.pretrained import PretrainedCTInstruct
from models.checkpoints.pretrained_vision import CONFIG, FORMAT, load_pretraining
from models.checkpoints.run_folder import resolve_model_folder
from models.encoders.inputs import encoder_inputs
from models.vision import VisionModel


def vision_of(folder: Path) -> VisionModel:
    """Encoder and mask decoder of a model folder of either kind; raises InputError where it is damaged."""
    try:
        kind = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG}: cannot be read ({error}); give a model folder") from error
    if kind == FORMAT:
        return load_pretraining(folder).vision
    return PretrainedCTInstruct.from_pretrained(folder).vision.eval()


def images_of(manifests: Iterable[Path]) -> list[str]:
    """The CTs that manifests name, each once; raises InputError for a file that is no manifest, or names none."""
    found: dict[str, None] = {}
    for path in manifests:
        for row in read_rows(path):
            images = row.get("image_path") if isinstance(row, dict) else None
            for image in [images] if isinstance(images, str) else images or []:
                found[str(path.parent / image)] = None
    if not found:
        raise InputError("the manifests name no volume: give those that the model was trained on")
    return list(found)


@torch.no_grad()
def description_of(vision: VisionModel, image: str) -> np.ndarray:
    """A file as `models.answering.familiarity.describe` describes it; raises InputError where it cannot be read."""
    array, _ = load_volume(image, preprocessing=vision.preprocessing)
    volume = patchify(array, vision.config.crop_size, vision.config.patch_max, vision.preprocessing.resize)
    weight = next(vision.parameters())
    return describe(volume, vision.encode_many(encoder_inputs([volume], weight))[0])


def descriptions_of(vision: VisionModel, images: Sequence[str], limit: int) -> np.ndarray:
    """(images, n), of at most ``limit`` of them, evenly taken."""
    chosen = [images[place] for place in evenly(len(images), limit)]
    return np.stack(
        [description_of(vision, image) for image in tqdm(chosen, desc="describing", unit="CT", disable=None)]
    )


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.familiarity", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--checkpoint", required=True, help="a run folder or a model folder")
    parser.add_argument("--known", nargs="+", type=Path, help="manifests of the volumes that it was trained on")
    parser.add_argument("--held_out", nargs="+", type=Path, help="manifests of others of their kind, for the threshold")
    parser.add_argument("--share", type=float, default=0.99, help="of volumes of that kind that are not warned of")
    parser.add_argument("--limit", type=int, default=500, help="most volumes that are read, of each")
    parser.add_argument("--score", help="a folder of CTs, a CT, or a .txt file with a path a line")
    values = parser.parse_args(arguments)
    if bool(values.known) != bool(values.held_out) or not (values.known or values.score):
        raise InputError("give --known and --held_out to write the file, --score to use it, or all three")
    if not 0.5 <= values.share < 1:
        raise InputError(f"--share {values.share}: give a number from 0.5 up to 1")
    if values.limit < 1:
        raise InputError(f"--limit {values.limit}: give the number of volumes to read, at least 1")
    folder = resolve_model_folder(values.checkpoint)
    vision = vision_of(folder)
    if values.known:
        known, held_out = (
            descriptions_of(vision, images_of(paths), values.limit) for paths in (values.known, values.held_out)
        )
        sizes = (known.shape[1] - VOXEL_ENTRIES, VOXEL_ENTRIES)
        made = Familiarity.fit(known, held_out, values.share, sizes)
        print(f"threshold {made.threshold:.2f}, in {made.save(folder)}")
    if values.score:
        _print_scores(vision, folder, find_volumes(values.score))
    return 0


def _print_scores(vision: VisionModel, folder: Path, images: Sequence[str]) -> None:
    familiarity = read_familiarity(folder)
    if familiarity is None:
        raise InputError(f"{folder}: has no {FILE}; write it with --known and --held_out")
    unlike = 0
    for image in images:
        score = familiarity.score(description_of(vision, image))
        unlike += score > familiarity.threshold
        print(f"{score:10.2f}  {'unlike' if score > familiarity.threshold else 'known '}  {image}")
    print(f"{unlike} of {len(images)} are unlike the training volumes (threshold {familiarity.threshold:.2f})")


if __name__ == "__main__":
    sys.exit(main())

"""One question about one examination: the answer on the screen, masks and an overlay beside it on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.instruction import InstructionDataset, InstructionSample
from datasets.manifest import QuestionPart
from datasets.vocabulary import TASK_TOKENS
from datasets.volume.cache import volume_key
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import read_volume, save_mask
from evaluation.answering.inference import GenerationOptions, predict
from evaluation.report.overlay import save_overlay
from models.ctinstruct import CTInstruct
from models.generation import Prediction

_HU_LOWEST = -500.0  # a CT in HU holds air; a file without it is shown by its percentiles


@dataclass(frozen=True)
class SingleAnswer:
    """What was said and written: files are None where the answer has no mask."""

    prediction: Prediction
    mask_files: list[Path]
    overlay_file: Path | None


def answer_question(
    model: CTInstruct,
    dataset: InstructionDataset,
    images: Sequence[str],
    question: str,
    label_set: str,
    output: Path,
    options: GenerationOptions,
) -> SingleAnswer:
    """Ask ``question`` about one or several volumes (files or DICOM folders).

    Masks belong to the first volume: ``output/answer_mask_1.nii.gz`` and so on lie on its own grid, and
    ``output/answer_overlay.png`` shows them; ``output/answer.txt`` holds the words.  Those of an earlier question there
    are removed.

    Raises:
        InputError: a volume cannot be read, the folder cannot be made, or the question is empty.
    """
    if not question.strip():
        raise InputError("--question is empty: write what you want to know about the volume")
    try:
        output.mkdir(parents=True, exist_ok=True)  # before the long work
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made ({error.strerror}); give another folder") from error
    loaded = [dataset.loader.volume(path) for path in images]
    volumes = [volume for volume, _ in loaded]
    geometry = loaded[0][1]
    parts = [QuestionPart(type="image") for _ in images] + [QuestionPart(type="text", text=question)]
    prompt = dataset.conversation.prompt(parts, [dataset.visual_tokens(volume) for volume in volumes], "the question")
    keys, geometries = [volume_key(path) for path in images], [g for _, g in loaded]
    sample = InstructionSample(
        "question", _task_of(question), prompt, [], volumes, keys, geometries, label_set=label_set
    )
    answer = predict(model, [sample], options)[0]
    prediction, masks = answer.prediction, answer.masks
    for earlier in (*output.glob("answer_mask_*.nii.gz"), output / "answer_overlay.png"):
        earlier.unlink(missing_ok=True)  # of another question: it would pass for this answer's
    (output / "answer.txt").write_text(f"{question}\n{prediction.text}\n", encoding="utf-8")
    names = [f"mask {number}" for number in range(1, len(masks) + 1)]
    files = [
        save_mask(mask, geometry, output / f"answer_{name.replace(' ', '_')}.nii.gz")
        for name, mask in zip(names, masks, strict=True)
    ]
    overlay = None
    if masks:
        array, whole = read_volume(images[0], array_axes=dataset.array_axes)
        overlay = _overlay(array, whole, geometry, names, masks, question, output)
    return SingleAnswer(prediction, files, overlay)


def _task_of(question: str) -> str:
    """What the question asks for, by the task token that stands in it: the release searches for answers by task."""
    return next((task for task, token in TASK_TOKENS.items() if token in question), "open_vqa")


def _overlay(
    array: np.ndarray,
    whole: VolumeGeometry,
    geometry: VolumeGeometry,
    names: Sequence[str],
    masks: Sequence[np.ndarray],
    title: str,
    output: Path,
) -> Path:
    """The three planes of the whole volume (1, H, W, D), with the masks brought there through the source grid."""
    in_ras = {name: whole.from_source(geometry.to_source(mask)) for name, mask in zip(names, masks, strict=True)}
    window = "auto" if array.min() < _HU_LOWEST else None
    return save_overlay(array[0], in_ras, whole.spacing, output / "answer_overlay.png", window=window, title=title)

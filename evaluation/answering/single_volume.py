"""One question about one examination: the answer on the screen, masks and an overlay beside it on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.whole_files import save_picture, write_whole_text
from evaluation.answering.outputs import Outputs
from models.answering.answer import Answer
from models.answering.predicting import GenerationOptions
from models.answering.study import Study
from models.ctinstruct import CTInstruct


@dataclass(frozen=True)
class WrittenAnswer:
    """What was said and written: files are None where the answer has no mask.

    other_files: masks and findings in further formats.
    """

    answer: Answer
    mask_files: list[Path]
    overlay_file: Path | None
    other_files: list[Path]


def answer_question(
    model: CTInstruct,
    dataset: InstructionDataset,
    images: Sequence[str],
    question: str,
    label_set: str,
    output: Path,
    options: GenerationOptions,
    outputs: Outputs | None = None,
    trained_body: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> WrittenAnswer:
    """Ask ``question`` about one or several volumes (files or DICOM folders).

    Masks belong to the first volume: ``output/answer_mask_1.nii.gz`` and so on lie on its own grid, and
    ``output/answer_overlay.png`` shows them by name; ``output/answer.txt`` holds the words, and a line for each
    confidence.  Those of an earlier question there are removed.  outputs: further formats, which begin with
    ``output/answer``; without "nifti" among them there is no file for each mask.  trained_body, labels:
    see `Study`.

    Raises:
        InputError: a volume cannot be read, the folder cannot be made, or the question is empty.
    """
    if not question.strip():
        raise InputError("--question is empty: write what you want to know about the volume")
    try:
        output.mkdir(parents=True, exist_ok=True)  # before the long work
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made ({error.strerror}); give another folder") from error
    outputs = outputs or Outputs()
    answer = Study(model, dataset, images, labels, trained_body).ask(question, options, label_set)
    others = [output / f"answer{ending}" for ending in outputs.endings()]
    for earlier in (*output.glob("answer_mask_*.nii.gz"), output / "answer_overlay.png", *others):
        earlier.unlink(missing_ok=True)  # of another question: it would pass for this answer's
    lines = [question, answer.text, *(f"{disease}: {share:.4f}" for disease, share in answer.confidences.items())]
    write_whole_text(output / "answer.txt", "\n".join(lines) + "\n")
    masks = answer.masks.values() if "nifti" in outputs.formats else ()
    files = [mask.save(output / f"answer_mask_{number}.nii.gz") for number, mask in enumerate(masks, start=1)]
    overlay = None
    if answer.masks:
        overlay = output / "answer_overlay.png"
        save_picture(answer.overlay(), overlay)
    return WrittenAnswer(answer, files, overlay, outputs.write(answer, output / "answer"))

"""One question about one examination: the answer on the screen, masks and an overlay beside it on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.whole_files import save_picture, write_whole_text
from evaluation.answering.outputs import Outputs
from evaluation.report.result_tables import confidence_table
from evaluation.report.tables import print_table
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

    def show(self) -> None:
        """Print question, answer and confidences, and what was written."""
        console = Console(highlight=False)
        console.print(f"Question: {self.answer.question}", markup=False)
        console.print(f"Answer:   {self.answer.text}", markup=False)
        if self.answer.confidences:
            print_table(confidence_table(self.answer.confidences))
        for path in [*self.mask_files, *self.files_beside_masks]:
            print(f"wrote {path}")

    @property
    def files_beside_masks(self) -> list[Path]:
        """Overlay and further formats."""
        return [*([self.overlay_file] if self.overlay_file else []), *self.other_files]


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
    make_folder(output)  # before the long work
    answer = Study(model, dataset, images, labels, trained_body).ask(question, options, label_set)
    confidences = [f"{disease}: {share:.4f}" for disease, share in answer.confidences.items()]
    return write_answer(answer, [question, answer.text, *confidences], output, outputs or Outputs())


def make_folder(output: Path) -> None:
    """Make the folder of --output; raises InputError where that cannot be."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output {output}: cannot be made ({error.strerror}); give another folder") from error


def write_answer(
    answer: Answer, lines: Sequence[str], output: Path, outputs: Outputs, shown: Answer | None = None
) -> WrittenAnswer:
    """Write ``answer.txt``, of `lines`, the masks, the overlay and further formats in place of an earlier answer's.

    shown: the answer with the masks that the overlay draws, where they are not all; without any there is no overlay.
    """
    others = [output / f"answer{ending}" for ending in outputs.endings()]
    for earlier in (*output.glob("answer_mask_*.nii.gz"), output / "answer_overlay.png", *others):
        earlier.unlink(missing_ok=True)  # of another question: it would pass for this answer's
    write_whole_text(output / "answer.txt", "\n".join(lines) + "\n")
    masks = answer.masks.values() if "nifti" in outputs.formats else ()
    files = [mask.save(output / f"answer_mask_{number}.nii.gz") for number, mask in enumerate(masks, start=1)]
    overlay, shown = None, shown or answer
    if shown.masks:
        overlay = output / "answer_overlay.png"
        save_picture(shown.overlay(), overlay)
    return WrittenAnswer(answer, files, overlay, outputs.write(answer, output / "answer"))

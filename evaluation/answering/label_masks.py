"""Masks of named structures in one examination, with no question asked: sizes on the screen, files as of an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.instruction import InstructionDataset
from evaluation.answering.outputs import Outputs
from evaluation.answering.single_volume import WrittenAnswer, make_folder, write_answer
from evaluation.report.tables import NO_VALUE, Table, print_table
from models.answering.answer import Answer
from models.answering.segmenting import segment
from models.answering.study import Study
from models.ctinstruct import CTInstruct


def write_masks(
    model: CTInstruct,
    dataset: InstructionDataset,
    image: str,
    structures: Sequence[str],
    output: Path,
    outputs: Outputs | None = None,
    trained_body: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> WrittenAnswer:
    """Write the masks of `models.answering.segmenting.segment` as `answer_question` does, and print their sizes.

    ``output/answer.txt`` has a line for each structure, with its volume; the overlay leaves out those that are empty.
    outputs, trained_body, labels: as `answer_question`.
    Raises InputError where the volume cannot be read, the folder cannot be made, or a name is empty.
    """
    make_folder(output)  # before the long work
    answer = segment(Study(model, dataset, [image], labels, trained_body), structures)
    lines = [f"{name}: {mask.millilitres:.1f} ml" for name, mask in answer.masks.items()]
    written = write_answer(answer, lines, output, outputs or Outputs(), without_empty(answer))
    print_table(size_table(written))
    if written.overlay_file is None:
        print("no mask holds a voxel, so there is no picture")
    for path in written.files_beside_masks:
        print(f"wrote {path}")
    return written


def without_empty(answer: Answer) -> Answer:
    """The answer with the masks that are not empty alone, each with its volume in its name."""
    kept = {f"{name}, {mask.millilitres:.1f} ml": mask for name, mask in answer.masks.items() if mask.voxels.any()}
    return replace(answer, masks=kept)


def size_table(written: WrittenAnswer) -> Table:
    """Of each mask, in the order in which they were asked for: structure, millilitres, file where it has its own."""
    files = [path.name for path in written.mask_files] or [NO_VALUE] * len(written.answer.masks)
    rows = tuple(
        (name, f"{mask.millilitres:.1f}", file)
        for (name, mask), file in zip(written.answer.masks.items(), files, strict=True)
    )
    return Table("Masks", ("Structure", "Volume (ml)", "File"), rows)

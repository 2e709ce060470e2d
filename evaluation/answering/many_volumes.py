"""One question about each of many examinations: a row a CT, shared by all ranks, and gone on with after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from datasets.instruction import InstructionDataset
from datasets.whole_files import write_whole_text
from evaluation.answering.inference import failure, stop_if_machine_fails
from evaluation.answering.mask_names import mask_name
from evaluation.answering.outputs import Outputs
from evaluation.answering.run_record import check_run, record_run
from evaluation.predictions import PredictionWriter, merged_records
from evaluation.report.tables import Table, to_csv
from models.answering.predicting import GenerationOptions
from models.answering.study import Study
from models.ctinstruct import CTInstruct
from training import distributed
from training.distributed import Ranks, wait_for_all

CSV, LINES = "results.csv", "results.jsonl"


def answer_volumes(
    model: CTInstruct,
    dataset: InstructionDataset,
    images: Sequence[str],
    question: str,
    label_set: str,
    output: Path,
    options: GenerationOptions,
    ranks: Ranks,
    made_with: Mapping[str, Any],
    retry_failed: bool = False,
    outputs: Outputs | None = None,
    trained_body: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Ask `question` about each of `images` that no earlier run has answered; returns the rows, in the images' order.

    A row has the image (as id), the answer, confidences, millilitres and file of each mask, and error, which is None or
    why the CT could not be answered.  ``results.jsonl`` and ``results.csv`` in `output` hold all rows, ``masks/`` the
    masks, each on the grid of its CT.  One rank answers a CT, so the rows do not depend on the number of ranks.

    outputs: formats of masks and findings.  trained_body, labels: see `Study`.
    made_with: what answers depend on; raises InputError where `output` has answers that were made otherwise.
    """
    outputs = outputs or Outputs()
    how = {**made_with, "question": question, "label_set": label_set}
    if outputs != Outputs():
        how |= {"formats": outputs.formats, "findings": outputs.findings}
    check_run(output, how)
    distributed.barrier()  # every rank has looked before one writes
    if ranks.is_main:
        record_run(output, how)
    with PredictionWriter(output, ranks.rank, retry_failed) as writer:
        distributed.barrier()  # every rank has read what is done before one writes more
        waiting = [image for image in images if image not in writer.done]
        mine = waiting[ranks.rank :: ranks.world_size]
        for image in tqdm(mine, desc="answering", unit="CT", disable=not ranks.is_main):
            asked = (question, label_set, output, options)
            writer.write(_row(model, dataset, image, *asked, outputs, trained_body, labels))
    wait_for_all()
    rows = merged_records(output, images)
    if ranks.is_main:
        write_whole_text(output / LINES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_whole_text(output / CSV, to_csv(_table(rows)))
    distributed.barrier()  # an error that another rank ends with would end this one while it writes
    return rows


def _row(
    model: CTInstruct,
    dataset: InstructionDataset,
    image: str,
    question: str,
    label_set: str,
    output: Path,
    options: GenerationOptions,
    outputs: Outputs,
    trained_body: Mapping[str, Any] | None,
    labels: Sequence[str],
) -> dict[str, Any]:
    row: dict[str, Any] = {"id": image, "answer": "", "confidences": {}, "millilitres": {}, "masks": {}, "error": None}
    row |= {"warnings": [], "files": []}
    start = time.perf_counter()
    try:
        answer = Study(model, dataset, [image], labels, trained_body).ask(question, options, label_set)
        for name, mask in answer.masks.items():
            if "nifti" in outputs.formats:
                row["masks"][name] = str(mask.save(output / "masks" / mask_name(image, name)))
            row["millilitres"][name] = round(mask.millilitres, 3)
        stem = output / "masks" / mask_name(image, "answer").removesuffix(".nii.gz")
        row["files"] = [str(path) for path in outputs.write(answer, stem)]
        row |= {"answer": answer.text, "confidences": dict(answer.confidences), "warnings": list(answer.warnings)}
    except Exception as error:
        stop_if_machine_fails(error)
        row |= {"masks": {}, "millilitres": {}, "files": [], "error": failure(error)}
    return {**row, "seconds": round(time.perf_counter() - start, 2)}


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Image, answer, error, warnings; then a column for each disease and for the millilitres of each mask."""
    diseases = list(dict.fromkeys(name for row in rows for name in row["confidences"]))
    masks = list(dict.fromkeys(name for row in rows for name in row["millilitres"]))
    columns = ["image", "answer", "error", "warnings", *diseases, *(f"{name} (ml)" for name in masks)]
    cells = [
        [row["id"], row["answer"], row["error"] or "", "; ".join(row.get("warnings", ()))]
        + [f"{row['confidences'][name]:.4f}" if name in row["confidences"] else "" for name in diseases]
        + [f"{row['millilitres'][name]:.3f}" if name in row["millilitres"] else "" for name in masks]
        for row in rows
    ]
    return Table("", tuple(columns), tuple(map(tuple, cells)))

"""Embed the CTs below a folder, probe embeddings that are there, or search among them by words.

python -m evaluation.embed --checkpoint runs/CTInstruct --images scans --output embeddings.safetensors
python -m evaluation.embed --output embeddings.safetensors --probe labels.csv
python -m evaluation.embed --checkpoint runs/encoder_2D1D --images scans --search "pleural effusion on the left"
deepspeed --module evaluation.embed --checkpoint runs/CTInstruct --images scans
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch

from datasets.commands import told
from datasets.errors import InputError
from datasets.volume.find_volumes import find_volumes
from evaluation.embed.embedders import load_embedder
from evaluation.embed.embeddings import Embeddings, embed_all, read_embeddings, refuse_folder, save_embeddings
from evaluation.embed.probe import FEWEST, probe, read_labels
from evaluation.embed.search import search
from evaluation.predictions import write_json
from evaluation.report.tables import NO_VALUE, Table, print_table
from models.precision import AnswerPrecision, answer_dtype
from training import distributed
from training.distributed import Ranks
from training.launchers import launched_by
from training.script import leave


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.embed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="a run, a model folder or a hub name, or a run of pretraining")
    parser.add_argument("--images", help="a folder of CTs, or a .txt file with a path a line")
    parser.add_argument("--output", type=Path, default=Path("runs/embeddings.safetensors"), help="file of embeddings")
    parser.add_argument("--device", default="cpu", help="of one process; several ranks choose theirs themselves")
    parser.add_argument(
        "--precision",
        choices=get_args(AnswerPrecision),
        default="auto",
        help="of the weights; auto: bf16 on CUDA and on a CPU with instructions for it, else fp32",
    )
    parser.add_argument("--array_axes", help="what the axes of .npy and .npz volumes are, as LPS")
    parser.add_argument("--probe", help="CSV with a column image and a column of 0 and 1 for each label")
    parser.add_argument("--search", nargs="+", default=[], help="texts to find CTs by")
    parser.add_argument("--top", type=int, default=10, help="so many CTs are shown for a text")
    parser.add_argument("--pretraining", default="", help="run whose projections --search takes, if not --checkpoint")
    parser.add_argument("--text_encoder", default="", help="hub name or folder; without it that of the pretraining")
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the launcher gives it
    values = parser.parse_args(arguments)
    asked = values.images or values.probe or values.search
    if bool(values.checkpoint) != bool(values.images) or not asked:
        raise InputError(
            "give --checkpoint and --images to embed, or --probe or --search to use embeddings, or all together"
        )
    if values.top < 1:
        raise InputError(f"--top {values.top}: give the number of CTs to show, at least 1")
    several = int(launched_by(os.environ, free_port=0).variables["WORLD_SIZE"]) > 1
    ranks = distributed.initialize() if several else Ranks(0, 1, 0, _device(values.device))
    if values.images:
        _embed(values, ranks)
    if ranks.is_main and values.probe:
        _probe(read_embeddings(values.output), values)
    if ranks.is_main and values.search:
        _search(read_embeddings(values.output), values)
    return 0


def _device(name: str) -> torch.device:
    try:
        torch.zeros(1, device=name).item()  # a name may be right, and the driver or the values missing
        return torch.device(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]  # what follows is advice
        raise InputError(
            f"--device {name}: is no device that torch can use here; give cpu, or cuda where there is a GPU ({reason})"
        ) from error


def _embed(values: argparse.Namespace, ranks: Ranks) -> None:
    refuse_folder(values.output)  # before a model of gigabytes is loaded
    images = find_volumes(values.images)
    # one type for all ranks, whose processors may differ
    dtype = distributed.from_main(lambda: answer_dtype(values.precision, ranks.device))
    precision: AnswerPrecision = "bf16" if dtype == torch.bfloat16 else "fp32"
    embedder = load_embedder(values.checkpoint, ranks.device, values.array_axes, precision)
    embeddings, failed = embed_all(embedder, images, values.output, ranks.rank, ranks.world_size)
    distributed.barrier()  # every rank has read the parts
    if ranks.is_main:
        for reason in failed.values():
            print(f"left out: {reason}", file=sys.stderr)
        save_embeddings(embeddings, values.output)
        print(f"{len(embeddings.images)} of {len(images)} CTs are in {values.output}")


def _probe(embeddings: Embeddings, values: argparse.Namespace) -> None:
    results = probe(embeddings, read_labels(values.probe, embeddings.images))
    write_json(results, values.output.with_suffix(".probe.json"))
    cells = [
        (name, str(of["positive"]), str(of["negative"]), NO_VALUE if of["auc"] is None else f"{of['auc']:.3f}")
        for name, of in results.items()
    ]
    few = [name for name, of in results.items() if of["auc"] is None]
    notes = (f"no AUC of {', '.join(few)}: it takes {FEWEST} CTs with 1 and {FEWEST} with 0",) if few else ()
    print_table(Table("Linear probe", ("label", "positive", "negative", "AUC"), tuple(cells), notes))


def _search(embeddings: Embeddings, values: argparse.Namespace) -> None:
    found = search(embeddings, values.search, values.pretraining, values.text_encoder)
    results = {text: [vars(hit) for hit in hits] for text, hits in found.items()}
    write_json(results, values.output.with_suffix(".search.json"))
    for text, hits in found.items():
        cells = [(f"{hit.similarity:.3f}", hit.image) for hit in hits[: max(1, values.top)]]
        print_table(Table(text, ("similarity", "CT"), tuple(cells)))


if __name__ == "__main__":
    leave(main())  # of several ranks one that is taken apart may abort, and the launcher then ends the others

"""Embed the CTs below a folder, or probe embeddings that are there.

python -m evaluation.embed --checkpoint runs/CTInstruct --images scans --output embeddings.safetensors
python -m evaluation.embed --output embeddings.safetensors --probe labels.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.errors import InputError
from datasets.volume.find_volumes import find_volumes
from evaluation.embed.embeddings import embed_all, read_embeddings, save_embeddings
from evaluation.embed.probe import probe, read_labels
from evaluation.predictions import write_json
from evaluation.report.tables import NO_VALUE, Table, print_table
from models.checkpoints.pretrained import PretrainedCTInstruct


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    parser = argparse.ArgumentParser(prog="python -m evaluation.embed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checkpoint", help="a run folder, a model folder or a hub name; with --images")
    parser.add_argument("--images", help="a folder of CTs, or a .txt file with a path a line")
    parser.add_argument("--output", type=Path, default=Path("runs/embeddings.safetensors"), help="file of embeddings")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--array_axes", help="what the axes of .npy and .npz volumes are, as LPS")
    parser.add_argument("--probe", help="CSV with a column image and a column of 0 and 1 for each label")
    values = parser.parse_args(arguments)
    try:
        if bool(values.checkpoint) != bool(values.images) or not (values.images or values.probe):
            raise InputError("give --checkpoint and --images to embed, or --probe to probe embeddings, or all three")
        if values.images:
            images = find_volumes(values.images)
            model = PretrainedCTInstruct.from_pretrained(values.checkpoint, values.device)
            model.array_axes = values.array_axes
            embeddings, failed = embed_all(model, images)
            for reason in failed.values():
                print(f"left out: {reason}", file=sys.stderr)
            save_embeddings(embeddings, values.output)
            print(f"{len(embeddings.images)} of {len(images)} CTs are in {values.output}")
        if values.probe:
            embeddings = read_embeddings(values.output)
            results = probe(embeddings, read_labels(values.probe, embeddings.images))
            write_json(results, values.output.with_suffix(".probe.json"))
            cells = [
                (name, str(of["positive"]), str(of["negative"]), NO_VALUE if of["auc"] is None else f"{of['auc']:.3f}")
                for name, of in results.items()
            ]
            print_table(Table("Linear probe", ("label", "positive", "negative", "AUC"), tuple(cells)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

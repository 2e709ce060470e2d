"""Manifests of the published form into ours, and ours into the published form.

    python -m datasets.prepare.convert VQA_SEG_CTORG_test.json ctorg_test.json --to ours
    python -m datasets.prepare.convert published/CTRATE_image_text.json 'ours/CTRATE_image_text_{split}.json' --to ours

Both forms are read without conversion as well.  SOURCE is an instruction manifest or a pretraining manifest; which one
is told by its records.  `{split}` in a name stands for train, val and test: our pretraining manifests have a file a
split, the published ones (but those of segmentation) have one file for all.  Paths are rewritten as seen from TARGET.

To the published form, masks that are whole files (or multi-label files) are written once more, in boxes of the volume
as stored, to the folder <TARGET>_masks; all else stays where it is.  Volumes are not converted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.commands import told
from datasets.errors import InputError
from datasets.manifest_rows import SPLIT_NAMES, ManifestError, read_rows, splits_in
from datasets.prepare.convert_instructions import convert_instructions
from datasets.prepare.convert_pretraining import convert_pretraining, files_of
from datasets.volume.declared_size import allow_voxels

MAX_FAULTS = 20


def convert(source: Path, target: Path, to: str, task: str = "", check_files: bool = True) -> int:
    """Write `target` from `source`; gives the number of records.

    Args:
        to: "ours" or "published".
        task: the published pretraining task whose labels number the classes; told by the file's name where empty.
        check_files: also see that every image and mask exists.

    Raises:
        ManifestError: the source has faults, which its `faults` list one by one; nothing is written.
        InputError: source and target are one file, or cannot be read or written.
    """
    for split, path in files_of(source):
        for name in [split] if split else SPLIT_NAMES:
            place = Path(str(target).replace("{split}", name))
            if place.resolve() == path.resolve() or (place.exists() and path.exists() and place.samefile(path)):
                raise InputError(f"{target}: is the source itself; give another TARGET")
    if _is_instruction(source):
        return convert_instructions(source, target, to, check_files)
    return convert_pretraining(source, target, to, task, check_files)


def _is_instruction(source: Path) -> bool:
    if "{split}" in source.name or source.suffix == ".jsonl":
        return False
    if splits_in(source):
        return False
    return any(isinstance(row, dict) and "question" in row for row in read_rows(source))


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare.convert", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("source", type=Path, help="manifest to read; {split} in its name stands for all splits")
    parser.add_argument("target", type=Path, help="manifest to write")
    parser.add_argument("--to", choices=("ours", "published"), required=True, help="the form to write")
    parser.add_argument("--task", default="", help="published pretraining task that numbers the classes (default: the "
                        "file's name)")  # fmt: skip
    parser.add_argument("--max_voxels", type=int, help="refuse volumes of more (default: 2^30)")
    parser.add_argument("--missing_files_ok", action="store_true", help="do not look for volumes and masks")
    options = parser.parse_args(arguments)
    try:
        allow_voxels(options.max_voxels)
        count = convert(options.source, options.target, options.to, options.task, not options.missing_files_ok)
    except InputError as error:
        faults = error.faults if isinstance(error, ManifestError) else [str(error)]
        for fault in faults[:MAX_FAULTS]:
            print(f"error: {fault}", file=sys.stderr)
        if len(faults) > MAX_FAULTS:
            print(f"error: and {len(faults) - MAX_FAULTS} more", file=sys.stderr)
        return 2
    print(f"wrote {count} records to {options.target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

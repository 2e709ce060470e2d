"""How many patches each record's volumes have, known before training and the same on all ranks and when it goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.manifest import InstructionRecord
from datasets.patch_counts import patch_counts
from datasets.volume.cache import VolumeLoader, volume_key
from datasets.whole_files import write_whole_text
from training import checkpoint_store, distributed
from training.settings import TrainingSettings

UNKNOWN = 0  # in the place of a count
KEPT = "patch_counts.json"  # in the run's folder: {"preprocessing": ..., "patches": {volume: count}}


def patches_of(
    records: Mapping[str, Sequence[InstructionRecord]],
    loader: VolumeLoader,
    settings: TrainingSettings,
) -> dict[str, list[int]]:
    """For each part of a mixture the patches of each record, of all its images together.

    The main rank looks (`datasets.patch_counts`), and keeps what it found with the run: what the cache holds changes
    while a run trains, and one that goes on has to share out its batches as before.  A volume of which nothing can be
    told counts as the mean of the others.  Every rank calls this.

    loader: as volumes will be read.  settings: tell the run's folder, and whether it goes on or begins afresh, and so
    counts anew.
    Raises WriteError where the run's folder cannot be written.
    """
    images = [(path, record.hu_offset) for part in records.values() for record in part for path in record.image_path]
    asked = {volume_key(*volume): volume for volume in images}

    def counted() -> dict[str, int]:
        file, afresh = Path(settings.run_dir) / KEPT, settings.overwrite and not settings.resume
        kept = {} if afresh else next(filter(None, (_kept(place, loader) for place in [file, *_resumed(settings)])), {})
        missing = {key: volume for key, volume in asked.items() if key not in kept}
        found = patch_counts(loader, missing.values()) if missing else {}
        counts = kept | {key: found.get(key, UNKNOWN) for key in missing}
        if unknown := len(missing.keys() - found.keys()):
            print(f"--balance_ranks: the patches of {unknown} of {len(asked)} volumes cannot be told", flush=True)
        # a folder that holds a run, which this one neither goes on from nor replaces, is refused by `train`
        is_ours = afresh or settings.resume or not checkpoint_store.has_checkpoints(settings.run_dir)
        if is_ours and (missing or not file.is_file()):
            content = {"preprocessing": loader.preprocessing.to_dict(), "patches": counts}
            write_whole_text(file, json.dumps(content) + "\n")
        return counts

    counts = distributed.from_main(counted)
    known = [count for key in asked if (count := counts[key]) != UNKNOWN]
    typical = round(sum(known) / len(known)) if known else 1

    def patches(record: InstructionRecord) -> int:
        return sum(counts[volume_key(path, record.hu_offset)] or typical for path in record.image_path)

    return {name: [patches(record) for record in part] for name, part in records.items()}


def _resumed(settings: TrainingSettings) -> list[Path]:
    """Where the counts may lie of another run that this one goes on from, given as its folder or a checkpoint's."""
    if settings.resume in ("", "auto"):
        return []
    return [folder / KEPT for folder in (Path(settings.resume), *Path(settings.resume).parents[:2])]


def _kept(file: Path, loader: VolumeLoader) -> dict[str, int]:
    """What an earlier start of the run found, with volumes prepared alike; a damaged file counts as none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["preprocessing"] != json.loads(json.dumps(loader.preprocessing.to_dict())):
            return {}
        return {str(key): int(count) for key, count in content["patches"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}

"""How many patches volumes have, before any is read.

A volume of the cache has as many as its entry says.  Of any other the header tells the size, and so how many it would
have whole; since volumes are cropped to what is brighter than water, which is not known before they are read, that is
an estimate, a patch or two off.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from math import prod
from pathlib import Path

from datasets.errors import InputError
from datasets.prepare.headers import read_header
from datasets.prepare.processes import header_pool
from datasets.prepare.progress import shown
from datasets.volume.anyres import plan
from datasets.volume.array_files import is_rad_chest_ct
from datasets.volume.cache import VolumeLoader, volume_key
from datasets.volume.geometry import AS_STORED, VolumeGeometry, affine_of_axes
from datasets.volume.preprocessing import SourceKind
from datasets.volume.readers import ARRAY_KINDS, SLICE_FOLDER, axes_without_geometry

Volume = tuple[str, float]  # a path, and the HU that are added to what is read there


def patch_counts(loader: VolumeLoader, volumes: Iterable[Volume], workers: int = 8) -> dict[str, int]:
    """By `volume_key`, how many patches each volume has; one of which that cannot be told is left out.

    loader: as volumes will be read.  workers: threads, or for many files processes, that look at them.
    """
    named = sorted(set(volumes))
    with header_pool(len(named), workers) as pool:
        found = pool.map(partial(patch_count, loader), named, chunksize=64)
        counts = list(shown(found, len(named), "patches of volumes"))
    return {volume_key(*volume): count for volume, count in zip(named, counts, strict=True) if count}


def patch_count(loader: VolumeLoader, volume: Volume) -> int | None:
    """As `patch_counts`, of one volume."""
    path, hu_offset = volume
    try:
        if (placement := loader.cached_placement(path, hu_offset)) is not None:
            return prod(placement.patch_grid)
        shape = _oriented_shape(Path(path), loader)
        record = loader.preprocessing
        return prod(plan(shape, record.crop_size, record.patch_max, record.resize).patch_grid) if shape else None
    except (InputError, OSError, ValueError):  # whatever is wrong with the file is said when it is read
        return None


def _oriented_shape(path: Path, loader: VolumeLoader) -> tuple[int, int, int] | None:
    """The size of the whole volume (H, W, D) along the axes that it is brought to; None where it is not told."""
    header = read_header(path)
    shape, affine = header.shape, header.affine
    source: SourceKind = "ct_file"
    as_stored = False
    if shape is None or len(shape) != 3:
        return None
    if affine is None:
        if header.kind not in (*ARRAY_KINDS, SLICE_FOLDER):
            return None
        rad_chest_ct = header.kind == "npz" and is_rad_chest_ct(path)
        axes, source, axes_from = axes_without_geometry(header.kind, shape, loader.array_axes, rad_chest_ct)
        affine, as_stored = affine_of_axes(axes, shape), axes_from == "nobody"
    steps = loader.preprocessing.steps(source)
    geometry = VolumeGeometry.of_source(str(path), shape, affine, AS_STORED if as_stored else steps.orientation)
    if isinstance(steps.crop, tuple):
        geometry = geometry.narrowed(steps.crop)
    return geometry.shape

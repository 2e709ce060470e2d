"""Preprocessed volumes and masks on disk: the second epoch does not decode a NIfTI again."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.volume.anyres import AnyresPlacement, PatchedVolume, patchify, place_mask
from datasets.volume.cache_files import cached_details, read_cached, save_cached
from datasets.volume.dicom_series import is_series_path
from datasets.volume.geometry import AS_STORED, VolumeError, VolumeGeometry, affine_of_axes
from datasets.volume.loading import MaskValues, load_volume, read_mask
from datasets.volume.preprocessing import Preprocessing, SourceSteps
from datasets.volume.readers import DETACHED_HEADERS, is_array_file
from datasets.volume.rounded_patches import restored, rounded


def volume_key(path: str | Path, hu_offset: float = 0.0) -> str:
    """What a volume goes by in memory: its absolute path, so that two spellings of a path name one volume.

    hu_offset: that was added to what the file holds.

    The loader of a run reads a path in one way only, and files are taken not to change during a run.
    """
    return os.path.abspath(path) + (f" {hu_offset:+g}" if hu_offset else "")


class VolumeLoader:
    """Files to patches and placed masks, through an optional cache folder.

    preprocessing: how files become patches.  array_axes: of arrays without geometry, as ``read_volume`` takes it.
    read: a module's function (path, orientation=...) that reads a file in place of ``load_volume``, with its results.

    A cached file is named by a digest of the source's path, size and time of change (of every slice of a DICOM folder,
    of the voxel file beside a header) and of how it is prepared, so that an edited source or another record is read
    anew.
    Files appear by rename, so concurrent writers cannot leave half of one, and a damaged one is made again.  Patches
    are kept in 16 bits (`datasets.volume.rounded_patches`), and with a cache a volume is always handed out so rounded,
    whether it was there, was made or found no room: a run does not depend on what the folder held.  Entries that an
    earlier version wrote in float32 are not rounded.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        cache: str | Path | None = None,
        read: Callable[..., tuple[np.ndarray, VolumeGeometry]] | None = None,
        array_axes: str | None = None,
    ):
        self.preprocessing = preprocessing
        self.cache = Path(cache) if cache else None
        self.read = read
        self.array_axes = array_axes
        affine_of_axes(array_axes or AS_STORED, (1, 1, 1))  # VolumeError at once for what are no axes

    def volume(self, path: str | Path, hu_offset: float = 0.0) -> tuple[PatchedVolume, VolumeGeometry]:
        """Patches, slice marks and placement of one CT, and where it lies in its file.

        hu_offset: added to what the file holds, before all else.  VolumeError for one of an image that is no CT volume.
        """
        if hu_offset and self.read:
            raise VolumeError(
                f"{path}: hu_offset is for CT volumes; leave it out of a 2D image and a preprocessed crop"
            )
        cached = self._cached_volume(path, hu_offset)
        if cached and (found := _read_volume(cached)):
            return found
        record = self.preprocessing
        if self.read:
            array, geometry = self.read(path, orientation=record.orientation)
        else:
            array, geometry = load_volume(path, preprocessing=record, array_axes=self.array_axes, hu_offset=hu_offset)
        patched = patchify(array, record.crop_size, record.patch_max, record.resize)
        del array
        return (_save_volume(cached, patched, geometry) if cached else patched), geometry

    def cached_placement(self, path: str | Path, hu_offset: float = 0.0) -> AnyresPlacement | None:
        """Where a volume lies in its grid of patches, by its entry in the cache and no voxel; None without an entry."""
        cached = self._cached_volume(path, hu_offset)
        if cached is None:
            return None
        details = cached_details(_half(cached)) or cached_details(cached) or "{}"
        try:
            return AnyresPlacement.from_dict(json.loads(details)["placement"])
        except (KeyError, TypeError, ValueError):  # none, or a damaged one, which is made again when it is read
            return None

    def _cached_volume(self, path: str | Path, hu_offset: float) -> Path | None:
        extra = {"read": self.read.__name__} if self.read else {"hu_offset": hu_offset} if hu_offset else {}
        return self.cached("volume", [path], extra)

    def masks(
        self,
        path: str | Sequence[str],
        values: MaskValues | None,
        placement: AnyresPlacement,
        geometry: VolumeGeometry,
        hu_offset: float = 0.0,
    ) -> torch.Tensor:
        """Masks (n, X, Y, Z) int8 on the padded grid, -1 where there is no volume; arguments as ``read_mask`` takes.

        hu_offset: that the volume was read with; its crop depends on it.
        """
        paths = [path] if isinstance(path, str) else list(path)
        cached = self.cached(
            "masks", [*paths, geometry.source], {"values": values, **({"hu_offset": hu_offset} if hu_offset else {})}
        )
        if cached and (found := read_cached(cached)):
            return found[0]["masks"]
        placed = place_mask(read_mask(path, geometry, values), placement)
        if cached:
            save_cached(cached, {"masks": placed.contiguous()}, "{}")
        return placed

    def cached(self, kind: str, paths: Sequence[str | Path], extra: dict) -> Path | None:
        """The cache's file for what is made of `paths` with these options; None without a cache.

        kind, extra: what is made, and what else it depends on; both become part of the file's name.
        """
        if self.cache is None:
            return None
        try:
            sources, arrays = _state_of([Path(path) for path in paths])
        except OSError:
            return None  # the reader will say it better
        key = json.dumps([kind, sources, extra, self._options(arrays)], sort_keys=True, default=list)
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.cache / digest[:2] / f"{digest}.safetensors"

    def _options(self, arrays: bool) -> dict:
        """What of the preprocessing goes into a cached file's name; `arrays`: a source is an array without geometry.

        A CT file that is cropped, clipped and normalised goes by four values, as in caches from before the record.
        """
        record = self.preprocessing
        if arrays:
            return {**record.to_dict(), "array_axes": self.array_axes}
        if record.ct_file != SourceSteps(record.orientation):
            return record.to_dict()
        return {
            "crop_size": record.crop_size,
            "patch_max": record.patch_max,
            "orientation": record.orientation,
            "resize": record.resize,
        }


class RecentLoader:
    """A `VolumeLoader` that keeps the latest `keep` volumes in memory, for the next questions about them."""

    def __init__(self, loader: VolumeLoader | RecentLoader, keep: int) -> None:
        self._loader = loader
        self._keep = keep
        self._held: dict[str, tuple[PatchedVolume, VolumeGeometry]] = {}

    def volume(self, path: str | Path, hu_offset: float = 0.0) -> tuple[PatchedVolume, VolumeGeometry]:
        """As `VolumeLoader.volume`; the same object again while it is held."""
        key = volume_key(path, hu_offset)
        loaded = self._held.pop(key, None) or self._loader.volume(path, hu_offset)
        self._held[key] = loaded  # the latest stands last
        while len(self._held) > self._keep:
            del self._held[next(iter(self._held))]
        return loaded

    def masks(
        self,
        path: str | Sequence[str],
        values: MaskValues | None,
        placement: AnyresPlacement,
        geometry: VolumeGeometry,
        hu_offset: float = 0.0,
    ) -> torch.Tensor:
        """As `VolumeLoader.masks`."""
        return self._loader.masks(path, values, placement, geometry, hu_offset)


def _save_volume(path: Path, patched: PatchedVolume, geometry: VolumeGeometry) -> PatchedVolume:
    """Write a volume to the cache, and give it as it will be read from there, whether or not there is room."""
    details = json.dumps({"placement": patched.placement.to_dict(), "geometry": geometry.to_dict()})
    marks = {"slice_marks": patched.slice_marks.contiguous()}
    codes = rounded(patched.patches)
    if codes is None:
        save_cached(path, {"patches": patched.patches.contiguous(), **marks}, details)
        return patched
    save_cached(_half(path), {**codes, **marks}, details)
    return replace(patched, patches=restored(**codes))


def _read_volume(path: Path) -> tuple[PatchedVolume, VolumeGeometry] | None:
    """What `_save_volume` wrote, or an earlier version did, as float32; None where neither is there undamaged."""
    found = read_cached(_half(path)) or read_cached(path)
    if found is None:
        return None
    tensors, details = found[0], json.loads(found[1])
    marks = tensors.pop("slice_marks")
    patches = tensors["patches"] if "patches" in tensors else restored(**tensors)
    placement = AnyresPlacement.from_dict(details["placement"])
    return PatchedVolume(patches, marks, placement), VolumeGeometry.from_dict(details["geometry"])


def _half(path: Path) -> Path:
    """The name of an entry in half its bytes, which versions that know float32 alone do not find."""
    return path.with_suffix(f".int16{path.suffix}")


def _state_of(paths: Sequence[Path]) -> tuple[list[list[Any]], bool]:
    """Name, size and time of the files that volumes are made of, and whether one is an array; may raise OSError."""
    found, arrays = [], False
    for path in paths:
        if is_series_path(path):
            found.append([volume_key(path), 0, 0])
            path = path.parent
        for file in (path, *_parts(path)):
            status = file.stat()
            found.append([volume_key(file), status.st_size, status.st_mtime_ns])
        arrays = arrays or is_array_file(path)
    return found, arrays


def _parts(path: Path) -> list[Path]:
    """The other files that hold a volume: a DICOM folder's slices, what lies beside a header without voxels."""
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.is_file())
    if path.suffix.lower() in DETACHED_HEADERS:
        return sorted(file for file in path.parent.glob(f"{glob.escape(path.stem)}.*") if file != path)
    return []

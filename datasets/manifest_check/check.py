"""The check of manifests: rows, headers of all files, and on request the voxels of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.errors import InputError
from datasets.manifest_check.masks import look_at_masks
from datasets.manifest_check.needs import ManifestSource, RecordNeeds, needs_of
from datasets.manifest_check.report import ManifestReport
from datasets.manifest_rows import ManifestError
from datasets.prepare.headers import FileHeader, read_header
from datasets.prepare.processes import header_pool
from datasets.prepare.progress import shown
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.mask_rules import NOTED_OFFSET, check_grid

Headers = Mapping[str, FileHeader | InputError]
ALL = -1  # for `voxels_of`: the masks of every record


def check_manifests(
    sources: Iterable[ManifestSource], workers: int = 4, voxels_of: int = 0, headers: bool = True
) -> list[ManifestReport]:
    """Look at each manifest: its rows, the headers of all files, and the voxels of some records' masks.

    Args:
        workers: threads, or for many files processes, that read them.
        voxels_of: of so many records a manifest the masks are read (`ALL`: of every one); where all of these are empty,
            of more, until one is not.
        headers: False leaves the headers out; that files are there is still seen.
    """
    return [_check(source, workers, voxels_of, headers) for source in sources]


def _check(source: ManifestSource, workers: int, voxels_of: int, headers: bool) -> ManifestReport:
    try:
        content = source.read()
    except ManifestError as error:
        where = str(source.path)
        return ManifestReport(where, faults=[(-1, str(error).removeprefix(f"{where}: "))])
    report = ManifestReport(content.where, faults=list(content.faults))
    if not content.records and not content.faults:
        report.faults.append((-1, "no records"))
    needs = {row: needs_of(record) for row, record in content.records.items()}
    if headers:
        _look_at_headers(needs, report, workers)
    good = {row: need for row, need in needs.items() if row not in report.bad_rows}
    report.records = len(good)
    _count_truths(good, report)
    if voxels_of:
        look_at_masks(good, report, workers, len(good) if voxels_of == ALL else voxels_of)
    report.faults.sort(key=lambda fault: fault[0])
    return report


def _look_at_headers(needs: Mapping[int, RecordNeeds], report: ManifestReport, workers: int) -> None:
    images = {path for need in needs.values() for _, path in need.images}
    masks = {mask.path for need in needs.values() for mask in need.masks}
    found = _headers(sorted(images | masks), workers, Path(report.where).name)
    report.images, report.masks = len(images), len(masks)
    for row, need in needs.items():
        wrong = [(field, found[path]) for field, path in need.images]
        wrong += [("mask_path", found[path]) for path in dict.fromkeys(mask.path for mask in need.masks)]
        faults = [f"field {field}: {error}" for field, error in wrong if isinstance(error, InputError)]
        if not faults:
            for path in dict.fromkeys(mask.path for mask in need.masks if not mask.boxed):
                try:
                    offset = mask_offset(path, found[path], need.volume, found[need.volume])
                except InputError as error:
                    faults.append(f"field mask_path: {error}")
                    continue
                if offset > NOTED_OFFSET:
                    report.off_grid[path] = offset
        report.faults += [(row, fault) for fault in faults]
    if report.off_grid:
        path, worst = max(report.off_grid.items(), key=lambda item: item[1])
        report.notes.append(
            f"{len(report.off_grid)} masks lie less than half a voxel off their volume and are taken voxel by voxel; "
            f"furthest is {path}, {worst:.2f} voxels"
        )


def _headers(paths: Sequence[str], workers: int, title: str) -> Headers:
    with header_pool(len(paths), workers) as pool:
        headers = shown(pool.map(_header, paths, chunksize=64), len(paths), f"{title}: headers")
        return dict(zip(paths, headers, strict=True))


def _header(path: str) -> FileHeader | InputError:
    try:
        return read_header(Path(path))
    except InputError as error:
        return error


def mask_offset(path: str, mask: FileHeader | InputError, volume_path: str, volume: FileHeader | InputError) -> float:
    """How far a mask lies off its volume, in voxels; 0 where a file has no place of its own.  VolumeError for half."""
    if isinstance(mask, InputError) or isinstance(volume, InputError):
        return 0.0
    if mask.affine is None or volume.affine is None or len(mask.shape or ()) != 3 or len(volume.shape or ()) != 3:
        return 0.0
    if mask.shape == volume.shape and np.array_equal(mask.affine, volume.affine):
        return 0.0  # as nearly all do; the way below takes a millisecond for each of a manifest's masks
    image = VolumeGeometry.of_source(volume_path, volume.shape or (), volume.affine, "as_stored")
    moved = VolumeGeometry.of_source(path, mask.shape or (), mask.affine, image.source_orientation)
    return check_grid(path, moved, image, warn=False)


def _count_truths(needs: Mapping[int, RecordNeeds], report: ManifestReport) -> None:
    asking = [need for need in needs.values() if need.has_truth is not None]
    report.asking_classes, report.without_truth = len(asking), sum(not need.has_truth for need in asking)
    if asking and report.without_truth == len(asking):
        report.faults.append((-1, f"none of its {len(asking)} records that ask for classes has a known target"))
    elif report.without_truth:
        report.notes.append(
            f"{report.without_truth} of {len(asking)} records that ask for classes have no known target"
        )


Say = Callable[[str], None]


def print_reports(reports: Iterable[ManifestReport], say: Say = print, most: int = 50) -> None:
    """A line of counts for each manifest, its notes, and its first faults."""
    for report in reports:
        say(f"{report.where}: {report.counts}")
        for note in report.notes:
            say(f"  note: {note}")
        for line in report.lines[:most]:
            say(f"  fault: {line.removeprefix(report.where + ': ')}")
        if len(report.lines) > most:
            say(f"  and {len(report.lines) - most} faults more")

"""The data of a run looked at before it begins: every fault of every manifest and file at once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.errors import InputError
from datasets.manifest_check.check import ALL, check_manifests, print_reports
from datasets.manifest_check.needs import ManifestSource
from datasets.manifest_check.report import ManifestReport
from training import distributed
from training.settings import TrainingSettings

MASKS_OF = 4  # records a manifest of which the masks are read in any case
THREADS = 8

BadRows = Mapping[tuple[Path, str | None], frozenset[int]]  # by manifest and split


def check_data(sources: Sequence[ManifestSource], settings: TrainingSettings) -> BadRows:
    """The rows of each manifest, counted in its split, that a run leaves out.

    There are none, but under `skip_bad_samples` those with a fault.

    Every rank calls this; the main one reads.  Raises InputError, after all faults were printed, where there are some
    that leaving rows out does not mend, or any without `skip_bad_samples`.
    """
    if settings.check_data == "off":
        return {}
    return distributed.from_main(lambda: _check(sources, settings))


def _check(sources: Sequence[ManifestSource], settings: TrainingSettings) -> BadRows:
    voxels_of = ALL if settings.check_data == "voxels" else MASKS_OF
    reports = check_manifests(sources, THREADS, voxels_of)
    unusable = [line for report in reports for line in report.unusable]
    faults = [line for report in reports for line in report.lines]
    if settings.skip_bad_samples and not unusable:
        return _left_out(sources, reports)
    stopped_by = faults or unusable
    if not stopped_by:
        _print_to_log([report for report in reports if report.notes])
        return {}
    if len(faults) > 1:
        _print_to_log([report for report in reports if report.faults])
    more = f" (and {len(faults) - 1} faults more, named above)" if len(faults) > 1 else ""
    advice = "" if unusable else "; mend it, or leave such records out with --skip_bad_samples"
    raise InputError(stopped_by[0] + more + advice)


def _left_out(sources: Sequence[ManifestSource], reports: Sequence[ManifestReport]) -> BadRows:
    _print_to_log([report for report in reports if report.notes or report.faults])
    rows = {
        (source.path, source.split): frozenset(report.bad_rows) for source, report in zip(sources, reports, strict=True)
    }
    count = sum(map(len, rows.values()))
    if count:
        print(f"left out under --skip_bad_samples: {count} records, named above", flush=True)
    return rows


def _print_to_log(reports: Sequence[ManifestReport]) -> None:
    print_reports(reports, say=lambda line: print(line, file=sys.stderr, flush=True))

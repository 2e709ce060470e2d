"""Data sets as their authors ship them into manifests.

    python -m datasets.prepare list --root /data
    python -m datasets.prepare check ct_rate --source /data/CT-RATE
    python -m datasets.prepare ct_rate --source /data/CT-RATE --out data/prepared --workers 8
    python -m datasets.prepare all --root /data --out data/prepared

`list` names every data set, what it makes and where to get it, and what of them lies under --root.  `check` reads
tables, names, headers and the voxels of a few masks, and says what is missing or odd.  A data set's name prepares it;
`all` prepares every one that is found under --root.  Images are never copied, and nothing is written into the source.
With any problem nothing is written, every problem is a line of standard error, and the exit status is 1.
A full disk ends it with one line and the exit status 2.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from datasets.commands import told
from datasets.errors import InputError
from datasets.prepare import preparing, printing
from datasets.prepare.checking import Options
from datasets.prepare.data_set import DataSet
from datasets.prepare.found import find
from datasets.prepare.preparing import Prepared, with_neighbours
from datasets.prepare.registry import data_sets, find_data_set
from datasets.prepare.scan import default_workers
from datasets.prepare.splits import TEST_SHARE, VAL_SHARE
from datasets.volume.declared_size import allow_voxels

WORDS = ("list", "check", "all")


@told
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status: 0, 1 with any problem, or 2 where the disk is full."""
    parser = _parser()
    given = parser.parse_args(arguments)
    console = printing.output()
    try:
        allow_voxels(given.max_voxels)
        if given.what == "list":
            known = data_sets()
            printing.print_data_sets(console, known, find(_folder(given.root), known.values()) if given.root else {})
            return 0
        if given.what == "all":
            return _all(console, given)
        if given.what == "check":
            if not given.data_set:
                raise InputError("check: name the data set, as in: check ct_rate --source /data/CT-RATE")
            return _check(console, given)
        if given.data_set:
            raise InputError(f"{given.data_set}: one data set at a time, or `all`")
        return _one(console, given)
    except InputError as error:  # a WriteError is no problem of a data set: `told` says it
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; started again, it goes on with the masks that are made", file=sys.stderr)
        return 130


def _check(console: Console, given: argparse.Namespace) -> int:
    data_set = find_data_set(given.data_set)
    checked = preparing.check(data_set, _needed(given.source, "--source"), _options(given), given.out)
    printing.print_checked(console, checked)
    printing.print_settings(console, data_set)
    printing.print_problems(checked)
    return 1 if checked.problems else 0


def _one(console: Console, given: argparse.Namespace) -> int:
    data_set = find_data_set(given.what)
    out = _needed(given.out, "--out")
    result = preparing.prepare(data_set, _needed(given.source, "--source"), out, _options(given))
    printing.print_checked(console, result.checked)
    printing.print_problems(result.checked)
    if result.checked.problems:
        return 1
    printing.print_prepared(console, result, out)
    return _audit(data_set, out, given.audit)


def _all(console: Console, given: argparse.Namespace) -> int:
    """Every data set that is found, in the registry's order; a task that two make is the earlier one's."""
    root, out = _folder(_needed(given.root, "--root")), _needed(given.out, "--out")
    known = data_sets()
    places = find(root, known.values())
    if not places:
        raise InputError(f"{root}: no data set was found; `list` says how each looks and where to get it")
    settings = _settings(given.set)
    if unknown := [key for key in settings if not any(key in known[name].settings for name in places)]:
        raise InputError(f"--set {unknown[0]}: no data set that was found has such a setting")
    results: list[tuple[str, Prepared | str]] = []
    status = 0
    for name, folders in places.items():
        data_set = known[name]
        for folder in folders[1:]:
            console.print(f"{name}: {folder} is passed over for {folders[0]}", markup=False)
        own = {key: value for key, value in settings.items() if key in data_set.settings}
        own = with_neighbours(data_set, folders[0], own, places)
        earlier = [other for other in known if other in dict(results)]
        try:
            result = preparing.prepare(data_set, folders[0], out, _options(given, own), preferred=earlier)
        except InputError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            results.append((name, str(error)))
            status = 1
            continue
        results.append((name, result))
        printing.print_checked(console, result.checked)
        printing.print_problems(result.checked)
        if result.checked.problems:
            status = 1
        else:
            status = max(status, _audit(data_set, out, given.audit))
    printing.print_summary(console, results)
    return status


def _audit(data_set: DataSet, out: Path, count: int) -> int:
    """The overlay page of some cases; exit status."""
    if not count:
        return 0
    command = [sys.executable, "-m", "evaluation.audit", "--prepared", str(out), "--data_set", data_set.name]
    return min(1, subprocess.run([*command, "--count", str(count)], check=False).returncode)


def _options(given: argparse.Namespace, settings: dict[str, str] | None = None) -> Options:
    for name in ("test_share", "val_share"):
        if not 0 <= getattr(given, name) < 0.5:
            raise InputError(f"--{name} {getattr(given, name)}: give a share from 0 up to 0.5")
    for name, least in (("workers", 1), ("seed", 0), ("audit", 0)):
        if getattr(given, name) < least:
            raise InputError(f"--{name} {getattr(given, name)}: give {least} or more")
    return Options(
        workers=given.workers,
        seed=given.seed,
        split=given.split,
        sat_ds_splits=given.sat_ds_splits,
        test_share=given.test_share,
        val_share=given.val_share,
        skip_bad=given.skip_bad,
        resample_masks=given.resample_masks,
        replace=given.replace,
        settings=_settings(given.set) if settings is None else settings,
    )


def _settings(items: Sequence[str]) -> dict[str, str]:
    settings = {}
    for item in items:
        name, separator, value = item.partition("=")
        if not separator or not name:
            raise InputError(f"--set {item}: write NAME=VALUE")
        settings[name] = value
    return settings


def _needed(path: Path | None, option: str) -> Path:
    if path is None:
        raise InputError(f"{option} is needed: name a folder")
    return path


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: no such folder")
    return path.resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", help="list, check, all, or the name of a data set")
    parser.add_argument("data_set", nargs="?", help="of check")
    parser.add_argument("--source", type=Path, help="folder of the data set as downloaded")
    parser.add_argument("--root", type=Path, help="folder under which data sets are looked for, two levels deep")
    parser.add_argument("--out", type=Path, help="folder for the manifests of all data sets")
    parser.add_argument("--workers", type=int, default=default_workers())
    parser.add_argument("--seed", type=int, default=0, help="of splits that are drawn, and of questions")
    parser.add_argument("--split", choices=("official", "sat_ds"), default="official")
    parser.add_argument("--sat_ds_splits", type=Path, metavar="FOLDER", help="SAT-DS's data/split_json")
    parser.add_argument("--test_share", type=float, default=TEST_SHARE, help="of patients, where no split is official")
    parser.add_argument("--val_share", type=float, default=VAL_SHARE, help="the same; also of training patients where "
                        "the official splits have no validation")  # fmt: skip
    parser.add_argument("--skip_bad", action="store_true", help="leave bad cases out, and count them in prepared.json")
    parser.add_argument("--resample_masks", action="store_true", help="write masks on another grid than their image's "
                        "anew, by the nearest voxel")  # fmt: skip
    parser.add_argument(
        "--replace",
        action="store_true",
        help="also write manifests that another data set made, and remove those that other files of this one made",
    )
    parser.add_argument("--max_voxels", type=int, help="refuse volumes of more (default: 2^30)")
    parser.add_argument("--audit", type=int, default=0, metavar="N", help="then show N random cases on a page")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the data set")
    return parser

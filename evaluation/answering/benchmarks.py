"""The eight benchmarks as named configurations: what each asks, and in which manifest.

A benchmark's questions lie in ``data/benchmarks/<name>.json`` (or another folder), an instruction manifest that the
user makes from the data set's own download; ``python -m evaluation.phantom_benchmarks`` makes all eight of phantoms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets.errors import InputError
from datasets.manifest import InstructionRecord, load_manifest

BENCHMARK_FOLDER = Path(__file__).resolve().parents[2] / "data" / "benchmarks"
ALL = "all"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as printed in tables, and the stem of its manifest.
        tasks: the tasks that its records may have.
        release_task: what the release calls it.
        label_set: of its diagnosis records; None where it has none.
        structures: what its masks may be called; empty where any name is right.
    """

    name: str
    tasks: tuple[str, ...]
    release_task: str
    label_set: str | None = None
    structures: tuple[str, ...] = ()

    @property
    def manifest(self) -> str:
        """The manifest's file name."""
        return f"{self.name}.json"


_ABDOMEN = ("liver", "kidney", "spleen", "pancreas")
_CTORG = ("liver", "urinary bladder", "lung", "kidney", "bone", "brain")
BENCHMARKS = (
    Benchmark("RadChestCT", ("diagnosis",), "RadChest_Binary_Diagnosis", label_set="RadChestCT"),
    Benchmark("CT-RATE-diagnosis", ("diagnosis",), "CTRATE_Diagnosis", label_set="CT-RATE"),
    Benchmark("AbdomenCT-1K", ("segmentation",), "AbdomenCT1K_Seg", structures=_ABDOMEN),
    Benchmark("CT-ORG", ("segmentation",), "CTORG_Seg", structures=_CTORG),
    # Over a hundred structures, with and without sides, in several versions of the data set: any name is taken.
    Benchmark("TotalSegmentator", ("segmentation",), "TotalSegmentator_Organ_Seg"),
    Benchmark("CT-RATE-VQA", ("open_vqa", "yes_no", "multiple_choice", "report_generation"), "CTRATE_Question_Answer"),
    Benchmark("M3D-Cap", ("report_generation",), "M3D_Caption"),
    # Its questions come with choices too; the paper asks them openly.
    Benchmark("M3D-VQA", ("open_vqa",), "M3D_Question_Answer"),
)


def benchmark_names() -> list[str]:
    """The eight names, in the order of the tables."""
    return [benchmark.name for benchmark in BENCHMARKS]


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_benchmark(name: str) -> Benchmark:
    """The configuration called ``name``; case, hyphens, underscores and blanks do not matter.

    Raises:
        InputError: there is none of that name; lists those there are.
    """
    for benchmark in BENCHMARKS:
        if _key(benchmark.name) == _key(name):
            return benchmark
    raise InputError(f"unknown benchmark '{name}'; choose from {', '.join(benchmark_names())}, or {ALL}")


def find_benchmarks(names: Iterable[str]) -> list[Benchmark]:
    """The configurations of several names, each once, in the order given; "all" stands for the eight."""
    chosen: dict[str, Benchmark] = {}
    for name in names:
        for benchmark in BENCHMARKS if _key(name) == ALL else [find_benchmark(name)]:
            chosen[benchmark.name] = benchmark
    return list(chosen.values())


def resolve_benchmark(name: str, folder: str | Path | None = None) -> tuple[Path, Benchmark]:
    """The manifest of a benchmark and its configuration.

    Args:
        folder: where the manifests lie; ``data/benchmarks`` of this repository by default.
    Raises:
        InputError: the name is unknown, or its manifest is not there.
    """
    benchmark = find_benchmark(name)
    path = Path(folder or BENCHMARK_FOLDER) / benchmark.manifest
    if not path.is_file():
        raise InputError(
            f"{path}: no manifest of benchmark {benchmark.name}; write one there, name its folder with "
            "--benchmark_dir, or make all eight of phantoms: python -m evaluation.phantom_benchmarks"
        )
    return path, benchmark


def with_manifests(
    chosen: Sequence[Benchmark], folder: str | Path | None = None, skip_missing: bool = False
) -> list[Benchmark]:
    """Those of the benchmarks whose manifest is there.

    Raises InputError that names every missing manifest, unless `skip_missing`; and where all are missing.
    """
    place = Path(folder or BENCHMARK_FOLDER)
    missing = [benchmark for benchmark in chosen if not (place / benchmark.manifest).is_file()]
    if len(missing) == 1 == len(chosen):
        resolve_benchmark(missing[0].name, folder)
    if missing and (not skip_missing or len(missing) == len(chosen)):
        names = ", ".join(str(place / benchmark.manifest) for benchmark in missing)
        advice = "write one of them" if skip_missing else "write them, or go on with the others by --skip_missing"
        raise InputError(f"{len(missing)} of {len(chosen)} benchmarks have no manifest; {advice}: {names}")
    return [benchmark for benchmark in chosen if benchmark not in missing]


def _maker(benchmark: Benchmark) -> str:
    """How a manifest of that one task is made, where another kind of it adds questions of other tasks."""
    kind = benchmark.tasks[0]
    return f" (python -m datasets.prepare.instructions {kind} makes such)" if kind in ("diagnosis", "open_vqa") else ""


def check_manifest(benchmark: Benchmark, records: Sequence[InstructionRecord], path: str | Path | None = None) -> None:
    """See that a manifest holds what its benchmark asks for, before hours are spent on answering it.

    Raises:
        InputError: a record has another task, another label set, a structure that the benchmark does not have, or,
            for a multiple-choice question, no choices; names the file, the record and the field.
    """
    where = str(path or benchmark.manifest)
    structures = {_key(structure) for structure in benchmark.structures}
    if not records:
        raise InputError(f"{where}: benchmark {benchmark.name} has no records")
    for record in records:
        problem = None
        if record.task not in benchmark.tasks:
            problem = f"task: '{record.task}' is not one of {', '.join(benchmark.tasks)}{_maker(benchmark)}"
        elif record.task == "diagnosis" and record.label_set != benchmark.label_set:
            problem = f"label_set: '{record.label_set}' instead of '{benchmark.label_set}'"
        elif record.task == "diagnosis" and not record.targets:
            problem = "targets: none given, so nothing can be scored"
        elif record.task == "segmentation" and not record.labels:
            problem = "labels: none given, so no mask is asked for"
        elif record.task == "multiple_choice" and not record.choices:
            problem = "choices: none given, so the answer's letter has no meaning"
        elif structures:
            unknown = [name for names in record.structures for name in names if _key(name) not in structures]
            if unknown:
                problem = f"labels: '{unknown[0]}' is not one of {', '.join(benchmark.structures)}"
        if problem:
            raise InputError(f"{where}: record '{record.id}' does not fit benchmark {benchmark.name}: {problem}")


def load_benchmark(name: str, folder: str | Path | None = None) -> tuple[list[InstructionRecord], Benchmark, Path]:
    """The checked records of a benchmark, its configuration and its manifest's path."""
    path, benchmark = resolve_benchmark(name, folder)
    records = load_manifest(path)
    check_manifest(benchmark, records, path)
    return records, benchmark, path

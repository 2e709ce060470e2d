"""Which manifests a run trains on, and with what weight each."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from datasets.errors import InputError
from datasets.json_text import parse_json
from datasets.manifest import InstructionRecord, load_manifest
from datasets.named_numbers import named_numbers, number_of
from datasets.vocabulary import TASKS

MIXTURE = "mixture.json"  # as `datasets.prepare` calls it; any name does
_FACTS = Path(__file__).resolve().parent.parent / "data" / "instruction_tasks.json"


def published_weights() -> dict[str, float]:
    """The published mix: weight of each training task, by the name of its manifest."""
    return {task["name"]: float(task["weight"]) for task in json.loads(_FACTS.read_text(encoding="utf-8"))}


def load_mixture(
    manifests: Sequence[str],
    task_weights: Sequence[str] = (),
    leave_out: Mapping[tuple[Path, str | None], Collection[int]] | None = None,
) -> tuple[dict[str, list[InstructionRecord]], dict[str, float] | None]:
    """Read manifests as the parts of one mixture.

    Args:
        manifests: ``path`` or ``path=weight``, or a mixture file: JSON ``{"<manifest>.json": weight, ...}`` with
            names relative to it, as `datasets.prepare` writes.  A manifest named like a published task (say,
            ``CTRATE_Question_Answer.json``) has that task's weight unless one is given.  Without any weight, parts
            weigh as their number of records.
        task_weights: ``task=weight`` for the kinds of question (``segmentation=3``); the records of all manifests are
            then grouped by kind, kinds not named weigh 1, and manifest weights are not allowed.
        leave_out: rows that are passed over, by manifest (and None, since it has no splits).

    Returns:
        Records by part, and weight by part or None.

    Raises:
        InputError: a bad option, a bad manifest, or two manifests of one name.
    """
    if not manifests:
        raise InputError("--manifests is empty: name at least one instruction manifest")
    parts: dict[str, list[InstructionRecord]] = {}
    given: dict[str, float] = {}
    for item in with_mixture_files(manifests):
        path, weight = manifest_and_weight(item)
        name = Path(path).stem
        if name in parts:
            raise InputError(f"{path}: a second manifest named {name}; rename one, since parts go by their file's name")
        parts[name] = load_manifest(path, leave_out=(leave_out or {}).get((Path(path), None), ()))
        if weight is not None:
            given[name] = number_of(weight, f"--manifests {item}")
    if task_weights:
        if given:
            raise InputError("--task_weights and a weight on a manifest exclude each other: use one of them")
        return _by_task(parts, task_weights)
    known = {name: weight for name, weight in published_weights().items() if name in parts} | given
    if not known:
        return parts, None
    unknown = sorted(set(parts) - set(known))
    if unknown:
        raise InputError(f"manifest {unknown[0]} has no weight while others have: write PATH=WEIGHT for it")
    return parts, known


def with_mixture_files(items: Sequence[str]) -> list[str]:
    """The items, with what a mixture file names in place of the file."""
    expanded: list[str] = []
    for item in items:
        weights = _mixture_file(Path(item))
        if weights is None:
            expanded.append(item)
            continue
        for name, weight in weights.items():
            path = Path(item).parent / name
            if not path.is_file():
                raise InputError(f"{item}: names {name}, and {path} is no file; prepare it again or take the line out")
            expanded.append(f"{path}={number_of(str(weight), f'{item}, {name}')}")
    return expanded


def _mixture_file(path: Path) -> dict[str, float] | None:
    """The weights in a mixture file; None for any other file, which is only opened."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        head = file.read(256).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"{"):
        return None
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except ValueError:
        return None  # the reader of manifests will say it
    if not content or any(isinstance(value, list) for value in content.values()):
        return None
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in content.values()):
        raise InputError(
            f'{path}: a mixture file has a weight for each manifest: {{"CTRATE_Question_Answer.json": 1.0}}'
        )
    return content


def manifest_and_weight(item: str) -> tuple[str, str | None]:
    """``path`` or ``path=weight`` taken apart; the weight is not looked at."""
    path, separator, weight = item.rpartition("=")
    return (path, weight) if separator else (item, None)


def _by_task(
    parts: Mapping[str, Sequence[InstructionRecord]], task_weights: Sequence[str]
) -> tuple[dict[str, list[InstructionRecord]], dict[str, float]]:
    groups: dict[str, list[InstructionRecord]] = defaultdict(list)
    for records in parts.values():
        for record in records:
            groups[record.task].append(record)
    given = named_numbers(task_weights, TASKS, "--task_weights", "")
    return dict(groups), {task: given.get(task, 1.0) for task in groups}

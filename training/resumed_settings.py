"""What a resumed run does otherwise than before: said at its start, and kept with its checkpoints."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from datasets.errors import InputError

CHANGES = "changed_settings"  # in a checkpoint's description.json: {step, setting, was, now}, oldest first


def changed_settings(
    saved: Mapping[str, Any],
    arguments: Mapping[str, Any] | None,
    step: int,
    passed_over: Collection[str],
    ranks: tuple[int, int],
) -> list[dict[str, Any]]:
    """The changes of earlier resumptions, and those of this one at `step`.

    saved: description.json of the checkpoint.  arguments: the settings now, as JSON types; None where the run keeps
    none.  passed_over: settings that say where and how a run is run, and nothing about what it learns.
    ranks: how many wrote the checkpoint, and how many there are now.
    """
    before, changes = saved.get("arguments"), list(saved.get(CHANGES, []))
    if ranks[0] != ranks[1]:
        changes.append({"step": step, "setting": "ranks", "was": ranks[0], "now": ranks[1]})
    if not isinstance(before, Mapping) or arguments is None:
        return changes
    for name, now in arguments.items():
        if name not in passed_over and name in before and before[name] != now:
            changes.append({"step": step, "setting": name, "was": before[name], "now": now})
    return changes


def in_present_form(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A description.json of before runs could go on on other numbers of ranks, as one is written now."""
    result = dict(saved)
    if "ranks" in result.get("settings", {}):
        result["settings"] = {name: value for name, value in result["settings"].items() if name != "ranks"}
    sampler = dict(result.get("sampler") or {})
    if "world_size" in sampler:
        ranks = sampler.pop("world_size")
        sampler["micro_batches_per_step"] = ranks * sampler.pop("accumulation_steps")
        if sampler["mode"] == "one_task" and len(sampler["tasks"]) > 1:
            sampler["micro_batches_per_draw"] = ranks
        result["sampler"] = sampler
    return result


def in_words(changes: list[dict[str, Any]], step: int) -> str:
    """The changes at a step as one line; empty where there are none."""
    words = [f"{change['setting']} {change['was']} -> {change['now']}" for change in changes if change["step"] == step]
    return f"settings changed since the checkpoint: {'; '.join(words)}" if words else ""


def check_length(step: int, max_iters: int, folder: Any) -> None:
    """InputError where the run is to end before the checkpoint that it is resumed from."""
    if max_iters < step:
        raise InputError(
            f"{folder}: --max_iters {max_iters} ends before step {step}, where the checkpoint is; give at least {step}"
        )

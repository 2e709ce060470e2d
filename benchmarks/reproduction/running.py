"""A plan carried out: each command once, with a log; started again, it goes on with what is not done."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from benchmarks.reproduction.plan import Command, Step
from datasets.errors import InputError

LAST_LINES = 15


def run_plan(steps: Sequence[Step], out: Path) -> None:
    """Run all commands that are not done; what follows a command that ran is run again too.

    Logs lie in out/logs, what is done in out/done.  Raises InputError where a command fails, with the end of its log.
    """
    for folder in ("logs", "done"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    passed_over = True
    for number, step in enumerate(steps, 1):
        print(f"\n== {number}. {step.title}", flush=True)
        for command in step.commands:
            done = out / "done" / f"{command.name}.json"
            passed_over = passed_over and _is_done(done, command)
            if passed_over:
                print(f"   {command.name}: done already", flush=True)
                continue
            done.unlink(missing_ok=True)
            seconds = _run(command, out / "logs" / f"{command.name}.log")
            done.write_text(json.dumps({"command": command.words, "seconds": round(seconds, 1)}), encoding="utf-8")
            print(f"   {command.name}: {seconds:.0f} s", flush=True)


def _is_done(done: Path, command: Command) -> bool:
    """Whether this very command ran to its end before."""
    try:
        return json.loads(done.read_text(encoding="utf-8"))["command"] == list(command.words)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _run(command: Command, log: Path) -> float:
    """Run one command and give the seconds that it took."""
    print(f"   {shlex.join(command.words)}", flush=True)
    if command.clears is not None:
        shutil.rmtree(command.clears, ignore_errors=True)
    program = [sys.executable] if command.words[0] == "python" else [command.words[0]]
    start = perf_counter()
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(
            [*program, *command.words[1:]], stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
    if status:
        end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        print("\n".join(end), file=sys.stderr)
        raise InputError(f"{command.name}: exit status {status}; all that it said is in {log}")
    return perf_counter() - start

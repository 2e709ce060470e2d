"""All parts one after another, each in a process and with seconds of its own; what they measured, in one table.

    python -m benchmarks.gpu --output benchmarks_output/gpu [--rehearsal] [--spent 20] [--parts encoder answers]

`bash benchmarks/gpu.sh` is the way to start it.  Writes results.md and results.json anew after each part, and a log a
part, into a flat folder.  A part that fails, or is ended because its time is over, leaves what it had measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import torch

from benchmarks.encoder_runs import ROOT, write_json
from benchmarks.gpu.budget import Part, granted
from benchmarks.gpu.figures import Figure, read_figures, table

PARTS = (  # in the order of their weight, but for the last, which takes what is left of its three minutes
    Part("encoder", "benchmarks.gpu.encoder", wish=100, least=40),
    Part("tuning ZeRO-2", "benchmarks.memory_report", wish=90, least=40),
    Part("tuning LoRA", "benchmarks.memory_report", ("--lora",), wish=75, least=40),
    Part("answers", "benchmarks.gpu.answers", wish=75, least=30),
    Part("learning", "benchmarks.gpu.learning", wish=225, least=60),
)
ON_REQUEST = (Part("compiled answers", "benchmarks.gpu.compiled", wish=480, least=120),)  # compiling takes minutes
LIMIT = 532.0  # seconds for all parts together, of nine minutes
REHEARSED, REHEARSAL = 400.0, 2000.0  # most seconds of one of PARTS and of all, where others use the processor too
ENDING = 5.0  # seconds that a part is told to be done before it is ended


@dataclass(frozen=True)
class Ended:
    """How a part ended: seconds it took and was granted, and its exit status, None where it was ended."""

    part: str
    seconds: float
    granted: float
    status: int | None
    last_line: str

    @property
    def said(self) -> str:
        """A line on it."""
        took = f"{self.part}: {self.seconds:.0f} s of {self.granted:.0f}"
        if not self.granted:
            return f"{self.part}: left out, no time was left"
        if self.status is None:
            return f"{took}, ended there with what it had measured"
        return f"{took}, done" if self.status == 0 else f"{took}, failed with status {self.status}: {self.last_line}"


def run_part(part: Part, seconds: float, output: Path, work: Path, rehearsal: bool) -> Ended:
    """Run a part for at most so many seconds; its figures go to `work`, what it prints to `output`."""
    log, begun = output / f"{_file_name(part)}.log", monotonic()
    command = [sys.executable, "-u", "-m", part.module, *part.options, "--part", part.name, "--work", str(work)]
    command += ["--figures", str(_figures(part, work)), "--seconds", f"{max(seconds - ENDING, 1):.1f}"]
    command += ["--rehearsal"] if rehearsal else []
    status: int | None = None
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _end_group(process)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["(it printed nothing)"]
    return Ended(part.name, monotonic() - begun, seconds, status, lines[-1][:300])


def exit_status(ends: Sequence[Ended]) -> int:
    """0 where all parts were done, else 1: one failed, was ended, or had no time left."""
    return int(any(end.status != 0 for end in ends))


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a part and all that it has started; a part in good order has ended these itself."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _told_to_end(*_: object) -> NoReturn:
    """SIGTERM as an exception, so that the part in progress, of a process group of its own, is ended too."""
    sys.exit(128 + signal.SIGTERM)


def report(
    output: Path, figures: Sequence[Figure], ends: Sequence[Ended], more: dict[str, Any], rehearsal: bool
) -> str:
    """Write results.md and results.json; the first is given back."""
    aims = [figure for figure in figures if figure.target is not None]
    machine = next((kept["machine"] for kept in more.values() if "machine" in kept), "no part told of the machine")
    text = f"{machine}\n\n"
    if rehearsal:
        text += (
            "**A rehearsal at tiny size: it shows that everything runs; no figure or aim in it means anything.**\n\n"
        )
    text += f"{sum(figure.met is True for figure in aims)} of {len(aims)} aims are met.\n\n{table(figures)}\n\n"
    text += "".join(f"- {end.said}\n" for end in ends)
    content = {"figures": [asdict(figure) for figure in figures], "parts": [asdict(end) for end in ends], "more": more}
    write_json(output / "results.json", content)
    (output / "results.md").write_text(text, encoding="utf-8")
    return text


def _file_name(part: Part) -> str:
    return part.name.replace(" ", "_")


def _figures(part: Part, work: Path) -> Path:
    return work / f"{_file_name(part)}.json"


def main() -> int:
    """Command line; 1 where a part failed or the time was not enough for all of them."""
    begun = monotonic()
    signal.signal(signal.SIGTERM, _told_to_end)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks_output/gpu"), help="folder of table and logs")
    parser.add_argument("--rehearsal", action="store_true", help="tiny sizes; always so without a GPU")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds of the nine minutes that are gone")
    names = [part.name for part in (*PARTS, *ON_REQUEST)]
    parser.add_argument("--parts", nargs="+", choices=names, help="these alone")
    options = parser.parse_args()
    rehearsal = options.rehearsal or not torch.cuda.is_available()
    parts = [part for part in (*PARTS, *ON_REQUEST) if part.name in options.parts] if options.parts else list(PARTS)
    if rehearsal:
        most = {part: REHEARSED if part in PARTS else REHEARSAL for part in parts}
        parts = [Part(part.name, part.module, part.options, seconds, 10.0) for part, seconds in most.items()]
    limit = REHEARSAL if rehearsal else LIMIT - options.spent
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    figures: list[Figure] = []
    ends: list[Ended] = []
    more: dict[str, Any] = {}
    text = ""
    with tempfile.TemporaryDirectory(prefix="ctinstruct_gpu_", ignore_cleanup_errors=True) as folder:
        work = Path(folder)
        for number, part in enumerate(parts):
            seconds = granted(limit - (monotonic() - begun), part, parts[number + 1 :])
            if seconds:
                ends.append(run_part(part, seconds, output, work, rehearsal))
            else:
                ends.append(Ended(part.name, 0.0, 0.0, None, ""))
            print(ends[-1].said, flush=True)
            own, more[part.name] = read_figures(_figures(part, work))
            figures += own
            text = report(output, figures, ends, more, rehearsal)
    print(f"\n{text}\n{output}/results.md, after {monotonic() - begun:.0f} s")
    return exit_status(ends)


if __name__ == "__main__":
    sys.exit(main())

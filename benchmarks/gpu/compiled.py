"""Tokens a second with compiled steps and without, of one model in one run.

    bash benchmarks/gpu.sh --parts "compiled answers"
    python -m benchmarks.gpu.compiled [--rehearsal]

The model and the question are those of `benchmarks.gpu.answers`.  Compiling is timed by itself, and counts to neither
side.  It is no part of the nine minutes, of which it would take several.
"""

from __future__ import annotations

import os

import torch

from benchmarks.gpu.answers import BEAMS, how, model_of, question, rate
from benchmarks.gpu.scale import Given, given
from benchmarks.machine import about
from benchmarks.measure import now
from benchmarks.same_tokens import agreement
from datasets.errors import InputError
from models.compiled_steps import compile_steps, compiled_steps
from models.ctinstruct import CTInstruct
from models.generation import generate
from training.script import run_script

WARM_UP = 8  # tokens: steps are compiled, run once, recorded and played


def compare(run: Given, model: CTInstruct) -> None:
    """Rates of both ways, the ratio, and how far the answers are the same; raises InputError where none compiles."""
    before = {beams: rate(run, model, beams) for beams in (1, BEAMS)}
    for beams, found in before.items():
        run.figures.add(f"tokens of an answer {how(beams)}", found.tokens_a_second, "/s", note=found.note)
    compile_steps(model.language_model)
    steps = compiled_steps(model.language_model)
    if steps is None:
        raise InputError("the steps of this language model cannot be compiled; see the log")
    batch = question(model, 0, run.scale.patches)
    for beams, found in before.items():
        begun = now()
        with torch.inference_mode():
            generate(model, batch, beams, WARM_UP)
        run.figures.add(f"first compiled answer {how(beams)}", now() - begun, "s", note=f"of {WARM_UP} tokens")
        compiled = rate(run, model, beams)
        name = f"tokens of an answer {how(beams)}, compiled"
        if not steps.compiled:
            run.figures.add(name, None, note="could not be compiled; see the log")
            continue
        run.figures.add(name, compiled.tokens_a_second, "/s", note=compiled.note)
        ratio = compiled.tokens_a_second / found.tokens_a_second
        run.figures.add(f"{name}, faster", ratio, "×", note=agreement(compiled.tokens, found.tokens))


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    run, _ = given("compiled answers", __doc__)
    # a folder of its own: nothing is compiled already, and no file is there that a run left unfinished which was ended
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(run.work.resolve() / "compiled")
    run.figures.keep(machine=about().line)
    compare(run, model_of(run))


if __name__ == "__main__":
    run_script(main)

"""A rehearsal of the released model at its full size, with random weights: does it fit, and how long does it take?

    python -m benchmarks.released_rehearsal [--quantize none int8 int4] [--image ct.nii.gz] [--folder DIR]
    python -m benchmarks.released_rehearsal --scale tiny        # the same code in seconds

Writes a folder with the release's names, shapes and shards (17 GB in bf16), reads it once plainly, for comparison, then
loads it, reads one CT, answers a question and decodes a mask; the folder is deleted afterwards, whatever happened.

From loading to mask each run is a process of its own.  A table tells for each part the seconds and the highest memory
of the process in the meantime (Linux only), with what earlier parts left there: all that is resident, and its own,
without the pages of mapped files, which are mostly libraries.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.checkpoint_memory import GB, PeakMemory
from benchmarks.synthetic_release import SCALES, release_shapes, weight_bytes, write_release
from datasets.conversation import Conversation
from datasets.errors import InputError, OneLineError
from datasets.instruction import InstructionCollator, InstructionDataset, InstructionSample
from datasets.manifest import QuestionPart
from datasets.phantom.case import build_case, nifti_bytes
from datasets.volume.restore import restore_masks
from models.checkpoints.loading import load_checkpoint
from models.generation import generate
from models.language.quantization import Quantization

QUESTION = "Where is the liver? Please output segmentation mask."
NEW_TOKENS = 16
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
_READ = 2**24  # bytes of the plain read's buffer
Row = dict[str, Any]  # part, seconds, peak (resident and anonymous bytes) and a note


class Parts:
    """Seconds and highest memory of one part after the other."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def run(self, part: str, function: Callable[[], Any], note: Callable[[Any, float], str] | None = None) -> Any:
        """The function's result; `note` of the result and the seconds stands beside the figures."""
        begun = perf_counter()
        with PeakMemory() as memory:
            result = function()
        seconds = perf_counter() - begun
        text = note(result, seconds) if note else ""
        self.rows.append({"part": part, "seconds": seconds, "peak": memory.peak, "note": text})
        return result


@torch.inference_mode()
def rehearse(folder: Path, image: Path, precision: str, quantize: Quantization | None, size: int) -> list[Row]:
    """From the folder on disk to a mask on the grid of the CT's file.  size: bytes of the folder's weights."""
    parts = Parts()

    def speed(_: Any, seconds: float) -> str:
        return f"{size / 1e6 / seconds:.0f} MB/s of {size / GB:.2f} GB"

    dtype = PRECISIONS[precision]
    model = parts.run("load the model", lambda: load_checkpoint(folder, dtype=dtype, quantize=quantize), speed)
    record = model.vision.preprocessing
    dataset = InstructionDataset({}, model.tokenizer, model.config, preprocessing=record, with_answers=False)
    volume, geometry = parts.run(
        "read the CT",
        lambda: dataset.loader.volume(image),
        lambda read, _: f"{' x '.join(map(str, read[1].source_shape))} voxels, {len(read[0].patches)} patches",
    )
    encoded = parts.run("encode it", lambda: model.encode_volumes([volume]))
    question = [QuestionPart(type="image"), QuestionPart(type="text", text=QUESTION)]
    prompt = Conversation(model.tokenizer).prompt(question, [dataset.visual_tokens(volume)], "the question")
    sample = InstructionSample("question", "open_vqa", prompt, [], [volume], [str(image)], [geometry])
    batch = InstructionCollator(model.tokenizer.pad_token_id)([sample])

    def answer(tokens: int) -> int:
        return len(generate(model, batch, num_beams=1, max_new_tokens=tokens, encoded=[encoded])[0].token_ids)

    parts.run("read the question, 1 token", lambda: answer(1), lambda *_: f"{len(prompt)} tokens of question and CT")
    first = parts.rows[-1]["seconds"]
    parts.run(
        f"the same, {NEW_TOKENS} tokens",
        lambda: answer(NEW_TOKENS),
        lambda count, seconds: f"{count} tokens, {(seconds - first) / (NEW_TOKENS - 1):.2f} s for each after the first",
    )

    def mask() -> Any:
        query = torch.randn(1, model.config.llm_width, dtype=dtype, generator=torch.Generator().manual_seed(0))
        logits = model.vision.decode_masks(encoded[0], query)
        return geometry.to_source(restore_masks(logits.float(), volume.placement).numpy()[0])

    parts.run(
        "decode a mask", mask, lambda found, _: f"{found.mean():.0%} of {' x '.join(map(str, found.shape))} voxels"
    )
    return parts.rows


def read_plainly(folder: Path) -> None:
    """Every weight file from beginning to end, in order, and nothing done with it."""
    buffer = memoryview(bytearray(_READ))
    for file in sorted(folder.glob("*.safetensors")):
        with open(file, "rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


@contextmanager
def written_release(scale: str, parent: Path, keep: bool) -> Iterator[tuple[Path, Row]]:
    """The folder and the row of its writing; deletes the folder at the end, on an error, on Ctrl-C and on SIGTERM."""
    size = weight_bytes(release_shapes(SCALES[scale]))
    parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(parent).free
    if free < 1.05 * size:
        raise InputError(
            f"--folder {parent}: {size / GB:.1f} GB are needed, {free / GB:.1f} are free; name another one"
        )

    def ended(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, ended)
    folder = Path(tempfile.mkdtemp(prefix="released_rehearsal_", dir=parent))
    try:
        parts = Parts()
        parts.run("write the release", lambda: write_release(SCALES[scale], folder))
        parts.rows[0]["note"] = f"{size / GB:.2f} GB, {len(list(folder.glob('*.safetensors')))} files"
        yield folder, parts.rows[0]
    finally:
        if keep:
            print(f"kept {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        signal.signal(signal.SIGTERM, before)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line a part."""
    lines = ["| Part | s | peak resident GB | own GB | |", "| --- | --: | --: | --: | --- |"]
    for row in rows:
        memory = " | ".join(f"{peak / GB:.2f}" for peak in row["peak"])
        lines.append(f"| {row['part']} | {row['seconds']:.1f} | {memory} | {row['note']} |")
    return "\n".join(lines)


def in_own_process(arguments: Sequence[str]) -> list[Row]:
    """The rows of `rehearse`, run by a new process, which holds nothing but what the model needs."""
    command = [sys.executable, "-m", "benchmarks.released_rehearsal", "--one", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise InputError(f"the run {' '.join(arguments)} ended with status {done.returncode}; its error stands above")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=sorted(SCALES), default="full", help="small: about 1 GB; tiny: for a test")
    parser.add_argument("--image", help="the CT; by default a phantom")
    parser.add_argument("--folder", default="runs", help="where the folder with the weights is made")
    parser.add_argument("--keep", action="store_true", help="do not delete it")
    parser.add_argument("--precision", choices=sorted(PRECISIONS), default="bf16")
    parser.add_argument("--quantize", nargs="+", choices=("none", "int8", "int4"), default=["none"], metavar="KIND")
    parser.add_argument("--one", metavar="MODEL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    size = weight_bytes(release_shapes(SCALES[options.scale]))
    if options.one:
        quantize = None if options.quantize == ["none"] else options.quantize[0]
        print(json.dumps(rehearse(Path(options.one), Path(options.image), options.precision, quantize, size)))
        return 0
    try:
        with written_release(options.scale, Path(options.folder).resolve(), options.keep) as (folder, written):
            image = Path(options.image).resolve() if options.image else _phantom(folder)
            parts = Parts()
            parts.run(
                "read the files plainly",
                lambda: read_plainly(folder),
                lambda _, seconds: f"{size / 1e6 / seconds:.0f} MB/s, files as the system has them in memory",
            )
            print(f"{options.scale} scale, {options.precision}, {torch.get_num_threads()} threads\n")
            print(table([written, *parts.rows]), flush=True)
            for quantize in options.quantize:
                same = ["--scale", options.scale, "--image", str(image), "--precision", options.precision]
                rows = in_own_process([str(folder), *same, "--quantize", quantize])
                print(f"\n--quantize {quantize}\n\n{table(rows)}", flush=True)
    except OneLineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _phantom(folder: Path) -> Path:
    case = build_case(0, 0)
    path = folder / "phantom.nii.gz"
    path.write_bytes(nifti_bytes(case.ct, case.affine))
    return path


if __name__ == "__main__":
    sys.exit(main())

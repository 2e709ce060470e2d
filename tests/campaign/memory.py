"""Memory and time where there is much: many questions, large volumes, a long manifest; each in a process of its own."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path

import nibabel as nib
import numpy as np

from datasets.manifest import load_manifest
from datasets.manifest_check.needs import instruction_source
from datasets.sampling import MixtureSampler
from datasets.volume.loading import load_volume
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from tests.campaign.fork_server import PeakMemory
from tests.campaign.forked import prepare_to_fork
from tests.campaign.verdicts import HANG, MEMORY, SAME, TRACEBACK, Verdict
from tests.ct_files import ras_affine, write_nifti
from tests.tiny_model import tiny_ctinstruct
from training.data_check import check_data
from training.settings import TrainingSettings

QUESTIONS = ("Is there a nodule?", "What changed?", "Where is the liver?", "Which side?", "Is the heart large?")
WHOLE = 1000  # questions of a whole campaign; with fewer the volumes have half the size along each axis
SHAPES = ((1024, 1024, 600), (512, 512, 1200))
ROWS_A_QUESTION = 20  # 20,000 rows in a whole campaign
MOST_GROWTH = 0.05  # of the memory after the first fifth of the questions
MOST_OF_SIZE = 2.2  # memory while a volume is loaded, as a multiple of its size in float32
MOST_SECONDS = 10.0  # of a processor, until the first sample of a long manifest is known


def large_work(count: int, seed: int) -> Iterator[Verdict]:
    """`count` questions about a fifth as many volumes, two large volumes, a manifest of twenty times as many rows."""
    prepare_to_fork()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        yield _judged("questions", 0, lambda: grown_by_questions(place, count, seed), MOST_GROWTH, MEMORY)
        part = 1 if count >= WHOLE else 2
        for number, shape in enumerate(tuple(size // part for size in whole) for whole in SHAPES):
            name = " x ".join(map(str, shape))
            if _available() < 3 * 4 * np.prod(shape):
                print(f"memory: {name} is left out, since it may need more memory than is free here", flush=True)
                continue
            yield _judged("large volumes", number, lambda s=shape: loading_share(place, s), MOST_OF_SIZE, MEMORY)
        yield _judged("long manifests", 0, lambda: start_seconds(place, ROWS_A_QUESTION * count), MOST_SECONDS, HANG)


def grown_by_questions(place: Path, count: int, seed: int) -> float:
    """By what share the memory of a process grew from the first fifth of the questions to the last."""
    logging.disable(logging.WARNING)  # noise is no CT, of which every volume is warned
    (place / "model").mkdir()
    save_checkpoint(tiny_ctinstruct().eval(), place / "model")
    random = np.random.default_rng(seed)
    volumes = []
    for number in range(max(1, count // len(QUESTIONS))):
        shape = tuple(int(size) for size in random.integers((30, 30, 8), (60, 60, 20)))
        voxels = random.integers(-1000, 1500, shape).astype(np.int16)
        volumes.append(write_nifti(place / f"{number}.nii.gz", voxels, ras_affine()))
    model, warm = CTInstruct.from_pretrained(place / "model"), 0
    for number in range(count):
        question = QUESTIONS[number // len(volumes) % len(QUESTIONS)]
        model.ask(volumes[number % len(volumes)], question, num_beams=1, max_new_tokens=4)
        if number == count // 5:
            warm = _held()
    return _held() / warm - 1


def loading_share(place: Path, shape: Sequence[int], slope: float = 1.0) -> float:
    """The most memory that was held while a volume was loaded, as a multiple of its size in float32.

    slope: of the file's numbers; with any but 1 they are no whole numbers once they are read.
    """
    path = place / "large.nii"
    _write_noise(path, (8, 8, 8), slope)
    load_volume(path)  # what the first one of a process takes for itself is no share of a volume
    _write_noise(path, shape, slope)
    memory = PeakMemory()
    memory.reset()
    array, _ = load_volume(path)
    path.unlink()
    assert array.shape[1:] == tuple(shape), "noise is not cropped"
    return memory.grown() / array.nbytes


def _write_noise(path: Path, shape: Sequence[int], slope: float) -> None:
    voxels = np.random.default_rng(0).integers(-1000, 1500, shape[:2]).astype("<i2")
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.int16), np.diag([0.5, 0.5, 0.5, 1])).header
    header.set_data_shape(shape)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    header["scl_slope"], header["scl_inter"] = slope, 0
    with open(path, "wb") as file:  # slice by slice, so that writing takes no memory that loading is blamed for
        header.write_to(file)
        file.seek(352)
        for number in range(shape[2]):
            file.write((voxels + np.int16(number % 100)).tobytes(order="F"))


def start_seconds(place: Path, count: int) -> float:
    """Seconds of a processor to read, check and sample a manifest of `count` rows about a hundredth as many volumes."""
    voxels = np.random.default_rng(0).integers(-1000, 1500, (20, 20, 6)).astype(np.int16)
    names = [f"row_{number}.nii.gz" for number in range(max(1, count // 100))]
    for name in names:
        write_nifti(place / name, voxels, ras_affine())
    rows = [
        {"id": str(number), "question": f"Is {number} there?", "answer": "Yes.", "image_path": name}
        for number, name in zip(range(count), cycle(names), strict=False)
    ]
    path = place / "rows.json"
    path.write_text(json.dumps(rows))
    begun = time.process_time()
    check_data([instruction_source(str(path))], TrainingSettings())
    records = load_manifest(path)
    (reference, *_) = MixtureSampler({"rows": len(records)}, seed=0).references(0, 0)
    assert len(records) == count and 0 <= reference.index < count
    return time.process_time() - begun


def _judged(target: str, number: int, work: Callable[[], float], most: float, fault: str) -> Verdict:
    found = in_a_child(work)
    if isinstance(found, str):
        return Verdict(target, number, TRACEBACK, found)
    outcome = SAME if found <= most else fault
    verdict = Verdict(target, number, outcome, f"{found:.3g} where {most:g} is allowed")
    print(f"memory: {verdict.line()}", flush=True)
    return verdict


def in_a_child(work: Callable[[], float]) -> float | str:
    """What `work` gives in a fork of this process, or the exception that ended it."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_serve, args=(sender, work))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        child.join()
        return f"the process ended with status {child.exitcode}"
    finally:
        child.join()


def _serve(sender: Connection, work: Callable[[], float]) -> None:
    try:
        sender.send(work())
    except BaseException as error:
        sender.send(f"{type(error).__name__}: {error}")
    sender.close()


def _held() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    """Bytes of memory that are free on this machine."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))

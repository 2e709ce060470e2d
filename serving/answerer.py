"""What the page asks of the model, in the queue's thread: `models.answering` with masks kept on disk."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np

from datasets.errors import InputError
from datasets.label_descriptions import canonical, findings
from datasets.volume.nifti_files import save_nifti
from datasets.volume.viewer_copy import thinned, thinned_affine
from models.answering.answer import Answer, Mask
from models.answering.interface import DIAGNOSIS_QUESTION, REPORT_QUESTION, AnsweringCTInstruct
from models.answering.predicting import GenerationOptions
from models.answering.segmenting import segment
from models.answering.study import Study
from serving.sessions import Asked, OpenedVolume, StoredMask
from serving.volume_files import VolumeFile, plain_message
from serving.work_queue import Job, Left

QUESTIONS = {"report": REPORT_QUESTION, "diagnosis": DIAGNOSIS_QUESTION}
KINDS = ("question", *QUESTIONS, "organs")


@dataclass(frozen=True)
class Request:
    """kind: one of KINDS.  question: of a "question".  labels: of "organs", all anatomy that the model knows if empty.
    remember: put the volume's earlier questions before it.  label_set: names the confidences."""

    kind: str
    question: str = ""
    labels: tuple[str, ...] = ()
    remember: bool = False
    label_set: str = "CT-RATE"


class Answerer:
    """The model, and the volumes that it has encoded last, for all users.

    Only the queue's thread calls `answer`.
    """

    def __init__(self, model: AnsweringCTInstruct, options: GenerationOptions, studies: int) -> None:
        self.model = model
        self.options = options
        self._most = studies
        self._studies: OrderedDict[str, Study] = OrderedDict()

    def answer(self, volume: OpenedVolume, request: Request, job: Job) -> None:
        """Answer, post what is found as it is found, and keep it with the volume.

        Posts "text" with words, "mask" with what `StoredMask.described` gives, "answer" with `Asked.described`.
        Raises InputError as the model does, in the user's words, WriteError where the server's disk is full, and Left
        where the client has gone.
        """
        started = time.monotonic()
        with _warnings_of_this_thread() as heard:
            try:
                study = self._study(volume.file)
                job.check()
                answer, masks = self._ask(study, volume, request, job)
            except InputError as error:  # a WriteError is of the server, not of the user's file
                raise InputError(plain_message(error, volume.file.path, volume.file.name)) from error
        odd = dict.fromkeys([*heard, *answer.warnings])
        notes = [plain_message(Warning(line), volume.file.path, volume.file.name) for line in odd]
        asked = Asked(
            kind=request.kind,
            question=answer.question or f"Segment {len(masks)} structures",
            answer="" if request.kind == "organs" else answer.text,
            confidences=dict(answer.confidences),
            masks=masks,
            seconds=round(time.monotonic() - started, 1),
            notes=notes,
        )
        volume.asked.append(asked)
        job.post("answer", **asked.described())

    def _ask(self, study: Study, volume: OpenedVolume, request: Request, job: Job) -> tuple[Answer, list[str]]:
        kept: list[str] = []

        def on_mask(mask: Mask) -> None:
            job.check()
            if not volume.folder.parent.is_dir():
                raise Left  # the session's folder is gone
            stored = store_mask(mask, volume)
            kept.append(stored.id)
            job.post("mask", **stored.described())

        if request.kind == "organs":
            return segment(study, self._labels(request.labels), on_mask), kept
        question = QUESTIONS.get(request.kind, request.question)
        earlier = volume.history() if request.remember else ()

        def on_text(text: str) -> None:
            job.check()
            job.post("text", text=text)

        answer = study.ask(question, self.options, request.label_set, earlier, on_text)
        for mask in answer.masks.values():
            on_mask(mask)
        return answer, kept

    def _labels(self, asked: Sequence[str]) -> Sequence[str]:
        known = self.model.labels()
        labels = asked or [label for label in known if canonical(label) not in findings()] or known
        if not labels:
            raise InputError("the checkpoint does not tell which structures it was trained on; ask for one by name")
        return labels

    def _study(self, file: VolumeFile) -> Study:
        """The volume, encoded at most once while it is among the last few."""
        if file.key not in self._studies:
            while len(self._studies) >= self._most:
                self._studies.popitem(last=False)
            self._studies[file.key] = self.model.study(file.path)
        self._studies.move_to_end(file.key)
        return self._studies[file.key]


def store_mask(mask: Mask, volume: OpenedVolume) -> StoredMask:
    """A mask on disk, in the session that asked: its study may be of another session's copy of the file."""
    own = replace(mask, geometry=replace(mask.geometry, source=str(volume.file.path)))
    key = secrets.token_hex(8)
    array = own.array
    path = shown = own.save(volume.folder / "masks" / f"{key}.nii.gz")
    step = volume.file.step
    if step != (1, 1, 1):
        shown = path.with_name(f"{key}_shown.nii.gz")
        affine = thinned_affine(np.asarray(own.geometry.source_affine), step)
        save_nifti(nib.Nifti1Image(thinned(array, step).astype(np.uint8), affine), shown)
    stored = StoredMask(key, mask.name, mask.millilitres, _inner_voxel(array, step), path, shown)
    volume.keep(stored)
    return stored


def _inner_voxel(array: np.ndarray, step: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """The voxel of a mask that is nearest to its centre of mass, counted on the viewer's grid; None of an empty one."""
    places = np.argwhere(thinned(array, step))
    if not len(places):  # empty, or so thin that no voxel of it is shown
        places = np.argwhere(array) // step
    if not len(places):
        return None
    first, second, third = places[np.square(places - places.mean(0)).sum(1).argmin()].tolist()
    return first, second, third


@contextmanager
def _warnings_of_this_thread() -> Iterator[list[str]]:
    """What is logged as a warning in this thread while the block runs."""
    heard: list[str] = []
    here = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == here and not record.name.startswith(("transformers", "py.warnings")):
                heard.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger().addHandler(listener)
    try:
        yield heard
    finally:
        logging.getLogger().removeHandler(listener)

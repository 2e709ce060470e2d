"""The volumes that questions are about, read once and encoded once for all of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets.conversation import Turn
from datasets.errors import InputError
from datasets.instruction import InstructionDataset, InstructionSample
from datasets.vocabulary import TASK_TOKENS, diagnosis_facts
from datasets.volume.cache import volume_key
from datasets.volume.guards import range_doubts
from models.answering.answer import Answer, Mask, SourceVolume
from models.answering.mask_labels import mask_names
from models.answering.predicting import GenerationOptions, SampleAnswer, predict
from models.answering.recent_volumes import RecentEncodings
from models.answering.streaming import OnText, TextCallback
from models.ctinstruct import CTInstruct
from models.encoders.contract import EncodedVolume
from models.generation import end_tokens

log = logging.getLogger(__name__)


class Study:
    """One or several CTs (files or DICOM folders), ready to be asked about; none for questions about no CT.

    Args:
        model: that answers.
        dataset: how files are read and questions become tokens; it needs no records.
        images: the files, in the order in which the questions see them.  Masks belong to the first.
        labels: that the model was trained to find, for the names of masks.
        trained_body: least and largest body of training in mm (`datasets.volume.guards`), None where it is not known.

    Raises:
        InputError: a file cannot be read.
    """

    def __init__(
        self,
        model: CTInstruct,
        dataset: InstructionDataset,
        images: Sequence[str | Path],
        labels: Sequence[str] = (),
        trained_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.labels = list(labels)
        self.conversation = dataset.conversation
        loaded = [dataset.loader.volume(path) for path in images]
        self.volumes = [volume for volume, _ in loaded]
        self.geometries = [geometry for _, geometry in loaded]
        self.warnings = tuple(
            f"{path}: {doubt}"
            for path, geometry in zip(images, self.geometries, strict=True)
            for doubt in (*geometry.doubts, *range_doubts(geometry, trained_body))
        )
        for warning in self.warnings:
            log.warning("%s", warning)
        self.keys = [volume_key(path) for path in images]
        self.visual_tokens = [dataset.visual_tokens(volume) for volume in self.volumes]
        self.source: SourceVolume | None = None
        if loaded:
            self.source = SourceVolume(str(images[0]), self.geometries[0], dataset.array_axes)
        self._encodings = RecentEncodings(model)
        unlike = self._unfamiliar(images)
        for warning in unlike:
            log.warning("%s", warning)
        self.warnings += unlike

    def ask(
        self,
        question: str,
        options: GenerationOptions,
        label_set: str = "CT-RATE",
        earlier: Sequence[Turn] = (),
        on_text: OnText | None = None,
    ) -> Answer:
        """Answer one question.

        Args:
            options: how the answer is searched for; with `on_text` by one beam.
            label_set: names the disease confidences.
            earlier: questions and answers that stand before it.
            on_text: is given each word as it is found.

        Raises:
            InputError: the question is empty, holds the image token, or does not fit beside the volumes; or the label
                set is not known.
        """
        _check_label_set(label_set)
        sample = self.sample(question, label_set, earlier)
        streamer = None
        if on_text is not None:
            options = replace(options, num_beams=1)
            streamer = TextCallback(self.model.tokenizer, end_tokens(self.model, options.protocol), on_text)
        return self._answer(question, predict(self.model, [sample], options, self._encodings, streamer)[0])

    def ask_together(
        self, questions: Sequence[str], options: GenerationOptions, label_set: str = "CT-RATE"
    ) -> list[Answer]:
        """Answer questions that know nothing of one another as one batch: their tokens are searched for side by side.

        Raises as `ask`.
        """
        _check_label_set(label_set)
        samples = [self.sample(question, label_set) for question in questions]
        found = predict(self.model, samples, options, self._encodings) if samples else []
        return [self._answer(question, answer) for question, answer in zip(questions, found, strict=True)]

    def _answer(self, question: str, found: SampleAnswer) -> Answer:
        text = found.prediction.text
        names = mask_names(question, text, len(found.masks), self.labels)
        masks = {name: Mask(name, mask, self.geometries[0]) for name, mask in zip(names, found.masks, strict=True)}
        return Answer(text, found.prediction.confidences, masks, question, self.source, self.warnings)

    def sample(
        self, question: str, label_set: str | None = None, earlier: Sequence[Turn] = (), answer_ids: Sequence[int] = ()
    ) -> InstructionSample:
        """A question as the model takes it, without an answer or with the ids of one; raises as `ask`."""
        if not question.strip():
            raise InputError("the question is empty: write what you want to know about the volume")
        prompt = self.conversation.dialogue(question, self.visual_tokens, "the question", earlier)
        return InstructionSample(
            "question", task_of(question), prompt, list(answer_ids), self.volumes, self.keys, self.geometries,
            label_set=label_set,
        )  # fmt: skip

    def _unfamiliar(self, images: Sequence[str | Path]) -> tuple[str, ...]:
        """A line for each volume that is unlike those of training, where the checkpoint holds what these are like."""
        if getattr(self.model, "familiarity", None) is None or not self.volumes:
            return ()
        self.encoded()
        doubts = self._encodings.doubts
        return tuple(f"{image}: {doubt}" for image, key in zip(images, self.keys, strict=True) for doubt in doubts[key])

    def encoded(self) -> list[EncodedVolume]:
        """The volumes' encodings, made when they are needed for the first time."""
        return self._encodings.encode([self._without_question()])[0]

    def _without_question(self) -> InstructionSample:
        return InstructionSample("volumes", "open_vqa", [], [], self.volumes, self.keys, self.geometries)


def _check_label_set(label_set: str) -> None:
    if label_set not in diagnosis_facts():
        raise InputError(f"label_set {label_set!r} is not known; choose one of {', '.join(diagnosis_facts())}")


def task_of(question: str) -> str:
    """What the question asks for, by the task token that stands in it: the release searches for answers by task."""
    return next((task for task, token in TASK_TOKENS.items() if token in question), "open_vqa")

"""CTInstruct with what its users call: `ask`, `segment`, `report`, `diagnose`, `embed`, `chat`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from models.answering.answer import Answer
from models.answering.chat import Chat
from models.answering.embedding import VolumeEmbedding, embed
from models.answering.familiarity import Familiarity
from models.answering.predicting import GenerationOptions, SearchChanges
from models.answering.segmenting import segment
from models.answering.streaming import AnswerStream, OnText
from models.answering.study import Study
from models.ctinstruct import CTInstruct

REPORT_QUESTION = "Please write the radiology report of this CT. <report_generation>"
DIAGNOSIS_QUESTION = "Which diseases does this chest CT show? Please give a confidence for each. <diagnosis>"
Volumes = str | Path | Sequence[str | Path]

log = logging.getLogger(__name__)


class AnsweringCTInstruct(CTInstruct):
    """`CTInstruct`, asked about files.

    Wherever a CT is taken it is a path (NIfTI, NRRD, MHA, .npy, .npz, a DICOM folder), or a list of paths for a
    question about several, as priors: masks then belong to the first.  Volumes are prepared as the checkpoint's were.
    A bad file raises InputError, whose message is one line.

    options: how answers are searched for; each method also takes its fields by name, as ``num_beams=1``.
    array_axes: what the axes of .npy and .npz volumes are, as "LPS"; None assumes RAS.
    trained_labels: the structures that it was trained to find, as `labels` gives them.
    trained_body: sizes of the bodies that it was trained on, for warnings (`datasets.volume.guards`).
    familiarity: what the volumes of its training are like; with it, others are warned of.
    """

    options: GenerationOptions = GenerationOptions()
    array_axes: str | None = None
    trained_labels: tuple[str, ...] = ()
    trained_body: Mapping[str, Any] | None = None
    familiarity: Familiarity | None = None

    def ask(
        self,
        ct: Volumes,
        question: str,
        *,
        label_set: str = "CT-RATE",
        on_text: OnText | None = None,
        **search: Unpack[SearchChanges],
    ) -> Answer:
        """Answer a question: words, confidences by disease, masks by name.

        Args:
            label_set: "CT-RATE" or "RadChestCT", names the confidences.
            on_text: is given each word as it is found, and the search then has one beam.
        """
        return self.study(ct).ask(question, self.options.with_changes(**search), label_set, on_text=on_text)

    def ask_many(
        self,
        ct: Volumes,
        questions: Iterable[str],
        *,
        label_set: str = "CT-RATE",
        at_once: int = 1,
        **search: Unpack[SearchChanges],
    ) -> list[Answer]:
        """Answer several questions that know nothing of one another; the volume is encoded once.

        at_once: so many are answered as one batch, which is faster.  One by one an answer is that of `ask` to the last
            bit; in a batch the last digits may differ, which can decide between two words that are as likely.
        """
        if at_once < 1:
            raise InputError(f"at_once is {at_once}: ask 1 question at a time or more")
        study, options, asked = self.study(ct), self.options.with_changes(**search), list(questions)
        if at_once == 1:
            return [study.ask(question, options, label_set) for question in asked]
        groups = [asked[first : first + at_once] for first in range(0, len(asked), at_once)]
        return [answer for group in groups for answer in study.ask_together(group, options, label_set)]

    def stream(
        self, ct: Volumes, question: str, *, label_set: str = "CT-RATE", **search: Unpack[SearchChanges]
    ) -> AnswerStream:
        """Answer a question word by word: iterate over what comes back, then take its ``answer``."""
        study, options = self.study(ct), self.options.with_changes(**search)
        return AnswerStream(lambda on_text: study.ask(question, options, label_set, on_text=on_text))

    def segment(self, ct: Volumes, labels: Sequence[str]) -> Answer:
        """A mask for each label, by its name; sixty cost little more than one (see `segmenting`).

        The model is not asked whether a structure is there: use `ask` for that.
        """
        return segment(self.study(ct), [labels] if isinstance(labels, str) else labels)

    def report(self, ct: Volumes, **search: Unpack[SearchChanges]) -> Answer:
        """A radiology report."""
        return self.ask(ct, REPORT_QUESTION, **search)

    def diagnose(self, ct: Volumes, *, label_set: str = "CT-RATE", **search: Unpack[SearchChanges]) -> Answer:
        """A confidence for each disease of a label set."""
        return self.ask(ct, DIAGNOSIS_QUESTION, label_set=label_set, **search)

    def embed(self, ct: str | Path) -> VolumeEmbedding:
        """Embeddings of the volume, of its patches and of its tokens."""
        return embed(self.study(ct))

    def chat(self, ct: Volumes, *, label_set: str = "CT-RATE", **search: Unpack[SearchChanges]) -> Chat:
        """Several questions in turn, each with the earlier ones in its prompt; the volume is encoded once."""
        return Chat(self.study(ct), self.options.with_changes(**search), label_set)

    def labels(self) -> list[str]:
        """Every structure that it was trained to find, sorted; empty, with a warning, where that was not recorded."""
        if not self.trained_labels:
            log.warning("the checkpoint does not tell which labels it was trained on; `segment` takes any name")
        return list(self.trained_labels)

    def study(self, ct: Volumes) -> Study:
        """The CT, read once, for whoever asks about it in several ways: `Study.ask`, `segmenting.segment`, `Chat`."""
        images = [ct] if isinstance(ct, str | Path) else list(ct)
        if not all(isinstance(image, str | Path) for image in images):
            raise InputError("a CT is the path of a file or of a DICOM folder; write the array to a file first")
        dataset = InstructionDataset(
            {},
            self.tokenizer,
            self.config,
            preprocessing=self.vision.preprocessing,
            array_axes=self.array_axes,
            with_answers=False,
        )
        return Study(self, dataset, images, self.trained_labels, self.trained_body)

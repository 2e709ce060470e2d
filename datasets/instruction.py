"""Instruction samples: a manifest record becomes patches, token ids, masks and targets, and samples become a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from datasets.conversation import MAX_ANSWER_TOKENS, MAX_LENGTH, Conversation
from datasets.manifest import InstructionRecord
from datasets.record_masks import answer_masks
from datasets.sampling import SampleReference, instead_of
from datasets.tensor_parts import with_tensors
from datasets.vocabulary import IGNORED_TOKEN
from datasets.volume.anyres import PatchedVolume, PatchGeometry
from datasets.volume.cache import RecentLoader, VolumeLoader, volume_key
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.preprocessing import Preprocessing


@dataclass
class InstructionSample:
    """One question, ready for the model.

    volumes: one for each image of the question.
    volume_keys: of the volumes, as `datasets.volume.cache.volume_key` has them; equal keys mean the same volume, also
        where it was loaded twice.
    masks: (n, X, Y, Z) int8 on the padded grid of volume ``mask_image``, -1 in its padding, one for each ``<SEG>`` of
        the answer.
    targets: (diseases,) float, nan where unknown.
    query_targets: (n, text width), the embedding of each mask's label, where queries are drawn to it.
    """

    id: str
    task: str
    prompt_ids: list[int]
    answer_ids: list[int]
    volumes: list[PatchedVolume] = field(default_factory=list)
    volume_keys: list[str] = field(default_factory=list)
    geometries: list[VolumeGeometry] = field(default_factory=list)
    masks: Tensor | None = None
    mask_image: int = 0
    label_set: str | None = None
    targets: Tensor | None = None
    query_targets: Tensor | None = None


@dataclass
class InstructionBatch:
    """Samples of any tasks and sizes, padded on the left.

    input_ids, attention_mask, labels: (B, L); labels are -100 but on answers and end tokens.  Each list has an entry a
    row; ``volumes[row]`` is itself a list.  Neighbouring rows about the same volumes share them: ``volumes_of`` names
    for each row the row whose volumes it asks about, and a row that uses another's has none of its own.  ``positions``:
    rotary ones, (3, B, L) or (B, L), where they were made beforehand; None leaves them to the model.  ``layout``: what
    else a model's rule found out about the token ids beforehand, as a dataclass of tensors, numbers and dataclasses.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    volumes: list[list[PatchedVolume]]
    geometries: list[list[VolumeGeometry]]
    masks: list[Tensor | None]
    mask_images: list[int]
    label_sets: list[str | None]
    targets: list[Tensor | None]
    query_targets: list[Tensor | None]
    sample_ids: list[str]
    tasks: list[str]
    volumes_of: list[int]
    positions: Tensor | None = None
    layout: object | None = None

    @property
    def task(self) -> str:
        """The task of the whole batch, for logs: its name, or ``mixed``."""
        return self.tasks[0] if len(set(self.tasks)) == 1 else "mixed"

    def to(self, device: torch.device | str, non_blocking: bool = True) -> InstructionBatch:
        """A copy with every tensor on ``device``."""
        return with_tensors(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> InstructionBatch:
        """Page-locked copies, which ``DataLoader(pin_memory=True)`` asks for."""
        return with_tensors(self, Tensor.pin_memory)


class InstructionDataset(Dataset):
    """Samples of one or several manifests, indexed by ``SampleReference(task, index)``.

    Args:
        records: for each manifest's name, its records.
        tokenizer: of the language model, after ``add_special_tokens``.
        vision: crop size, patch limit and tokens a patch.
        preprocessing: the model's; without it this project's standard for the encoder's patches.
        array_axes: axis codes of .npy and .npz volumes, or "as_stored"; None assumes RAS, with a warning.
        cache: folder of preprocessed volumes, or None.
        max_length: most tokens of a sample, question and answer together.
        max_answer_tokens: most tokens of an answer.
        with_answers: False for generation: masks and answers are not read.
        label_embeddings: of every label, where the queries of ``<SEG>`` shall be drawn to them.
        keep_volumes: so many of the latest volumes stay in memory, and are not read again for the next question.
    """

    def __init__(
        self,
        records: Mapping[str, Sequence[InstructionRecord]],
        tokenizer: PreTrainedTokenizerBase,
        vision: PatchGeometry,
        *,
        preprocessing: Preprocessing | None = None,
        array_axes: str | None = None,
        cache: str | None = None,
        max_length: int = MAX_LENGTH,
        max_answer_tokens: int = MAX_ANSWER_TOKENS,
        with_answers: bool = True,
        label_embeddings: Mapping[str, Tensor] | None = None,
        keep_volumes: int = 0,
    ) -> None:
        self.records = records
        self.conversation = Conversation(tokenizer, max_length, max_answer_tokens, remembers=with_answers)
        self.vision = vision
        self.preprocessing = preprocessing or Preprocessing.standard(vision.crop_size, vision.patch_max)
        self.array_axes = array_axes
        loader = VolumeLoader(self.preprocessing, cache, array_axes=array_axes)
        self.loader: VolumeLoader | RecentLoader = RecentLoader(loader, keep_volumes) if keep_volumes else loader
        self.with_answers = with_answers
        self.label_embeddings = label_embeddings

    def __len__(self) -> int:
        return sum(len(rows) for rows in self.records.values())

    def instead_of(self, reference: SampleReference) -> SampleReference:
        """The sample that is taken where this one cannot be read."""
        return instead_of(reference, len(self.records[reference.task]))

    def __getitem__(self, reference: SampleReference) -> InstructionSample:
        return self.sample(self.records[reference.task][reference.index])

    def visual_tokens(self, volume: PatchedVolume) -> int:
        """How many tokens of the language model a volume takes."""
        return prod(self.vision.token_grid(volume.patch_grid, volume.patches.shape[-1]))

    def sample(self, record: InstructionRecord) -> InstructionSample:
        """Read the record's files and tokenise its text; raises InputError, which names the sample or the file."""
        loaded = [self.loader.volume(path, record.hu_offset) for path in record.image_path]
        volumes = [volume for volume, _ in loaded]
        geometries = [geometry for _, geometry in loaded]
        counts = [self.visual_tokens(volume) for volume in volumes]
        answer_ids = self.conversation.answer(record.answer, record.id) if self.with_answers else []
        room = self.conversation.max_length - len(answer_ids)
        sample = InstructionSample(
            id=record.id,
            task=record.task,
            prompt_ids=self.conversation.prompt(record.question, counts, record.id, room),
            answer_ids=answer_ids,
            volumes=volumes,
            volume_keys=[volume_key(path, record.hu_offset) for path in record.image_path],
            geometries=geometries,
            label_set=record.label_set,
            mask_image=record.mask_image,
        )
        if self.with_answers and record.targets:
            sample.targets = torch.tensor(record.target_vector())
        if self.with_answers and record.labels and record.mask_path is not None:
            placement, geometry = volumes[record.mask_image].placement, geometries[record.mask_image]
            sample.masks = answer_masks(record, self.loader, placement, geometry)
            if self.label_embeddings is not None:
                sample.query_targets = torch.stack([self.label_embeddings[label] for label in record.labels])
        return sample


# Token ids and attention mask (B, L), and the volumes of each row -> rotary positions.
PositionRule = Callable[[Tensor, Tensor, Sequence[Sequence[PatchedVolume]]], Tensor]
# A batch on the CPU -> what a model's forward pass needs to know of its token ids.
LayoutRule = Callable[[InstructionBatch], object]


@dataclass(frozen=True)
class InstructionCollator:
    """Callable that pads samples to one batch; picklable, for loader workers.

    positions, layout: make the rows' rotary positions, and what else is asked of token ids, here, as the model would in
    its forward pass.
    """

    pad_id: int
    positions: PositionRule | None = None
    layout: LayoutRule | None = None

    def __call__(self, samples: Sequence[InstructionSample]) -> InstructionBatch:
        length = max(len(sample.prompt_ids) + len(sample.answer_ids) for sample in samples)
        input_ids = torch.full((len(samples), length), self.pad_id, dtype=torch.long)
        attention_mask = torch.zeros_like(input_ids)
        labels = torch.full_like(input_ids, IGNORED_TOKEN)
        for row, sample in enumerate(samples):
            ids = torch.tensor(sample.prompt_ids + sample.answer_ids, dtype=torch.long)
            input_ids[row, length - len(ids) :] = ids
            attention_mask[row, length - len(ids) :] = 1
            if sample.answer_ids:
                labels[row, -len(sample.answer_ids) :] = torch.tensor(sample.answer_ids, dtype=torch.long)
        volumes_of = _first_rows_with([_keys_of(sample) for sample in samples])
        positions = None
        if self.positions is not None:
            positions = self.positions(input_ids, attention_mask, [samples[row].volumes for row in volumes_of])
        batch = InstructionBatch(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            volumes=[sample.volumes if volumes_of[row] == row else [] for row, sample in enumerate(samples)],
            geometries=[sample.geometries for sample in samples],
            masks=[sample.masks for sample in samples],
            mask_images=[sample.mask_image for sample in samples],
            label_sets=[sample.label_set for sample in samples],
            targets=[sample.targets for sample in samples],
            query_targets=[sample.query_targets for sample in samples],
            sample_ids=[sample.id for sample in samples],
            tasks=[sample.task for sample in samples],
            volumes_of=volumes_of,
            positions=positions,
        )
        return batch if self.layout is None else replace(batch, layout=self.layout(batch))


def _keys_of(sample: InstructionSample) -> tuple[str, ...]:
    if len(sample.volume_keys) != len(sample.volumes):
        raise ValueError(f"{sample.id}: {len(sample.volume_keys)} volume_keys for {len(sample.volumes)} volumes")
    return tuple(sample.volume_keys)


def _first_rows_with(keys: Sequence[tuple[str, ...]]) -> list[int]:
    """For each row the first of the run of rows about its volumes; a row without volumes stands for itself.

    A run ends where a row asks about other volumes: one that is drawn twice in a batch counts as two, whose masks are
    learned on other slices each.
    """
    rows: list[int] = []
    latest: tuple[str, ...] = ()
    first = 0
    for row, key in enumerate(keys):
        if key and key != latest:
            latest, first = key, row
        rows.append(first if key else row)
    return rows

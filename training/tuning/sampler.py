"""The sampler of instruction tuning: tasks mixed within a batch, and on request shared out by patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from datasets.balanced_sampling import BalancedSampler
from datasets.manifest import InstructionRecord
from datasets.sampling import MixtureSampler, Sampler, SharedVolumeSampler
from datasets.volume.cache import VolumeLoader
from datasets.volume.preprocessing import Preprocessing
from training.distributed import Ranks
from training.tuning.patches import patches_of
from training.tuning.settings import TuningSettings


def sampler_of(
    settings: TuningSettings,
    records: Mapping[str, Sequence[InstructionRecord]],
    weights: Mapping[str, float] | None,
    preprocessing: Preprocessing,
    ranks: Ranks,
) -> Sampler:
    """Samples of all tasks in one batch; further questions about their volumes where these are shared.

    Every rank calls this.  Raises InputError for weights that cannot be, and where no sample has one.
    """

    def drawn(rank: int, world_size: int) -> MixtureSampler:
        return MixtureSampler(
            {name: len(part) for name, part in records.items()},
            None if weights is None else dict(weights),
            mode="mixed",
            micro_batch=settings.micro_batch,
            accumulation_steps=settings.accumulation_steps * ranks.world_size // world_size,
            seed=settings.seed,
            rank=rank,
            world_size=world_size,
        )

    sampler: Sampler = drawn(ranks.rank, ranks.world_size)
    if settings.balance_ranks:
        loader = VolumeLoader(preprocessing, settings.cache, array_axes=settings.array_axes)
        patches = patches_of(records, loader, settings)
        sampler = BalancedSampler(drawn(0, 1), patches, rank=ranks.rank, world_size=ranks.world_size)
    if settings.questions_per_volume == 1:
        return sampler
    volumes = {name: [tuple(record.image_path) for record in part] for name, part in records.items()}
    return SharedVolumeSampler(sampler, volumes, settings.questions_per_volume, weights)

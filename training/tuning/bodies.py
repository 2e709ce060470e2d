"""How large the bodies are that a model is trained on, so that it can say when it is asked about another kind."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.manifest import InstructionRecord
from datasets.volume.guards import body_range

_VOLUMES = 12  # that are looked at, spread over the records: each has to be read


def bodies_of(dataset: InstructionDataset, records: Sequence[InstructionRecord]) -> dict[str, list[float]] | None:
    """`datasets.volume.guards.body_range` of some of the records' volumes; unreadable ones are passed over."""
    volumes = sorted({(path, record.hu_offset) for record in records for path in record.image_path[:1]})
    geometries = []
    for path, hu_offset in volumes[:: max(1, len(volumes) // _VOLUMES)][:_VOLUMES]:
        try:
            geometries.append(dataset.loader.volume(path, hu_offset)[1])
        except InputError:
            continue
    return body_range(geometries)

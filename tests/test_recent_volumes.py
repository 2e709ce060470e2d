"""Encodings are held by the key of a volume, whoever loaded it, and only as long as it is asked about."""

from __future__ import annotations

from datasets.instruction import InstructionSample
from models.answering.recent_volumes import RecentEncodings


class CountingModel:
    """In place of a model: a volume is a word, and its encoding tells which call made it."""

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode_volumes(self, volumes: list[str]) -> list[str]:
        self.encoded += volumes
        return [f"{volume} by call {len(self.encoded)}" for volume in volumes]


def question(*keys: str) -> InstructionSample:
    volumes = ["".join(["voxels of ", key]) for key in keys]  # a new object each time, as after a second reading
    return InstructionSample("one", "open_vqa", [1], [], volumes, list(keys))


def test_a_volume_that_was_loaded_twice_is_encoded_once():
    model = CountingModel()
    encodings = RecentEncodings(model)
    first = encodings.encode([question("a"), question("b", "a"), question()])
    assert first == [["voxels of a by call 1"], ["voxels of b by call 2", "voxels of a by call 1"], []]
    assert encodings.encode([question("b"), question("c")])[0] == ["voxels of b by call 2"]
    assert model.encoded == ["voxels of a", "voxels of b", "voxels of c"]
    assert encodings.encode([question("a")]) == [["voxels of a by call 4"]]  # it was let go in between

"""Safetensors files read tensor by tensor: the same tensors as the library's, in memory of their own."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from datasets.errors import CheckpointError
from models.checkpoints.tensor_reading import read_tensors


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    kinds = (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64, torch.int8, torch.bool)
    several = {str(kind): (10 * torch.randn(3, 5)).to(kind) for kind in kinds}
    return {**several, "counter": torch.tensor(7), "empty": torch.zeros(0, 4)}


def test_tensors_come_as_they_were_saved_each_in_memory_of_its_own(tmp_path, tensors):
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    read = dict(read_tensors(tmp_path / "w.safetensors"))
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
        assert read[name].untyped_storage().nbytes() == tensor.nbytes


@pytest.mark.parametrize("kept", [0, 4, 100, -1], ids=["nothing", "no length", "no header", "a byte short"])
def test_a_damaged_file_is_one_line(tmp_path, tensors, kept):
    file = tmp_path / "w.safetensors"
    save_file(tensors, file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"w\.safetensors: damaged or incomplete"):
        list(read_tensors(file))


def test_a_type_that_weights_do_not_have_is_named(tmp_path):
    save_file({"w": torch.zeros(2).to(torch.float8_e4m3fn)}, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="w is of type F8_E4M3"):
        list(read_tensors(tmp_path / "w.safetensors"))

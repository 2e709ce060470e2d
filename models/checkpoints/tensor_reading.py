"""Read a safetensors file tensor by tensor into memory of its own, from its first byte to its last.

The library maps the file into memory instead.  Its tensors are then views of the mapping, which stays, with every page
that was touched, as long as one of them lives: a counter that is kept as it is would hold a whole shard of weights that
were cast or quantised.  Here a tensor takes its own size and no more, and the file is read once and in order.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from datasets.errors import CheckpointError

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}


def read_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor on the CPU) of a safetensors file, in the order in which they lie in it.

    Raises:
        CheckpointError: the file is damaged or incomplete, or holds a type of number that weights do not have.
    """
    try:
        with safe_open(file, framework="pt"):
            pass  # the library has looked at the header: offsets without gaps, as far as the file goes
        with open(file, "rb", buffering=0) as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            header.pop("__metadata__", None)
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                if entry["dtype"] not in _DTYPES:
                    raise CheckpointError(f"{file}: {name} is of type {entry['dtype']}, weights are not; convert it")
                dtype = _DTYPES[entry["dtype"]]
                data = torch.empty(prod(entry["shape"]) * dtype.itemsize, dtype=torch.uint8)
                _fill(data.numpy().data, stream, file)
                yield name, data.view(dtype).reshape(entry["shape"])
    except SafetensorError as error:
        raise CheckpointError(f"{file}: damaged or incomplete ({error}); copy it again") from error


def _fill(buffer: memoryview, stream: io.FileIO, file: Path) -> None:
    """Read until the buffer is full: one call of the system ends at 2 GiB."""
    done = 0
    while done < len(buffer):
        count = stream.readinto(buffer[done:])
        if not count:
            raise CheckpointError(f"{file}: damaged or incomplete (ends too early); copy it again")
        done += count

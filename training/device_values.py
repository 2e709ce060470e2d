"""Numbers and times that a device has not come to yet: kept without waiting for it, and read together."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch


def copied(value: torch.Tensor) -> torch.Tensor:
    """A copy () float64, where it lies, of a tensor of one number: what it is a view of may change, or be large."""
    return value.detach().reshape(()).to(torch.float64, copy=True)


def read(values: Sequence[torch.Tensor]) -> list[float]:
    """The numbers of tensors () of one type: those of a device by one transfer, which waits for all of them."""
    numbers: dict[int, float] = {}
    for device in {value.device for value in values}:
        places = [place for place, value in enumerate(values) if value.device == device]
        numbers |= zip(places, torch.stack([values[place] for place in places]).tolist(), strict=True)
    return [numbers[place] for place in range(len(values))]


_Mark = torch.cuda.Event | float


class Stopwatch:
    """Tells how long a device takes for what it is given; on CUDA by events, which nothing waits for."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: list[tuple[_Mark, _Mark]] = []
        self.go_on()

    def go_on(self) -> None:
        """Count from here on."""
        self._begun = _mark(self._device)

    def pause(self) -> None:
        """Count no more until `go_on`."""
        self._parts.append((self._begun, _mark(self._device)))

    def stop(self) -> Span:
        """The time since this object was made, without the pauses."""
        self.pause()
        return Span(self._parts)


class Span:
    """The seconds that a `Stopwatch` has counted."""

    def __init__(self, parts: Sequence[tuple[_Mark, _Mark]]) -> None:
        self._parts = parts

    def seconds(self) -> float:
        """How many; on CUDA this waits until the device has come to the end."""
        return sum(_seconds(begun, ended) for begun, ended in self._parts)


def _seconds(begun: _Mark, ended: _Mark) -> float:
    if isinstance(begun, float) or isinstance(ended, float):
        assert isinstance(begun, float) and isinstance(ended, float)
        return ended - begun
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000


def _mark(device: torch.device) -> _Mark:
    if device.type != "cuda":
        return time.monotonic()
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event

"""The vision network on a GPU: stages of `benchmarks.run`, and how much of the card encoding reaches, in both passes.

    python -m benchmarks.gpu.encoder [--rehearsal]

MFU (model FLOPs utilisation) is what the model's operations would take at the speed of a large matrix product, measured
in the same process, over what they take.  In training, operations that are made again for gradient checkpointing are
none of the model's; with them counted the share is called HFU (hardware FLOPs utilisation; Chowdhery et al. 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TypeVar

import torch

from benchmarks import stages_vision
from benchmarks.gpu.figures import FigureFile, of_row
from benchmarks.gpu.scale import Given, given
from benchmarks.machine import about
from benchmarks.measure import Aim, Row, best_seconds, count_gflop, forget_peak, peak_gib
from models.encoders.contract import VolumePatches
from training.script import run_script

INFERENCE, TRAINING, PUBLISHED = 50.0, 40.0, 2.0  # aims: per cent of MFU, and times the speed of the published way
Stage = Callable[[], tuple[list[Row], list[Aim]]]
Result = TypeVar("Result")


def utilisation(gflop: float, seconds: float, flops: float) -> float:
    """Per cent of `flops` operations a second that `gflop` operations in so many seconds are."""
    return 1e11 * gflop / seconds / flops


class Measuring:
    """Stage after stage in one process; what does not fit into the card's memory is said, and passed over."""

    def __init__(self, run: Given) -> None:
        self.figures: FigureFile = run.figures
        self.scale, self.end = run.scale, monotonic() + run.seconds
        line, self.flops, self.nominal = about()
        self.figures.keep(machine=line)
        self.figures.add("matrix product", self.flops / 1e12, "TFLOP/s", note=line.split(":")[0])

    def stage(self, name: str, function: Stage, published: str = "") -> None:
        """Rows of a stage of `benchmarks.run`; its aim that begins with `published` is held to `PUBLISHED`."""
        if result := self._tried(name, function):
            for row in result[0]:
                self.figures.add(**of_row(row, self.nominal))
            for aim in result[1]:
                if published and aim.name.startswith(published):
                    self.figures.add(f"{aim.name}, half padding", aim.value, "×", target=PUBLISHED)

    def encoding(self, volumes: int) -> float | None:
        """MFU of encoding so many volumes at once, in per cent."""
        model = stages_vision.full_model(self.scale.vision)
        batch = self._batch(volumes)
        with torch.inference_mode():
            seconds = best_seconds(partial(model.encode_many, batch), repeats=5)
            peak = peak_gib()
            gflop = count_gflop(partial(model.encode_many, batch[:1])) * volumes
        return self._told(f"encode {self._said(volumes)}", gflop, seconds, peak)

    def training(self, volumes: int) -> float | None:
        """MFU of encoding and its gradient with checkpointing, in per cent."""
        model = stages_vision.full_model(self.scale.vision, training=True)
        batch = self._batch(volumes)

        def step(given: list[VolumePatches]) -> None:
            torch.stack(
                [encoded.tokens.float().square().mean() for encoded in model.encode_many(given)]
            ).sum().backward()

        model.gradient_checkpointing_enable(False)
        one = [stages_vision.volume_of(1, size=self.scale.vision)]  # attention along the slices is below a thousandth
        patches = volumes * self.scale.patches
        own = count_gflop(partial(step, one)) * patches
        model.gradient_checkpointing_enable()
        with_recomputed = count_gflop(partial(step, one)) * patches
        forget_peak()
        seconds = best_seconds(partial(step, batch), repeats=3)
        hardware = utilisation(with_recomputed, seconds, self.flops)
        name = f"encode {self._said(volumes)}, forward + backward with checkpointing"
        return self._told(name, own, seconds, peak_gib(), f"HFU {hardware:.0f} %")

    def best(self, name: str, measure: Callable[[int], float | None], volumes: tuple[int, ...], target: float) -> None:
        """The aim's line: the largest MFU over batches of different sizes."""
        found = [value for number in volumes if (value := self._tried(name, partial(measure, number))) is not None]
        self.figures.add(name, max(found, default=None), "%", target=target, note="the best of the batches above")

    def _tried(self, name: str, function: Callable[[], Result]) -> Result | None:
        if monotonic() > self.end:
            self.figures.add(name, None, note="no time was left")
            return None
        forget_peak()
        try:
            return function()
        except torch.OutOfMemoryError:
            self.figures.add(name, None, note="does not fit into this card's memory")
            return None

    def _told(self, name: str, gflop: float, seconds: float, peak: float, more: str = "") -> float:
        share = utilisation(gflop, seconds, self.flops)
        row = Row(name, seconds, gflop, 1e9 * gflop / self.flops, peak, note=more)
        self.figures.add(**of_row(row, self.nominal))
        return share

    def _said(self, volumes: int) -> str:
        return f"{volumes} volume(s) of {self.scale.patches} patches"

    def _batch(self, volumes: int) -> list[VolumePatches]:
        return [stages_vision.volume_of(self.scale.patches, size=self.scale.vision) for _ in range(volumes)]


def main() -> None:
    """Command line; also a part of benchmarks/gpu.sh."""
    run, _ = given("encoder", __doc__)
    measuring, size, patches = Measuring(run), run.scale.vision, run.scale.patches
    measuring.best("encoder, MFU in inference", measuring.encoding, run.scale.volumes, INFERENCE)
    measuring.best("encoder, MFU in training", measuring.training, run.scale.training_volumes, TRAINING)
    measuring.stage("published way", partial(stages_vision.shared_work, size), published="encode + one mask, faster")
    measuring.stage("one patch", partial(stages_vision.encode_and_mask, 1, size))
    measuring.stage(f"{patches} patches", partial(stages_vision.encode_and_mask, patches, size))
    measuring.stage("backward", partial(stages_vision.backward, patches, size))


if __name__ == "__main__":
    run_script(main)

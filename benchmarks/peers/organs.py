"""All organs of one CT, of 300 x 300 x 240 mm: by windows of an nnU-Net, and by this project's masks of many labels.

Both begin at the voxels in HU, as read, and end with masks on the CT's own grid: normalising, resampling both ways, the
network and its largest logits or thresholds are timed.  Reading files, loading weights and writing masks are not, nor
is our language model's part, the hidden states that ask for the masks, nor the text embeddings in its place.  The first
window is seen once before the clock runs; ours has no such start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import device, now, peak_gib, precision
from benchmarks.peers.nnunet import (
    TOTAL_SEGMENTATOR,
    NnUNetPlan,
    add_logits,
    build_network,
    empty_sums,
    offsets_of,
    on_grid,
    to_source,
    windows_of,
)
from benchmarks.peers.rows import PeerRow
from benchmarks.stages_data import hounsfield_volume
from benchmarks.stages_vision import full_model, queries_of
from datasets.volume.anyres import patchify
from datasets.volume.normalisation import normalize
from datasets.volume.restore import restore_masks
from models.vision import VisionModel

SPACING = (0.75, 0.75, 1.5)  # mm
SHAPE, QUICK_SHAPE = (400, 400, 160), (200, 200, 80)  # voxels
TOGETHER = 64  # labels a pass of the mask decoder, as `models.answering.segmenting` has them
CLIP_HU = (-1004.0, 1588.0)  # percentiles of the foreground that nnU-Net clips to; any such pair costs the same


def shape_of(quick: bool) -> tuple[int, int, int]:
    """Voxels of the CT."""
    return QUICK_SHAPE if quick else SHAPE


def name_of(quick: bool) -> str:
    """The CT in words."""
    return " × ".join(f"{size * step:.0f}" for size, step in zip(shape_of(quick), SPACING, strict=True)) + " mm"


def window_count(quick: bool, plan: NnUNetPlan = TOTAL_SEGMENTATOR) -> int:
    """How many windows each of the networks sees."""
    return len(windows_of(on_grid(torch.zeros(shape_of(quick)), SPACING, plan).shape, plan.window))


def by_nnunet(quick: bool, windows: int | None, plan: NnUNetPlan = TOTAL_SEGMENTATOR) -> PeerRow:
    """Labels of all structures.  windows: of each network that are timed, the rest reckoned; None: all.

    What is done once a network, whatever the number of windows, is not scaled.
    """
    hounsfield = hounsfield_volume(shape_of(quick))
    with torch.inference_mode():
        begun = now()
        voxels = torch.from_numpy(np.clip(hounsfield.astype(np.float32), *CLIP_HU))
        voxels = (voxels - voxels.mean()) / voxels.std()
        grid = on_grid(voxels.to(device()), SPACING, plan)
        places = windows_of(grid.shape, plan.window)
        timed = places[: windows or len(places)]
        labels = torch.zeros(grid.shape, dtype=torch.uint8, device=device())
        other, of_windows = now() - begun, 0.0
        for structures, offset in offsets_of(plan):
            network = build_network(plan, structures).to(device(), precision())
            if not offset:  # what is timed may be a share of the windows, and the first one has more to do
                network(grid.to(precision())[places[0]][None, None])
            begun = now()
            cast, sums = grid.to(precision()), empty_sums(grid, plan.window, 1 + structures)
            other += now() - begun
            begun = now()
            add_logits(network, cast, timed, sums)
            of_windows += now() - begun
            begun = now()
            logits, weight, _ = sums
            logits /= weight.clamp_min(torch.finfo(weight.dtype).tiny)
            found = logits.argmax(0).to(torch.uint8)
            labels = torch.where(found > 0, found + offset, labels)
            other += now() - begun
            del network, cast, sums, logits, weight, found
        begun = now()
        to_source(labels, hounsfield.shape, SPACING, plan).cpu()
        other += now() - begun
    seconds = other + of_windows * len(places) / len(timed)
    note = f"{len(plan.structures)} networks, {len(places)} windows each; {other:.1f} s beside the windows"
    if len(timed) < len(places):
        note += f"; {len(timed)} of {len(places)} windows, scaled"
    figures = {"seconds": seconds, "peak_gib": peak_gib()}
    name = f"nnU-Net as in TotalSegmentator, {sum(plan.structures)} structures"
    return PeerRow(name_of(quick), name, False, figures, note)


def by_masks(quick: bool, labels: int) -> PeerRow:
    """Masks of so many labels, by the published 2D1D network."""
    hounsfield, model = hounsfield_volume(shape_of(quick)), full_model().eval()
    queries = queries_of(model, labels)
    with torch.inference_mode():
        begun = now()
        patches, encoding = _masks(model, hounsfield, queries)
        seconds = now() - begun
    note = f"{patches} patches; encoding {encoding:.1f} s"
    figures = {"seconds": seconds, "peak_gib": peak_gib()}
    return PeerRow(name_of(quick), f"ours, {labels} masks", True, figures, note)


def _masks(model: VisionModel, hounsfield: np.ndarray, queries: Tensor) -> tuple[int, float]:
    """Masks on the CT's own grid, all of which are held at the end; the number of patches and seconds of encoding."""
    config = model.config
    volume = patchify(normalize(hounsfield[None]), config.crop_size, config.patch_max)
    begun = now()
    encoded = model.encode(volume.patches.to(device(), precision()), volume.slice_marks.to(device()), volume.patch_grid)
    encoding = now() - begun
    restored = []
    for part in queries.split(TOGETHER):
        logits = model.decode_masks(encoded, part)
        restored += [restore_masks(one.float(), volume.placement)[0].cpu() for one in logits.split(1)]
    return len(volume.patches), encoding

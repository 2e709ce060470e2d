"""Windows of slices and mirrored patients: what a segmentation sample becomes in training."""

from __future__ import annotations

import pytest
import torch

from datasets.volume.anyres import AnyresPlacement, place_content, plan
from datasets.volume.augmentation import Augmentation, AugmentationOptions
from datasets.volume.mirror import is_mirrored, mirrored, other_side, side_axis
from datasets.volume.window import content_window, draw_window, windowed

STILL = {"rotate": 0.0, "flip": 0.0, "scale": 0.0, "shift": 0.0, "noise": 0.0, "contrast": 0.0}


@pytest.mark.parametrize(
    ("label", "other"),
    [
        ("left parotid gland", "right parotid gland"),
        ("right kidney", "left kidney"),
        ("mandible", "mandible"),
        ("leftover", "leftover"),
    ],
)
def test_a_side_changes_its_name(label: str, other: str) -> None:
    assert other_side(label) == other
    assert other_side(other) == label


@pytest.mark.parametrize(("orientation", "axis"), [("RAS", 0), ("LPS", 0), ("PLI", 1), ("AIR", 2), ("as_stored", None)])
def test_the_axis_from_side_to_side(orientation: str, axis: int | None) -> None:
    assert side_axis(orientation) == axis


def test_the_mirrored_patient_has_the_left_organ_where_the_right_one_was() -> None:
    image, masks = torch.zeros(1, 6, 4, 3), torch.zeros(2, 6, 4, 3, dtype=torch.int8)
    masks[0, 1, 2, 1] = 1  # the right one, near the first voxel of an axis that runs to the left
    masks[1, 3, 0, 2] = 1
    image[0, 1, 2, 1] = 7.0
    flipped, voxels, labels = mirrored(image, masks, ["right parotid gland", "mandible"], axis=0)
    assert labels == ["left parotid gland", "mandible"]
    assert voxels[0].nonzero().tolist() == [[4, 2, 1]]
    assert voxels[1].nonzero().tolist() == [[2, 0, 2]]
    assert flipped[0, 4, 2, 1] == 7.0


def test_as_many_are_mirrored_as_asked_for() -> None:
    share = sum(is_mirrored(seed, 0.3) for seed in range(2000)) / 2000
    assert abs(share - 0.3) < 0.04
    assert not any(is_mirrored(seed, 0.0) for seed in range(50))


def test_windows_find_rare_structures_and_stay_inside() -> None:
    masks = torch.zeros(2, 3, 3, 40, dtype=torch.int8)
    masks[0, 1, 1, 39] = 1  # in the last slice alone; the other structure has no voxel
    windows = [draw_window(masks, 8, seed) for seed in range(400)]
    assert all(window.stop - window.start == 8 and window.start >= 0 and window.stop <= 40 for window in windows)
    assert len({window.start for window in windows}) == 33
    share = sum(window.stop == 40 for window in windows) / 400
    assert abs(share - (0.5 + 0.5 / 33)) < 0.08  # half of them are around the structure
    assert draw_window(masks, 50, 0) == slice(0, 40)


@pytest.mark.parametrize("count", [8, 5, 19])
def test_a_window_is_placed_as_a_volume_of_its_own(count: int) -> None:
    placement = plan((20, 12, 30), (32, 32, 8), 4)
    image = torch.arange(20 * 12 * 30, dtype=torch.float32).view(1, 20, 12, 30) + 1
    masks = (image > 100).to(torch.int8)
    resized = torch.nn.functional.interpolate(image[None], placement.resized_shape, mode="nearest")[0]
    held = torch.nn.functional.interpolate(masks[None].float(), placement.resized_shape, mode="nearest")[0]
    part, cut = content_window(resized, held.to(torch.int8), slice(3, 3 + count))
    own: AnyresPlacement = windowed(placement, count)
    volume = place_content(part, own)
    deep = -(-count // 8)
    assert volume.patches.shape == (deep, 32, 32, 8)
    assert int(volume.slice_marks.sum()) == count
    assert torch.equal(volume.patches.amax((1, 2)) > 0, volume.slice_marks > 0)
    assert cut.shape[-1] == count
    assert float(volume.patches.sum()) == pytest.approx(float(resized[..., 3 : 3 + count].sum()))


def test_affine_moves_masks_with_the_volume_and_slices_stay_apart() -> None:
    image = torch.zeros(1, 40, 40, 4)
    image[0, 10:18, 20:30, 1] = 1.0
    masks = (image > 0.5).to(torch.int8)
    augment = Augmentation(True, True, False, AugmentationOptions(**STILL, affine=1.0))  # type: ignore[arg-type]
    moved, voxels = augment(image, masks, seed=5)
    assert voxels is not None and not torch.equal(voxels, masks)
    assert set(voxels.unique().tolist()) == {0, 1}
    assert voxels[..., [0, 2, 3]].sum() == 0
    overlap = ((moved > 0.5) & (voxels == 1)).sum() / ((moved > 0.5) | (voxels == 1)).sum()
    assert overlap > 0.9

"""Dice, NSD and HD95 against closed forms (boxes, spheres), brute force over all surface pairs, and MONAI's own
metrics."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_surface_dice

from datasets.errors import InputError
from evaluation.metrics.segmentation import (
    missing_mask_scores,
    segmentation_metrics,
    segmentation_scores,
)


def box(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def surface_points(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Voxels of the mask with a 6-neighbour outside it, in mm, by a plain loop."""
    points = []
    for voxel in np.argwhere(mask):
        for axis, step in itertools.product(range(3), (-1, 1)):
            neighbour = voxel.copy()
            neighbour[axis] += step
            if not 0 <= neighbour[axis] < mask.shape[axis] or not mask[tuple(neighbour)]:
                points.append(voxel * np.array(spacing))
                break
    return np.array(points)


def brute_force(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float]:
    a, b = surface_points(prediction, spacing), surface_points(truth, spacing)
    distance = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    to_truth, to_prediction = distance.min(1), distance.min(0)
    nsd = ((to_truth <= 2).sum() + (to_prediction <= 2).sum()) / (len(a) + len(b))
    return nsd, max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95))


def blob(seed: int, shape: tuple[int, int, int] = (14, 12, 9)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(s) for s in shape], indexing="ij"), axis=-1)
    centre, radius = np.array(shape) / 2 + generator.uniform(-2, 2, 3), generator.uniform(2, 5, 3)
    return (((grid - centre) / radius) ** 2).sum(-1) < 1


@pytest.mark.parametrize("seed", range(4))
def test_random_blobs_equal_brute_force_and_monai(seed: int) -> None:
    spacing = (0.8, 1.1, 2.5)
    prediction, truth = blob(seed), blob(seed + 100)
    scores = segmentation_scores(prediction, truth, spacing)
    nsd, hd95 = brute_force(prediction, truth, spacing)
    assert scores["nsd"] == pytest.approx(nsd, abs=1e-6) and scores["hd95"] == pytest.approx(hd95, rel=1e-5)
    p, t = (torch.from_numpy(mask[None, None]) for mask in (prediction, truth))
    kwargs = {"include_background": True, "spacing": list(spacing)}
    assert scores["nsd"] == pytest.approx(float(compute_surface_dice(p, t, [2.0], **kwargs)), abs=1e-6)
    assert scores["hd95"] == pytest.approx(float(compute_hausdorff_distance(p, t, percentile=95, **kwargs)), rel=1e-5)
    assert scores["dice"] == pytest.approx(float(compute_dice(p.float(), t.float())), abs=1e-6)


def test_shifted_boxes_have_the_dice_and_distances_of_the_closed_form() -> None:
    shape, spacing = (30, 30, 30), (1.0, 1.0, 2.0)
    truth = box(shape, (5, 5, 5), (15, 15, 15))
    shifted = box(shape, (5, 5, 8), (15, 15, 18))  # three slices of 2 mm
    scores = segmentation_scores(shifted, truth, spacing)
    assert scores["dice"] == pytest.approx(0.7)  # 7 of 10 slices overlap
    # Surface of a 10 x 10 x 10 box: 488 voxels. The far face (100) lies 6 mm off, more than 5 % of the surface.
    assert scores["hd95"] == pytest.approx(6.0)
    # Of each box's 488 surface voxels: the slices 2 mm off or coinciding give 7 rims of 36; the cap inside the other
    # box gives its rim of 36 and, 1 and 2 mm from that rim, 28 and 20 more. The far cap, the rim behind it and 16 in
    # the middle are too far.
    assert scores["nsd"] == pytest.approx((7 * 36 + 36 + 28 + 20) / 488)
    assert scores["truth_ml"] == pytest.approx(1000 * 2 / 1000)


def test_one_voxel_shift_is_inside_2_mm_only_while_the_voxel_is_no_larger() -> None:
    truth, shifted = box((12, 12, 12), (2, 2, 2), (9, 9, 9)), box((12, 12, 12), (2, 2, 3), (9, 9, 10))
    assert segmentation_scores(shifted, truth, (1, 1, 2.0))["nsd"] == 1
    assert segmentation_scores(shifted, truth, (1, 1, float(np.float32(2.0000001))))["nsd"] == 1
    assert segmentation_scores(shifted, truth, (5, 5, 2.1))["nsd"] < 0.8


def test_concentric_spheres_have_the_closed_form_dice_and_distance() -> None:
    grid = np.stack(np.meshgrid(*[np.arange(60) - 29.5] * 3, indexing="ij"), axis=-1) * 1.5
    radius = np.sqrt((grid**2).sum(-1))
    small, large = radius <= 24, radius <= 30
    scores = segmentation_scores(small, large, (1.5, 1.5, 1.5))
    ratio = (24 / 30) ** 3
    assert scores["dice"] == pytest.approx(2 * ratio / (1 + ratio), abs=0.01)
    assert scores["hd95"] == pytest.approx(6.0, abs=1.5)  # to one voxel
    assert scores["nsd"] == 0
    assert scores["truth_ml"] == pytest.approx(4 / 3 * np.pi * 30**3 / 1000, rel=0.02)


def test_single_voxels_are_as_far_apart_as_the_spacing_says() -> None:
    a, b = box((20, 20, 20), (3, 4, 5), (4, 5, 6)), box((20, 20, 20), (6, 8, 5), (7, 9, 6))
    scores = segmentation_scores(a, b, (1.0, 1.0, 9.0))
    assert scores["hd95"] == pytest.approx(5.0) and scores["nsd"] == 0 and scores["dice"] == 0
    assert segmentation_scores(a, b, (1.0, 1.0, 9.0), tolerance_mm=5.0)["nsd"] == 1


def test_mask_at_the_edge_of_the_scan_has_a_surface_there() -> None:
    truth = np.ones((6, 6, 6), dtype=bool)
    prediction = truth.copy()
    prediction[0] = False
    scores = segmentation_scores(prediction, truth, (3.0, 3.0, 3.0))
    nsd, hd95 = brute_force(prediction, truth, (3.0, 3.0, 3.0))
    assert scores["nsd"] == pytest.approx(nsd) and scores["hd95"] == pytest.approx(hd95) == pytest.approx(3.0)


def test_empty_masks_as_defined() -> None:
    nothing, something = np.zeros((5, 5, 5), dtype=bool), box((5, 5, 5), (1, 1, 1), (3, 3, 3))
    both = segmentation_scores(nothing, nothing, (1, 1, 1))
    assert (both["dice"], both["nsd"], both["hd95"]) == (1, 1, 0)
    for prediction, truth in ((nothing, something), (something, nothing)):
        one = segmentation_scores(prediction, truth, (1, 1, 1))
        assert (one["dice"], one["nsd"], one["hd95"]) == (0, 0, None)


def test_a_mask_that_was_not_given_scores_nothing_even_where_there_is_nothing_to_find() -> None:
    nothing, something = np.zeros((5, 5, 5), dtype=bool), box((5, 5, 5), (1, 1, 1), (3, 3, 3))
    for truth, volume in ((something, 0.008), (nothing, 0.0)):
        scores = missing_mask_scores(truth, (1, 1, 1))
        assert [scores[name] for name in ("dice", "nsd", "hd95")] == [0, 0, None]
        assert scores["truth_ml"] == pytest.approx(volume) and scores["prediction_ml"] == 0
    case = {"label": "x", **missing_mask_scores(nothing, (1, 1, 1))}
    assert "HD95 0 (0 of 1)" in segmentation_metrics([case], resamples=10)["notes"][0]


def test_uint8_masks_count_as_booleans() -> None:
    truth = blob(3)
    assert segmentation_scores(truth.astype(np.uint8) * 7, truth, (1, 1, 1))["dice"] == 1


def test_means_per_structure_and_over_structures() -> None:
    def case(label: str, patient: str, value: float, distance: float | None) -> dict:
        return {
            "label": label,
            "patient_id": patient,
            "dice": value,
            "nsd": value,
            "hd95": distance,
        }

    cases = [case("liver", "p", 0.9, 2.0), case("liver", "q", 0.7, 4.0), case("spleen", "p", 0.2, None)]
    result = segmentation_metrics(cases, resamples=100)
    assert result["structures"]["liver"]["dice"]["value"] == pytest.approx(0.8)
    assert result["structures"]["liver"]["hd95"]["value"] == pytest.approx(3.0)
    assert result["structures"]["spleen"]["hd95"]["value"] is None
    assert result["mean"]["dice"]["value"] == pytest.approx(0.5) and result["mean"]["dice"]["patients"] == 2
    assert result["mean"]["hd95"]["value"] == pytest.approx(3.0) and result["mean"]["hd95"]["structures"] == 1
    # The four draws of two patients give 0.55, 0.5, 0.5 and (spleen absent) 0.7.
    assert result["mean"]["dice"]["low"] == pytest.approx(0.5) and result["mean"]["dice"]["high"] == pytest.approx(0.7)
    assert any("1 of 3" in note for note in result["notes"])
    assert segmentation_metrics([])["mean"]["dice"]["value"] is None


@pytest.mark.parametrize(
    ("prediction", "truth", "spacing", "message"),
    [
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 3)), (1, 1, 1), "different grids"),
        (np.zeros((2, 2)), np.zeros((2, 2)), (1, 1, 1), "shape"),
        (np.zeros((2, 2, 2)), np.zeros((2, 2, 2)), (1, 0, 1), "spacing"),
    ],
)
def test_bad_input_is_one_clear_error(prediction, truth, spacing, message) -> None:
    with pytest.raises(InputError, match=message):
        segmentation_scores(prediction, truth, spacing)

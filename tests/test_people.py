"""Phantoms that resemble people: geometry against closed forms, sides, switches, seeds; chest phantoms unchanged."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import BSpline, PchipInterpolator

from datasets.errors import InputError
from datasets.phantom.case import CaseOptions, build_case
from datasets.phantom.people.canvas import Canvas
from datasets.phantom.people.features import FEATURES, Features
from datasets.phantom.people.fields import smooth_field, spline_matrix
from datasets.phantom.people.person import Person, build_person
from datasets.phantom.people.profiles import LOWEST, Profile, rows_of
from datasets.phantom.people.sections import Plate, Section
from datasets.phantom.people.structures import VALUES
from datasets.phantom.people.windows import nearest_window
from datasets.phantom.shapes import Ellipsoid

COARSE = 1.2e5  # voxels
RAS = ("RAS",)


def grid(half: float, spacing: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates of a cube of voxels round the origin, mm, float32."""
    line = np.arange(-half, half + spacing / 2, spacing, dtype=np.float32)
    x, y, z = np.meshgrid(line, line, line, indexing="ij")
    return x, y, z


@cache
def person(window: str, *features: str, seed: int = 1) -> Person:
    """A coarse phantom of one part of the body."""
    return build_person(seed, 0, Features.of(features), COARSE, RAS, window)


def centre(case: Person, label: str) -> np.ndarray:
    """Of a structure, in mm along x (right), y (front), z (up)."""
    spacing = np.linalg.norm(case.affine[:3, :3], axis=0)
    return np.array(ndimage.center_of_mass(case.labels == VALUES[label])) * spacing


def test_a_painted_ellipsoid_has_the_volume_of_the_formula() -> None:
    canvas = Canvas(grid(40, 2.0), np.full(3, 2.0))
    canvas.paint(Ellipsoid((3, -2, 5), (26, 18, 12), (20, 10, 0)), 50.0, "liver")
    voxels = np.count_nonzero(canvas.labels == VALUES["liver"])
    assert voxels * 8 == pytest.approx(4 / 3 * np.pi * 26 * 18 * 12, rel=0.02)
    assert canvas.hu.max() == pytest.approx(50.0, abs=0.01) and canvas.hu.min() == -1000


def test_a_round_section_is_a_cylinder_and_a_plate_a_slab() -> None:
    x, y, z = grid(60, 2.0)
    round_ = Section(Profile([(-50, 30), (50, 30)]), Profile([(-50, 20), (50, 20)]), Profile([(-50, -20), (50, -20)]),
                     -25, 25, square=False)  # fmt: skip
    inside = np.count_nonzero(round_(x, y, z) < 0) * 8
    assert inside == pytest.approx(np.pi * 30 * 20 * 50, rel=0.06)
    plate = Plate.of([(-30, -20, 4, 20, 4, 5), (30, -20, 4, 20, 4, 5)])
    assert np.count_nonzero(plate(x, y, z) < 0) * 8 == pytest.approx((40 * 10 + np.pi * 25) * 60, rel=0.06)
    mirrored = Plate.of([(-30, 10, 4, 40, 4, 5), (30, 10, 4, 40, 4, 5)], side=-1.0)(x, y, z) < 0
    assert x[mirrored].max() < 0  # the other side


def test_profiles_and_spline_fields_are_what_scipy_computes() -> None:
    knots = [(-100, 3.0), (-20, 9.0), (40, 1.0), (90, 2.0)]
    z = np.array([-100.0, -55, -20, 3, 40, 77, 90], np.float32)
    truth = PchipInterpolator(*np.array(knots).T)(z)
    assert np.allclose(Profile(knots).take(rows_of(z)), truth, atol=1e-4)
    assert Profile(knots).at(LOWEST) == 3.0  # constant beyond
    places = np.arange(37) / 5.0
    knots_of = np.arange(-3.0, 16)
    dense = BSpline.design_matrix(places, knots_of, 3).toarray()
    assert np.allclose(spline_matrix(37, 5.0)[:, :11], dense[:, :11], atol=1e-6)
    field = smooth_field((60, 50, 40), np.array([4.0, 4.0, 4.0]), np.random.default_rng(0), sigma=3.0)
    assert field.std() == pytest.approx(3.0, rel=0.1)
    assert np.abs(np.diff(field, axis=0)).mean() < 0.5 * field.std()  # it changes over some voxels


def test_left_is_left_and_organs_lie_where_they_belong() -> None:
    for seed in (1, 2):
        chest = person("chest", *(name for name in FEATURES if name != "crops"), seed=seed)
        trunk = person("neck to hips", "anatomy", "shape", "contrast", seed=seed)
        for case in (chest, trunk):
            assert centre(case, "right lung")[0] > centre(case, "left lung")[0] + 40
            assert centre(case, "spine")[1] < centre(case, "heart")[1] - 30
        assert centre(trunk, "liver")[0] > centre(trunk, "spleen")[0] + 60
        assert centre(trunk, "right kidney")[0] > centre(trunk, "left kidney")[0] + 60
        assert centre(trunk, "right hip")[0] > centre(trunk, "left hip")[0] + 60
        assert centre(trunk, "urinary bladder")[2] < centre(trunk, "liver")[2] - 150
    head = person("head and neck", "anatomy", "shape", "layers", "contrast")
    assert centre(head, "right parotid gland")[0] > centre(head, "left parotid gland")[0] + 60
    assert centre(head, "mandible")[1] > centre(head, "spinal cord")[1] + 50
    assert (
        centre(head, "larynx")[2]
        < centre(head, "mandible")[2]
        < centre(head, "brainstem")[2]
        < centre(head, "brain")[2]
    )


def test_tissues_look_like_what_they_are_called() -> None:
    trunk = person("neck to hips", "anatomy", "layers")
    head = person("head and neck", "anatomy", "layers")
    asked = {"left lung": trunk, "liver": trunk, "right kidney": trunk, "aorta": trunk, "mandible": head, "skull": head}
    asked |= {"brain": head, "spinal cord": head, "trachea": head}
    median = {name: np.median(case.ct[case.labels == VALUES[name]]) for name, case in asked.items()}
    assert median["left lung"] < -600 and median["trachea"] < -700
    assert all(0 < median[name] < 250 for name in ("liver", "right kidney", "aorta"))
    assert 0 < median["brain"] < 60 and -10 < median["spinal cord"] < 80
    assert median["mandible"] > 250 and median["skull"] > 300


def test_masks_lie_inside_the_body() -> None:
    for window in ("head and neck", "chest to pelvis"):
        case = person(window, "anatomy", "arms", "layers", "pose", "shape")
        solid = case.ct > -350
        body = np.stack([ndimage.binary_fill_holes(solid[:, :, k]) for k in range(solid.shape[2])], axis=2)
        outside = (case.labels > 0) & ~ndimage.binary_dilation(body)
        assert outside.sum() < 0.002 * (case.labels > 0).sum()  # throat and nose are open to the outside in some slices
        corner = case.labels[:2, :2]
        assert not corner.any()


def test_contrast_and_scanner_leave_the_masks_alone_and_surroundings_leave_the_body_alone() -> None:
    plain = person("chest", "none")
    for name in ("contrast", "scanner"):
        changed = person("chest", name)
        assert np.array_equal(plain.labels, changed.labels) and not np.array_equal(plain.ct, changed.ct)
    dressed = person("chest", "surroundings")
    inside = (plain.labels > 0) & (dressed.labels > 0)
    assert inside.sum() > 0.9 * (plain.labels > 0).sum()  # a round field may cut some
    assert np.array_equal(plain.ct[inside], dressed.ct[inside])


@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_works_by_itself(name: str) -> None:
    different = [
        not np.array_equal(a.ct, b.ct)
        for seed in (0, 1, 2)
        for a, b in [(build_person(seed, 0, Features(), 4e4), build_person(seed, 0, Features.of([name]), 4e4))]
        if a.ct.shape == b.ct.shape or name in ("anatomy", "crops")
    ]
    assert any(different)


def test_a_crop_anywhere_is_named_after_the_window_that_it_is_most_like() -> None:
    assert nearest_window(-290, 30) == "chest" and nearest_window(-20, 280) == "head and neck"
    assert nearest_window(-630, -420) == "pelvis" and nearest_window(-600, 0) == "chest to pelvis"


def test_the_same_seed_gives_the_same_person_and_another_index_another() -> None:
    first, again, other = (build_person(4, index, Features.of(["all"]), 5e4) for index in (3, 3, 4))
    assert np.array_equal(first.ct, again.ct) and np.array_equal(first.labels, again.labels)
    assert np.array_equal(first.affine, again.affine)
    assert first.ct.shape != other.ct.shape or not np.array_equal(first.ct, other.ct)


def test_what_cannot_be_built_is_refused_in_a_line() -> None:
    with pytest.raises(InputError, match="--features legs: choose from all, none, contrast"):
        Features.of(["contrast", "legs"])
    with pytest.raises(InputError, match="leaves voxels of"):
        build_person(0, 0, Features(), max_voxels=500)
    with pytest.raises(InputError, match="window 'foot' is not known; choose from chest"):
        build_person(0, 0, window="foot")
    assert Features.of(["all"]).names == list(FEATURES) and not Features.of(["none"]).names


def test_the_chest_phantom_is_what_it_was() -> None:
    case = build_case(11, 2, CaseOptions(in_plane=(2.0, 2.5), between=(3.0, 5.0), max_voxels=6e5, orientations=RAS))
    counts = np.bincount(case.structures.ravel(), minlength=12)
    assert case.ct.shape == STORED_SHAPE
    assert np.allclose(counts, STORED_COUNTS, atol=3)  # a rounding may move a voxel
    assert float(case.ct.astype(float).mean()) == pytest.approx(STORED_MEAN, abs=0.05)


STORED_SHAPE = (119, 94, 53)
STORED_COUNTS = [491392, 24446, 26005, 9148, 2559, 19375, 1733, 1126, 1690, 7211, 7653, 520]
STORED_MEAN = -485.408

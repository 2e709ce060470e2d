"""Phantom CTs: voxels against closed forms, masks against HU, truth against masks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from datasets.phantom.anatomy import STRUCTURES
from datasets.phantom.case import CaseOptions, PhantomCase, build_case, draw_findings, draw_grid, stream
from datasets.phantom.findings import PAINTERS
from datasets.phantom.lesions import DISEASES, LESIONS, lesion_parts, lesion_values
from datasets.phantom.scene import Pose, Scene
from datasets.phantom.shapes import Ellipsoid, occupancy

COARSE = CaseOptions(in_plane=(1.2, 1.5), between=(2.0, 4.0), max_voxels=2.2e6)
PAINTED = [name for name in DISEASES if name != "Cardiomegaly"]


@cache
def coarse_case(index: int, *findings: str) -> PhantomCase:
    return build_case(5, index, replace(COARSE, orientations=("RAS",)), findings)


# ---- geometry and partial volume against closed forms


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_occupancy_of_a_plane_is_the_exact_share(axis: int) -> None:
    spacing, position = np.array([0.7, 1.1, 4.0]), 3.3
    centres = [np.arange(6) * s for s in spacing]
    value = np.stack(np.meshgrid(*centres, indexing="ij"))[axis].astype(np.float32) - np.float32(position)
    low, high = centres[axis] - spacing[axis] / 2, centres[axis] + spacing[axis] / 2
    truth = np.clip(position - low, 0, high - low) / spacing[axis]
    found = np.moveaxis(occupancy(value), axis, 0)[:, 2, 2]
    assert np.allclose(found, truth, atol=1e-5)
    assert np.any((truth > 0.01) & (truth < 0.99)), "the plane must cut a voxel"


def test_painted_ellipsoid_keeps_its_integral_and_has_intermediate_edges() -> None:
    scene = Scene((60, 60, 14), np.array([1.0, 1.0, 4.0]), Pose(np.ones(3), np.eye(3), np.zeros(3)))
    axes = (17.0, 13.0, 15.0)
    scene.paint(Ellipsoid((1.0, -2.0, 0.5), axes, (10, 20, 30)), 100.0)
    amount = float((scene.hu + 1000).sum() / 1100 * 4.0)
    assert amount == pytest.approx(4 / 3 * np.pi * np.prod(axes), rel=0.02)
    assert np.mean((scene.hu > -950) & (scene.hu < 50)) > 0.02


def test_points_of_the_pose_land_where_the_matrix_says() -> None:
    rng = np.random.default_rng(0)
    shape, spacing, pose = draw_grid(rng, CaseOptions())
    scene = Scene(shape, spacing, pose)
    point = np.array([31.0, -22.0, 14.0])
    scene.paint(Ellipsoid(point, (8.0, 8.0, 8.0)), 0.0)
    weight = scene.hu + 1000
    centre = np.array(ndimage.center_of_mass(weight)) * spacing - (np.array(shape) - 1) / 2 * spacing
    assert np.allclose(centre, pose.rotation @ (pose.scale * point) + pose.shift, atol=0.1)


def test_spacing_is_in_range_and_does_not_depend_on_the_findings() -> None:
    grids = [draw_grid(stream(0, i, "grid"), CaseOptions()) for i in range(200)]
    spacing = np.array([grid[1] for grid in grids])
    assert np.all(spacing[:, 0] == spacing[:, 1])
    assert spacing[:, 0].min() >= 0.7 and spacing[:, 0].max() <= 1.5 and np.ptp(spacing[:, 0]) > 0.5
    assert spacing[:, 2].min() >= 1.0 and spacing[:, 2].max() <= 5.0 and np.ptp(spacing[:, 2]) > 2.5
    healthy, ill = coarse_case(0), coarse_case(0, "Pleural effusion", "Cardiomegaly")
    assert healthy.ct.shape == ill.ct.shape and np.array_equal(healthy.affine, ill.affine)


def test_streaks_lie_in_the_slices_of_metal_and_fade() -> None:
    scene = Scene((80, 60, 5), np.array([2.0, 2.0, 3.0]), Pose(np.ones(3), np.eye(3), np.zeros(3)))
    scene.hu[10:70, 10:50] = 40.0
    before, metal = scene.hu.copy(), np.zeros(scene.shape, bool)
    metal[40:43, 30:33, 2] = True  # 36 mm2
    scene.add_streaks(metal, np.random.default_rng(0), 300.0)
    change = np.abs(scene.hu - before)
    assert change[:, :, [0, 1, 3, 4]].max() == 0 and change[metal].max() == 0
    assert change[:10].max() == 0, "air outside the body has none"
    x, y = np.meshgrid((np.arange(80) - 41) * 2.0, (np.arange(60) - 31) * 2.0, indexing="ij")
    bound = 300 * 0.36 * np.exp(-np.hypot(x, y) / 80)
    assert np.all(change[:, :, 2] <= bound + 1e-3) and change[:, :, 2].max() > 60


# ---- anatomy


def test_organs_have_plausible_volumes_and_hu() -> None:
    case = coarse_case(1)
    (_, _, pose), voxel = draw_grid(stream(5, 1, "grid"), COARSE), abs(np.linalg.det(case.affine[:3, :3])) / 1000
    adult = {n: np.sum(case.structures == v) * voxel / np.prod(pose.scale) for n, v in STRUCTURES.items()}
    ranges = {
        "left lung": (1500, 3000),
        "right lung": (1700, 3300),
        "heart": (350, 800),
        "aorta": (90, 260),
        "liver": (900, 1800),
        "spleen": (80, 300),
        "left kidney": (70, 200),
        "right kidney": (70, 200),
    }
    for name, (low, high) in ranges.items():
        assert low < adult[name] < high, (name, adult[name])
    median = {n: np.median(case.ct[case.structures == v]) for n, v in STRUCTURES.items()}
    assert median["left lung"] < -730 and median["right lung"] < -730 and median["trachea"] < -900
    assert 85 < median["liver"] < median["spleen"] < median["left kidney"] < 220
    assert median["spine"] > 180 and median["ribs"] > 350 and 120 < median["aorta"] < 190


def test_cardiothoracic_ratio_in_the_masks_separates_cardiomegaly() -> None:
    for index in range(3):
        ratio = []
        for findings in ((), ("Cardiomegaly",)):
            masks = coarse_case(index, *findings).structures
            heart = np.ptp(np.nonzero((masks == STRUCTURES["heart"]).any(axis=(1, 2)))[0])
            chest = np.ptp(np.nonzero(np.isin(masks, [1, 2]).any(axis=(1, 2)))[0])
            ratio.append(heart / chest)
        assert ratio[0] < 0.50 and ratio[1] > 0.54, ratio


def test_the_mask_of_cardiomegaly_is_the_heart_but_for_the_lesions_inside_it() -> None:
    label = LESIONS["Cardiomegaly"]
    case = coarse_case(0, "Cardiomegaly", "Coronary artery wall calcification")
    heart, other = case.structures == STRUCTURES["heart"], ~np.isin(case.lesions, (0, label))
    assert np.array_equal(case.lesions == label, heart & ~other) and (heart & other).any()
    assert not (coarse_case(0, "Lung nodule").lesions == label).any()


# ---- findings: in the voxels, in the mask, and nowhere else

HU_OF = {  # range of the median HU inside the mask
    "Medical material": (1200, 3071),
    "Arterial wall calcification": (400, 1200),
    "Pericardial effusion": (-20, 40),
    "Coronary artery wall calcification": (350, 1200),
    "Lymphadenopathy": (550, 750),
    "Emphysema": (-1010, -800),
    "Atelectasis": (-150, 230),
    "Lung nodule": (0, 400),
    "Lung opacity": (-470, -280),
    "Pulmonary fibrotic sequela": (-150, 50),
    "Pleural effusion": (-20, 30),
    "Mosaic attenuation pattern": (-700, -540),
    "Peribronchial thickening": (-700, 120),
    "Consolidation": (-10, 70),
    "Interlobular septal thickening": (-350, 30),
}


@pytest.mark.parametrize("name", PAINTED)
def test_a_finding_changes_the_voxels_in_its_mask_and_no_others(name: str) -> None:
    index = DISEASES.index(name) % 3
    healthy, ill = coarse_case(index), coarse_case(index, name)
    mask = ill.lesions == LESIONS[name]
    assert set(np.unique(ill.lesions)) == {0, LESIONS[name]} and list(ill.findings) == [name]
    volume = mask.sum() * abs(np.linalg.det(ill.affine[:3, :3])) / 1000
    assert volume > 0.3 and volume == pytest.approx(ill.findings[name].volume_ml, rel=1e-6)
    change = np.abs(ill.ct.astype(float) - healthy.ct)
    reach = 4 if name == "Lung opacity" else 2  # its edge is soft
    near = ndimage.binary_dilation(mask, iterations=reach)
    if name == "Medical material":  # streaks: in the slices of the metal alone
        away = ~ndimage.binary_dilation(mask.any(axis=(0, 1)))  # a slice beside may hold a little metal
        assert away.any() and change[:, :, away].max() <= 1 and 30 < change[~near].max() < 750
    else:
        assert change[~near].max() <= 1 or change[~near].sum() < 0.01 * change.sum()
    assert change[mask].mean() > 60
    assert np.mean(change[mask] > 30) > 0.6
    if name in HU_OF:
        low, high = HU_OF[name]
        assert low < np.median(ill.ct[mask]) < high
    else:  # a wall round air
        assert np.mean(ill.ct[mask] < -700) > 0.1 and np.mean(ill.ct[mask] > -200) > 0.1


def test_number_side_zone_and_size_of_nodules_are_those_of_the_mask() -> None:
    seen = set()
    for index in range(6):
        case = coarse_case(index, "Lung nodule")
        truth, spacing = case.findings["Lung nodule"], np.abs(np.diag(case.affine)[:3])
        parts, number = ndimage.label(case.lesions == LESIONS["Lung nodule"])
        assert number == truth.count
        lungs = [np.array(ndimage.center_of_mass(case.structures == value)) for value in (1, 2)]
        middle = (lungs[0][0] + lungs[1][0]) / 2
        centres = np.array(ndimage.center_of_mass(parts > 0, parts, range(1, number + 1)))
        sides = {"right" if x > middle else "left" for x in centres[:, 0]}
        assert truth.side == ("both" if len(sides) == 2 else sides.pop())
        volumes = ndimage.sum(parts > 0, parts, range(1, number + 1)) * np.prod(spacing)
        assert (6 * volumes.max() / np.pi) ** (1 / 3) == pytest.approx(truth.size_mm, rel=0.08)
        largest = centres[int(np.argmax(volumes))]
        assert truth.place.split()[0] == ("right" if largest[0] > middle else "left")
        heart = ndimage.center_of_mass(case.structures == STRUCTURES["heart"])[2] * spacing[2]
        above = largest[2] * spacing[2] > heart + 48 * 0.7  # the border lies some 48 mm above an adult heart's centre
        if abs(largest[2] * spacing[2] - heart - 48 * 0.7) > 9:
            assert truth.place.split()[1] == ("upper" if above else "lower")
        seen.add((truth.count, truth.side))
    assert len(seen) > 3


@pytest.mark.parametrize("body", [0.58, 0.82])
def test_nodes_and_nodules_of_any_body_are_seen_apart(body: float) -> None:
    bodies = replace(COARSE, body_scale=(body, body), in_plane=(1.9, 3.0), between=(3.0, 5.4))  # as in demo.sh
    numbers = set()
    for index in range(8):
        case = build_case(7, index, bodies, ("Lymphadenopathy", "Lung nodule"))
        for name in ("Lymphadenopathy", "Lung nodule"):
            _, parts = ndimage.label(case.lesions == LESIONS[name], np.ones((3, 3, 3)))  # by corners too
            assert parts == case.findings[name].count
            numbers.add((name, parts))
    assert len(numbers) > 5


@pytest.mark.parametrize("body", [0.58, 0.82])
def test_a_nodule_is_graded_by_the_body_and_never_between_two_sizes(body: float) -> None:
    room_takers = ("Consolidation", "Lung opacity", "Atelectasis", "Emphysema")
    bodies = replace(COARSE, orientations=("RAS",), body_scale=(body, body), max_voxels=4e6)
    grades = set()
    for index in range(10):
        nodule = build_case(7, index, bodies, ("Lung nodule", *room_takers[: index % 5])).findings["Lung nodule"]
        smallest, largest = {"small": (0, 32), "medium": (42, 47), "large": (58, 68)}[nodule.grade]
        assert 0.96 * smallest <= nodule.size_mm / body <= 1.04 * largest  # an axis of the body differs by up to 4 %
        grades.add(nodule.grade)
    assert grades == {"small", "medium", "large"}


@pytest.mark.parametrize("name", ["Pleural effusion", "Emphysema", "Atelectasis", "Consolidation", "Lung opacity"])
def test_side_is_that_of_the_mask(name: str) -> None:
    for index in range(3):
        case = coarse_case(index, name)
        x = np.argwhere(case.lesions == LESIONS[name])[:, 0]
        trachea = ndimage.center_of_mass(case.structures == STRUCTURES["trachea"])[0]
        share = float(np.mean(x > trachea))
        side = case.findings[name].side
        assert {"right": share > 0.97, "left": share < 0.03, "both": 0.1 < share < 0.9}[side], (side, share)


def test_written_lesions_tell_the_right_part_of_lateral_findings_from_the_left() -> None:
    case = coarse_case(1, "Emphysema", "Pericardial effusion")
    written, trachea = case.written_lesions, ndimage.center_of_mass(case.structures == STRUCTURES["trachea"])[0]
    left, right = (written == value for value in lesion_values("Emphysema"))
    assert np.array_equal(left | right, case.lesions == LESIONS["Emphysema"]) and (left.any() or right.any())
    for part, is_right in ((left, False), (right, True)):  # stored in RAS here: x grows to the right
        x = np.argwhere(part)[:, 0]
        assert len(x) == 0 or np.mean((x > trachea) == is_right) > 0.97
    assert case.findings["Emphysema"].side == {(1, 0): "left", (0, 1): "right", (1, 1): "both"}[left.any(), right.any()]
    middle = lesion_values("Pericardial effusion")
    assert middle == [LESIONS["Pericardial effusion"]] and np.array_equal(
        written == middle[0], case.lesions == middle[0]
    )


def test_sites_stand_in_place_of_their_lesion_and_where_they_should() -> None:
    names = ("Lymphadenopathy", "Lung nodule", "Coronary artery wall calcification")
    seen: dict[str, np.ndarray] = {}
    for index in range(10):
        others = ("Emphysema", "Medical material", "Pleural effusion", "Consolidation", "Cardiomegaly")
        case = coarse_case(index, *names, *others[: index % 5 + 1])
        for name in DISEASES:
            written = np.isin(case.written_lesions, lesion_values(name))
            assert np.array_equal(written, case.lesions == LESIONS[name]), name
        middle = np.array(ndimage.center_of_mass(case.structures == STRUCTURES["trachea"]))
        for name in names:
            for part, values in lesion_parts(name).items():
                if (found := np.isin(case.written_lesions, values)).any():
                    seen[part] = np.array(ndimage.center_of_mass(found)) - middle  # RAS: right, front, head
    assert len(seen) == 5 + 4 + 2 + 3
    for part, (x, *_) in seen.items():
        if "nodule" in part or "hilar" in part:
            assert (x > 0) == ("right" in part), part
    assert seen["calcified right coronary artery"][0] > seen["calcified circumflex artery"][0]
    assert seen["calcified left anterior descending artery"][1] > seen["calcified circumflex artery"][1]
    assert seen["prevascular lymph node"][1] > seen["right paratracheal lymph node"][1]
    assert seen["right paratracheal lymph node"][2] > seen["subcarinal lymph node"][2]
    for side in ("left", "right"):
        zones = [seen[f"nodule in the {side} {height} zone"][2] for height in ("upper", "lower")]
        assert zones[0] > zones[1]


def test_findings_are_drawn_independently_at_the_asked_prevalence() -> None:
    drawn = np.array(
        [[name in found for name in DISEASES] for found in (draw_findings(1, i, 0.3) for i in range(3000))]
    )
    assert np.all(np.abs(drawn.mean(axis=0) - 0.3) < 0.035)
    correlation = np.corrcoef(drawn.T) - np.eye(len(DISEASES))
    assert np.abs(correlation).max() < 0.08
    assert draw_findings(1, 5, 0.0) == [] and draw_findings(1, 5, 1.0) == list(DISEASES)


def test_names_are_those_of_the_published_heads() -> None:
    heads = json.loads((Path(__file__).parents[1] / "data" / "diagnosis_heads.json").read_text())["CT-RATE"]
    assert list(DISEASES) == [head["disease"] for head in heads]
    assert set(PAINTERS) == set(DISEASES)

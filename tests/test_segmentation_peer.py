"""The peer's volumes, patches, loss and clock against masks and numbers that are known."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.segmentation_peer.augmenting import PatchAugmentation
from benchmarks.segmentation_peer.loss import AnnotatedLoss, deep_loss
from benchmarks.segmentation_peer.network import build_network, stages_of
from benchmarks.segmentation_peer.patches import PatchSampler, cut
from benchmarks.segmentation_peer.scoring import score_volumes, summary
from benchmarks.segmentation_peer.table import estimate, peer_table
from benchmarks.segmentation_peer.training import Progress, Schedule, rate_factor, train_by_clock
from benchmarks.segmentation_peer.volumes import BodyVolume, Normalisation, organ_voxels, read_body, read_records
from datasets.errors import InputError
from datasets.volume.augmentation import AugmentationOptions
from tests.peer_patients import write_patient
from tests.shared_data import shared_path

ORGANS = ["liver", "spleen", "kidney"]


def body_of(folder: Path, labels: dict[str, int]) -> BodyVolume:
    (folder / "train.json").write_text(json.dumps([write_patient(folder, labels)]))
    return read_body(read_records(folder / "train.json")[0], ORGANS)


def test_a_volume_is_cropped_to_its_body_and_keeps_every_organ(tmp_path: Path) -> None:
    volume = body_of(tmp_path, {"kidney": 3, "liver": 1})
    assert volume.image.shape == volume.masks.shape == (12, 10, 8)
    assert volume.annotated.tolist() == [True, False, True]
    truth = np.asarray(nib.load(tmp_path / "a_labels.nii").dataobj)
    for number, value in ((0, 1), (2, 3)):
        mask = (volume.masks >> number) & 1
        assert np.array_equal(volume.geometry.to_source(mask), truth == value)
    assert sorted(set(organ_voxels([volume]).tolist())) == [70, 90]


def test_normalisation_is_by_the_percentiles_of_the_organs() -> None:
    voxels = np.concatenate([np.arange(1000), [10_000]])
    normalisation = Normalisation.of_voxels(voxels)
    assert (normalisation.low, normalisation.high) == (5, 995)
    changed = normalisation(np.clip(voxels, 5, 995)).astype(float)
    assert abs(changed.mean()) < 1e-3 and abs(changed.std() - 1) < 1e-3
    assert normalisation(np.array([-1024]))[0] == pytest.approx(normalisation.air, abs=1e-3)
    with pytest.raises(InputError, match="no contrast"):
        Normalisation.of_voxels(np.full(9, 40))


def normal_body(folder: Path, labels: dict[str, int], normalisation: Normalisation) -> BodyVolume:
    volume = body_of(folder, labels)
    return replace(volume, image=normalisation(volume.image))


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 16, 16)])
def test_patches_keep_image_and_organs_together(tmp_path: Path, patch: tuple[int, int, int]) -> None:
    """Each organ has a grey value of its own, so the image says where it is, also turned and padded."""
    normalisation = Normalisation(-100, 200, 0, 1)
    volume = normal_body(tmp_path, {"liver": 1, "spleen": 2}, normalisation)
    turns = PatchAugmentation(AugmentationOptions(rotate=1, scale=0, shift=0, noise=0, contrast=0), ORGANS, True)
    batch = PatchSampler([volume], normalisation, patch, 1.0, turns, seed=0).batch(6)
    assert batch.images.shape == (6, 1, *patch) and batch.truth.shape == (6, 3, *patch)
    assert batch.annotated.tolist() == [[True, True, False]] * 6
    for number, grey in ((0, 70), (1, 80)):
        assert torch.equal(batch.truth[:, number] == 1, batch.images[:, 0] == grey)
    assert (batch.truth[:, :2].flatten(1).sum(1) > 0).all() and not batch.truth[:, 2].any()
    assert batch.images.min() == (-100 if patch[0] > 12 else 40)  # the body is 12 voxels wide


def test_a_patch_of_a_mirrored_patient_has_the_names_of_the_other_side() -> None:
    organs = ["left kidney", "liver", "right kidney"]
    image, bits = torch.zeros(1, 40, 40, 4), torch.zeros(1, 40, 40, 4)
    image[:, 17:19], bits[:, 17:19] = 5, 1
    options = AugmentationOptions(rotate=0, scale=0, shift=0, noise=0, contrast=0, affine=1, affine_degrees=0,
                                  affine_scale=0, affine_shift=0, mirror=1)  # fmt: skip
    augmentation = PatchAugmentation(options, organs, False)
    changed, organs_there, annotated = augmentation(image, bits, torch.tensor([True, True, False]), seed=3)
    assert changed.shape == (1, 8, 8, 4) and annotated.tolist() == [False, True, True]
    assert not organs_there[:2].any() and torch.equal(organs_there[2] == 1, changed[0] > 2.5)
    assert organs_there[2, 5:7].all() and organs_there.sum() == 2 * 8 * 4  # 17 and 18 of 40 are 21 and 22, less 16
    one_sided = PatchAugmentation(options, organs[:2], False)
    assert one_sided(image, bits, torch.tensor([True, True]), seed=3)[1][0, 1:3].all()


def test_what_is_cut_beyond_a_volume_is_air() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    whole = np.pad(array, 3, constant_values=-1)
    for low, high in (((0, 0, 0), (2, 3, 4)), ((-2, 1, -1), (1, 5, 6)), ((1, -3, 2), (4, -1, 3))):
        expected = whole[tuple(slice(a + 3, b + 3) for a, b in zip(low, high, strict=True))]
        assert np.array_equal(cut(array, low, high, -1), expected)


def test_loss_of_logits_that_know_nothing_has_its_closed_form() -> None:
    truth = torch.zeros(1, 2, 4, 4, 4)
    truth[:, 0, :2] = 1
    loss = AnnotatedLoss()(torch.zeros_like(truth), truth, torch.tensor([[True, False]]))
    dice = 1 - 2 * 0.5 * 32 / (0.5 * 64 + 32)  # sigmoids of 0.5 on 64 voxels, 32 of them in the organ
    assert loss.item() == pytest.approx(math.log(2) + dice, abs=1e-5)
    sure = AnnotatedLoss()((truth * 2 - 1) * 30, truth, torch.tensor([[True, True]]))
    assert sure.item() == pytest.approx(0, abs=1e-4)


def test_an_organ_that_was_not_contoured_teaches_nothing() -> None:
    logits = torch.randn(2, 3, 4, 4, 4, requires_grad=True)
    annotated = torch.tensor([[True, False, True], [True, False, False]])
    AnnotatedLoss()(logits, (torch.rand(2, 3, 4, 4, 4) > 0.5).float(), annotated).backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad.flatten(2).abs().sum(-1) > 0, annotated)
    nothing = AnnotatedLoss()(logits, torch.zeros_like(logits), torch.zeros_like(annotated))
    assert nothing.item() == 0


def test_deeper_outputs_weigh_half_of_the_ones_before() -> None:
    truth = (torch.rand(1, 2, 4, 4, 4) > 0.5).float()
    outputs, annotated, loss = torch.randn(1, 3, 2, 4, 4, 4), torch.ones(1, 2, dtype=torch.bool), AnnotatedLoss()
    first, second, third = (loss(outputs[:, level], truth, annotated) for level in range(3))
    assert deep_loss(loss, outputs, truth, annotated).item() == pytest.approx(
        ((first + second / 2 + third / 4) / 1.75).item(), rel=1e-5
    )


def test_network_follows_the_patch() -> None:
    assert [stages_of(patch) for patch in ((64, 64, 64), (128, 128, 32), (16, 16, 16))] == [5, 4, 3]
    network = build_network((16, 16, 16), 4, 3, 1)
    image = torch.zeros(1, 1, 16, 16, 16)
    assert network.train()(image).shape == (1, 2, 3, 16, 16, 16)
    assert network.eval()(image).shape == (1, 3, 16, 16, 16)
    for patch, supervision in (((20, 16, 18), 1), ((8, 8, 8), 0), ((16, 16, 16), 2)):
        with pytest.raises(InputError, match=r"--patch|--deep_supervision"):
            build_network(patch, 4, 3, supervision)


@pytest.mark.parametrize("slicewise", [True, False])
def test_slices_see_their_neighbours_unless_they_are_looked_at_one_by_one(slicewise: bool) -> None:
    """A change in one slice; instance norms, which look at all of a patch, are left out."""
    torch.manual_seed(0)
    network = build_network((16, 16, 16), 4, 2, 0, slicewise).eval()
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            module.forward = lambda values: values  # type: ignore[method-assign]
    image = torch.randn(1, 1, 16, 16, 16)
    changed = image.clone()
    changed[..., 5] += 1
    moved = (network(image) - network(changed)).abs().amax((0, 1, 2, 3)) > 0
    assert moved[5] and moved.sum() == (1 if slicewise else 16)


def test_training_ends_when_the_clock_says_so(tmp_path: Path) -> None:
    """Each look at the clock is a second, and an update looks twice."""
    normalisation = Normalisation(-100, 200, 70, 30)
    volume = normal_body(tmp_path, {"liver": 1}, normalisation)
    sampler = PatchSampler([volume], normalisation, (16, 16, 16), 1.0, None, seed=0)
    torch.manual_seed(0)
    network, seconds, told = build_network((16, 16, 16), 4, 3, 0), iter(range(1000)), list[Progress]()
    schedule = Schedule("AdamW", 1e-2, batch=2, minutes=1, bf16=False)
    end = train_by_clock(network, sampler, schedule, 0.0, told.append, 10.0, clock=lambda: float(next(seconds)))
    assert end.steps == 30 and [row.steps for row in told] == [6, 11, 16, 21, 26]
    assert told[-1].loss < 0.9 * told[0].loss
    with pytest.raises(InputError, match="--minutes"):
        train_by_clock(network, sampler, schedule, 0.0, told.append, clock=lambda: 60.0)
    assert rate_factor(0.5, 0) == pytest.approx(0.5**0.9) and rate_factor(1.0, 0.02) == 0
    assert rate_factor(0.0, 0.02) == pytest.approx(0.05)


def exact(volume: BodyVolume) -> np.ndarray:
    """The truth, as a prediction."""
    return np.stack([(volume.masks >> number) & 1 == 1 for number in range(len(volume.annotated))])


def test_the_truth_scores_one_and_a_shifted_one_what_it_should(tmp_path: Path) -> None:
    volume = body_of(tmp_path, {"liver": 1, "kidney": 3})
    rows, _ = score_volumes([volume], ORGANS, exact, 4.0)
    assert [(row["label"], row["dice"], row["nsd"]) for row in rows] == [("liver", 1, 1), ("kidney", 1, 1)]
    shifted, _ = score_volumes([volume], ORGANS, lambda v: np.roll(exact(v), 1, axis=3), 4.0)  # one voxel, 4 mm, up
    assert [row["dice"] for row in shifted] == [pytest.approx(5 / 6)] * 2
    assert [row["own_slices_dice"] for row in shifted] == [pytest.approx(10 / 11)] * 2  # of six slices five are met
    assert [row["nsd"] for row in shifted] == [1, 1]
    strict, _ = score_volumes([volume], ORGANS, lambda v: np.roll(exact(v), 1, axis=3), 3.9)
    assert strict[0]["nsd"] < 1
    scores = summary(rows, 4.0)
    assert "4 mm" in scores["notes"][0]
    costs = {"minutes": 40.0, "seconds_per_volume": 1.2, "parameters": 5_600_000}
    header, _, row = peer_table({"DynUNet": {"scores": scores, "tolerance_mm": 4.0, **costs}}).splitlines()
    assert estimate({"value": 0.8124, "low": 0.79, "high": 0.8331}) == "0.812 (0.790 to 0.833)"
    assert header.count("|") == row.count("|") and "NSD at 4 mm" in header
    assert row.startswith("| DynUNet | 1.000 | 1.000 | 1.000 |") and row.endswith("| 40.0 | 1.2 | 5.6 M |")


def test_the_truth_of_a_real_patient_scores_one(tmp_path: Path) -> None:
    folder = shared_path("data", "open_kbp")
    patient = json.loads((folder / "patients.json").read_text())
    item = patient["validation"][0]
    row = {"image_path": str(folder / item["image"]), "mask_path": str(folder / item["organs_mask"])}
    row |= {"labels": item["organs"], "mask_values": {name: patient["mask_values"][name] for name in item["organs"]}}
    (tmp_path / "val.json").write_text(json.dumps([row]))
    volume = read_body(read_records(tmp_path / "val.json")[0], item["organs"])
    rows, _ = score_volumes([volume], item["organs"], exact, 4.0)
    assert [row["label"] for row in rows] == item["organs"]
    assert all(row["dice"] == row["nsd"] == 1 and row["truth_ml"] > 1 for row in rows)

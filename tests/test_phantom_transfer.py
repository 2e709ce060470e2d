"""Real truth that is found by rule, arms, the training's command, and scores of the measurement of transfer."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks.phantom_transfer import command, histograms, scoring
from benchmarks.phantom_transfer.arms import CUMULATIVE, LEFT_OUT, Arm, arms_of
from benchmarks.phantom_transfer.histograms import table as histogram_table
from benchmarks.phantom_transfer.histograms import tallies
from benchmarks.phantom_transfer.real_truth import lungs_by_hu, open_kbp_cases, our_name, real_ct_cases
from benchmarks.phantom_transfer.scoring import mean_by_organ
from datasets.errors import InputError
from datasets.phantom.people.features import FEATURES, Features
from datasets.phantom.people.person import build_person
from datasets.phantom.people.structures import VALUES
from datasets.volume.anyres import place_mask, plan
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from evaluation.metrics.segmentation import dice
from models.configuration import VISION_PRESETS
from models.pretraining import PretrainingModel
from models.vision import VisionModel
from tests.shared_data import shared_path
from train_encoder_2D1D import PRESETS, RECIPES, HyperParameters
from training.arguments import parse


def test_lungs_by_hu_are_the_lungs_of_a_phantom() -> None:
    features = Features.of(["anatomy", "layers", "contrast"])
    case = build_person(3, 0, features, 4e5, ("LPS",), "head and neck")
    found = lungs_by_hu(case.ct, case.affine)
    assert found is not None
    truth = np.isin(case.labels, [VALUES["left lung"], VALUES["right lung"]])
    assert dice(found, truth) > 0.93
    windpipe = case.labels == VALUES["trachea"]
    assert found[windpipe].mean() < 0.05
    above = np.where(np.arange(case.ct.shape[2]) > case.ct.shape[2] * 0.6)[0]  # head alone: no lung
    assert lungs_by_hu(case.ct[:, :, above], case.affine) is None


def test_totalsegmentators_names_become_ours() -> None:
    assert our_name("vertebrae_L2") == "spine" and our_name("vertebrae_S1") is None
    assert our_name("rib_left_7") == "ribs" and our_name("lung_middle_lobe_right") == "right lung"
    assert our_name("kidney_right") == "right kidney" and our_name("kidney_cyst_right") is None
    assert our_name("clavicula_left") == "left clavicle" and our_name("duodenum") == "small bowel"
    assert our_name("inferior_vena_cava") == "inferior vena cava" and our_name("portal_vein_and_splenic_vein") is None


def test_arms_are_read_from_their_names() -> None:
    assert Arm.of("chest").features is None
    assert Arm.of("contrast+arms").features == Features(contrast=True, arms=True)
    assert Arm.of("all-pose").features == Features.of([name for name in FEATURES if name != "pose"])
    assert [arm.name for arm in arms_of(["none", "left-out"])] == ["none", *LEFT_OUT]
    assert Arm.of(CUMULATIVE[-1]).features == Features.of(["all"])
    assert len({Arm.of(name).folder for name in (*CUMULATIVE, *LEFT_OUT)}) == len(CUMULATIVE) + len(LEFT_OUT)
    with pytest.raises(InputError, match="choose from all, none"):
        Arm.of("all-legs")


def test_a_training_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command.train([sys.executable, "-c", "print('done')"], log)
    with pytest.raises(InputError, match="status 4: no data"):
        command.train([sys.executable, "-c", "import sys; print('no data'); sys.exit(4)"], log)
    assert not command.is_finished(tmp_path / "run", 10)


def test_the_training_command_is_one_that_the_encoder_script_takes(tmp_path: Path) -> None:
    told = command.training_command(tmp_path / "phantoms", tmp_path / "run", 20, 1.5, ["--vision", "tiny"])
    settings = parse(HyperParameters, PRESETS, told[2:], recipes=RECIPES)
    assert settings.max_iters == 20 and settings.max_minutes == 1.5 and settings.resume == "auto"
    assert settings.kinds == ("segmentation",) and settings.deep_only_tasks == ()
    assert settings.task_weights == ("phantom_segmentation=1",) and settings.optimizer == "Muon"


def test_the_command_goes_through_all_arms_and_again_from_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def train(told: list[str], log: Path) -> None:
        trained.append(Path(told[told.index("--run_dir") + 1]).parent.name)

    def is_finished(run: Path, steps: int) -> bool:
        return trained.count(run.parent.name) >= {"none": 1, "contrast": 2}[run.parent.name]  # time is up at first

    scores = {"real_ct slab": {"liver": 0.5}, "open_kbp a": {"lungs": 0.7}}
    for name, stand_in in (("train", train), ("is_finished", is_finished), ("score_cases", lambda *_: scores)):
        monkeypatch.setattr(command, name, stand_in)
    monkeypatch.setattr(command, "real_cases", lambda *_: iter(["a case"]))
    arguments = ["--out", str(tmp_path), "--arms", "none", "contrast", "--count", "2", "--max-voxels", "5e4"]
    assert command.main(arguments) == 3
    assert command.main(arguments) == 0
    assert trained == ["none", "contrast", "contrast"]  # the first is done once
    written = json.loads((tmp_path / "scores.json").read_text())
    assert written["contrast"]["dice"] == {"open_kbp: lungs": 0.7, "real_ct slab: liver": 0.5}
    assert "| real_ct slab: liver | 0.500 | 0.500 |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert command.main([*arguments[:2], "--arms", "legs"]) == 2
    assert capsys.readouterr().err.startswith("error: --features legs")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "error: no real CT: name the folder of TotalSegmentator's example as --real_ct, or --open_kbp\n"),
        (["--real_ct", "no/where"], "error: --real_ct no/where: no such folder; name another, or leave it out\n"),
        (["--open_kbp", "no/where"], "error: --open_kbp no/where: no such folder; name another, or leave it out\n"),
    ],
)
def test_real_ct_that_is_not_there_is_told_before_any_work(
    given: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for main, own in ((command.main, ["--out", str(tmp_path / "out")]), (histograms.main, ["--phantoms", "none"])):
        assert main([*own, *given]) == 2
        assert capsys.readouterr() == ("", complaint)
    assert not list(tmp_path.iterdir())


def test_masks_come_back_onto_the_files_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = build_person(3, 0, Features.of(["anatomy", "layers"]), 1e5, ("PIR",), "neck to hips")
    image = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(case.ct, case.affine), image)
    model = PretrainingModel(VisionModel(VISION_PRESETS["tiny"]))
    model.vision.preprocessing = Preprocessing.standard((96, 96, 96), 1)
    _, geometry = load_volume(image, preprocessing=model.vision.preprocessing)
    names = ["liver", "left lung"]
    truth = {name: case.labels == VALUES[name] for name in names}
    plan_ = plan(geometry.shape, (96, 96, 96), 1)
    loaded = np.stack([geometry.from_source(truth[name].astype(np.int8)) for name in names])
    logits = place_mask(torch.from_numpy(loaded.copy()), plan_).float() - 0.5
    model.vision.config = replace(model.vision.config, crop_size=(96, 96, 96), patch_max=1)
    monkeypatch.setattr(model, "encode", lambda volumes: volumes)
    monkeypatch.setattr(model.vision, "decode_masks", lambda *_, **__: logits)
    monkeypatch.setattr(scoring, "label_embeddings", lambda _, labels, width: {n: torch.zeros(width) for n in labels})
    found = scoring.find_masks(model, "", image, names)
    assert all(dice(found[name], truth[name]) > 0.93 for name in names)


def test_means_are_over_the_patients_of_a_data_set() -> None:
    scores = {
        "open_kbp a": {"mandible": 0.4, "larynx": 0.2},
        "open_kbp b": {"mandible": 0.6},
        "real_ct slab": {"liver": 0.9},
    }
    assert mean_by_organ(scores) == {"open_kbp: larynx": 0.2, "open_kbp: mandible": 0.5, "real_ct slab: liver": 0.9}


def test_the_real_cases_are_as_their_files_say() -> None:
    folder = shared_path("data", "real_ct")
    slab, whole = real_ct_cases(folder)
    ct = np.asarray(nib.load(slab.image).dataobj)
    inside = np.asarray(nib.load(whole.image).dataobj)[:, :, whole.slices]
    assert np.array_equal(ct, inside)  # the masks lie where the slab was cut
    assert np.median(ct[slab.masks["left lung"]]) < -600 and 20 < np.median(ct[slab.masks["liver"]]) < 70
    assert all(mask.sum() == whole.masks[name].sum() for name, mask in slab.masks.items())
    right, left = (ndimage.center_of_mass(slab.masks[f"{side} kidney"])[0] for side in ("right", "left"))
    assert right > left  # the affine's first axis runs to the right


def test_open_kbps_lungs_are_dark_and_left_out_where_not_reached() -> None:
    folder = shared_path("data", "open_kbp")
    cases = list(open_kbp_cases(folder, 3))
    assert len(cases) == 3
    for case in cases:
        ct = np.asarray(nib.load(case.image).dataobj)
        assert np.median(ct[case.masks["mandible"]]) > 200 if "mandible" in case.masks else True
        assert "lungs" not in case.masks or np.median(ct[case.masks["lungs"]]) < -600


def test_a_folder_of_test_patients_alone_is_scored_too(tmp_path: Path) -> None:
    folder = shared_path("data", "open_kbp")
    listed = json.loads((folder / "patients.json").read_text())
    (tmp_path / "validation").symlink_to(folder / "validation")
    held_out = {"mask_values": listed["mask_values"], "test": listed["validation"][:2]}
    (tmp_path / "patients.json").write_text(json.dumps(held_out))
    assert [case.name for case in open_kbp_cases(tmp_path, 3)] == [case.name for case in open_kbp_cases(folder, 2)]
    (tmp_path / "patients.json").write_text(json.dumps({**held_out, "test": []}))
    with pytest.raises(InputError, match="lists no patient in validation, nor in test"):
        next(open_kbp_cases(tmp_path, 3))


def test_histograms_that_agree_overlap_wholly_and_distant_ones_not_at_all() -> None:
    rng = np.random.default_rng(0)
    hu, mask = rng.normal(40, 10, (30, 30, 30)), np.ones((30, 30, 30), bool)
    near, far = tallies([(hu, {"liver": mask})]), tallies([(hu + 500, {"liver": mask, "rare": mask & (hu > 90)})])
    assert near["liver"].overlap(near["liver"]) == pytest.approx(1.0) and near["liver"].overlap(far["liver"]) == 0
    assert "rare" not in far and near["liver"].percentiles[0][1] == pytest.approx(40, abs=1)
    broad = [tallies([(hu * 10 + shift, {"liver": mask})])["liver"] for shift in (0, 100)]
    assert broad[0].overlap(broad[1]) == pytest.approx(0.617, abs=0.03)  # by one deviation: 2 * Phi(-1/2)
    lines = histogram_table(far, near).splitlines()
    assert lines[2].startswith("| liver | 24, 40 ± 0, 56 | 524, 540 ± 0, 556 | 1 / 1 | 0.00 |")

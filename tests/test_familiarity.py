"""The warning of unlike volumes: the distance by its formula, the threshold's promise, files, the model's words."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.errors import CheckpointError, InputError
from datasets.volume.anyres import patchify
from evaluation.familiarity import images_of, main
from models.answering.familiarity import FILE, VOXEL_ENTRIES, Familiarity, describe, read_familiarity, voxel_statistics
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.pretrained import PretrainedCTInstruct
from models.encoders.inputs import encoder_inputs
from tests.tiny_model import tiny_ctinstruct


def correlated(count: int, seed: int, width: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(width, width))
    return rng.normal(size=(count, width)) @ mixing + np.arange(width)


def test_the_score_is_the_mahalanobis_distance() -> None:
    known = correlated(4000, 0)
    made = Familiarity.fit(known, correlated(400, 1))
    centre, covariance = known.mean(0), np.cov(known.T)
    for row in correlated(5, 2) * 2:
        off = row - centre
        assert made.score(row) == pytest.approx(
            np.sqrt(off @ np.linalg.inv(covariance) @ off / 5), rel=0.05
        )  # the covariance is shrunk a little
    assert made.score(centre) == pytest.approx(0, abs=1e-6) and made.score(np.full(5, np.nan)) == np.inf


def test_the_threshold_keeps_the_share_that_it_promises_and_finds_what_is_unlike() -> None:
    made = Familiarity.fit(correlated(600, 0), correlated(199, 1), share=0.95)
    new = np.array([made.score(row) for row in correlated(4000, 3)])
    assert (new <= made.threshold).mean() == pytest.approx(0.95, abs=0.03)
    unlike = np.random.default_rng(5).normal(size=(50, 5)) * 30
    assert np.mean([made.score(row) > made.threshold for row in unlike]) > 0.9
    few = Familiarity.fit(correlated(600, 0), correlated(20, 1), share=0.99)  # too few for that share: the largest
    assert few.threshold == pytest.approx(max(few.score(row) for row in correlated(20, 1)))


def test_none_is_doubted_of_those_that_set_the_threshold_by_their_largest_score(tmp_path: Path) -> None:
    for seed in range(20):
        held_out = correlated(20, seed + 100)
        Familiarity.fit(correlated(60, seed), held_out).save(tmp_path)
        again = read_familiarity(tmp_path)
        assert again is not None and not any(again.doubts(row) for row in held_out)


def test_the_score_is_the_largest_of_the_parts() -> None:
    known, held_out = (np.hstack([correlated(500, seed, 60), correlated(500, seed + 50, 5)]) for seed in (0, 1))
    parts = Familiarity.fit(known, held_out, sizes=(60, 5))
    alone = [Familiarity.fit(known[:, part], held_out[:, part]) for part in (np.s_[:60], np.s_[60:])]
    row = held_out[3]
    assert parts.score(row) == pytest.approx(max(alone[0].score(row[:60]), alone[1].score(row[60:])))
    odd = np.concatenate([row[:60], known[:, 60:].mean(0) + 6 * known[:, 60:].std(0) * [1, -1, 1, -1, 1]])
    assert parts.score(odd) > parts.threshold  # though 60 of its 65 entries are usual


def test_constant_and_many_entries_are_no_trouble() -> None:
    wide = np.hstack([correlated(30, 0, 60), np.ones((30, 1))])  # more entries than volumes
    made = Familiarity.fit(wide, np.hstack([correlated(30, 1, 60), np.ones((30, 1))]))
    assert np.isfinite(made.threshold) and made.score(wide[0]) < made.score(wide[0] + 1000)


def test_statistics_tell_noise_from_smooth_volumes() -> None:
    ramp = np.broadcast_to(np.linspace(-1, 1, 40)[:, None, None], (40, 30, 20))
    noise = np.random.default_rng(0).normal(size=(40, 30, 20))
    smooth, rough = voxel_statistics(ramp), voxel_statistics(noise)
    assert smooth[3] == pytest.approx(0, abs=1e-9) and smooth[0] == -1
    assert smooth[9] == pytest.approx(2 / 39) and smooth[10] == smooth[11] == 0  # steps along each axis
    assert smooth[12] == pytest.approx(0, abs=1e-6) and rough[12] > 1.5
    assert np.isfinite(voxel_statistics(np.zeros((4, 4, 1)))).all() and len(rough) == VOXEL_ENTRIES


def test_files_come_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    assert read_familiarity(tmp_path) is None
    made = Familiarity.fit(correlated(100, 0), correlated(40, 1))
    made.save(tmp_path)
    again = read_familiarity(tmp_path)
    assert again is not None and again.threshold == pytest.approx(made.threshold, rel=1e-6)
    row = correlated(1, 7)[0]
    assert again.score(row) == pytest.approx(made.score(row), rel=1e-4)
    with pytest.raises(InputError, match="of a model with 5 entries, this one has 4"):
        again.score(row[:4])
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged or incomplete"):
        read_familiarity(tmp_path)
    with pytest.raises(InputError, match="19 held-out volumes: give at least 20"):
        Familiarity.fit(correlated(100, 0), correlated(19, 1))


def write_volume(path: Path, array: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array.astype(np.float32), np.diag([3.0, 3.0, 4.0, 1.0])), path)
    return str(path)


def test_a_model_warns_of_noise_and_not_of_what_it_knows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_ctinstruct().eval()
    rng = np.random.default_rng(0)
    ball = np.linalg.norm(np.stack(np.meshgrid(*3 * [np.linspace(-1, 1, 24)], indexing="ij")), axis=0)

    def body(size: float) -> np.ndarray:
        return np.where(ball < size, 40.0, -1000.0) + rng.normal(0, 10, ball.shape)

    def description(array: np.ndarray) -> np.ndarray:
        config = model.vision.config
        volume = patchify(((array - array.mean()) / array.std())[None], config.crop_size, config.patch_max)
        with torch.no_grad():
            return describe(volume, model.vision.encode_many(encoder_inputs([volume], next(model.parameters())))[0])

    known = np.stack([description(body(size)) for size in rng.uniform(0.6, 0.9, 44)])
    made = Familiarity.fit(known[:22], known[22:])
    assert made.score(description(rng.normal(0, 300, ball.shape))) > made.threshold
    folder = tmp_path / "model"
    save_checkpoint(model, folder)
    made.save(folder)
    answering = PretrainedCTInstruct.from_pretrained(folder)
    noise = write_volume(tmp_path / "noise.nii.gz", rng.normal(0, 300, ball.shape))
    with caplog.at_level(logging.WARNING):
        answer = answering.segment(noise, ["liver"])
    said = "noise.nii.gz: unlike the volumes that the model was trained on"
    assert said in caplog.text and any(said in warning for warning in answer.warnings)
    answering.save_pretrained(tmp_path / "copy")
    assert read_familiarity(tmp_path / "copy") is not None
    answering.familiarity = None
    caplog.clear()
    answering.segment(noise, ["liver"])
    assert "unlike" not in caplog.text


def test_manifests_name_the_volumes_and_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"image_path": "a.nii.gz"}, {"image_path": ["a.nii.gz", "b.nii.gz"]}, {"image_path": "../c.nii.gz"}]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    assert images_of([tmp_path / "train.json"]) == [
        str(tmp_path / name) for name in ("a.nii.gz", "b.nii.gz", "../c.nii.gz")
    ]
    assert main(["--checkpoint", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: give --known and --held_out")
    assert main(["--checkpoint", str(tmp_path), "--score", str(tmp_path), "--limit", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --limit 0: give the number of volumes")
    assert main(["--checkpoint", str(tmp_path / "none"), "--score", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1

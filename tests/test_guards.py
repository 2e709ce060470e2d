"""What is doubtful about a volume is said with its number, and only then."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from datasets.volume.anyres import patchify
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.guards import BODY, body_range, range_doubts, slice_doubts, unit_doubts
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from tests.ct_files import write_nifti
from tests.shared_data import shared_path
from tests.test_asking import IMAGE
from tests.tiny_model import tiny_ctinstruct


def body(shape: tuple[int, int, int] = (48, 48, 24)) -> np.ndarray:
    """A cylinder of water with noise in air, in HU."""
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    inside = (x - shape[0] / 2) ** 2 + (y - shape[1] / 2) ** 2 < (shape[0] / 3) ** 2
    ct = np.where(inside[..., None], 40.0, -1000.0) + rng.normal(0, 10, shape)
    return ct.astype(np.float32)


def test_hounsfield_units_raise_no_doubt():
    ct = body()
    filled = ct.copy()
    filled[:4] = -3024  # outside of the scanner's circle
    with_lung = ct.copy()
    with_lung[20:28, 20:28] = -850
    within = np.where(ct < -500, np.float32(-2000), ct)  # all air is filling: nothing can be told
    for volume in (ct, filled, with_lung, within, ct.clip(-1000, 1000)):
        assert unit_doubts(volume) == []


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (body() + 1024, "no air: the darkest voxel is -"),  # as stored, without its intercept
        ((body() + 1000) / 2000, "no air: the darkest voxel is -0.0"),
        (body() * 4, "air is near -4"),
        (body() + 400, "air is near -575"),
    ],
)
def test_other_units_are_doubted_with_their_number(volume, said):
    (doubt,) = unit_doubts(volume.astype(np.float32))
    assert doubt.startswith(said) and "Hounsfield units?" in doubt


def test_few_slices_and_unseen_bodies():
    assert slice_doubts(5) == [] and slice_doubts(4)[0].startswith("4 slices:") and slice_doubts(1)[0][:8] == "1 slice:"
    sizes = [(200, 150, 100), (250, 180, 160)]
    seen = [VolumeGeometry.of_source("a", size, np.diag([2.0, 2, 3, 1])) for size in sizes]
    trained = body_range(seen)
    assert trained == {"least": [400, 300, 300], "largest": [500, 360, 480]}
    trained = json.loads(json.dumps(trained))  # as config.json has it
    assert range_doubts(seen[0], trained) == [] and range_doubts(seen[0], None) == []
    head = VolumeGeometry.of_source("head", (90, 150, 100), np.diag([2.0, 2, 3, 1]))
    assert range_doubts(head, trained)[0].startswith(
        "the body is 180 mm long along the first axis, in training it was 400"
    )
    array = VolumeGeometry.of_source("array", (90, 150, 100), np.eye(4), axes_from="assumption")
    assert range_doubts(array, trained) == [] and body_range([array]) is None


def test_doubts_are_kept_with_the_volume_and_not_with_prepared_arrays(tmp_path):
    thin = write_nifti(tmp_path / "thin.nii.gz", body((48, 48, 4)) + 1024, np.eye(4))
    _, geometry = load_volume(thin)
    assert [doubt.split(":")[0] for doubt in geometry.doubts] == ["4 slices", "no air"]
    assert VolumeGeometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry
    older = {name: value for name, value in geometry.to_dict().items() if name not in ("doubts", "axes_from")}
    assert VolumeGeometry.from_dict(older).doubts == ()
    np.save(tmp_path / "a.npy", np.random.default_rng(0).random((8, 8, 8)))
    array, geometry = load_volume(tmp_path / "a.npy", preprocessing=Preprocessing.released((8, 8, 8)))
    assert geometry.doubts == () and patchify(array, (8, 8, 8), 1).patches.shape[0] == 1


def test_an_answer_has_the_warnings(tmp_path, caplog):
    model = tiny_ctinstruct().eval()
    training = {"recipe": "phantom", BODY: {"least": [9000.0] * 3, "largest": [9900.0] * 3}}
    model = CTInstruct.from_pretrained(save_checkpoint(model, tmp_path / "model", training=training))
    with caplog.at_level(logging.WARNING):
        answer = model.ask(IMAGE, "Where is the liver?", num_beams=1, max_new_tokens=2)
    (warning,) = answer.warnings
    assert warning.startswith(f"{IMAGE}: the body is ") and "in training it was 9000 to 9900 mm" in warning
    assert warning in caplog.text
    assert model.segment(IMAGE, ["liver"]).warnings == answer.warnings


@pytest.mark.parametrize("name", ["example_ct.nii.gz", "example_ct_sm.nii.gz", "example_ct_dicom"])
def test_real_ct_raises_no_doubt(name):
    assert load_volume(shared_path("data", "real_ct", name))[1].doubts == ()

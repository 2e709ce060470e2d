"""`evaluate_CTInstruct.py --segment`: masks of named structures, without a question, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import evaluate_CTInstruct
from datasets.errors import InputError
from datasets.volume.overlay import mask_colours
from evaluation.answering import label_masks
from models import CTInstruct
from models.answering.answer import Answer, Mask
from models.checkpoints.folder import save_checkpoint
from tests.launch import REPOSITORY
from tests.tiny_model import with_varied_queries

IMAGE = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"
NAMES = ["spleen", "left lung"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained, with queries that differ from label to label more than small random weights would have them."""
    return save_checkpoint(with_varied_queries(), tmp_path_factory.mktemp("model"))


def call(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path, *more: str) -> None:
    arguments = ["--checkpoint", str(folder), "--image", str(IMAGE), "--output", str(output), "--precision", "fp32"]
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments, *more])
    evaluate_CTInstruct.main()


def test_the_files_hold_what_the_model_segments(monkeypatch, capsys, folder, tmp_path):
    (tmp_path / "answer_mask_3.nii.gz").touch()  # of an earlier question with three masks
    call(monkeypatch, folder, tmp_path, "--segment", *NAMES, "--format", "nifti,labels")
    printed = capsys.readouterr().out
    expected = CTInstruct.from_pretrained(folder).segment(IMAGE, NAMES).masks
    lines = (tmp_path / "answer.txt").read_text(encoding="utf-8").splitlines()
    for number, (name, line) in enumerate(zip(NAMES, lines, strict=True), start=1):
        written = nib.load(tmp_path / f"answer_mask_{number}.nii.gz")
        array = np.asarray(written.dataobj)
        assert 0 < array.sum() < array.size and np.array_equal(array, expected[name].array)
        voxel = abs(np.linalg.det(nib.load(IMAGE).affine[:3, :3])) / 1000  # ml
        said, size = line.removesuffix(" ml").split(": ")
        assert said == name and float(size) == pytest.approx(array.sum() * voxel, rel=1e-3, abs=0.05)
        row = next(each for each in printed.splitlines() if name in each and "answer_mask" in each)
        assert size in row and f"answer_mask_{number}.nii.gz" in row
    assert {path.name for path in tmp_path.iterdir()} == {
        "answer.txt", "answer_mask_1.nii.gz", "answer_mask_2.nii.gz", "answer_overlay.png",
        "answer_labels.nii.gz", "answer_labels.json",
    }  # fmt: skip
    assert "answer_overlay.png" in printed and "answer_labels.nii.gz" in printed


def test_the_picture_shows_masks_that_hold_something(monkeypatch, capsys, folder, tmp_path):
    """Of three masks the second is empty: the third has the second colour, and the table says 0.0 ml."""
    real = label_masks.segment

    def segment(study, labels):
        found = real(study, labels)
        for name, part in zip(labels, (slice(0, 40), slice(0, 0), slice(-40, None)), strict=True):
            found.masks[name].voxels[:] = 0
            found.masks[name].voxels[part] = 1
        return found

    monkeypatch.setattr(label_masks, "segment", segment)
    call(monkeypatch, folder, tmp_path / "some", "--segment", "liver", "heart", "spleen")
    picture = np.asarray(Image.open(tmp_path / "some" / "answer_overlay.png").convert("RGB")).astype(int)
    coloured = [(np.abs(picture - 255 * np.array(colour)).max(-1) < 40).sum() for colour in mask_colours(3)]
    assert coloured[0] > 100 and coloured[1] > 100 and coloured[2] == 0
    assert "heart: 0.0 ml" in (tmp_path / "some" / "answer.txt").read_text(encoding="utf-8")
    assert not np.asarray(nib.load(tmp_path / "some" / "answer_mask_2.nii.gz").dataobj).any()

    monkeypatch.setattr(label_masks, "segment", lambda study, labels: emptied(real(study, labels)))
    capsys.readouterr()
    call(monkeypatch, folder, tmp_path / "some", "--segment", "liver")
    assert not (tmp_path / "some" / "answer_overlay.png").exists(), "the earlier picture would pass for this one"
    assert "no mask holds a voxel" in capsys.readouterr().out


def emptied(answer: Answer) -> Answer:
    for mask in answer.masks.values():
        mask.voxels[:] = 0
    return answer


def test_names_in_the_picture_have_their_volume():
    geometry = Spacing()
    voxels = np.zeros((10, 10, 10), np.uint8)
    voxels[:5] = 1  # 500 voxels of 2 x 3 x 4 mm
    answer = Answer("", {}, {"liver": Mask("liver", voxels, geometry), "heart": Mask("heart", voxels * 0, geometry)})
    assert list(label_masks.without_empty(answer).masks) == ["liver, 12.0 ml"]
    assert list(answer.masks) == ["liver", "heart"]


class Spacing:
    """What `Mask.millilitres` needs of a geometry."""

    spacing = (2.0, 3.0, 4.0)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--segment", "liver", "--question", "Where?"], "--segment liver takes one --image and no --question"),
        (["--image", "a.nii.gz", "b.nii.gz", "--segment", "liver"], "--segment liver takes one --image"),
        (["--segment", "liver", "--compile"], "--compile is for answers in words"),
        (["--image", "gone.nii.gz", "--segment", "liver"], "gone.nii.gz"),
        (["--segment", " "], "one of the labels is empty"),
        (["--segment"], "--question is empty"),
    ],
)
def test_wrong_input_is_one_line(monkeypatch, folder, tmp_path, more, complaint):
    with pytest.raises(InputError, match=complaint) as error:
        call(monkeypatch, folder, tmp_path, *more)
    assert "\n" not in str(error.value)


def test_a_manifest_has_questions_of_its_own(monkeypatch, folder):
    arguments = ["--checkpoint", str(folder), "--manifest", "m.json", "--segment", "liver"]
    monkeypatch.setattr("sys.argv", ["evaluate_CTInstruct.py", *arguments])
    with pytest.raises(InputError, match="--segment liver takes one --image"):
        evaluate_CTInstruct.main()

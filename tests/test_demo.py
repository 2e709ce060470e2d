"""demo.sh with a CT: wrong input, and its short form, whose last steps draw organs of that CT."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from datasets.phantom.people.structures import VALUES
from models import CTInstruct
from models.answering.familiarity import FILE
from models.checkpoints.pretrained_vision import load_pretraining
from models.checkpoints.run_folder import resolve_model_folder
from tests.launch import REPOSITORY, finish, start

IMAGE = REPOSITORY / "data" / "instruction_sft" / "volumes" / "example_phantom.nii.gz"


@pytest.mark.parametrize(
    ("given", "complaint"),
    [(["gone.nii.gz"], "error: gone.nii.gz: no such file or folder\n"), (["a", "b"], "usage: bash demo.sh [CT]\n")],
)
def test_wrong_input_is_one_line_before_any_work(given, complaint):
    done = finish(start("bash", "demo.sh", *given))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


def test_a_ct_that_cannot_be_read_is_one_line_before_any_work(tmp_path):
    ready_or_skip()
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(IMAGE.read_bytes()[:5000])
    done = finish(
        start("bash", "demo.sh", broken, CTINSTRUCT_DEMO="short", CTINSTRUCT_DEMO_OUTPUT=str(tmp_path / "out"))
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and str(broken) in line and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def ready_or_skip() -> None:
    """Skip where demo.sh would begin by installing requirements.txt."""
    installed, wanted = REPOSITORY / ".venv" / "requirements.installed", REPOSITORY / "requirements.txt"
    if not installed.is_file() or installed.read_bytes() != wanted.read_bytes():
        pytest.skip("demo.sh would install requirements.txt")


@pytest.mark.slow
@pytest.mark.timeout(2500)
def test_a_ct_gets_masks_of_organs(tmp_path):
    ready_or_skip()
    done = finish(
        start("bash", "demo.sh", IMAGE, CTINSTRUCT_DEMO="short", CTINSTRUCT_DEMO_OUTPUT=str(tmp_path)), timeout=2400
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "done: everything is in" in done.stdout
    check(tmp_path, IMAGE)


def check(output: Path, ct: Path) -> None:
    """Masks of structures that the phantoms have, on the CT's grid; only what asks for them was trained."""
    answer, source = output / "ct_answer", nib.load(ct)
    lines = [line.split(": ") for line in (answer / "answer.txt").read_text(encoding="utf-8").splitlines()]
    assert len(lines) >= 10 and {name for name, _ in lines} <= set(VALUES)
    for number, (name, size) in enumerate(lines, start=1):
        mask = nib.load(answer / f"answer_mask_{number}.nii.gz")
        assert mask.shape == source.shape and np.allclose(mask.affine, source.affine), name
        voxel = abs(np.linalg.det(source.affine[:3, :3])) / 1000
        millilitres = np.asarray(mask.dataobj).sum() * voxel
        assert float(size.removesuffix(" ml")) == pytest.approx(millilitres, rel=1e-3, abs=0.05), name

    folder = resolve_model_folder(output / "people_run")
    assert (folder / FILE).is_file()
    before = load_pretraining(resolve_model_folder(output / "people_encoder")).vision
    after = CTInstruct.from_pretrained(folder)
    assert set(after.labels()) <= set(VALUES)
    weights = dict(after.vision.named_parameters())
    moved = {name for name, value in before.named_parameters() if not torch.equal(value, weights[name])}
    assert moved and all(re.match(r"bridger\.|qwen2biolord\.", name) for name in moved), "nothing else is trained"

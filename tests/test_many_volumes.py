"""One question about a folder of CTs: what is found, a row each, resuming, ranks, bad files."""

from __future__ import annotations

import csv
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.errors import InputError
from datasets.instruction import InstructionDataset
from datasets.volume.find_volumes import find_volumes
from evaluation.answering import many_volumes
from evaluation.answering.many_volumes import CSV, LINES, answer_volumes
from models.answering.predicting import GenerationOptions
from tests.ct_files import ras_affine, write_dicom
from tests.test_asking import IMAGE, saying
from tests.tiny_model import tiny_ctinstruct
from training import distributed
from training.distributed import Ranks

OPTIONS = GenerationOptions(num_beams=1, max_new_tokens=8)
QUESTION = "Where is the liver?"


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI, a DICOM study two folders down, a damaged file and what is no volume."""
    folder = tmp_path_factory.mktemp("scans")
    shutil.copy(IMAGE, folder / "=a.nii.gz")
    voxels = np.random.default_rng(0).integers(-1000, 400, (40, 44, 12)).astype(np.int16)
    (folder / "patient" / "study").mkdir(parents=True)
    write_dicom(folder / "patient" / "study", voxels, slope=1)
    (folder / "patient" / "notes.txt").write_text("nothing")
    np.save(folder / "patient" / "b.npy", voxels)
    (folder / "patient" / "damaged.nii.gz").write_bytes(b"\x1f\x8b no more")
    (folder / ".hidden").mkdir()
    nib.save(nib.Nifti1Image(voxels, ras_affine()), folder / ".hidden" / "c.nii.gz")
    return folder


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


def run(model, images: list[str], output: Path, ranks: int = 1, **options) -> list[dict]:
    dataset = InstructionDataset({}, model.tokenizer, model.config, with_answers=False, array_axes="RAS")
    meeting = threading.Barrier(ranks)

    def work(number: int) -> list[dict]:
        try:
            rank = Ranks(number, ranks, number, torch.device("cpu"))
            how = {"checkpoint": "tiny"}
            return answer_volumes(model, dataset, images, QUESTION, "CT-RATE", output, OPTIONS, rank, how, **options)
        except BaseException:
            meeting.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(ranks) as pool, saying(model, "It is <SEG>."):
        patch.setattr(distributed, "barrier", meeting.wait)
        patch.setattr(many_volumes, "wait_for_all", meeting.wait)
        started = [pool.submit(work, number) for number in range(ranks)]
        results = [each.result() for each in started]
    assert all(result == results[0] for result in results)
    return results[0]


def untimed(rows: list[dict], folder: Path) -> list[dict]:
    return json.loads(json.dumps([{**row, "seconds": 0} for row in rows]).replace(str(folder), ""))


def test_every_volume_below_a_folder_is_found(scans, tmp_path):
    names = [str(Path(path).relative_to(scans)) for path in find_volumes(scans)]
    assert names == ["=a.nii.gz", "patient/b.npy", "patient/damaged.nii.gz", "patient/study"]
    for number in range(3):
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(tmp_path / f"{number}.png")
    assert find_volumes(tmp_path) == [str(tmp_path)]


def test_linked_folders_are_searched_too_and_a_circle_ends(scans, tmp_path):
    (tmp_path / "linked").symlink_to(scans / "patient")
    (tmp_path / "again").symlink_to(scans / "patient")
    (tmp_path / "itself").symlink_to(tmp_path)
    found = [str(Path(path).relative_to(tmp_path)) for path in find_volumes(tmp_path)]
    assert found == ["again/b.npy", "again/damaged.nii.gz", "again/study"]


def test_a_list_is_read_in_its_order(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("# two\nb.nii.gz\n\n/far/a\nb.nii.gz\n")
    assert find_volumes(listed) == [str(tmp_path / "b.nii.gz"), "/far/a"]
    listed.write_text("\n")
    for place, complaint in ((listed, "holds no CT"), (tmp_path, "holds no CT"), (tmp_path / "gone", "no such folder")):
        with pytest.raises(InputError, match=complaint):
            find_volumes(place)


def test_each_ct_has_a_row_and_its_mask_and_a_bad_one_its_reason(model, scans, tmp_path):
    images = find_volumes(scans)
    rows = run(model, images, tmp_path)
    assert [row["id"] for row in rows] == images
    bad = rows[2]
    assert "damaged.nii.gz" in bad["error"] and not bad["answer"] and "\n" not in bad["error"]
    good = rows[0]
    mask = nib.load(good["masks"]["liver"])
    assert good["answer"] == "It is <SEG>." and good["error"] is None
    assert mask.shape == nib.load(IMAGE).shape
    voxel = abs(np.linalg.det(mask.affine[:3, :3])) / 1000
    assert good["millilitres"]["liver"] == pytest.approx(np.asarray(mask.dataobj).sum() * voxel, abs=0.01)
    assert [json.loads(line) for line in (tmp_path / LINES).read_text().splitlines()] == rows
    with open(tmp_path / CSV, newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == images and float(table[0]["liver (ml)"]) == good["millilitres"]["liver"]
    assert table[2]["error"] == bad["error"] and table[2]["liver (ml)"] == ""


def test_a_run_that_was_killed_goes_on_and_ranks_change_nothing(model, scans, tmp_path, monkeypatch):
    images = find_volumes(scans)
    whole = untimed(run(model, images, tmp_path / "whole"), tmp_path / "whole")
    assert untimed(run(model, images, tmp_path / "three", ranks=3), tmp_path / "three") == whole
    answered, row = [], many_volumes._row

    def killed(model, dataset, image, *rest):
        if len(answered) == 2:
            raise KeyboardInterrupt
        answered.append(image)
        return row(model, dataset, image, *rest)

    monkeypatch.setattr(many_volumes, "_row", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, images, tmp_path / "killed")
    monkeypatch.setattr(many_volumes, "_row", lambda *given: answered.append(given[2]) or row(*given))
    assert untimed(run(model, images, tmp_path / "killed"), tmp_path / "killed") == whole
    assert answered == images
    run(model, images, tmp_path / "killed", retry_failed=True)
    assert answered == [*images, images[2]]
    with pytest.raises(InputError, match="made with another question"):
        monkeypatch.setattr("tests.test_many_volumes.QUESTION", "What else?")
        run(model, images, tmp_path / "killed")

"""--max_voxels reaches every reader and every command, in later processes too, before memory is taken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate_CTInstruct
import train_CTInstruct
from datasets.errors import InputError
from datasets.prepare import convert
from datasets.prepare.command import main as prepare
from datasets.volume.declared_size import MAX_VOXELS, MAX_VOXELS_VARIABLE, allow_voxels, check_voxels, most_voxels
from datasets.volume.geometry import VolumeError
from datasets.volume.readers import read_raw
from models.checkpoints.folder import save_checkpoint
from tests.campaign.fork_server import PeakMemory
from tests.campaign.jobs import EXAMPLE
from tests.campaign.memory import in_a_child
from tests.ct_files import ras_affine, write_dicom, write_itk, write_nifti
from tests.tiny_model import tiny_ctinstruct

VOXELS = np.arange(8 * 6 * 5, dtype=np.int16).reshape(8, 6, 5)
REFUSED = r"voxels, more than the 239 that are read.*--max_voxels"


@pytest.fixture(autouse=True)
def _limit_put_back(clean_environment: None) -> Iterator[None]:
    yield


def _saved(path: Path, save: Callable[[Path], None]) -> Path:
    save(path)
    return path


def _slices(folder: Path) -> Path:
    folder.mkdir()
    for number in range(5):
        Image.fromarray(VOXELS[:, :, number].astype(np.uint8)).save(folder / f"{number}.png")
    return folder


KINDS: dict[str, Callable[[Path], Path]] = {
    "nii": lambda d: write_nifti(d / "a.nii", VOXELS, ras_affine()),
    "nii.gz": lambda d: write_nifti(d / "a.nii.gz", VOXELS, ras_affine()),
    "nrrd": lambda d: write_itk(d / "a.nrrd", VOXELS, True),
    "packed nrrd": lambda d: write_itk(d / "a.nrrd", VOXELS, True, compress=True),
    "mha": lambda d: write_itk(d / "a.mha", VOXELS, True),
    "npy": lambda d: _saved(d / "a.npy", lambda path: np.save(path, VOXELS)),
    "npz": lambda d: _saved(d / "a.npz", lambda path: np.savez_compressed(path, ct=VOXELS)),
    "DICOM": lambda d: write_dicom(d / "s", VOXELS),
    "slices": lambda d: _slices(d / "slices"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_reader_keeps_to_it(kind: str, tmp_path: Path) -> None:
    path = KINDS[kind](tmp_path)
    allow_voxels(VOXELS.size - 1)
    with pytest.raises(VolumeError, match=REFUSED) as caught:
        read_raw(path)
    assert str(path) in str(caught.value)
    allow_voxels(VOXELS.size)
    assert read_raw(path).array.size == VOXELS.size


def test_no_memory_is_taken_for_what_is_refused(tmp_path: Path) -> None:
    path, size = tmp_path / "a.npy", 4 * 300**3
    np.lib.format.open_memmap(path, "w+", np.float32, (300, 300, 300)).flush()  # of which the disk holds nothing

    def grown(most: int, expected: AbstractContextManager) -> float:
        memory = PeakMemory()
        blocks = [bytearray(60_000) for _ in range(4000)]
        pin = bytearray(60_000)  # above them, so that what they held stays with the process
        del blocks
        allow_voxels(most)
        memory.reset()
        with expected:
            read_raw(path)
        assert pin
        return memory.grown()

    refused = in_a_child(lambda: grown(10**6, pytest.raises(VolumeError, match="--max_voxels")))
    read = in_a_child(lambda: grown(300**3, nullcontext()))
    assert isinstance(refused, int) and 0 <= refused < size / 10, refused
    assert isinstance(read, int) and read > size / 2, f"the measure sees nothing: {read}"


def test_it_can_be_raised_above_the_default() -> None:
    shape = (2048, 1024, 1024)
    with pytest.raises(VolumeError, match=rf"more than the {MAX_VOXELS} that are read"):
        check_voxels("a.nii", shape)
    allow_voxels(2**31)
    assert check_voxels("a.nii", shape) == 2**31
    allow_voxels(None)
    assert most_voxels() == 2**31


def test_processes_that_are_started_later_keep_to_it() -> None:
    allow_voxels(239)
    done = subprocess.run(["printenv", MAX_VOXELS_VARIABLE], capture_output=True, text=True, check=True)
    assert done.stdout == "239\n"


@pytest.mark.parametrize("value", ["0", "-1", "1e9", "many", "٣"])
def test_what_is_no_number_of_voxels_is_refused(value: str) -> None:
    os.environ[MAX_VOXELS_VARIABLE] = value
    with pytest.raises(InputError, match="CTINSTRUCT_MAX_VOXELS is"):
        check_voxels("a.nii", (1, 1, 1))
    if value in ("0", "-1"):
        with pytest.raises(InputError, match=f"--max_voxels is {value}"):
            allow_voxels(int(value))


def test_evaluation_and_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tiny_ctinstruct().eval(), tmp_path)
    path = KINDS["nii"](tmp_path)
    words = ["--checkpoint", str(tmp_path), "--image", str(path), "--question", "Is there a nodule?"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words, "--output", f"{tmp_path}/out", "--max_voxels", "239"])
    with pytest.raises(InputError, match=REFUSED):
        evaluate_CTInstruct.main()
    words = ["--preset", "tiny", "--batch_size", "1", "--manifests", str(EXAMPLE), "--run_dir", f"{tmp_path}/run"]
    monkeypatch.setattr(sys, "argv", ["train", *words, "--max_voxels", "238"])
    with pytest.raises(InputError, match=r"more than the 238 that are read.*--max_voxels"):
        train_CTInstruct.main()


def test_preparation_and_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    KINDS["nii"](tmp_path)
    write_nifti(tmp_path / "mask.nii", (VOXELS > 100).astype(np.uint8), ras_affine())
    row = {"question": "Where is the liver?", "answer": "<SEG>", "image_path": ["a.nii"], "labels": ["liver"]}
    (tmp_path / "ours.json").write_text(json.dumps([{**row, "mask_path": ["mask.nii"]}]))
    words = [f"{tmp_path}/ours.json", f"{tmp_path}/published.json", "--to", "published"]
    assert convert.main([*words, "--max_voxels", "239"]) == 2
    assert "more than the 239 that are read" in capsys.readouterr().err
    assert not (tmp_path / "published.json").exists()
    assert convert.main([*words, "--max_voxels", "240"]) == 0
    assert prepare(["list", "--max_voxels", "0"]) == 1
    assert "--max_voxels is 0" in capsys.readouterr().err
    assert prepare(["list", "--max_voxels", "241"]) == 0 and most_voxels() == 241

"""Mask files: one name a mask, whole or absent, and a full disk is no fault of a sample."""

from __future__ import annotations

import errno
import itertools
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from datasets.errors import InputError, WriteError
from datasets.volume.geometry import VolumeGeometry
from datasets.volume.loading import save_mask
from evaluation.answering.inference import stop_if_machine_fails
from evaluation.answering.mask_names import mask_name
from evaluation.predictions import PredictionWriter, finished_ids

TEXTS = [
    "a/b",
    "a b",
    "a_b",
    "a+b",
    "a%2Fb",
    "a@b",
    "a",
    "b",
    "a b ",
    "..",
    ".",
    "",
    "../x",
    "é",
    "e",
    "Ä" * 80,
    "Ä" * 81,
]


def test_no_two_masks_share_a_name_and_none_leaves_its_folder() -> None:
    pairs = list(itertools.product(TEXTS, TEXTS, (0, 1)))
    names = [mask_name(*pair) for pair in pairs]
    assert len(set(names)) == len(pairs)
    for name in names:
        assert Path(name).name == name and not name.startswith(".") and len(name.encode()) < 255
    assert mask_name("case_1", "left kidney") == "case_1@left+kidney.nii.gz"


def test_a_mask_that_cannot_be_written_leaves_the_former_one(tmp_path: Path) -> None:
    geometry = VolumeGeometry.of_source("ct.nii.gz", (60, 60, 60), np.eye(4))
    former = save_mask(np.zeros((60, 60, 60)), geometry, tmp_path / "mask.nii.gz").read_bytes()
    noise = np.random.default_rng(0).integers(0, 2, (60, 60, 60))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(WriteError) as caught:
            save_mask(noise, geometry, tmp_path / "mask.nii.gz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.nii.gz"]
    assert (tmp_path / "mask.nii.gz").read_bytes() == former
    with pytest.raises(WriteError, match=r"mask\.nii\.gz: cannot be written"):  # no failure of the sample: the run ends
        stop_if_machine_fails(caught.value)


def test_a_missing_file_is_the_samples_own_fault() -> None:
    stop_if_machine_fails(FileNotFoundError(errno.ENOENT, "No such file or directory", "ct.nii.gz"))
    stop_if_machine_fails(InputError("ct.nii.gz: damaged"))
    with pytest.raises(InputError, match=r"masks/a\.nii\.gz: No space left on device; mend that"):
        stop_if_machine_fails(OSError(errno.ENOSPC, "No space left on device", "masks/a.nii.gz"))


def test_predictions_that_find_no_room_go_on_later(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path)
    writer.write({"id": "first"})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(InputError, match="start again"), writer:
            writer.write({"id": "second", "prediction": "x" * 1000})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    with PredictionWriter(tmp_path) as later:
        assert later.done == {"first"}
        later.write({"id": "second"})
    assert finished_ids(tmp_path) == {"first", "second"}

"""What is damaged: a small file of each format, its reader, and what a second reader finds in it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from safetensors.torch import save_file

from datasets.manifest import load_manifest
from datasets.pretraining_manifest import load_pretraining_manifest
from datasets.volume.cache_files import read_cached, save_cached
from datasets.volume.loading import read_volume
from evaluation.predictions import read_predictions
from models.checkpoints.checksums import sha256_of_files
from models.checkpoints.run_folder import MANIFEST, find_problem
from models.checkpoints.tensor_reading import _DTYPES, read_tensors
from tests.campaign import second_readers as second
from tests.ct_files import ras_affine, write_dicom, write_itk, write_nifti

SHAPE = (11, 9, 7)
QUESTIONS = [
    {"id": "a", "task": "yes_no", "question": "Is there an effusion?", "answer": "Yes.", "image_path": "a.nii.gz"},
    {"id": "b", "question": [{"type": "text", "text": "What is a HU?"}], "answer": "A unit."},
    {"id": "c", "task": "segmentation", "question": "Where is the liver?", "answer": "It is <SEG>.",
     "labels": ["liver"], "image_path": "b.nii.gz", "mask_path": "m.nii.gz", "mask_values": {"liver": 3}},
]  # fmt: skip
REPORTS = [{"image_path": "a.nii.gz", "report": "No effusion."}, {"image_path": "b.npz", "report": "A nodule of 8 mm."}]
PREDICTIONS = [
    {"id": "a", "answer": "Yes.", "confidences": {"nodule": 0.25}},
    {"id": "b", "answer": "No", "error": None},
]


class Unusable(Exception):
    """The file is known as damaged, and is made again or passed over."""


@dataclass(frozen=True)
class Target:
    """A format and its reader.

    write(folder): the undamaged file; gives the one that is damaged.  read(folder): the answer, of arrays and JSON
    values.  agrees(folder, answer): whether a second reader finds the answer in the files of the folder; None where
    every byte is under a checksum, so that no other answer than the undamaged one may come.  header: bytes at the
    start in which half of the damage is done.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    agrees: Callable[[Path, Any], bool] | None = None
    header: int = 400


def voxels() -> np.ndarray:
    """A volume as small as a file can be damaged in every part of, with values of a CT."""
    return np.random.default_rng(0).integers(-1000, 1500, SHAPE).astype(np.int16)


def _read(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        array, geometry = read_volume(folder / name, "as_stored")
        return {"voxels": array[0], "affine": np.asarray(geometry.source_affine)}

    return read


def _volume(
    title: str,
    name: str,
    write: Callable[[Path], object],
    voxels_of: Callable[[Path], np.ndarray] | None,
    header: int = 400,
) -> Target:
    def written(folder: Path) -> Path:
        write(folder / name)
        return folder / name

    def agrees(folder: Path, answer: Any) -> bool:
        assert voxels_of is not None
        found = voxels_of(folder / name).astype(np.float32)
        return found.size == answer["voxels"].size and bool(
            np.allclose(found.ravel(), answer["voxels"].ravel(), rtol=1e-5, equal_nan=True)
        )

    return Target(title, written, _read(name), None if voxels_of is None else agrees, header)


def _dicom(folder: Path) -> Path:
    write_dicom(folder / "series", voxels() // 2 * 2)
    return sorted((folder / "series").iterdir())[2]


def _dicom_agrees(folder: Path, answer: Any) -> bool:
    """Every slice of the answer is one of the files, and there are as many."""
    paths = sorted((folder / "series").iterdir())
    slices = np.moveaxis(answer["voxels"], 2, 0)
    return len(slices) == SHAPE[2] and all(any(second.has_dicom_slice(path, part) for path in paths) for part in slices)


def _json(
    name: str,
    rows: list[dict[str, Any]],
    read: Callable[[Path], Any],
    fields: tuple[str, ...],
    of_row: Callable[..., Any],
) -> Target:
    """A list of records; the answer is compared with what the json module finds, in the fields that keep their form."""

    def write(folder: Path) -> Path:
        (folder / "rows.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        return folder / "rows.json"

    def agrees(folder: Path, answer: Any) -> bool:
        found = json.loads((folder / "rows.json").read_text(encoding="utf-8-sig"))
        return len(found) == len(answer) and all(
            row.get(field, given[field]) == given[field]
            for row, given in zip(found, answer, strict=True)
            for field in fields
        )

    return Target(name, write, lambda folder: [of_row(row) for row in read(folder / "rows.json")], agrees, 1000)


def _safetensors(folder: Path) -> Path:
    save_file(_tensors(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder / "model.safetensors"


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(4, 6, generator=generator) for name in ("a.weight", "b.weight")}


def _read_safetensors(folder: Path) -> dict[str, bytes]:
    kinds = {kind: name for name, kind in _DTYPES.items()}
    found = {}
    for name, tensor in read_tensors(folder / "model.safetensors"):
        content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        found[f"{name} {kinds[tensor.dtype]} {list(tensor.shape)}"] = content
    return found


def _cache(folder: Path) -> Path:
    save_cached(folder / "entry.safetensors", _tensors(), "details")
    return folder / "entry.safetensors"


def _read_cache(folder: Path) -> Any:
    found = read_cached(folder / "entry.safetensors")
    if found is None:
        raise Unusable("a damaged entry, which is made again")
    return {name: tensor.numpy() for name, tensor in found[0].items()} | {"details": found[1]}


def _checkpoint(folder: Path) -> Path:
    path = folder / "step_000001"
    path.mkdir()
    save_file(_tensors(), path / "model.safetensors")
    (digest,) = sha256_of_files([path / "model.safetensors"])
    size = (path / "model.safetensors").stat().st_size
    files = {"model.safetensors": {"size": size, "sha256": digest}}
    (path / MANIFEST).write_text(json.dumps({"format": 1, "step": 1, "files": files}))
    return path / "model.safetensors"


def _checkpoint_manifest(folder: Path) -> Path:
    return _checkpoint(folder).with_name(MANIFEST)


def _read_checkpoint(folder: Path) -> Any:
    if problem := find_problem(folder / "step_000001"):
        raise Unusable(problem)
    return {name: tensor.numpy() for name, tensor in read_tensors(folder / "step_000001" / "model.safetensors")}


def _nifti(path: Path) -> None:
    write_nifti(path, voxels(), ras_affine())


def _big_endian(path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    nib.save(nib.Nifti1Image(voxels(), ras_affine(), header), path)


def _gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(nib.Nifti1Image(voxels(), ras_affine()).to_bytes(), mtime=0))


TARGETS = (
    _volume("NIfTI", "a.nii", _nifti, second.nifti_voxels, 352),
    _volume("NIfTI, big-endian", "b.nii", _big_endian, second.nifti_voxels, 352),
    _volume("NIfTI, packed", "a.nii.gz", _gzipped, None, 60),
    _volume("NRRD", "a.nrrd", lambda path: write_itk(path, voxels(), True), second.nrrd_voxels),
    _volume("NRRD, packed", "b.nrrd", lambda path: write_itk(path, voxels(), True, True), second.nrrd_voxels),
    _volume("MetaImage", "a.mha", lambda path: write_itk(path, voxels(), True), second.meta_image_voxels),
    _volume("MetaImage, packed", "b.mha", lambda path: write_itk(path, voxels(), False, True), second.meta_image_voxels,
            400),
    _volume(".npy", "a.npy", lambda path: np.save(path, voxels()), second.npy_voxels, 128),
    _volume(".npz", "a.npz", lambda path: np.savez(path, ct=voxels()), None, 200),
    _volume(".npz, packed", "b.npz", lambda path: np.savez_compressed(path, ct=voxels()), None, 200),
    Target("DICOM", _dicom, _read("series"), _dicom_agrees, 900),
    _json("instruction manifest", QUESTIONS, lambda path: load_manifest(path, check_files=False),
          ("id", "answer", "task"), lambda record: record.model_dump()),
    _json("pretraining manifest", REPORTS,
          lambda path: load_pretraining_manifest(path, "image_text", check_files=False),
          ("report",), lambda record: record.model_dump()),
    _json("predictions", PREDICTIONS, read_predictions, ("id", "answer", "confidences", "error"),
          lambda row: {"answer": None, "confidences": None, "error": None} | row),
    Target("safetensors", _safetensors, _read_safetensors,
           lambda folder, answer: second.safetensors_values(folder / "model.safetensors") == answer),
    Target("cache entry", _cache, _read_cache),
    Target("checkpoint", _checkpoint, _read_checkpoint),
    Target("a checkpoint's manifest", _checkpoint_manifest, _read_checkpoint),
)  # fmt: skip

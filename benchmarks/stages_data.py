"""Stages of the data: reading NIfTI and DICOM, cutting into patches, and what the cache saves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from benchmarks.measure import Aim, Row, best_seconds, peak_gib
from datasets.volume.anyres import patchify
from datasets.volume.cache import VolumeLoader
from datasets.volume.loading import load_volume
from datasets.volume.preprocessing import Preprocessing
from models.configuration import vision_preset


def hounsfield_volume(shape: tuple[int, int, int]) -> np.ndarray:
    """Smooth structure and noise in HU as int16, so that compression costs what it costs on a real CT."""
    random = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32) for size in shape), indexing="ij", sparse=True)
    body = sum(axis**2 for axis in axes) < 0.8
    values = np.where(body, 40.0, -1000.0) + random.normal(0, 20, shape).astype(np.float32)
    return values.astype(np.int16)


def write_dicom_series(folder: Path, volume: np.ndarray) -> None:
    """One file a slice, as SimpleITK writes them."""
    folder.mkdir()
    image = sitk.GetImageFromArray(volume.transpose(2, 1, 0))
    image.SetSpacing((0.8, 0.8, 1.5))
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in range(image.GetDepth()):
        part = image[:, :, index]
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.2",
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.3.{index + 1}",
            "0020|0032": "\\".join(str(v) for v in image.TransformIndexToPhysicalPoint((0, 0, index))),
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0020|0013": str(index + 1),
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index:04d}.dcm"))
        writer.Execute(part)


def read_all(loader: VolumeLoader, path: Path) -> float:
    """Every voxel, since a cached file is mapped into memory and read where it is touched."""
    return loader.volume(path)[0].patches.sum().item()


def loading(quick: bool) -> tuple[list[Row], list[Aim]]:
    """A CT of usual size from each kind of file to patches, and from the cache."""
    shape = (512, 512, 64) if quick else (512, 512, 200)
    config = vision_preset("full")
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        volume = hounsfield_volume(shape)
        nifti = folder / "ct.nii.gz"
        nib.save(nib.Nifti1Image(volume, np.diag([0.8, 0.8, 1.5, 1.0])), nifti)
        write_dicom_series(folder / "dicom", volume)
        size, array = int(np.prod(shape)), load_volume(nifti)[0]
        loader = VolumeLoader(Preprocessing.standard(config.crop_size, config.patch_max), folder / "cache")
        plain = VolumeLoader(Preprocessing.standard(config.crop_size, config.patch_max))
        rows = [
            Row(name, best_seconds(function, 2), peak_gib=peak_gib(), voxels=size)
            for name, function in (
                ("load NIfTI (.nii.gz)", partial(load_volume, nifti)),
                ("load DICOM series", partial(load_volume, folder / "dicom")),
                ("any-resolution patches", partial(patchify, array, config.crop_size, config.patch_max)),
                ("NIfTI to patches", lambda: read_all(plain, nifti)),
                ("cached volume to patches", lambda: read_all(loader, nifti)),
            )
        ]
        label = "×".join(map(str, shape))
        for row in rows:
            row.note = label
    ratio = rows[3].seconds / rows[4].seconds
    return rows, [Aim("cached volume, faster than its NIfTI", ratio, 10, at_least=True)]

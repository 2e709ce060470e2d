"""Writers of one CT as every kind of file, each built by hand from the format's own conventions."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = (0.8, 0.9, 2.5)
ORIGIN = (-12.0, 30.0, -400.0)
LPS = np.diag([-1.0, -1.0, 1.0])


def ras_affine() -> np.ndarray:
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = ORIGIN
    return affine


def as_orientation(ras: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The RAS array stored along other axes, and its affine: by the meaning of the codes, axis by axis."""
    world = [0 if c in "RL" else 1 if c in "AP" else 2 for c in codes]
    array, affine = ras.transpose(world), np.zeros((4, 4))
    affine[3, 3] = 1
    affine[:3, 3] = ORIGIN
    for axis, code in enumerate(codes):
        affine[world[axis], axis] = SPACING[world[axis]]
        if code in "LPI":
            array = np.flip(array, axis)
            affine[world[axis], 3] += SPACING[world[axis]] * (array.shape[axis] - 1)
            affine[world[axis], axis] *= -1
    return array, affine


def random_affine(codes: str, spacing, rng: np.random.Generator, tilt_degrees: float = 0.0) -> np.ndarray:
    """Affine of an array stored along `codes`, tilted about a random axis by at most `tilt_degrees`."""
    axes = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    directions = np.array([axes[code] for code in codes], dtype=float).T
    vector = rng.standard_normal(3)
    vector *= np.deg2rad(rng.uniform(0, tilt_degrees)) / np.linalg.norm(vector)
    cross = np.cross(np.eye(3), vector)
    angle = np.linalg.norm(vector)
    tilt = np.eye(3)
    if angle > 0:  # Rodrigues' formula
        tilt = np.eye(3) - np.sin(angle) / angle * cross + (1 - np.cos(angle)) / angle**2 * cross @ cross
    affine = np.eye(4)
    affine[:3, :3] = tilt @ directions * spacing
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return affine


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, kind=nib.Nifti1Image) -> Path:
    nib.save(kind(array, affine), path)
    return path


def write_itk(path: Path, ras: np.ndarray, lps_voxels: bool, compress: bool = False) -> Path:
    """Written with voxels along LPS or along RAS axes; ITK's physical space is LPS either way."""
    array, affine = as_orientation(ras, "LPS" if lps_voxels else "RAS")
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(SPACING)
    image.SetOrigin((LPS @ affine[:3, 3]).tolist())
    image.SetDirection((LPS @ affine[:3, :3] / np.array(SPACING)).ravel().tolist())
    sitk.WriteImage(image, str(path), compress)
    return path


def write_dicom(folder: Path, ras: np.ndarray, slope=2, intercept=-1024, seed=0, series=None) -> Path:
    """A CT series as a scanner stores it (rows to the left, columns to the back), its files in shuffled order."""
    folder.mkdir(exist_ok=True)
    array, affine = as_orientation(ras, "LPS")
    series = series or generate_uid()
    names = np.random.default_rng(seed).permutation(array.shape[2])
    for index in range(array.shape[2]):
        data = pydicom.Dataset()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.SeriesInstanceUID, data.Modality = series, "CT"
        data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.3.99", "1.2.3.98"
        data.ImagePositionPatient = [*(LPS @ affine[:3, 3])[:2].tolist(), ORIGIN[2] + SPACING[2] * index]
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.PixelSpacing = [SPACING[1], SPACING[0]]  # between rows, then between columns
        data.InstanceNumber = int(names[index]) + 1
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        data.Rows, data.Columns = array.shape[1], array.shape[0]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.PixelData = (((array[:, :, index].T - intercept) // slope).astype("<i2")).tobytes()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / f"{names[index]:03d}_{seed}.dcm", enforce_file_format=True)
    return folder


def gzipped_without_the_name(path: Path, ras: np.ndarray) -> Path:
    plain = write_nifti(path.with_suffix(".tmp.nii"), ras, ras_affine())
    path.write_bytes(gzip.compress(plain.read_bytes()))
    return path

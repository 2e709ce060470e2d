"""What the first bytes of an image or mask file tell: its kind, shape and place, and whether the file is whole.

No voxel is decoded.  A truncated file is found by its size; a truncated gzip by its last four bytes, which hold the
number of bytes that were packed: only where they disagree with the header is the file unpacked to its end.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from PIL import Image, UnidentifiedImageError

from datasets.prepare.itk_files import refuse_cut_off, refuse_cut_off_gzip
from datasets.volume.dicom_series import dicom_series_grid, is_series_path
from datasets.volume.geometry import LPS_TO_RAS, VolumeError, VolumeGeometry, corner_offset
from datasets.volume.plausible import check_affine
from datasets.volume.readers import EXTENSIONS, ITK_READERS
from datasets.volume.slice_folder import slices_in

IMAGES = (".png", ".jpg", ".jpeg")
_HEAD = 65536  # bytes read from the start of a file
_UNPACKED = 4096  # bytes of them that are looked at; a NIfTI-2 header has 540


@dataclass(frozen=True)
class FileHeader:
    """shape: of the stored array, (H, W) of a picture; None where it is not told.  affine: (4, 4) to RAS+ millimetres;
    None where the file has none."""

    kind: str
    shape: tuple[int, ...] | None = None
    affine: np.ndarray | None = None


def read_header(path: Path) -> FileHeader:
    """The header of a volume, a picture, a mask, a folder of slices or one DICOM series of a folder.

    Raises VolumeError for a file that is missing, empty, truncated or not what its name says.
    """
    if path.is_dir():
        return _folder(path)
    if is_series_path(path):
        return FileHeader("DICOM series", *dicom_series_grid(path))
    name = path.name.lower()
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            size = file.seek(0, 2)
    except FileNotFoundError as error:
        raise VolumeError(f"{path}: no such file or folder") from error
    except OSError as error:
        raise VolumeError(f"{path}: cannot be read ({error.strerror})") from error
    if not size:
        raise VolumeError(f"{path}: the file is empty; download it again")
    try:
        if name.endswith((".nii", ".nii.gz")):
            return _nifti(path, head, size)
        if name.endswith((".npy", ".npz")):
            return _npy(path, size) if name.endswith(".npy") else _npz(path)
        if name.endswith(IMAGES):
            return _picture(path)
        kind = next((kind for extension, kind in EXTENSIONS.items() if name.endswith(extension)), "")
        if kind in ITK_READERS:
            return _itk(path, kind, head)
    except VolumeError:
        raise
    except Exception as error:  # each library has exceptions of its own for a damaged file; the user needs one line
        reason = " ".join(str(error).split())[-160:] or type(error).__name__
        raise VolumeError(f"{path}: its header cannot be read, damaged or truncated? ({reason})") from error
    return FileHeader("unknown")


def corner_distance(image: FileHeader, mask: FileHeader) -> float | None:
    """How far a mask lies off its image: the most that a corner is off along an axis, in voxels of the image.

    None where the shapes differ, after the mask's axes were brought to the image's order.  A mask or image that has
    no place of its own lies on the other where the shapes are equal.
    """
    if image.shape is None or mask.shape is None:
        return 0.0
    if image.affine is None or mask.affine is None:
        return 0.0 if tuple(image.shape) == tuple(mask.shape) else None
    if len(image.shape) != 3 or len(mask.shape) != 3:
        return None
    codes = "".join(nib.aff2axcodes(image.affine))
    moved = VolumeGeometry.of_source("", mask.shape, mask.affine, codes)
    apart = corner_offset(image.shape, image.affine, moved.shape, moved.affine)
    return apart if apart < float("inf") else None


def _nifti(path: Path, head: bytes, size: int) -> FileHeader:
    zipped = head[:2] == b"\x1f\x8b"
    if path.name.lower().endswith(".gz") and not zipped and head[344:347] not in (b"n+1",) and head[4:7] != b"n+2":
        raise VolumeError(f"{path}: is no gzip file; download it again")
    block = zlib.decompressobj(31).decompress(head, _UNPACKED) if zipped else head
    sizes = {int.from_bytes(block[:4], order) for order in ("little", "big")}
    if 348 not in sizes and 540 not in sizes:
        raise VolumeError(f"{path}: has no NIfTI header; download it again")
    kind, length = (nib.Nifti2Header, 540) if 540 in sizes else (nib.Nifti1Header, 348)
    header = kind(block[:length], check=False)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if not shape or min(shape) < 1:
        raise VolumeError(f"{path}: holds no voxels, its shape is {shape}")
    _refuse_other_than_3d(path, shape)
    needed = int(header["vox_offset"]) + math.prod(shape) * header.get_data_dtype().itemsize
    if zipped:
        refuse_cut_off_gzip(path, needed)
    elif size < needed:
        raise VolumeError(f"{path}: truncated, {size} of {needed} bytes; download it again")
    return FileHeader("NIfTI", shape, check_affine(header.get_best_affine(), str(path)))


def _refuse_other_than_3d(path: Path, shape: tuple[int, ...]) -> None:
    if len(shape) != 3:
        raise VolumeError(f"{path}: holds {len(shape)}D data of shape {shape}; give one 3D volume")


def _npy(path: Path, size: int) -> FileHeader:
    with open(path, "rb") as file:
        shape, dtype = _array_header(file)
        needed = file.tell() + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise VolumeError(f"{path}: truncated, {size} of {needed} bytes; download it again")
    _refuse_other_than_3d(path, _without_channel(shape))
    return FileHeader("npy", _without_channel(shape))


def _npz(path: Path) -> FileHeader:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            wanted = next((name for name in ("ct.npy", "arr_0.npy") if name in names), names[0] if names else "")
            if not wanted.endswith(".npy"):
                raise VolumeError(f"{path}: holds no array; download it again")
            with archive.open(wanted) as file:
                shape, _ = _array_header(file)
    except zipfile.BadZipFile as error:
        raise VolumeError(f"{path}: truncated or damaged ({error}); download it again") from error
    _refuse_other_than_3d(path, _without_channel(shape))
    return FileHeader("npz", _without_channel(shape))


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return tuple(int(n) for n in shape), dtype


def _without_channel(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) == 4 and shape[0] == 1 else shape


def _picture(path: Path) -> FileHeader:
    if not path.stat().st_size:
        raise VolumeError(f"{path}: the file is empty; download it again")
    try:
        with Image.open(path) as image:
            width, height = image.size
            kind = str(image.format)
    except UnidentifiedImageError as error:
        raise VolumeError(f"{path}: is no PNG or JPEG picture; download it again") from error
    if kind == "PNG":
        with open(path, "rb") as file:
            file.seek(-12, 2)
            if b"IEND" not in file.read():
                raise VolumeError(f"{path}: truncated, a PNG ends in IEND; download it again")
    return FileHeader(kind, (height, width))


def _itk(path: Path, kind: str, head: bytes) -> FileHeader:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(ITK_READERS[kind])
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    dimension = reader.GetDimension()
    if dimension < 3:
        raise VolumeError(f"{path}: holds {dimension}D data; give one 3D volume")
    voxel = sitk.GetArrayViewFromImage(sitk.Image([1, 1, 1], reader.GetPixelID(), reader.GetNumberOfComponents()))
    refuse_cut_off(path, kind, head, math.prod(reader.GetSize()) * voxel.nbytes)
    affine = np.eye(4)
    direction = np.reshape(reader.GetDirection(), (dimension, dimension))[:3, :3]
    affine[:3, :3] = direction * np.asarray(reader.GetSpacing()[:3])
    affine[:3, 3] = reader.GetOrigin()[:3]
    shape = tuple(int(n) for n in reader.GetSize()[:3])
    return FileHeader(kind, shape, check_affine(LPS_TO_RAS @ affine, str(path)))


def _folder(path: Path) -> FileHeader:
    """A DICOM series, or slices as pictures."""
    names = sorted(file.name for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    if not names:
        raise VolumeError(f"{path}: the folder is empty; download it again")
    pictures = slices_in(path)
    if len(pictures) < len(names):
        shape, affine = dicom_series_grid(path)
        return FileHeader("DICOM series", shape, affine)
    headers = [_picture(picture) for picture in pictures]
    shapes = [header.shape or () for header in headers]
    if odd := next((number for number, shape in enumerate(shapes) if shape != shapes[0]), None):
        raise VolumeError(f"{pictures[odd]}: is of another size than {pictures[0].name}; remove what does not belong")
    return FileHeader("slices", (*shapes[0], len(pictures)))

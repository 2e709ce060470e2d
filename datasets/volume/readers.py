"""Array and RAS affine of every CT file kind, as stored: no reorientation, no crop, no intensity but the file's own.

The kind is told from the first bytes, then from the extension, never from a name in the path.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from datasets.volume.array_files import is_rad_chest_ct, read_npy, read_npz
from datasets.volume.dicom_headers import has_frames
from datasets.volume.dicom_series import is_series_path, read_dicom_series
from datasets.volume.geometry import AS_STORED, LPS_TO_RAS, AxesFrom, VolumeError, affine_of_axes
from datasets.volume.nifti_files import is_scaled, read_nifti
from datasets.volume.packed_voxels import stored_voxels
from datasets.volume.preprocessing import RAD_CHEST_CT_AXES, SourceKind
from datasets.volume.slice_folder import read_slice_folder, slices_in
from datasets.volume.voxel_types import held_type

EXTENSIONS = {
    ".nii": "NIfTI", ".nii.gz": "NIfTI", ".hdr": "NIfTI", ".img": "NIfTI", ".nrrd": "NRRD", ".nhdr": "NRRD",
    ".mha": "MetaImage", ".mhd": "MetaImage", ".npy": "npy", ".npz": "npz", ".dcm": "DICOM", ".ima": "DICOM",
}  # fmt: skip
M3D_SHAPE = (32, 256, 256)  # of every volume that M3D's preparation writes, with or without a channel before it
M3D_AXES = "IPL"  # slices first, then the rows of an axial picture and its columns
ARRAY_KINDS = ("npy", "npz")  # arrays without geometry
SLICE_FOLDER = "slices"  # as images, of which the rows and columns are known to lie as radiologists look at them
SLICE_FOLDER_AXES = "PLS"  # the same as `datasets.volume.images` has; the third is an assumption
DETACHED_HEADERS = (".mhd", ".nhdr", ".hdr")  # their voxels are in a second file
ITK_READERS = {"NRRD": "NrrdImageIO", "MetaImage": "MetaImageIO"}
sitk.ProcessObject.SetGlobalWarningDisplay(False)  # what cannot be read is raised as well
SUPPORTED = "NIfTI, NRRD, MHA/MHD, a DICOM series or enhanced CT, a folder of slices as PNG or JPEG, .npy or .npz"


@dataclass(frozen=True)
class RawVolume:
    """What a file holds: array (3D, float32, or integers where asked for) and affine (4, 4) to RAS+ millimetres.

    source: the kind of file in the sense of `datasets.volume.preprocessing`.  scaled: the file holds other numbers, of
    which a slope and an intercept made these.  axes_from: who says what the affine says.
    """

    array: np.ndarray
    affine: np.ndarray
    kind: str
    source: SourceKind = "ct_file"
    scaled: bool = False
    axes_from: AxesFrom = "file"


def read_raw(path: str | Path, array_axes: str | None = None, integers: bool = False) -> RawVolume:
    """Read one file or DICOM folder.  Raises VolumeError where it is missing, damaged or not one 3D volume.

    array_axes: axis codes of an array without geometry (.npy, .npz), or "as_stored" where they are not known; None
    assumes RAS, and slices first for an array of M3D's shape.  A first axis of length 1 before three others is a
    channel, and is left out.  integers: voxels that are stored as whole numbers of at most 16 bits stay that.
    """
    path = Path(path)
    readers = {"NIfTI": read_nifti, "NRRD": _read_itk, "MetaImage": _read_itk}
    kind = "a volume"
    try:
        kind = file_kind(path)
        if kind == "DICOM" and not has_frames(path):
            raise VolumeError(f"{path}: one DICOM file is one 2D slice; give the folder that holds the whole series")
        if kind in ARRAY_KINDS:
            return _read_array(path, kind, array_axes, integers)
        if kind == SLICE_FOLDER:
            return _placed(read_slice_folder(path), kind, array_axes)
        array, affine = readers.get(kind, read_dicom_series)(path, integers)
        scaled = kind == "NIfTI" and is_scaled(path)
    except (VolumeError, MemoryError):
        raise
    except PermissionError as error:
        raise VolumeError(f"{path}: no permission to read {error.filename or path}; change its mode") from error
    except Exception as error:  # each library has exceptions of its own for a damaged file; the user needs one line
        hint = "; is the voxel file that it names beside it?" if path.suffix.lower() in DETACHED_HEADERS else ""
        raise VolumeError(
            f"{path}: cannot be read as {kind}, damaged or truncated? ({_reason(error)}){hint}"
        ) from error
    return RawVolume(_as_3d(array, path, integers), affine, kind, scaled=scaled)


def file_kind(path: Path) -> str:
    """The kind of a file by content, then extension; raises VolumeError for a missing, empty or unknown one."""
    if is_series_path(path):
        return "DICOM series"
    if path.is_dir():
        return SLICE_FOLDER if _holds_slices_alone(path) else "DICOM series"
    if not path.is_file():
        raise VolumeError(f"{path}: no such file or folder")
    if path.stat().st_size == 0:
        raise VolumeError(f"{path}: the file is empty")
    kind = _kind_by_content(path)
    if kind is None:
        name = path.name.lower()
        kind = next((kind for extension, kind in EXTENSIONS.items() if name.endswith(extension)), None)
    if kind is None:
        raise VolumeError(f"{path}: not a known kind of volume; give {SUPPORTED}")
    return kind


def _holds_slices_alone(folder: Path) -> bool:
    """Whether a folder has slices as images, and nothing that may be DICOM, which has no need of an extension."""
    slices = len(slices_in(folder))
    return slices > 0 and slices == sum(path.is_file() and path.name[0] != "." for path in folder.iterdir())


def is_dicom_file(path: Path) -> bool:
    """Whether a file says itself that it is DICOM; one that cannot be read does not."""
    try:
        return path.is_file() and _first_bytes(path, 132)[128:] == b"DICM"
    except OSError:
        return False


def is_array_file(path: Path) -> bool:
    """Whether a file is .npy or .npz by its content."""
    return path.is_file() and _kind_by_content(path) in ARRAY_KINDS


def _reason(error: Exception, limit: int = 160) -> str:
    """The end of a library's message on one line, where ITK and NRRD say what happened."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r".*ITK ERROR: \w+\(0x[0-9a-f]+\): ", "", text)
    return text if len(text) <= limit else "... " + text[-limit:].partition(" ")[2]


def _kind_by_content(path: Path) -> str | None:
    head = _first_bytes(path)
    if head[:4] == b"NRRD":
        return "NRRD"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    if head[:4] == b"PK\x03\x04":
        return "npz"
    if head[128:132] == b"DICM":
        return "DICOM"
    if head[344:347] in (b"n+1", b"ni1") or head[4:7] in (b"n+2", b"ni2"):
        return "NIfTI"
    if head.lstrip().startswith((b"ObjectType", b"NDims")):
        return "MetaImage"
    return None


def _first_bytes(path: Path, count: int = 1024) -> bytes:
    with open(path, "rb") as file:
        head = file.read(count)
    if head[:2] != b"\x1f\x8b":
        return head
    try:
        with gzip.open(path, "rb") as file:
            return file.read(count)
    except (OSError, EOFError, zlib.error):
        return b""  # a damaged gzip: the extension decides, and the reader says what is wrong


def _as_3d(array: np.ndarray, path: Path, integers: bool) -> np.ndarray:
    shape = array.shape
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise VolumeError(f"{path}: holds {array.ndim}D data of shape {shape}; give one 3D volume")
    if min(shape) == 0:
        raise VolumeError(f"{path}: holds no voxels, its shape is {shape}")
    if not (np.issubdtype(array.dtype, np.number) or array.dtype == bool) or np.iscomplexobj(array):
        raise VolumeError(f"{path}: voxels are of type {array.dtype}; give one real number a voxel")
    return array.astype(held_type(array.dtype, integers), copy=False)


def _read_itk(path: Path, integers: bool) -> tuple[np.ndarray, np.ndarray]:
    kind = file_kind(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(ITK_READERS[kind])
    reader.SetFileName(str(path))
    stored = stored_voxels(path, kind)
    reader.ReadImageInformation()
    dimension, numbers = reader.GetDimension(), reader.GetNumberOfComponents()
    if numbers > 1:
        raise VolumeError(f"{path}: holds {numbers} numbers a voxel; give one 3D volume")
    if dimension < 3:
        raise VolumeError(f"{path}: holds {dimension}D data of shape {reader.GetSize()}; give one 3D volume")
    stored.check(reader.GetSize(), reader.GetPixelID())
    image = reader.Execute()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3])
    affine[:3, 3] = image.GetOrigin()[:3]
    voxels = sitk.GetArrayViewFromImage(image).T
    return voxels.astype(held_type(voxels.dtype, integers)), LPS_TO_RAS @ affine


def _read_array(path: Path, kind: str, array_axes: str | None, integers: bool) -> RawVolume:
    """A .npy or .npz with the axes that its format, the caller or the assumption gives it."""
    array = read_npy(path) if kind == "npy" else read_npz(path)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    array = _as_3d(array, path, integers)
    return _placed(array, kind, array_axes, kind == "npz" and is_rad_chest_ct(path))


def _placed(array: np.ndarray, kind: str, array_axes: str | None, rad_chest_ct: bool = False) -> RawVolume:
    """An array without geometry, with the axes that its format, the caller or the assumption gives it."""
    axes, source, axes_from = axes_without_geometry(kind, array.shape, array_axes, rad_chest_ct)
    return RawVolume(array, affine_of_axes(axes, array.shape), kind, source, axes_from=axes_from)


def axes_without_geometry(
    kind: str, shape: tuple[int, ...], array_axes: str | None, rad_chest_ct: bool = False
) -> tuple[str, SourceKind, AxesFrom]:
    """Axis codes of an array or a folder of slices, what preprocessing takes it for, and who says so.

    array_axes: of the caller, as `read_raw` takes them; a file in RadChestCT's format has its own.
    """
    if rad_chest_ct:
        return RAD_CHEST_CT_AXES, "rad_chest_ct_array", "format"
    source: SourceKind = "ct_file" if kind == SLICE_FOLDER else "array_as_is"
    if array_axes is not None:
        return array_axes, source, "nobody" if array_axes == AS_STORED else "option"
    if kind in ARRAY_KINDS and shape == M3D_SHAPE:
        return M3D_AXES, source, "m3d_shape"
    return SLICE_FOLDER_AXES if kind == SLICE_FOLDER else "RAS", source, "assumption"

"""CTs as the page shows them: found among uploaded files or in a served folder, and as NIfTI for the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.errors import InputError
from datasets.volume.find_volumes import find_volumes
from datasets.volume.geometry import AS_STORED, VolumeGeometry
from datasets.volume.loading import read_volume
from datasets.volume.nifti_files import save_nifti
from datasets.volume.overlay import display_window
from datasets.volume.readers import EXTENSIONS, is_dicom_file
from datasets.volume.viewer_copy import shown_step, thinned, thinned_affine, viewer_copy

_HU_LOWEST = -500.0  # a CT in HU holds air; a file without it is shown by its percentiles


@dataclass(frozen=True)
class VolumeFile:
    """A CT that was read once.

    key: what it goes by among all users: equal where the content is.  name: as the user knows it.
    image: NIfTI of its voxels in their stored order, for the viewer.  geometry: of the whole file, as stored.
    window: lowest and highest value shown at first.  in_hu: whether it holds air, so that windows in HU make sense.
    step: every how many-th voxel the viewer's copy has along each axis.
    """

    key: str
    name: str
    path: Path
    image: Path
    geometry: VolumeGeometry
    window: tuple[float, float]
    in_hu: bool
    step: tuple[int, int, int] = (1, 1, 1)

    def described(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "name": self.name,
            "shape": list(self.geometry.shape),
            "spacing": [round(side, 4) for side in self.geometry.spacing],
            "axes": self.geometry.source_orientation,
            "placed": self.geometry.axes_from == "file",
            "window": list(self.window),
            "in_hu": self.in_hu,
            "step": list(self.step),
        }

    @property
    def note(self) -> str:
        """What the user should know of how it is shown; empty as a rule."""
        if self.step == (1, 1, 1):
            return ""
        size, step = (" x ".join(map(str, values)) for values in (self.geometry.shape, self.step))
        return (
            f"{self.name} has {size} voxels, more than a browser draws: one of {step} is shown. Answers and saved "
            "masks are of all"
        )


def volumes_in(folder: Path) -> list[Path]:
    """The CTs among uploaded files; a single file is taken whatever its name.  InputError where there is none."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    if len(files) == 1 and not files[0].name.lower().endswith(tuple(EXTENSIONS)) and not is_dicom_file(files[0]):
        return files
    return [Path(path) for path in find_volumes(folder)]


def open_volume(path: Path, key: str, name: str, image: Path, array_axes: str | None = None) -> VolumeFile:
    """Read a CT and write the viewer's copy of it to `image`, which ends in .nii; of a huge one, some of its voxels.

    Values that are whole numbers of 16 bits are kept in them.  Raises InputError where it cannot be read.
    """
    array, geometry = read_volume(path, AS_STORED, array_axes)
    voxels = array[0]
    in_hu = bool(voxels.min() < _HU_LOWEST)
    middle = voxels[tuple(slice(None, None, max(1, size // 128)) for size in voxels.shape)]  # a sample will do
    window = display_window(middle, {}, "auto" if in_hu else None)
    step = shown_step(geometry.shape, geometry.spacing)
    save_nifti(viewer_copy(thinned(voxels, step), thinned_affine(np.asarray(geometry.source_affine), step)), image)
    return VolumeFile(key, name, path, image, geometry, window, in_hu, step)


def plain_message(error: Exception, path: Path, name: str) -> str:
    """An error's line with the user's name of a file in place of the server's path."""
    line = " ".join(str(error).split())
    return line.replace(f"{path}/", "").replace(str(path), name).replace(f"{path.parent}/", "")


def served_volumes(folder: str) -> dict[str, Path]:
    """Name -> path of the CTs below a folder that the server offers; empty without one.

    Raises InputError where the folder holds none.
    """
    if not folder:
        return {}
    if not Path(folder).is_dir():
        raise InputError(f"--folder {folder}: no such folder; name one with CTs, or leave it out")
    return {str(Path(path).relative_to(folder)): Path(path) for path in find_volumes(folder)}

"""The CTs below a folder, in any mix of formats, or those that a text file lists."""

from __future__ import annotations

import os
from pathlib import Path

from datasets.errors import InputError
from datasets.volume.dicom_headers import series_in
from datasets.volume.readers import EXTENSIONS, is_dicom_file
from datasets.volume.slice_folder import slices_in

_DICOM = tuple(extension for extension, kind in EXTENSIONS.items() if kind == "DICOM")
_FILES = tuple(extension for extension, kind in EXTENSIONS.items() if kind != "DICOM" and extension != ".img")


def find_volumes(place: str | Path) -> list[str]:
    """Paths of all volumes, sorted; of a list in its order.

    place: a folder, searched to its depths: volume files, folders with DICOM files or with slices as PNG or JPEG.  Of a
    folder with several DICOM series each that is a CT of more than one image, as ``folder/UID``.  Hidden files and
    folders are passed over.  Or a .txt file with a path a line, relative to the file's own folder; empty lines and
    lines that begin with # are left out.  Or one volume.

    Whether a file can be read is seen when it is read.  Raises InputError where nothing is found.
    """
    place = Path(place)
    if place.is_file() and place.suffix.lower() == ".txt":
        try:
            lines = [line.strip() for line in place.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: is no text in UTF-8; write a path a line") from error
        found = [str(place.parent / line) for line in lines if line and not line.startswith("#")]
    elif place.is_dir():
        found = [path for folder, names in _folders(place) for path in _volumes_of(folder, names)]
    elif place.is_file():
        found = [str(place)]
    else:
        raise InputError(f"{place}: no such folder or list; give a folder of CTs, or a .txt file with a path a line")
    if not found:
        raise InputError(f"{place}: holds no CT (NIfTI, NRRD, MHA/MHD, .npy, .npz, DICOM, or slices as PNG or JPEG)")
    return list(dict.fromkeys(found))


def _folders(root: Path) -> list[tuple[Path, list[str]]]:
    """Every folder below and with `root`, sorted, with the names of its files; links are followed, each place once."""
    found = []
    seen = {os.path.realpath(root)}
    for folder, below, names in os.walk(root, followlinks=True):
        visible = sorted(name for name in below if not name.startswith("."))
        places = {os.path.realpath(Path(folder) / name): name for name in reversed(visible)}
        below[:] = sorted(name for place, name in places.items() if place not in seen)
        seen.update(places)
        found.append((Path(folder), sorted(name for name in names if not name.startswith("."))))
    return found


def _volumes_of(folder: Path, names: list[str]) -> list[str]:
    """The volume files that lie in a folder, and the folder itself where it is a volume."""
    files = [str(folder / name) for name in names if name.lower().endswith(_FILES)]
    others = [name for name in names if not name.lower().endswith(_FILES)]
    if any(name.lower().endswith(_DICOM) or is_dicom_file(folder / name) for name in others):
        return [*_series_of(folder, others), *files]
    slices = slices_in(folder)
    return [str(folder)] if len(slices) > 1 and len(slices) == len(names) else files


def _series_of(folder: Path, names: list[str]) -> list[str]:
    """The folder itself, or of several series in it those that are volumes; what is wrong is seen in reading."""
    counts = series_in(folder / name for name in names)
    uids = {name.uid for name in counts}
    volumes = [name.uid for name, images in counts.items() if name.uid and name.modality == "CT" and images > 1]
    return [str(folder / uid) for uid in sorted(set(volumes))] if len(uids) > 1 and volumes else [str(folder)]

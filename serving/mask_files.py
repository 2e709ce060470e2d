"""The formats in which masks are handed out; a further one is an entry of `MASK_FORMATS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile

from datasets.errors import InputError
from datasets.export.masks import save_masks
from datasets.volume.readers import file_kind
from models.answering.answer import Mask
from serving.safe_names import download_name
from serving.sessions import OpenedVolume

Writer = Callable[[Mapping[str, Mask], Path], list[Path]]  # masks by name, and a folder to write to -> what is there


@dataclass(frozen=True)
class MaskFormat:
    """title: as the page shows it.  write: makes one file of all masks, or several.  kinds: of CT files
    (`readers.file_kind`) that it takes, all where empty."""

    title: str
    write: Writer
    kinds: tuple[str, ...] = ()


def write_nifti(masks: Mapping[str, Mask], folder: Path) -> list[Path]:
    """One NIfTI a mask."""
    return [mask.save(folder / f"{name}.nii.gz") for name, mask in _distinct(masks).items()]


def _in_one_file(ending: str) -> Writer:
    """All masks in one file of this ending (`datasets.export.masks`), beside a JSON of names where it needs one."""

    def write(masks: Mapping[str, Mask], folder: Path) -> list[Path]:
        geometry = next(iter(masks.values())).geometry
        return save_masks({name: mask.voxels for name, mask in masks.items()}, geometry, folder / f"masks{ending}")

    return write


MASK_FORMATS: dict[str, MaskFormat] = {
    "nifti": MaskFormat("NIfTI", write_nifti),
    "seg.nrrd": MaskFormat("3D Slicer segmentation", _in_one_file(".seg.nrrd")),
    "labels": MaskFormat("One NIfTI with labels", _in_one_file(".nii.gz")),
    "dicom-seg": MaskFormat("DICOM segmentation", _in_one_file(".dcm"), ("DICOM series",)),
}


def formats_of(volume: OpenedVolume) -> dict[str, str]:
    """The formats that suit a volume, with their titles."""
    kind = file_kind(volume.file.path)
    return {key: each.title for key, each in MASK_FORMATS.items() if not each.kinds or kind in each.kinds}


def export_masks(volume: OpenedVolume, key: str, folder: Path) -> Path:
    """Write all masks of a volume in a format, several files as an archive of them.

    Raises InputError where it has none, or the format does not suit.
    """
    if not volume.masks:
        raise InputError(f"{volume.file.name}: there is no mask yet; ask for a structure first")
    if key not in formats_of(volume):
        raise InputError(
            f"masks of {volume.file.name} are not written as {key!r}; choose {', '.join(formats_of(volume))}"
        )
    masks = {mask.name: volume.read(mask) for mask in list(volume.masks.values())}
    return packed(MASK_FORMATS[key].write(masks, folder), folder / "masks.zip")


def packed(paths: Sequence[Path], archive: Path) -> Path:
    """The file itself where it is one, else an archive of them."""
    if len(paths) == 1:
        return paths[0]
    with ZipFile(archive, "w", ZIP_STORED) as written:
        for path in paths:
            written.write(path, path.name)
    return archive


def _distinct(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    """By names that stay apart as file names on any system."""
    found: dict[str, Mask] = {}
    taken: set[str] = set()
    for name, mask in masks.items():
        base = file_name = download_name(name)
        number = 1
        while file_name.lower() in taken:
            number += 1
            file_name = f"{base}_{number}"
        taken.add(file_name.lower())
        found[file_name] = mask
    return found

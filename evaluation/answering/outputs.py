"""In which formats the masks and findings of an answer are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pydicom

from datasets.errors import InputError
from datasets.export import findings, masks
from models.answering.answer import Answer


@dataclass(frozen=True)
class Outputs:
    """formats: of masks, see `datasets.export.masks.FORMATS`.  findings: see `datasets.export.findings.FORMATS`."""

    formats: tuple[str, ...] = ("nifti",)
    findings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, formats: str, found: str) -> Outputs:
        """Of the options --format and --findings, names with commas; raises InputError for one that is not known."""
        return cls(
            masks.parse_formats(formats, "format", tuple(masks.FORMATS)),
            masks.parse_formats(found, "findings", tuple(findings.FORMATS)),
        )

    def check(self, images: Sequence[str]) -> None:
        """Raise InputError, before anything is answered, where DICOM is asked for and no image is a DICOM series.

        images: of --image or --images, which alone these options are of.
        """
        if not images and self != Outputs():
            raise InputError("--format and --findings are of --image and --images; leave them out")
        masks.check_dicom(images, self.formats, "format")
        masks.check_dicom(images, self.findings, "findings")

    def write(self, answer: Answer, stem: str | Path) -> list[Path]:
        """All but NIfTI of one mask each: files whose names begin with `stem`; what cannot be is said and left out.

        Raises WriteError of a full disk.
        """
        if answer.volume is None:
            return []
        voxels = {name: mask.voxels for name, mask in answer.masks.items()}
        written = masks.write_formats(voxels, answer.volume.geometry, stem, self.formats)
        made = Path(f"{stem}{masks.FORMATS['dicom-seg']}")
        for name in self.findings:
            segmentation = pydicom.dcmread(made) if name == "dicom-sr" and made in written else None
            try:
                written.append(answer.save_findings(f"{stem}{findings.FORMATS[name]}", segmentation))
            except InputError as error:
                masks.log.warning("no %s: %s", name, error)
        return written

    def endings(self) -> list[str]:
        """Of every file that `write` may make."""
        every = [*masks.FORMATS.values(), *findings.FORMATS.values(), "_labels.json"]
        return [ending for ending in every if ending != masks.FORMATS["nifti"]]

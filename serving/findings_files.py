"""What was found in a CT of the page, in codes: as JSON, or for archives as a DICOM structured report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pydicom

from datasets.errors import InputError
from datasets.export.findings import Findings, save_findings
from datasets.export.masks import write_formats
from datasets.volume.readers import file_kind
from serving.mask_files import packed
from serving.safe_names import download_name
from serving.session_report import readable
from serving.sessions import OpenedVolume

TITLES = {"json": "Findings with codes (JSON)", "dicom-sr": "Findings (DICOM structured report)"}
_MOST_LETTERS = 10_000  # of a JSON's text


def findings_formats_of(volume: OpenedVolume) -> dict[str, str]:
    """The formats that suit a volume, with their titles: a DICOM object refers to a DICOM series."""
    is_dicom = file_kind(volume.file.path) == "DICOM series"
    return {key: title for key, title in TITLES.items() if is_dicom or not key.startswith("dicom")}


def findings_of(volume: OpenedVolume) -> Findings:
    """All that was answered about a volume: of a disease its latest confidence, of a structure its latest mask.

    Raises InputError where there is neither.
    """
    confidences = {name: share for asked in volume.asked for name, share in asked.confidences.items()}
    millilitres = {mask.name: round(mask.millilitres, 3) for mask in volume.masks.values()}
    if not confidences and not millilitres:
        raise InputError(f"{volume.file.name}: there are no findings yet; ask for a diagnosis or a structure first")
    questions = " / ".join(asked.question for asked in volume.asked)
    answers = "\n".join(words for asked in volume.asked if (words := readable(asked.answer)))
    return Findings(questions[:_MOST_LETTERS], answers[:_MOST_LETTERS], confidences, millilitres)


def export_findings(volume: OpenedVolume, key: str, folder: Path) -> Path:
    """Write the findings of a volume in a format.

    A structured report points to the segments of a DICOM segmentation where there are masks; an archive holds both.
    Raises InputError where nothing was found yet, or the format does not suit.
    """
    if key not in (suitable := findings_formats_of(volume)):
        raise InputError(f"findings of {volume.file.name} are not written as {key!r}; choose {', '.join(suitable)}")
    findings, geometry = findings_of(volume), volume.file.geometry
    if key == "json":
        named = replace(geometry, source=volume.file.name)  # the server's path is nobody's business
        return save_findings(findings, named, folder / f"{download_name(volume.file.name)}_findings.json")
    masks = {mask.name: volume.read(mask).voxels for mask in list(volume.masks.values())}
    written = write_formats(masks, geometry, folder / "masks", ("dicom-seg",))
    segmentation = pydicom.dcmread(written[0]) if written else None
    report = save_findings(findings, geometry, folder / "findings.dcm", segmentation)
    return packed([*written, report], folder / "findings.zip")

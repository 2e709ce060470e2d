"""Findings that are taken home from the page, read by other libraries: codes, volumes, the segments they point to."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest

from datasets.errors import InputError
from models.answering.answer import Mask
from serving.findings_files import export_findings, findings_formats_of
from serving.sessions import Asked, OpenedVolume, StoredMask
from serving.volume_files import open_volume
from tests.ct_files import SPACING, write_dicom
from tests.page import IMAGE


def asked(answer: str, **confidences: float) -> Asked:
    return Asked("question", "Q?", answer, confidences, [], 1.0, [])


def opened(path: Path, folder: Path) -> OpenedVolume:
    """A CT in which a pleural effusion was asked for twice, and a liver of 4 x 4 x 3 voxels was found."""
    file = open_volume(path, "key", "study", folder / "image.nii")
    volume = OpenedVolume("id", file, folder)
    volume.asked += [asked("Yes.", **{"Pleural effusion": 0.9}), asked("No <SEG>.", **{"Pleural effusion": 0.25})]
    voxels = np.zeros(file.geometry.shape, np.uint8)
    voxels[2:6, 3:7, 4:7] = 1
    mask = Mask("liver", voxels, file.geometry)
    written = mask.save(folder / "masks" / "m.nii.gz")
    volume.keep(StoredMask("m", "liver", mask.millilitres, (3, 4, 5), written, written))
    return volume


def test_a_structured_report_points_to_the_segments(tmp_path):
    ct = np.random.default_rng(0).integers(-512, 400, (14, 12, 9)).astype(np.int16) * 2
    volume = opened(write_dicom(tmp_path / "series", ct), tmp_path / "kept")
    with zipfile.ZipFile(export_findings(volume, "dicom-sr", tmp_path)) as archive:
        archive.extractall(tmp_path / "out")
    report = hd.sr.srread(tmp_path / "out" / "findings.dcm")
    segmentation = pydicom.dcmread(tmp_path / "out" / "masks_seg.dcm")
    (structure,) = report.content.get_volumetric_roi_measurement_groups()
    (measured,) = structure.get_measurements()
    assert float(measured.value) == pytest.approx(4 * 4 * 3 * np.prod(SPACING) / 1000, abs=1e-3)
    assert segmentation.SOPInstanceUID in {
        element.value for element in report.iterall() if element.keyword == "ReferencedSOPInstanceUID"
    }
    (disease,) = report.content.get_image_measurement_groups()
    assert float(disease.get_measurements()[0].value) == 0.25  # the latest


def test_findings_of_another_format_are_json_alone(tmp_path):
    volume = opened(IMAGE, tmp_path / "kept")
    assert list(findings_formats_of(volume)) == ["json"]
    told = json.loads(export_findings(volume, "json", tmp_path).read_text(encoding="utf-8"))
    assert [(each["name"], each["confidence"]) for each in told["findings"]] == [("Pleural effusion", 0.25)]
    assert [each["name"] for each in told["structures"]] == ["liver"] and told["structures"][0]["kind"][
        "scheme"
    ] == "SCT"
    assert told["source"] == "study"
    assert told["text"] == "Yes.\nNo."
    with pytest.raises(InputError, match="choose json"):
        export_findings(volume, "dicom-sr", tmp_path)
    volume.asked.clear(), volume.masks.clear()
    with pytest.raises(InputError, match="there are no findings yet"):
        export_findings(volume, "json", tmp_path)

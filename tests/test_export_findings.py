"""Labels in codes, and findings as JSON and as a DICOM structured report."""

from __future__ import annotations

import json

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr import _concepts_dict

from datasets.errors import InputError
from datasets.export.coded_names import FILE, coded_name, own_code
from datasets.export.dicom_segmentation import save_dicom_segmentation
from datasets.export.findings import Findings, save_findings
from datasets.label_descriptions import descriptions
from datasets.vocabulary import diagnosis_facts, diseases_of
from datasets.volume.loading import read_volume
from tests.ct_files import write_dicom, write_nifti

# In SNOMED CT, but not among the words of it that DICOM's own dictionary lists.
NOT_IN_DICOM = {"46621007", "12295008", "8186001", "95436008", "87433001", "84089009"}
FOUND = Findings(
    "What do you see?", "A pleural effusion.", {"pleural effusion": 0.75, "lung opacity": 0.125}, {"left lung": 812.5}
)


def test_every_code_of_the_table_is_in_dicoms_dictionary_under_its_meaning():
    words: dict[str, set[str]] = {}
    for entries in _concepts_dict.concepts["SCT"].values():
        for value, (meaning, _) in entries.items():
            words.setdefault(value, set()).add(meaning.casefold())
    table = json.loads(FILE.read_text())
    pairs = [*table["structures"].values()]
    pairs += [pair for entry in table["lesions"].values() for pair in entry.values()]
    assert len(pairs) > 100
    for value, meaning in pairs:
        if value not in NOT_IN_DICOM:
            assert meaning.casefold() in words[value], (value, meaning)
    assert {value for value, _ in pairs} >= NOT_IN_DICOM


def test_labels_become_codes_with_sides_and_organs():
    left = coded_name("Left_Kidney")
    assert (left.kind.value, left.side.meaning) == ("64033007", "Left")
    assert coded_name("left heart atrium").side is None  # the code says it
    tumor = coded_name("liver_tumor")
    assert (tumor.category.value, tumor.kind.meaning, tumor.region.meaning) == ("49755003", "Tumor", "Liver")
    named = [own_code(label) for label in descriptions()]
    assert len({code.value for code in named}) == len(named)  # no two labels of this project share a code
    for code in [*named, own_code("x" * 90), own_code("ü\\é"), coded_name("").kind]:
        assert 0 < len(code.value) <= 16 and 0 < len(code.meaning) <= 64 and "\\" not in code.meaning
    assert len([d for s in diagnosis_facts() for d in diseases_of(s) if coded_name(d).kind.scheme == "SCT"]) >= 15


def test_findings_as_json_work_for_any_source(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.random.default_rng(0).normal(size=(4, 5, 6)), np.eye(4))
    written = json.loads(save_findings(FOUND, read_volume(path)[1], tmp_path / "out" / "f.json").read_text())
    assert (written["text"], written["source"]) == ("A pleural effusion.", str(path))
    effusion, opacity = written["findings"]
    assert effusion["kind"] == {"value": "60046008", "scheme": "SCT", "meaning": "Pleural effusion"}
    assert (effusion["confidence"], opacity["kind"]["scheme"]) == (0.75, "99CTINSTRUCT")
    assert written["structures"][0]["side"]["meaning"] == "Left" and written["structures"][0]["millilitres"] == 812.5
    for name, complaint in (("f.dcm", "is no DICOM series"), ("f.txt", "end the name in one of these")):
        with pytest.raises(InputError, match=complaint):
            save_findings(FOUND, read_volume(path)[1], tmp_path / name)


def test_a_structured_report_names_images_segments_and_numbers(tmp_path):
    ct = np.random.default_rng(1).integers(-512, 700, (14, 11, 9)).astype(np.int16) * 2
    folder = write_dicom(tmp_path / "s", ct)
    geometry = read_volume(folder)[1]
    mask = (np.indices(geometry.shape)[2] > 4).astype(np.uint8)
    segmentation = save_dicom_segmentation({"spleen": mask, "left lung": 1 - mask}, geometry, tmp_path / "seg.dcm")
    report = hd.sr.srread(save_findings(FOUND, geometry, tmp_path / "sr.dcm", segmentation))
    content = report.content
    assert pydicom.dcmread(tmp_path / "sr.dcm").ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = {str(group.tracking_identifier): group for group in content.get_image_measurement_groups()}
    assert set(groups) == {"pleural effusion", "lung opacity"}
    effusion = groups["pleural effusion"]
    assert effusion.finding_type == hd.sr.CodedConcept("60046008", "SCT", "Pleural effusion")
    assert float(effusion.get_measurements()[0].value) == 0.75
    (lung,) = content.get_volumetric_roi_measurement_groups()
    assert float(lung.get_measurements()[0].value) == 812.5
    every = pydicom.dcmread(tmp_path / "sr.dcm").iterall()
    assert {element.value for element in every if element.keyword == "ReferencedSegmentNumber"} == {2}
    evidence = pydicom.dcmread(tmp_path / "sr.dcm").CurrentRequestedProcedureEvidenceSequence
    named = {
        i.ReferencedSOPInstanceUID
        for e in evidence
        for s in e.ReferencedSeriesSequence
        for i in s.ReferencedSOPSequence
    }
    wanted = {pydicom.dcmread(p).SOPInstanceUID for p in folder.iterdir()} | {segmentation.SOPInstanceUID}
    assert named == wanted
    with pytest.raises(InputError, match="nothing for a structured report"):
        save_findings(Findings(text="Nothing."), geometry, tmp_path / "empty.dcm")

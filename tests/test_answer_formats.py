"""An answer's masks and findings in the formats that were asked for, of one CT and of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import highdicom as hd
import nrrd
import numpy as np
import pydicom
import pytest
import torch

from datasets.errors import InputError, WriteError
from datasets.instruction import InstructionDataset
from datasets.volume.loading import read_volume
from evaluation.answering.many_volumes import answer_volumes
from evaluation.answering.outputs import Outputs
from evaluation.answering.single_volume import answer_question
from models import CTInstruct
from models.answering.answer import Answer, SourceVolume
from models.answering.predicting import GenerationOptions
from models.checkpoints.folder import save_checkpoint
from tests.ct_files import write_dicom, write_nifti
from tests.full_disk import largest_file
from tests.test_asking import saying
from tests.tiny_model import with_varied_queries
from training.distributed import Ranks

QUESTION = "Where are the liver and the left kidney?"
SAID = "The liver is <SEG> and the left kidney is <SEG>."
OPTIONS = GenerationOptions(num_beams=1, max_new_tokens=16)
EVERY = Outputs.parse("nifti, seg.nrrd,dicom-seg,labels", "json,dicom-sr")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CTInstruct:
    """Untrained; its masks have some voxels and not all."""
    return CTInstruct.from_pretrained(save_checkpoint(with_varied_queries(), tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    ct = np.random.default_rng(1).integers(-512, 700, (40, 44, 18)).astype(np.int16) * 2
    write_dicom(folder / "a study", ct)
    write_nifti(folder / "b.nii.gz", ct, np.diag([0.8, 0.9, 2.5, 1]))
    return folder


def dataset_of(model: CTInstruct) -> InstructionDataset:
    return InstructionDataset({}, model.tokenizer, model.config, with_answers=False)


def test_masks_go_by_the_labels_of_training(model, scans, tmp_path):
    """As `model.ask` names them, also a label that this project has no description of."""
    with saying(model, "The stent graft is <SEG>."):
        asked = ([str(scans / "b.nii.gz")], "Where is it?", "CT-RATE", tmp_path, OPTIONS)
        written = answer_question(model, dataset_of(model), *asked, labels=["stent_graft"])
    assert list(written.answer.masks) == ["stent graft"]


def test_every_format_of_one_answer_has_the_same_voxels(model, scans, tmp_path):
    with saying(model, SAID):
        asked = ([str(scans / "a study")], QUESTION, "CT-RATE", tmp_path, OPTIONS)
        written = answer_question(model, dataset_of(model), *asked, EVERY)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        "answer.txt", "answer_mask_1.nii.gz", "answer_mask_2.nii.gz", "answer_overlay.png", "answer.seg.nrrd",
        "answer_seg.dcm", "answer_labels.nii.gz", "answer_labels.json", "answer_findings.json", "answer_sr.dcm",
    }  # fmt: skip
    masks = written.answer.masks
    assert list(masks) == ["liver", "left kidney"] and all(0 < m.array.sum() < m.array.size for m in masks.values())
    array, header = nrrd.read(str(tmp_path / "answer.seg.nrrd"))
    volume = hd.seg.segread(tmp_path / "answer_seg.dcm").get_volume(
        segment_numbers=[1, 2], allow_missing_positions=True
    )
    for number, mask in enumerate(masks.values()):
        layers = array if array.ndim == 4 else array[None]
        layer, value = int(header[f"Segment{number}_Layer"]), int(header[f"Segment{number}_LabelValue"])
        assert np.array_equal(layers[layer] == value, mask.array == 1)
        assert int(volume.array[..., number].sum()) == int(mask.array.sum())
    found = json.loads((tmp_path / "answer_findings.json").read_text())
    assert [each["name"] for each in found["structures"]] == list(masks) and found["text"] == written.answer.text
    report = pydicom.dcmread(tmp_path / "answer_sr.dcm")
    segments = {each.value for each in report.iterall() if each.keyword == "ReferencedSegmentNumber"}
    assert report.Modality == "SR" and segments == {1, 2}

    with saying(model, "Nothing."):  # no mask of the earlier question stays
        answer_question(model, dataset_of(model), *asked, EVERY)
    assert {path.name for path in tmp_path.iterdir()} == {"answer.txt", "answer_findings.json"}


def test_a_mask_chooses_its_format_by_its_ending(model, scans, tmp_path):
    with saying(model, SAID):
        answer = model.ask(scans / "a study", QUESTION, num_beams=1, max_new_tokens=16)
    liver = answer.masks["liver"]
    assert nrrd.read_header(str(liver.save(tmp_path / "liver.seg.nrrd")))["Segment0_Name"] == "liver"
    assert hd.seg.segread(liver.save(tmp_path / "liver.dcm")).SegmentSequence[0].SegmentLabel == "liver"
    (both,) = answer.save_masks(tmp_path / "both.dcm")
    assert len(pydicom.dcmread(both).SegmentSequence) == 2
    answer.save_findings(tmp_path / "f.dcm", pydicom.dcmread(both))
    assert pydicom.dcmread(tmp_path / "f.dcm").SOPClassUID.name == "Comprehensive 3D SR Storage"
    with saying(model, "Yes."):
        words = model.ask([], "What is a CT?", num_beams=1, max_new_tokens=4)
    with pytest.raises(InputError, match="masks: the question was about no volume"):
        words.save_masks(tmp_path / "x.nii.gz")


def test_a_folder_is_written_in_the_formats_that_each_ct_can_have(model, scans, tmp_path, caplog):
    images = [str(scans / "a study"), str(scans / "b.nii.gz")]
    ranks = Ranks(0, 1, 0, torch.device("cpu"))
    outputs = Outputs.parse("seg.nrrd,dicom-seg", "dicom-sr")
    with saying(model, SAID):
        asked = (QUESTION, "CT-RATE", tmp_path, OPTIONS, ranks, {"checkpoint": "tiny"})
        study, nifti = answer_volumes(model, dataset_of(model), images, *asked, outputs=outputs)
    assert study["error"] is None and nifti["error"] is None and study["masks"] == {}
    endings = lambda row: sorted(Path(path).name.partition("@answer")[2] for path in row["files"])  # noqa: E731
    assert endings(study) == [".seg.nrrd", "_seg.dcm", "_sr.dcm"] and endings(nifti) == [".seg.nrrd"]
    assert all(Path(path).is_file() for row in (study, nifti) for path in row["files"])
    assert "b.nii.gz: is no DICOM series" in caplog.text
    with pytest.raises(InputError, match="made with another formats"):
        answer_volumes(model, dataset_of(model), images, *asked, outputs=EVERY)


def test_a_full_disk_is_no_property_of_findings(scans, tmp_path, caplog):
    """A report of a CT that is no DICOM series is left out; one that the disk has no room for ends the run."""
    path = scans / "b.nii.gz"
    answer = Answer("An effusion.", {"pleural effusion": 0.75}, volume=SourceVolume(str(path), read_volume(path)[1]))
    with largest_file(100), pytest.raises(WriteError, match=r"answer_findings\.json.*: cannot be written"):
        Outputs.parse("", "dicom-sr,json").write(answer, tmp_path / "answer")
    assert list(tmp_path.iterdir()) == []
    (line,) = caplog.messages
    assert line.startswith("no dicom-sr: ")
    assert Outputs.parse("", "json").write(answer, tmp_path / "answer") == [tmp_path / "answer_findings.json"]


def test_formats_that_cannot_be_are_refused_before_anything_is_answered(scans):
    with pytest.raises(InputError, match=r"--format dicom: give one or several of nifti, seg\.nrrd, dicom-seg, labels"):
        Outputs.parse("nifti,dicom", "")
    with pytest.raises(InputError, match="--findings pdf: give one or several of json, dicom-sr"):
        Outputs.parse("", "pdf")
    with pytest.raises(InputError, match=r"--format dicom-seg: .*b\.nii\.gz is none"):
        EVERY.check([str(scans / "b.nii.gz")])
    EVERY.check([str(scans / "b.nii.gz"), str(scans / "a study")])
    with pytest.raises(InputError, match="are of --image and --images"):
        EVERY.check([])
    Outputs().check([])

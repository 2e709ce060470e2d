"""The audit: silent on phantoms as they are, and naming what was made wrong with one on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from datasets.errors import InputError
from datasets.phantom.anatomy import GROUPS, STRUCTURES
from datasets.phantom.case import CaseOptions, PhantomCase, build_case, nifti_bytes
from evaluation.audit.__main__ import main
from evaluation.audit.cases import prepared_manifests, random_cases
from evaluation.audit.rules import Oddity, oddities
from evaluation.audit.view import read_view

SMALL = CaseOptions(in_plane=(3.0, 3.4), between=(3.0, 5.0), orientations=("RAS", "LPS", "PIR"))
VALUES: dict[str, Any] = {**STRUCTURES, **GROUPS}


@pytest.fixture(scope="module")
def phantom() -> PhantomCase:
    return build_case(5, 0, SMALL, [])


def write_case(out: Path, ct: np.ndarray, structures: np.ndarray, affine: np.ndarray, **fields: Any) -> None:
    """A prepared folder of data set `one` with one segmentation record."""
    for folder in ("pretraining", "one"):
        (out / folder).mkdir(exist_ok=True)
    (out / "ct.nii.gz").write_bytes(nifti_bytes(ct, affine))
    (out / "masks.nii.gz").write_bytes(nifti_bytes(structures, affine))
    row = {
        "image_path": "../ct.nii.gz", "labels": list(VALUES), "mask_path": "../masks.nii.gz", "mask_values": VALUES,
        **fields,
    }  # fmt: skip
    (out / "pretraining" / "one_segmentation_train.json").write_text(json.dumps([row]))
    (out / "one" / "prepared.json").write_text(json.dumps({"manifests": ["pretraining/one_segmentation_train.json"]}))


def found(out: Path) -> list[Oddity]:
    (case,) = random_cases(prepared_manifests(out, "one"), 1)
    return oddities(read_view(case))


def texts(out: Path, rule: str) -> str:
    return "; ".join(oddity.text for oddity in found(out) if oddity.rule == rule)


@pytest.mark.parametrize("index", range(4))
def test_nothing_is_odd_about_phantoms(tmp_path: Path, index: int) -> None:
    case = build_case(11, index, SMALL)
    present = {name: value for name, value in VALUES.items() if np.isin(case.structures, value).any()}
    fields = {"labels": list(present), "mask_values": present}
    write_case(tmp_path, case.ct, case.structures, case.affine, **fields)
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "rules", "hint"),
    [
        (lambda ct: ct + 1000, {"air", "soft tissue"}, "HU + 1000"),
        (lambda ct: ct - 1024, {"air", "soft tissue", "range"}, "rescaled twice"),
        (lambda ct: ct - 120, {"soft tissue", "range"}, ""),
        (lambda ct: np.where(ct == ct.max(), 9000, ct), {"range"}, "up to 9000"),
        (lambda ct: np.clip((ct + 1000) / 10, 0, 255).astype(np.uint8), {"unit"}, "not HU"),
    ],
)
def test_wrong_intensities_are_named(
    tmp_path: Path, phantom: PhantomCase, change: Callable[[np.ndarray], np.ndarray], rules: set[str], hint: str
) -> None:
    write_case(tmp_path, change(phantom.ct), phantom.structures, phantom.affine)
    assert {oddity.rule for oddity in found(tmp_path)} == rules
    assert hint in " ".join(oddity.text for oddity in found(tmp_path))


def test_an_offset_makes_hu(tmp_path: Path, phantom: PhantomCase) -> None:
    write_case(tmp_path, phantom.ct + 1000, phantom.structures, phantom.affine, hu_offset=-1000)
    assert found(tmp_path) == []


def test_padding_is_named_and_does_not_hide_the_air(tmp_path: Path, phantom: PhantomCase) -> None:
    padded = phantom.ct.copy()
    padded[:3] = -3024
    padded[-3:] = -3024
    write_case(tmp_path, padded, phantom.structures, phantom.affine)
    (oddity,) = found(tmp_path)
    assert oddity.rule == "range" and "padding of -3024" in oddity.text


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        (0, ("left lung lies to the right of right lung", "liver lies to the left of spleen")),
        (1, ("spine lies in front of the body's middle",)),
        (2, ("is the head at the bottom?",)),
    ],
)
def test_a_flipped_header_is_named(tmp_path: Path, phantom: PhantomCase, axis: int, expected: tuple[str, ...]) -> None:
    """Volume and mask agree; only the patient's axes are wrong."""
    mirror = np.diag([-1.0 if index == axis else 1.0 for index in (0, 1, 2, 3)])
    write_case(tmp_path, phantom.ct, phantom.structures, mirror @ phantom.affine)
    assert {oddity.rule for oddity in found(tmp_path)} == {"axes"}
    for text in expected:
        assert text in texts(tmp_path, "axes")


def test_swapped_labels_are_named(tmp_path: Path, phantom: PhantomCase) -> None:
    swapped = {**VALUES, "left kidney": VALUES["right kidney"], "right kidney": VALUES["left kidney"]}
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine, mask_values=swapped)
    assert "left kidney lies to the right of right kidney" in texts(tmp_path, "axes")
    assert "lung" not in texts(tmp_path, "axes")


def test_a_single_structure_is_on_its_side(tmp_path: Path, phantom: PhantomCase) -> None:
    wrong = {"spleen": VALUES["liver"]}
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine, labels=["spleen"], mask_values=wrong)
    assert texts(tmp_path, "axes") == "spleen lies on the patient's right"


def test_a_mask_that_is_not_of_its_volume_is_named(tmp_path: Path, phantom: PhantomCase) -> None:
    shifted = np.roll(phantom.structures, [size // 2 for size in phantom.structures.shape], (0, 1, 2))
    write_case(tmp_path, phantom.ct, shifted, phantom.affine)
    assert "liver" in texts(tmp_path, "outside the body")
    turned = phantom.structures[::-1, ::-1, ::-1]
    write_case(tmp_path, phantom.ct, turned, phantom.affine)
    assert "lung" in texts(tmp_path, "values in masks")


@pytest.mark.parametrize(("label", "other"), [("spinal cord", "left lung"), ("right parotid gland", "spine")])
def test_masks_of_something_else_are_named(tmp_path: Path, phantom: PhantomCase, label: str, other: str) -> None:
    """As two cords of OpenKBP, which are the neck around them, and one that lies in the vertebrae."""
    fields = {"labels": [label], "mask_values": {label: VALUES[other]}}
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine, **fields)
    spacing = np.linalg.norm(phantom.affine[:3, :3], axis=0)
    millilitres = np.isin(phantom.structures, VALUES[other]).sum() * spacing.prod() / 1000
    most = {"spinal cord": 250, "right parotid gland": 150}[label]
    assert millilitres > most
    assert texts(tmp_path, "size of masks") == f"{label}: {millilitres:.0f} ml, hardly anybody's has more than {most}"
    assert texts(tmp_path, "values in masks").startswith(f"{label}: median ")
    for side in (0.3, 1.0):  # a small patient, and a header without geometry
        write_case(tmp_path, phantom.ct, phantom.structures, np.diag([side, side, side, 1.0]), **fields)
        assert texts(tmp_path, "size of masks") == ""


def test_empty_masks_are_named(tmp_path: Path, phantom: PhantomCase) -> None:
    write_case(tmp_path, phantom.ct, np.where(phantom.structures == 6, 0, phantom.structures), phantom.affine)
    assert texts(tmp_path, "empty masks") == "empty: spleen"
    write_case(tmp_path, phantom.ct, np.zeros_like(phantom.structures), phantom.affine)
    assert texts(tmp_path, "empty masks").startswith("every mask is empty: left lung")


def test_odd_spacing_is_named(tmp_path: Path, phantom: PhantomCase) -> None:
    axes = np.round(phantom.affine[:3, :3] / np.abs(phantom.affine[:3, :3]).max(0))
    for side, origin, expected in ((1, 0, "without geometry"), (15, 7, "voxels of 15"), (0.02, 7, "voxels of 0.02")):
        affine = np.eye(4)
        affine[:3, :3] = axes * side
        affine[:3, 3] = origin
        write_case(tmp_path, phantom.ct, phantom.structures, affine)
        assert expected in texts(tmp_path, "spacing")


def test_the_page_holds_masks_texts_and_findings_of_what_was_drawn(
    tmp_path: Path, phantom: PhantomCase, capsys: pytest.CaptureFixture[str]
) -> None:
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine)
    (tmp_path / "instruction").mkdir()
    question = {
        "question": [{"type": "image"}, {"type": "text", "text": "Is there an effusion? <binary_answer>"}],
        "image_path": "../ct.nii.gz", "answer": "No & never.", "task": "yes_no",
    }  # fmt: skip
    gone = {**question, "image_path": "../gone.nii.gz"}
    (tmp_path / "instruction" / "asked.json").write_text(json.dumps([question, gone]))
    texts_of = [{"image_path": "../ct.nii.gz", "report": "Lungs are clear."}]
    (tmp_path / "pretraining" / "one_image_text_train.json").write_text(json.dumps(texts_of))
    classes = [{"image_path": "../ct.nii.gz", "disease_label": {"nodule": 1, "cyst": 0, "mass": None}}]
    (tmp_path / "pretraining" / "one_classification_train.json").write_text(json.dumps(classes))
    names = ["one_segmentation_train", "one_image_text_train", "one_classification_train"]
    manifests = [f"pretraining/{name}.json" for name in names] + ["instruction/asked.json"]
    (tmp_path / "one" / "prepared.json").write_text(json.dumps({"manifests": manifests}))
    assert main(["--prepared", str(tmp_path), "--data_set", "one"]) == 0
    printed = capsys.readouterr().out
    assert "gone.nii.gz: cannot be read" in printed and "2 cases, 1 with something odd" in printed
    page = (tmp_path / "one" / "audit.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1 and "http" not in page
    for shown in (*VALUES, "Lungs are clear.", "No &amp; never.", "present: nodule; 1 absent; 1 unknown"):
        assert shown in page
    liver = phantom.structures[phantom.structures == VALUES["liver"]].size
    volume = liver * abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
    assert f'liver<span class="muted">{volume:.1f} ml' in page


def test_cases_are_drawn_by_seed(tmp_path: Path) -> None:
    manifest = tmp_path / "many.json"
    manifest.write_text(json.dumps([{"image_path": f"{index}.nii.gz", "report": "x"} for index in range(100)]))
    drawn = [[case.image.name for case in random_cases([manifest], 5, seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    assert len(random_cases([manifest], 500)) == 100


def test_what_cannot_be_audited_is_said_in_a_line(tmp_path: Path, phantom: PhantomCase, capsys: Any) -> None:
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine)
    assert main(["--prepared", str(tmp_path), "--data_set", "two"]) == 2
    assert "prepared there: one" in capsys.readouterr().err
    assert main(["--prepared", str(tmp_path), "--data_set", "one", "--count", "0"]) == 2
    manifest = tmp_path / "pretraining" / "one_segmentation_train.json"
    manifest.write_text(json.dumps([{"image_path": "../ct.nii.gz", "labels": ["liver"], "mask_pth": "m.nii.gz"}]))
    with pytest.raises(InputError, match="row 0, field mask_pth"):
        random_cases([manifest], 1)
    manifest.unlink()
    assert main(["--prepared", str(tmp_path), "--data_set", "one"]) == 2
    assert "prepare the data set again" in capsys.readouterr().err


def test_all_sets_with_manifests_have_a_page(tmp_path: Path, phantom: PhantomCase, capsys: Any) -> None:
    write_case(tmp_path, phantom.ct, phantom.structures, phantom.affine)
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "prepared.json").write_text(json.dumps({"manifests": {}}))
    assert main(["--prepared", str(tmp_path), "--data_set", "all"]) == 0
    assert (tmp_path / "one" / "audit.html").is_file() and not (tmp_path / "none" / "audit.html").exists()
    assert main(["--prepared", str(tmp_path), "--data_set", "none"]) == 2
    assert "made of other data sets" in capsys.readouterr().err


def test_masks_of_other_images_of_a_question_are_left_out(tmp_path: Path) -> None:
    question = {
        "question": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Where?"}],
        "image_path": ["a.nii.gz", "b.nii.gz"], "answer": "<SEG>", "labels": ["liver"], "mask_path": ["m.nii.gz"],
        "mask_image": 1,
    }  # fmt: skip
    manifest = tmp_path / "two.json"
    manifest.write_text(json.dumps([question]))
    masks = {case.image.name: list(case.masks) for case in random_cases([manifest], 2)}
    assert masks == {"a.nii.gz": [], "b.nii.gz": ["liver"]}


def test_large_volumes_are_thinned_out_and_masks_counted_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluation.audit.view.LARGEST", 4000)
    mask = np.zeros((30, 30, 10), dtype=np.uint8)
    mask[3, 3, 3] = 1
    ct = np.random.default_rng(0).normal(0, 100, mask.shape).astype(np.float32)
    for name, array in (("ct", ct), ("masks", mask)):
        nib.save(nib.Nifti1Image(array, np.diag([0.8, 0.8, 3.0, 1.0])), tmp_path / f"{name}.nii.gz")
    row = {"image_path": "ct.nii.gz", "labels": ["liver"], "mask_path": ["masks.nii.gz"]}
    (tmp_path / "m.json").write_text(json.dumps([row]))
    view = read_view(random_cases([tmp_path / "m.json"], 1)[0])
    assert view.volume.shape == (15, 15, 10) and view.spacing == pytest.approx((1.6, 1.6, 3.0))
    assert view.voxels == {"liver": 1} and not view.masks["liver"].any()

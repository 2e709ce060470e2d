"""Half downloads and odd files of segmentation sets: one line a problem, all of them at once, and the rest is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datasets.prepare.command import main
from datasets.prepare.path_patterns import find_base, find_paths, glob_of
from tests.replicas import SEGMENTATION
from tests.test_prepare_segmentation import read


def test_a_missing_folder_of_masks_is_one_line(tmp_path: Path) -> None:
    SEGMENTATION["btcv"](tmp_path)
    shutil.rmtree(tmp_path / "RawData/Training/label")
    cases, findings = read("btcv", tmp_path)
    assert cases == []
    assert findings.problems == [
        f"{tmp_path}: 4 images, but no mask RawData/Training/label/label*.nii.gz; get the masks as well"
    ]


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    cases, findings = read("kits23", tmp_path)
    assert cases == []
    (problem,) = findings.problems
    assert str(tmp_path) in problem and "dataset/case_*/imaging.nii.gz" in problem
    (problem,) = read("kits23", tmp_path / "gone")[1].problems
    assert "no such folder" in problem


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    SEGMENTATION["ct_org"](tmp_path)
    folder = tmp_path / "OrganSegmentations"
    (folder / "volume-0.nii.gz").unlink()
    (folder / "labels-1.nii.gz").unlink()
    (folder / "labels-2.nii.gz").write_bytes(b"")
    (folder / "volume-107.nii.gz").write_bytes(b"")
    cases, findings = read("ct_org", tmp_path)
    assert [case.id for case in cases] == ["volume-139"]
    assert sorted(findings.problems) == sorted(
        [
            f"{folder}/labels-0.nii.gz: has no image OrganSegmentations/volume-*.nii.gz or volumes/volume-*.nii.gz; "
            "get the image, or remove the mask",
            f"{folder}/volume-1.nii.gz: has no mask OrganSegmentations/labels-*.nii.gz or labels/labels-*.nii.gz; "
            "get the mask, or remove the image",
            f"{folder}/labels-2.nii.gz: the file is empty; download it again",
            f"{folder}/volume-107.nii.gz: the file is empty; download it again",
        ]
    )


def test_a_label_of_which_no_mask_is_there_is_a_problem(tmp_path: Path) -> None:
    SEGMENTATION["nsclc"](tmp_path)
    shutil.rmtree(tmp_path / "Thoracic_Cavities")
    _, findings = read("nsclc", tmp_path)
    assert findings.problems == [
        f"{tmp_path}: no mask of 'thoracic cavity', Thoracic_Cavities/LUNG1-*/*_thor_cav_primary_reviewer.nii.gz; "
        "get these masks as well"
    ]


def test_two_files_of_one_name_are_named(tmp_path: Path) -> None:
    SEGMENTATION["luna16"](tmp_path)
    image = next(tmp_path.glob("subset0/*.mhd"))
    for file in (image, image.with_suffix(".raw")):
        shutil.copy(file, tmp_path / "subset9")
    _, findings = read("luna16", tmp_path)
    (problem,) = findings.problems
    assert str(tmp_path / "subset9" / image.name) in problem and str(image) in problem


def drop_column(folder: Path) -> None:
    (folder / "meta.csv").write_text("image_id;age\ns0000;1\n")


def unknown_split(folder: Path) -> None:
    path = folder / "meta.csv"
    path.write_text(path.read_text(encoding="utf-8-sig").replace("s0011;;f;a;val", "s0011;;f;a;dev"))


def repeated_row(folder: Path) -> None:
    path = folder / "meta.csv"
    path.write_text(path.read_text(encoding="utf-8-sig") + "s0000;;f;a;test\n")


def row_without_subject(folder: Path) -> None:
    path = folder / "meta.csv"
    path.write_text(path.read_text(encoding="utf-8-sig") + "s0999;;f;a;test\n")


def lost_classes(folder: Path) -> None:
    for name in ("liver", "spleen"):
        (folder / "s0001/segmentations" / f"{name}.nii.gz").unlink()


def misspelt_class(folder: Path) -> None:
    masks = folder / "s0001/segmentations"
    shutil.copy(masks / "liver.nii.gz", masks / "livver.nii.gz")


def lost_masks(folder: Path) -> None:
    shutil.rmtree(folder / "s0001/segmentations")


def empty_class(folder: Path) -> None:
    (folder / "s0001/segmentations/heart.nii.gz").write_bytes(b"")


@pytest.mark.parametrize(
    ("break_it", "complaint", "left"),
    [
        (drop_column, "meta.csv", 10),
        (unknown_split, "row 4, column split: 'dev'", 10),
        (repeated_row, "row 7", 10),
        (row_without_subject, "row 7: s0999 has no", 10),
        (lost_classes, "2 of 40 masks that others have are missing (liver.nii.gz, spleen.nii.gz)", 8),
        (misspelt_class, "livver.nii.gz: no other subject has this class; did you mean 'liver'?", 10),
        (lost_masks, "s0001/segmentations: no masks", 8),
        (empty_class, "heart.nii.gz: the file is empty", 8),
    ],
)
def test_faults_of_totalsegmentator(
    break_it: Callable[[Path], None], complaint: str, left: int, tmp_path: Path
) -> None:
    SEGMENTATION["totalsegmentator"](tmp_path)
    break_it(tmp_path)
    cases, findings = read("totalsegmentator", tmp_path)
    (problem,) = findings.problems
    assert complaint in problem and str(tmp_path) in problem
    assert len(cases) == left


def test_a_class_that_no_subject_has_is_not_asked_for(tmp_path: Path) -> None:
    SEGMENTATION["totalsegmentator"](tmp_path)
    for path in tmp_path.glob("s*/segmentations/kidney_left.nii.gz"):
        path.unlink()
    cases, findings = read("totalsegmentator", tmp_path)
    assert findings.problems == [] and len(cases) == 10
    assert sorted(line.split("'")[1] for line in findings.warnings) == ["kidney", "left kidney"]
    assert all("kidney" not in case.masks for case in cases)
    assert sum("right kidney" in case.masks for case in cases) == 5


@pytest.mark.parametrize(
    ("name", "settings", "complaint"),
    [
        ("amos22", {"last_ct": "many"}, "--set last_ct=many: is no number"),
        ("covid19", {"radiopaedia": "maybe"}, "--set radiopaedia=maybe: give yes or no"),
        ("dap", {"numbering": "3"}, "--set numbering=3: give auto, 1 or 2"),
        ("dap", {"autopet": "/nowhere"}, "/nowhere: no such folder"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    name: str, settings: dict[str, str], complaint: str, tmp_path: Path
) -> None:
    SEGMENTATION[name](tmp_path)
    cases, findings = read(name, tmp_path, **settings)
    assert cases == []
    assert complaint in findings.problems[0]


def test_settings_change_what_is_taken(tmp_path: Path) -> None:
    SEGMENTATION["amos22"](tmp_path / "amos")
    SEGMENTATION["covid19"](tmp_path / "covid")
    assert len(read("amos22", tmp_path / "amos", last_ct="600")[0]) == 6
    assert len(read("covid19", tmp_path / "covid", radiopaedia="yes")[0]) == 6
    assert len(read("covid19", tmp_path / "covid")[0]) == 4


def test_an_atlas_without_its_images_says_where_they_are_from(tmp_path: Path) -> None:
    truth = SEGMENTATION["dap"](tmp_path / "both")
    for place in ("apart/atlas", "beside"):
        (tmp_path / place).mkdir(parents=True)
        shutil.copytree(tmp_path / "both/Atlas_final_dataset_V1_533", tmp_path / place / "Atlas_final_dataset_V1_533")
    shutil.rmtree(tmp_path / "both/Atlas_final_dataset_V1_533")
    cases, findings = read("dap", tmp_path / "apart/atlas")
    assert cases == [] and "--set autopet=FOLDER" in findings.problems[-1]
    for folder, settings in [("apart/atlas", {"autopet": str(tmp_path / "both")}), ("beside", {})]:
        cases, findings = read("dap", tmp_path / folder, **settings)
        assert findings.problems == [] and sorted(case.id for case in cases) == sorted(truth.cases)
        assert findings.facts["CTs"] == str(tmp_path / "both")


def test_the_command_lists_all_problems_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    SEGMENTATION["word"](tmp_path / "source")
    (tmp_path / "source/WORD-V0.1.0/labelsTr/word_0002.nii.gz").unlink()
    (tmp_path / "source/WORD-V0.1.0/imagesTs/word_0007.nii.gz").unlink()
    assert main(["word", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert "word_0002.nii.gz: has no mask" in shown.err + shown.out
    assert "word_0007.nii.gz: has no image" in shown.err + shown.out
    assert not (tmp_path / "out/pretraining").exists()


@pytest.mark.parametrize("inner", ["", "download"])
def test_a_set_is_given_by_itself_or_by_a_folder_above_it(inner: str, tmp_path: Path) -> None:
    truth = SEGMENTATION["amos22"](tmp_path / inner)
    for source in (tmp_path, tmp_path / inner / "amos22"):
        cases, findings = read("amos22", source)
        assert findings.problems == [] and sorted(case.id for case in cases) == sorted(truth.cases)


def test_patterns_find_fields_and_take_the_rest_literally(tmp_path: Path) -> None:
    for name in ("a1/x(1).nii", "a1/x1.nii", "a2/x2.nii", "b1/x1.nii", "a1/.x1.nii"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pattern = r"a<part:\d>/x<part>.nii"
    assert [(path.path.name, path.fields) for path in find_paths(tmp_path, pattern)] == [
        ("x1.nii", {"part": "1"}),
        ("x2.nii", {"part": "2"}),
    ]
    assert [path.path.name for path in find_paths(tmp_path, r"a1/x(<id:\d>).nii")] == ["x(1).nii"]
    assert glob_of(pattern) == "a*/x*.nii"
    assert find_base(tmp_path / "a1", [r"a1/<id:x\d>.nii"]) == (tmp_path / "a1", "a1/")
    assert find_paths(tmp_path / "gone", pattern) == []

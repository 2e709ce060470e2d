"""The report of a small evaluation: its cases against the numbers put in, its page as a parser reads it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from datasets.errors import InputError
from evaluation.metrics.summarize import summarize
from evaluation.predictions import write_json
from evaluation.report.html_report import main, write_report
from evaluation.report.report_data import (
    dice_values,
    gallery_cases,
    judged,
    question_groups,
    read_evaluation,
    readable,
)
from tests.report_evaluation import Page, other_records, segmentation_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    records = [*segmentation_records(root), *other_records()]
    output = root / "evaluation"
    write_json(records, output / "predictions.json")
    summary = summarize(records, resamples=50)
    summary["run"] = {"checkpoint": "runs/tiny/step_000100", "benchmark": "Demo"}
    write_json(summary, output / "metrics.json")
    return output


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    path = write_report([folder])
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_page_is_balanced_and_has_every_section(page: Page):
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert {"results", "failed", "e1-diagnosis", "e1-segmentation", "e1-questions", "all"} <= set(ids)
    assert len(ids) == len(set(ids)), "an id that stands twice breaks links and the clipping of figures"
    targets = {attrs["href"][1:] for attrs in page.named("a")}
    assert targets <= set(ids)
    text = " ".join(" ".join(page.text).split())
    for words in ("runs/tiny/step_000100", "Lung nodule", "Dice of each structure", "Best, median and worst", "AUC"):
        assert words in text


def test_headline_figures_are_those_of_the_metrics(page: Page):
    text = " ".join(" ".join(page.text).split())
    # mean of the structures' means: liver (1 + .9 + .8 + .7 + 0) / 5, spleen 0
    assert re.search(r"Segmentation, mean of structures Benchmark .* Demo Segmentation 0\.340 0\.\d+ – 0\.\d+", text)
    assert "Demo Multiple choice 0.500" in text and "Demo Yes / no 0.500" in text
    assert "not computed" in text.partition("Reports and open questions")[2].partition("clinical efficacy")[0]


def test_page_needs_no_network(html: str, page: Page):
    for tag, attrs in page.tags:
        for key, value in attrs.items():
            assert not re.match(r"(https?:)?//", value or ""), f"{tag} {key}={value[:60]}"
            if key == "src":
                assert value.startswith("data:image/png;base64,")
    assert not page.named("link") and not page.named("script") and not page.named("iframe")
    assert "@import" not in html and all(inside.startswith("#") for inside in re.findall(r"url\(([^)]*)\)", html))
    assert "http://" not in html and "https://" not in html


def test_text_of_models_cannot_become_markup(html: str, page: Page):
    assert "<script>" not in html
    assert " ".join(page.text).count('alert("x")') >= 2  # the report's text and the failure's reason


def test_failed_sample_is_listed_with_its_reason(page: Page):
    text = "".join(page.text)
    assert "bad1" in text and "p9.nii.gz: holds NaN" in text
    assert "1 of 27 samples could not be read or answered" in " ".join(text.split())


def test_phone_width_is_cared_for(html: str, page: Page):
    viewport = [meta for meta in page.named("meta") if meta.get("name") == "viewport"]
    assert viewport and "width=device-width" in viewport[0]["content"]
    tables, scrolls = len(page.named("table")), sum(attrs.get("class") == "scroll" for _, attrs in page.tags)
    assert tables == scrolls > 4
    assert "max-width: 100%" in html and "prefers-color-scheme: dark" in html


def test_curves_are_drawn_where_both_classes_are_known(page: Page):
    labels = [attrs["aria-label"] for attrs in page.named("svg")]
    assert sum(label.startswith("ROC") for label in labels) == 2  # Cardiomegaly has no positive
    assert sum(label.startswith("Calibration") for label in labels) == 2
    assert "No curve where only one class is present: Cardiomegaly." in " ".join("".join(page.text).split())


def test_dice_values_count_a_mask_that_was_not_given(folder: Path):
    values = dice_values(read_evaluation(folder))
    # boxes 10 voxels long, moved by k: 10 - k of 10 voxels agree
    assert values["liver"] == pytest.approx([1.0, 0.9, 0.8, 0.7, 0.0])
    assert values["spleen"] == [0.0]


def test_gallery_takes_best_median_and_worst(folder: Path, page: Page):
    ((label, ranked),) = gallery_cases(read_evaluation(folder), structures=4)
    assert label == "liver"
    assert [(rank, record["id"]) for rank, record, _ in ranked] == [
        ("best", "seg0"),
        ("median", "seg2"),
        ("worst", "seg4"),
    ]
    images = page.named("img")
    assert len(images) == 9 and all(image["alt"] for image in images)
    for image in images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].split(",", 1)[1])))
        assert min(picture.size) > 100
    assert "no mask given" in "".join(page.text)


def test_marks_say_right_only_where_it_can_be_decided(folder: Path):
    evaluation = read_evaluation(folder)
    assert {r["id"]: judged(r) for r in evaluation.records if r["id"].startswith("text")} == {
        "text0": True,  # equal but for case and full stop
        "text1": None,
        "text2": True,
        "text3": False,  # neither yes nor no
        "text4": True,
        "text5": False,
        "text6": None,
    }
    groups = {group["task"]: group for group in question_groups(evaluation, limit=3)}
    assert set(groups) == {
        "Reports", "Open questions", "Multiple choice", "Yes / no", "Diagnosis", "Segmentation"
    }  # fmt: skip
    assert [row["id"] for row in groups["Diagnosis"]["rows"]] == ["dia0", "dia4", "dia9"]  # spread, not the first
    assert groups["Diagnosis"]["total"] == 14
    assert groups["Segmentation"]["rows"][0]["note"] == "liver: Dice 1.000"
    assert "<segmentation>" not in groups["Segmentation"]["rows"][0]["question"]
    assert readable("Is it? <binary_answer>") == "Is it?"


def test_several_evaluations_in_one_report(folder: Path, tmp_path: Path):
    other = tmp_path / "second"
    records = [r for r in json.loads((folder / "predictions.json").read_text()) if r["task"] == "yes_no"]
    write_json(records, other / "predictions.json")  # without metrics.json: they are computed
    published = tmp_path / "published.json"
    write_json({"Demo": {"auc": {"value": 0.777, "source": "a paper, table 1"}}}, published)
    path = write_report([folder, other, other], tmp_path / "all.html", checkpoint="mine", published=published)
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join("".join(page.text).split())
    assert "0.777" in text and "second (2)" in text and "Checkpoint mine" in text
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids)) and {"e1", "e2", "e3"} <= set(ids)
    with pytest.raises(InputError, match="2 manifests for 1"):
        write_report([folder], tmp_path / "x.html", manifests=["a", "b"])
    with pytest.raises(InputError, match=r"nowhere\.json: no such manifest"):
        write_report([folder], tmp_path / "x.html", manifests=[tmp_path / "nowhere.json"])


def test_moved_folder_and_lost_files_still_give_a_report(folder: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    shutil.copytree(folder, moved)
    records = json.loads((moved / "predictions.json").read_text())
    for record in records:
        for entry in record.get("segmentation") or []:
            entry.pop("truth_values")
            if entry["mask_path"]:
                entry["mask_path"] = "/nowhere/" + Path(entry["mask_path"]).name  # found in masks/ of the folder
        if record["id"] == "seg2":
            record["image_path"] = ["/nowhere/p2.nii.gz"]
    write_json(records, moved / "predictions.json")
    text = write_report([moved]).read_text(encoding="utf-8")
    assert text.count("<img") == 6  # best and worst; the median's volume is gone
    assert "/nowhere/p2.nii.gz" in text and "shares its file with others" in text
    manifest = tmp_path / "manifest.json"
    question = {"question": "Where?", "answer": "It is <SEG>.", "labels": ["liver"], "mask_path": "m.nii.gz"}
    write_json([{**question, "id": "seg0", "image_path": "ct.nii", "mask_values": {"liver": [5]}}], manifest)
    assert read_evaluation(moved, manifest).mask_values == {("seg0", "liver"): [5]}


def test_command_line_and_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    output = tmp_path / "short.html"
    arguments = [str(folder), "--output", str(output), "--gallery-structures", "0", "--title", "Mine"]
    assert main(arguments) == 0 and "wrote" in capsys.readouterr().out
    assert "<img" not in output.read_text() and "<h1>Mine</h1>" in output.read_text()
    assert main([str(tmp_path / "none")]) == 2
    assert "predictions.json" in capsys.readouterr().err
    (tmp_path / "predictions.json").write_text("[]")
    (tmp_path / "metrics.json").write_text("{")
    assert main([str(tmp_path)]) == 2 and "metrics.json: not a JSON file" in capsys.readouterr().err

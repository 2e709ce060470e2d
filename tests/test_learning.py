"""What was learned: the table against figures by hand, curves against the log, overlays by their colours, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from datasets.errors import InputError
from datasets.volume.overlay import MASK_COLOURS
from evaluation.learning.figures import curves_figure
from evaluation.learning.table import FOLDERS, learning_table, main, read_seed_run
from evaluation.metrics.summarize import summarize
from evaluation.predictions import write_json
from tests.report_evaluation import segmentation_records

ORGAN, LESION = 0.6, 0.1  # Dice of every mask of the first run's model


def masks(folder: Path, factor: float) -> list[dict]:
    """Four livers, and a liver and a spleen without a mask (Dice 0), as files; Dice is set, and two lesions added."""
    folder.mkdir(exist_ok=True)
    records = segmentation_records(folder)
    for record in records[:4]:
        record["segmentation"][0]["dice"] = ORGAN * factor
    lesion = {"label": "lung nodule", "mask_path": "x", "dice": LESION * factor, "nsd": 0.0, "hd95": None}
    base = {"task": "segmentation", "labels": ["lung nodule"], "error": None, "image_path": ["p0"], "answer": "<SEG>"}
    lesions = [{**base, "id": f"lesion{k}", "patient_id": "p0", "segmentation": [lesion]} for k in range(2)]
    return [*records, *lesions]


def words(right: int) -> list[dict]:
    """Four questions of every other task about three volumes, the first ``right`` answered rightly."""
    records = []
    for k in range(4):
        base = {"patient_id": f"v{k % 3}", "image_path": [f"v{k % 3}"], "error": None, "labels": [], "question": "?"}
        options = dict(zip("ABCD" if k % 2 else "AB", ("Left", "Right", "Both", "None"), strict=False))
        answers = {
            "yes_no": ("Yes.", "No.", None),
            "multiple_choice": ("A. Left", "B. Right", options),
            "open_vqa": ("right lower lobe", "nowhere", None),
            "report_generation": ("There is emphysema.", "Cardiomegaly.", None),
        }
        for task, (true, false, choices) in answers.items():
            said = true if k < right else false
            row = {"id": f"{task}{k}", "task": task, "answer": true, "prediction": said, "choices": choices}
            records.append({**base, **row})
        confidence = {"Emphysema": 0.9 if (k % 2 == 1) == (k < right) else 0.1}
        row = {"id": f"d{k}", "task": "diagnosis", "label_set": "CT-RATE", "answer": "", "prediction": ""}
        records.append({**base, **row, "targets": {"Emphysema": k % 2}, "probabilities": confidence})
    return [*records, {**records[0], "id": "failed", "image_path": ["v9"], "error": "gone"}]


def write_seed_run(folder: Path, right: int, factor: float = 1.0) -> Path:
    """A demo's output: all controls have nothing right but half the organs' Dice, and no mask without an image."""
    for control, name in FOLDERS.items():
        share = {"none": 1.0, "shuffled": 0.5, "no_image": 0.0}[control]
        records = [*masks(folder, factor * share), *words(right if control == "none" else 0)]
        write_json(records, folder / name / "predictions.json")
        summary = summarize(records, resamples=10)
        write_json({**summary, "run": {"control": control}}, folder / name / "metrics.json")
    for part in ("encoder", "run", "phantoms"):
        (folder / part).mkdir()
    answers = {"yes_no": "Yes.", "open_vqa": "right upper lobe", "report_generation": "There is emphysema."}
    train = [{"task": task, "answer": answer} for task, answer in answers.items()]
    train.append({"task": "multiple_choice", "answer": "Right", "choices": {"A": "Right", "B": "Left"}})
    train = [{"id": f"t{k}", "question": "?", "image_path": "v", **row} for k, row in enumerate(train)]
    write_json(train, folder / "phantoms" / "train.json")
    (folder / "phantoms" / "v").touch()
    pretraining = [{"step": 10 * k, "train/loss": 9.0, "phantom_image_text/loss": 3.0 / k} for k in range(1, 5)]
    tuning = [
        {"step": 10 * k, "mixed/loss": 9.0, "yes_no/language_loss": 1.0 / k, "segmentation/language_loss": 7.0,
         "segmentation/mask_loss": 0.5 + right} for k in range(1, 4)
    ] + [{"step": 30, "validation/yes_no/language_loss": 2.0}]  # fmt: skip
    for part, rows in (("encoder", pretraining), ("run", tuning)):
        (folder / part / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def seed_runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_seed_run(root / "first", right=4), write_seed_run(root / "second", right=2, factor=0.5)]


def test_the_table_of_one_run_by_hand(seed_runs):
    table = learning_table([read_seed_run(seed_runs[0])])
    assert table.columns == (
        "Task", "Target", "Chance", "Blind", "Model", "Images of another patient", "No image", "Questions", "Volumes"
    )  # fmt: skip
    # Organs: the mean of the liver, 4/5 of 0.6, and of the spleen, 0.  All patients' truths are alike: a chance of 1.
    # Blind: "right upper lobe" shares two of three words; of the options "right" is what was right in training
    assert [row[1:] for row in table.rows] == [
        ("0.800", "1.000", "–", "0.240", "0.120", "0.000", "5", "5"),
        ("–", "–", "–", "0.100", "0.050", "0.000", "2", "1"),
        ("0.900", "0.500", "0.500", "1.000", "0.000", "0.000", "4", "3"),
        ("0.850", "0.500", "1.000", "1.000", "0.000", "0.000", "4", "3"),
        ("0.850", "0.375", "0.000", "1.000", "0.000", "0.000", "4", "3"),  # of two options and of four
        ("0.750", "1.000", "0.667", "1.000", "0.000", "0.000", "4", "3"),
        ("0.750", "1.000", "1.000", "1.000", "0.000", "0.000", "4", "3"),
    ]


def test_several_runs_are_averaged_and_each_is_shown(seed_runs):
    table = learning_table([read_seed_run(folder) for folder in seed_runs])
    assert table.columns[4:7] == ("Model", "first", "second")
    rows = {row[0]: row[4:9] for row in table.rows}
    # of two values the sample standard deviation is their distance over sqrt 2
    assert rows["Organs by `<SEG>`, Dice"] == ("0.180 ± 0.085", "0.240", "0.120", "0.090 ± 0.042", "0.000 ± 0.000")
    assert rows["Yes / no, accuracy"] == ("0.750 ± 0.354", "1.000", "0.500", "0.000 ± 0.000", "0.000 ± 0.000")


def test_figures_are_those_of_metrics_json(seed_runs, tmp_path):
    folder = shutil.copytree(seed_runs[0], tmp_path / "copy")
    path = folder / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["tasks"]["yes_no"]["metrics"]["accuracy"]["value"] = 0.123
    del metrics["tasks"]["open_vqa"]  # a short evaluation may lack a task
    path.write_text(json.dumps(metrics))
    rows = {row[0]: row[4] for row in learning_table([read_seed_run(folder)]).rows}
    assert rows["Yes / no, accuracy"] == "0.123" and rows["Open questions, token F1"] == "–"


def test_curves_are_those_of_the_logs(seed_runs):
    panels = {axes.get_title(): axes.lines for axes in curves_figure(seed_runs).axes if axes.get_title()}
    assert list(panels) == ["Pretraining: phantom image text", "Tuning: yes / no", "Tuning: segmentation"]
    first, second = panels["Pretraining: phantom image text"]
    assert list(first.get_xdata()) == [10, 20, 30, 40] and list(first.get_ydata()) == [3.0, 1.5, 1.0, 0.75]
    assert first.get_color() != second.get_color()
    assert [line.get_ydata()[0] for line in panels["Tuning: segmentation"]] == [4.5, 2.5]  # the mask's loss, not 7
    assert [line.get_linestyle() for line in panels["Tuning: yes / no"]] == ["-", "--", "-", "--"]
    assert list(panels["Tuning: yes / no"][1].get_ydata()) == [2.0]


def test_all_three_files_are_written(seed_runs, tmp_path, capsys):
    first, second = map(str, seed_runs)
    output = tmp_path / "new" / "folder"
    assert main(["--seed_runs", first, second, first + "/", "--output", str(output)]) == 0
    text = (output / "learning.md").read_text(encoding="utf-8")
    assert "| 0.850 | 0.500 | 1.000 | 0.750 ± 0.354 | 1.000 | 0.500 | 0.000 ± 0.000 |" in text, "the first counts once"
    assert "0.750 ± 0.354" in capsys.readouterr().out
    assert "(learning_curves.png)" in text and "(overlays.png)" in text
    assert Image.open(output / "learning_curves.png").size[0] > 800
    picture = np.asarray(Image.open(output / "overlays.png").convert("RGB"), dtype=float)
    thirds = np.array_split(picture, 3)
    counts = [[(np.abs(p - 255 * np.array(to_rgb(c))).max(-1) < 30).sum() for c in MASK_COLOURS[:2]] for p in thirds]
    (_, best), (truth, median), (alone, nothing) = counts  # the best mask covers its truth, the worst was not given
    assert min(best, median) > 1000 > 5 * nothing and min(truth, alone) > 1000, counts


def test_folders_that_do_not_fit_are_refused_with_one_line(seed_runs, tmp_path, capsys):
    def refusal(change) -> str:
        folder = shutil.copytree(seed_runs[0], tmp_path / change.__name__)
        change(folder)
        assert main(["--seed_runs", str(folder), "--output", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    def swapped(folder: Path) -> None:
        (folder / "evaluation_shuffled").rename(folder / "x")
        (folder / "evaluation").rename(folder / "evaluation_shuffled")
        (folder / "x").rename(folder / "evaluation")

    def other_limit(folder: Path) -> None:
        path = folder / "evaluation_no_image" / "predictions.json"
        path.write_text(json.dumps(json.loads(path.read_text())[1:]))

    assert "evaluation: holds an evaluation with --control shuffled, not none" in refusal(swapped)
    assert "evaluation_no_image: has other questions" in refusal(other_limit)

    def without_control(folder: Path) -> None:
        shutil.rmtree(folder / "evaluation_no_image")

    def without_log(folder: Path) -> None:
        (folder / "encoder" / "history.jsonl").unlink()

    def torn_log(folder: Path) -> None:
        (folder / "run" / "history.jsonl").write_text('{"step": 1')

    assert "evaluation_no_image/predictions.json: no such file" in refusal(without_control)
    assert "encoder/history.jsonl: no such file" in refusal(without_log)
    assert "run/history.jsonl: cannot be read as JSON lines" in refusal(torn_log)
    with pytest.raises(InputError, match=r"evaluation/predictions\.json: no such file"):
        read_seed_run(tmp_path)
    assert not (tmp_path / "out").exists()

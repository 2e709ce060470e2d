"""The ablation's table and plot, from validation files whose figures are known."""

from __future__ import annotations

import csv
import json
import statistics

import pytest
from matplotlib.image import imread

from datasets.errors import InputError
from evaluation.ablation import OBJECTIVES, ablation_plot, ablation_table, main, read_run
from training.pretraining.settings import SCORES

SETS = [sorted(kinds) for kinds in OBJECTIVES]


def write_run(folder, encoder, kinds, **scores):
    folder.mkdir(parents=True)
    known = {"phantom_image_text/chance_recall_5": 0.1, "phantom_image_text/image_to_text_recall_5": 0.5} | scores
    run = {"step": 300, "encoder": encoder, "kinds": kinds, "split": "val", **known}
    (folder / SCORES["val"]).write_text(json.dumps(run))
    return str(folder)


@pytest.fixture
def folders(tmp_path):
    """All twelve, in no order; one of them with a second seed."""
    runs = []
    for place, (encoder, kinds) in enumerate((e, k) for e in ("ViT3D", "2D1D", "ResNet3D") for k in reversed(SETS)):
        scores = {"x/zero_shot_auc": 0.5 + place / 100}
        if "classification" in kinds:
            scores |= {"a/auc": 0.8, "b/auc": 0.7 + place / 100, "a/f1": 0.1}
        if "segmentation" in kinds:
            scores |= {"s/dice": place / 50, "s/dice/liver": 0.99}
        runs.append(write_run(tmp_path / f"run{place}", encoder, kinds, **scores))
    return [*runs, write_run(tmp_path / "second", "2D1D", SETS[0], **{"x/zero_shot_auc": 0.9})]


def test_the_table_has_a_row_for_each_encoder_and_set_of_objectives(folders):
    table = ablation_table([read_run(folder) for folder in folders])
    expected = [(encoder, name) for encoder in ("2D1D", "ViT3D", "ResNet3D") for name in OBJECTIVES.values()]
    assert [row[:2] for row in table.rows] == expected
    rows = {row[:2]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    everything = rows["ResNet3D", "all three"]  # place 8: the mean over tasks, and structures do not count as tasks
    assert everything["AUC"] == f"{(0.8 + 0.78) / 2:.3f}" and everything["Dice"] == f"{8 / 50:.3f}"
    assert everything["Steps"] == "300" and everything["Runs"] == "1"
    without = rows["ViT3D", "contrastive"]
    assert without["AUC"] == without["Dice"] == "–" and without["Zero-shot AUC"] == "0.530"
    assert without["Image to text R@5"] == "0.500" and without["Text to image R@5"] == "–"
    both = rows["2D1D", "contrastive"]  # place 7, and the second seed
    pair = [0.57, 0.9]
    assert both["Zero-shot AUC"] == f"{statistics.fmean(pair):.3f} ± {statistics.stdev(pair):.3f}"
    assert both["Runs"] == "2" and any("chance: 0.100" in note for note in table.notes)


def test_the_plot_has_a_bar_for_each_figure(folders):
    figure = ablation_plot([read_run(folder) for folder in folders])
    bars = {axes.get_title(): [bar.get_height() for bar in axes.patches] for axes in figure.axes}
    assert {title: len(heights) for title, heights in bars.items()} == {
        "Classification AUC": 6,
        "Zero-shot AUC": 12,
        "Dice": 6,
        "Recall at 5, both directions": 0,  # one direction alone is not both
    }
    assert max(bars["Zero-shot AUC"]) == pytest.approx((0.57 + 0.9) / 2)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(OBJECTIVES.values())


def test_the_command_writes_what_it_prints(folders, tmp_path, capsys):
    assert main([*folders, folders[0] + "/", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "ablation.md").read_text(encoding="utf-8") in printed
    rows = list(csv.reader((tmp_path / "out" / "ablation.csv").open()))
    assert len(rows) == 13 and all(row[2] == "1" for row in rows[1:] if row[:2] == ["ViT3D", "all three"])
    assert imread(tmp_path / "out" / "ablation.png").shape[1] > 800


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "no such file; give run folders"),
        ("{", "damaged"),
        ('{"step": 1, "kinds": [], "split": "val"}', "'encoder'"),
        ('{"step": 1, "kinds": [], "split": "val", "encoder": "VGG"}', "'VGG' is not one of 2D1D"),
    ],
)
def test_a_folder_that_is_no_run_is_named(tmp_path, capsys, content, complaint):
    if content:
        (tmp_path / SCORES["val"]).write_text(content)
    with pytest.raises(InputError, match=complaint):
        read_run(tmp_path)
    assert main([str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1 and errors[0].startswith(f"error: {tmp_path}") and not (tmp_path / "out").exists()


def test_runs_scored_on_other_data_are_not_compared(tmp_path):
    runs = [read_run(write_run(tmp_path / "a", "2D1D", SETS[0])), read_run(write_run(tmp_path / "b", "ViT3D", SETS[0]))]
    ablation_table(runs)
    other = read_run(write_run(tmp_path / "c", "ViT3D", SETS[0], **{"phantom_image_text/chance_recall_5": 0.2}))
    with pytest.raises(InputError, match=r"differ in chance.*c has 0\.2"):
        ablation_table([*runs, other])

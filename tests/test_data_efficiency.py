"""Curves of Dice against patients: subsets, plan, the children's options, resuming, table and figure."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.data_efficiency import carrying_out, command
from benchmarks.data_efficiency.commands import Places, pretraining_command, run_command
from benchmarks.data_efficiency.pictures import curves_figure, curves_table
from benchmarks.data_efficiency.plan import OBJECTIVES, Run, Start, starts_of
from benchmarks.data_efficiency.results import Result, keep_settings, mean_dice, mean_gain, read_results
from benchmarks.data_efficiency.subsets import patient_order, write_subset
from benchmarks.segmentation_peer.volumes import read_records
from datasets.errors import InputError
from datasets.phantom.people.structures import STRUCTURES_FILE
from datasets.prepare.sets.open_kbp import TASK
from evaluation.metrics.segmentation import segmentation_metrics
from models.configuration import ENCODER_NAMES
from training.arguments import parse
from training.pretraining.settings import PretrainingSettings

STARTS = starts_of(OBJECTIVES)
TITLES = [start.title for start in STARTS]


def write_manifests(folder: Path, patients: int = 12, split: str = "train") -> None:
    """Of empty files; every second patient lacks one of the two organs."""
    folder.mkdir(exist_ok=True)
    rows = []
    for number in range(patients):
        for name in (f"{split}_{number}.nii.gz", f"{split}_{number}_organs.nii.gz"):
            (folder / name).write_bytes(b"")
        values = {"mandible": 7, "larynx": 6} if number % 2 else {"mandible": 7}
        rows.append(
            {
                "image_path": f"{split}_{number}.nii.gz",
                "labels": list(values),
                "mask_path": f"{split}_{number}_organs.nii.gz",
                "mask_values": values,
                "patient_id": f"{split} {number}",
            }
        )
    (folder / f"{TASK}_{split}.json").write_text(json.dumps(rows))


def write_phantom_reports(folder: Path, people: bool = False) -> None:
    """What of a folder of phantoms is read before any training."""
    (folder / "pretraining").mkdir(parents=True)
    rows = [{"report": f"There is {finding} in the left lung."} for finding in ("a nodule", "an effusion", "nothing")]
    (folder / "pretraining" / "image_text_train.json").write_text(json.dumps(rows))
    for name in ("segmentation", *(() if people else ("classification", "details"))):
        (folder / "pretraining" / f"{name}_train.json").write_text("[]")
    if people:
        (folder / STRUCTURES_FILE).write_text(json.dumps({"labels": {"liver": 1}}))


def settings_of(words: Sequence[str]) -> PretrainingSettings:
    """As the script that a command calls reads its options."""
    script = importlib.import_module(Path(words[1]).stem)
    settings: PretrainingSettings = parse(script.HyperParameters, script.PRESETS, words[2:], recipes=script.RECIPES)
    settings.validate()
    return settings


def test_subsets_are_nested_drawn_by_seed_and_keep_their_records(tmp_path: Path) -> None:
    write_manifests(tmp_path / "data")
    records = read_records(tmp_path / "data" / f"{TASK}_train.json")
    found = {}
    for seed in (0, 1):
        for count in (3, 7, 12):
            folder = tmp_path / f"{count}_{seed}"
            write_subset(records, count, seed, folder)
            chosen = read_records(folder / f"{TASK}_train.json")
            assert all(record in records for record in chosen)
            found[count, seed] = {record.patient_id for record in chosen}
            assert len(found[count, seed]) == count
        assert found[3, seed] < found[7, seed] < found[12, seed]
    assert found[7, 0] != found[7, 1]
    assert patient_order(records, 1) == patient_order(list(reversed(records)), 1)
    with pytest.raises(InputError, match="--patients 13: the training manifest has 12"):
        write_subset(records, 13, 0, tmp_path / "more")


@pytest.mark.parametrize("encoder", ENCODER_NAMES)
def test_the_scripts_take_the_commands_and_all_runs_differ_in_their_start_alone(tmp_path: Path, encoder: str) -> None:
    places = Places(tmp_path / "out", tmp_path / "phantoms")
    scratch, pretrained = (
        settings_of(run_command(places, Run(encoder, start, 10, 2), "tiny", 30, 1.5, ["--learning_rate", "1e-3"]))
        for start in (STARTS[0], STARTS[3])
    )
    differing = {name for name in vars(scratch) if getattr(scratch, name) != getattr(pretrained, name)}
    assert differing == {"run_dir", "initial_vision"} and not scratch.initial_vision
    assert scratch.max_iters == 30 and scratch.max_minutes == 1.5 and scratch.seed == 2 and scratch.eval_interval == 0
    assert scratch.window_slices == 0 and scratch.segmentation_micro_batch == 2
    assert scratch.learning_rate == 1e-3 and scratch.task_weights == (f"{TASK}=1",)
    first = settings_of(pretraining_command(places, encoder, STARTS[1], "tiny", 20, 1))
    last = settings_of(pretraining_command(places, encoder, STARTS[3], "tiny", 20, 1))
    assert pretrained.initial_vision == last.run_dir and first.run_dir != last.run_dir
    assert (first.max_iters, last.max_iters) == (20, 60) and last.kinds == OBJECTIVES
    weights = dict(item.split("=") for item in last.task_weights)
    assert [name for name, weight in weights.items() if weight == "1"] == [
        "phantom_image_text",
        "phantom_detail_classification",
        "phantom_segmentation",
    ]
    assert first.text_encoder == last.text_encoder == scratch.text_encoder == str(places.text_encoder)
    assert first.crop_size == scratch.crop_size and first.patch_max == scratch.patch_max


def stub_children(monkeypatch: pytest.MonkeyPatch, stops: dict[str, int] | None = None) -> list[str]:
    """In place of trainings and scores; ``stops``: how often a run is stopped by time before its end."""
    begun: list[str] = []
    left = dict(stops or {})
    finished: set[Path] = set()

    def train(words: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        folder = Path(words[words.index("--run_dir") + 1])
        begun.append("/".join(folder.parent.parts[-3:]))
        if left.get(begun[-1], 0):
            left[begun[-1]] -= 1
        else:
            finished.add(folder)

    def score_run(run: Path, *_: object) -> dict[str, dict[str, float]]:
        patients = int(run.parent.name.split("_")[0])
        return {f"val {number}": {"mandible": patients / 20, "larynx": 0.1 * number} for number in range(3)}

    monkeypatch.setattr(carrying_out, "train", train)
    monkeypatch.setattr(carrying_out, "is_finished", lambda run, steps: run in finished)
    monkeypatch.setattr(carrying_out, "score_run", score_run)
    return begun


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    for split in ("train", "val"):
        write_manifests(tmp_path / "data", split=split)
    write_phantom_reports(tmp_path / "phantoms")
    given = {"out": "out", "manifest_dir": "data", "phantoms": "phantoms", "figure": "figures/curves.png"}
    words = [word for name, place in given.items() for word in (f"--{name}", str(tmp_path / place))]
    return [*words, "--encoders", "2D1D", "--patients", "4", "8", "--repeated", "4", "--seeds", "2"]


def test_the_command_goes_on_where_time_was_up_and_does_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    begun = stub_children(monkeypatch, {"2D1D/segmentation/4_patients_seed_0": 1})
    assert command.main(arguments) == 3
    assert "time is up" in capsys.readouterr().out
    assert command.main(arguments) == 0
    assert begun[:3] == [
        "2D1D/scratch/4_patients_seed_0",
        "pretraining/2D1D/segmentation",
        "2D1D/segmentation/4_patients_seed_0",
    ]
    assert len(begun) == 3 + 12 + 1 and begun.count("2D1D/segmentation/4_patients_seed_0") == 2
    results = json.loads((tmp_path / "out" / command.RESULTS).read_text())
    assert len(results) == 12 and {row["dice"] for row in results if row["patients"] == 8} == {0.25}
    assert (tmp_path / "out" / command.TABLE).read_text() in capsys.readouterr().out
    assert (tmp_path / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert command.main(arguments) == 0 and len(begun) == 16
    assert command.main([*arguments, "--steps", "7"]) == 2
    assert "settings.json: the runs here were begun with steps 200, not 7" in capsys.readouterr().err
    assert command.main([*arguments, "--count", "9"]) == 2
    assert "--count 9: give 10 or more" in capsys.readouterr().err
    assert command.main([*arguments, "--patients", "99"]) == 2
    assert "--patients 99: the training manifest has 12" in capsys.readouterr().err


def test_several_jobs_wait_for_the_pretraining_that_they_share(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    begun = stub_children(monkeypatch)
    assert command.main([*arguments, "--jobs", "3"]) == 0
    assert len(begun) == len(set(begun)) == 3 + 12


def test_a_child_that_fails_ends_the_command_with_its_line(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[object] = []

    def train(words: Sequence[str], *_: object) -> None:
        begun.append(words)
        time.sleep(0.5)  # on a busy machine, too, the first failure is heard of before many more have begun
        raise InputError("training.log: the training ended with status 2: no data")

    stub_children(monkeypatch)
    monkeypatch.setattr(carrying_out, "train", train)
    assert command.main([*arguments, "--jobs", "2"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told == "error: training.log: the training ended with status 2: no data"
    assert len(begun) < 6


def test_phantoms_without_diseases_have_no_start_with_classification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    stub_children(monkeypatch)
    write_phantom_reports(tmp_path / "people", people=True)
    given = [*arguments, "--phantoms", str(tmp_path / "people")]
    assert command.main(given) == 0
    found = {result.start for result in read_results(tmp_path / "out" / "runs")}
    assert found == {"from scratch", "segmentation", "segmentation + image and text"}
    words = pretraining_command(Places(tmp_path, tmp_path / "people"), "2D1D", Start(("segmentation",)), "tiny", 5, 1)
    assert settings_of(words).task_weights == ("phantom_image_text=0", "phantom_segmentation=1")


def test_starts_that_are_not_asked_for_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    stub_children(monkeypatch)
    assert command.main([*arguments, "--starts", "report"]) == 2
    assert "--starts report: choose from scratch, segmentation" in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "told before anything is made"
    assert command.main([*arguments, "--starts", "segmentation", "scratch", "--out", str(tmp_path / "both")]) == 0
    assert "Gain" in (tmp_path / "both" / "table.md").read_text()
    assert command.main([*arguments, "--starts", "segmentation"]) == 0
    assert {result.start for result in read_results(tmp_path / "out" / "runs")} == {"segmentation"}
    assert "Gain" not in (tmp_path / "out" / "table.md").read_text(), "there is nothing to gain over"


def made_up(start: str, patients: int, seed: int, level: float) -> Result:
    """Patients differ by 0.2 from the first to the last; one lacks the larynx."""
    cases = {f"p{number}": {"mandible": level + 0.02 * number, "larynx": level + 0.02 * number} for number in range(11)}
    del cases["p5"]["larynx"]
    return Result("2D1D", start, patients, seed, cases)


def test_points_are_means_over_organs_patients_and_seeds_and_gains_are_paired() -> None:
    scratch = [made_up(TITLES[0], 10, seed, 0.3 + 0.1 * seed) for seed in range(3)]
    better = [made_up(TITLES[1], 10, seed, 0.35 + 0.1 * seed) for seed in range(2)]
    assert scratch[0].dice == pytest.approx(0.4)
    estimate = mean_dice(scratch)
    assert estimate["value"] == pytest.approx(0.5) and estimate["patients"] == 11
    assert 0.42 < estimate["low"] < 0.48 < 0.52 < estimate["high"] < 0.58  # deviation of the mean: 0.063 / sqrt(11)
    rows = [
        {"patient_id": patient, "label": organ, "dice": value}
        for result in scratch
        for patient, organs in result.cases.items()
        for organ, value in organs.items()
    ]
    expected = segmentation_metrics(rows)["mean"]["dice"]
    assert all(estimate[name] == pytest.approx(expected[name]) for name in ("value", "low", "high", "patients"))
    gain = mean_gain(better, scratch)
    assert gain is not None and gain["value"] == pytest.approx(0.05)
    assert gain["high"] - gain["low"] == pytest.approx(0, abs=1e-9)  # paired: all patients gain alike
    assert mean_gain([made_up(TITLES[1], 10, 7, 0.3)], scratch) is None


def test_table_and_figure_show_what_there_is() -> None:
    results = [made_up(TITLES[0], 10, seed, 0.3 + 0.1 * seed) for seed in range(3)]
    results += [made_up(TITLES[0], 170, 0, 0.6), made_up(TITLES[1], 10, 0, 0.35)]
    table = curves_table(results, ENCODER_NAMES, TITLES)
    dice, gain = table.split("Gain over")
    lines = dice.splitlines()
    assert lines[2] == "| Encoder | Start | 10 | 170 |"
    assert lines[4].startswith("| 2D1D | from scratch | 0.500 (0.4") and " ×3 | 0.700 (0.6" in lines[4]
    assert lines[5].startswith("| 2D1D | segmentation | 0.450 (") and lines[5].endswith(") | – |")
    assert "| 2D1D | segmentation | +0.050 (+0.050 to +0.050) | – |" in gain
    figure = curves_figure(results, ENCODER_NAMES, TITLES)
    (axes,) = figure.axes
    assert axes.get_title() == "2D1D" and axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["10", "170"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == TITLES[:2]
    dots = [line for line in axes.get_lines() if line.get_marker() == "o"]
    assert sorted(dots[0].get_ydata()) == pytest.approx([0.4, 0.5, 0.6, 0.7])


def test_a_damaged_file_of_scores_is_named(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(InputError, match=r"scores\.json: damaged"):
        read_results(tmp_path)
    keep_settings(tmp_path / "settings.json", {"steps": 3})
    with pytest.raises(InputError, match=r"settings.json: the runs here are of before the recipe was noted"):
        keep_settings(tmp_path / "settings.json", {"steps": 3, "recipe": "a"})
    keep_settings(tmp_path / "settings.json", {"steps": 3})
    with pytest.raises(InputError, match="begun with steps 3, not 4; give another --out"):
        keep_settings(tmp_path / "settings.json", {"steps": 4})

"""The published network's outputs are reproduced, none of the vectors is missing, and altered ones are found out."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity import NO_VECTORS, TOLERANCE, VECTORS, find_check, relative_error, run, vector_files
from tests.parity_weights import rule_tensor
from tests.shared_data import EXAMPLE_CT, shared_path

ROOT = Path(__file__).resolve().parents[1]

FULL_SIZE = ("vision_1x1x1.npz", "vision_1x2x1_padded.npz", "vision_2x1x1_padded.npz")
SMALL = (
    *(f"anyres_{size}.npz" for size in ("120x90x64", "300x300x150", "64x128x9", "90x120x20", "96x96x40")),
    *("llm_diagnosis_16.npz", "llm_diagnosis_18.npz", "llm_two_samples.npz", "seg_loss.npz"),
    *("release_diagnosis_ctrate.npz", "release_text.json"),
    *("release_dice_empty.npz", "release_dice_padded.npz", "release_dice_solid.npz"),
)
OF_A_CT = "load_example_ct_sm.npz"
SHAPES = ("reference_state_dict_shapes.json", "llm_tiny_state_dict_shapes.json")

# What the published evaluator was given; all else in its files are its figures.
INPUTS = {
    "release_diagnosis_ctrate.npz": {"truth", "probabilities"},
    "release_text.json": {"prediction", "reference"},
    **{f"release_dice_{case}.npz": {"logits", "target"} for case in ("empty", "padded", "solid")},
}


def compare(name: str) -> dict[str, float]:
    """The errors of a vector, within this process."""
    check = find_check(VECTORS / name)
    assert check is not None, f"{name} has no check"
    with torch.no_grad():
        return check(VECTORS / name)


def parity(*options: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.parity", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_vector_is_here_and_has_a_check():
    assert {path.name for path in vector_files()} == {*SMALL, *FULL_SIZE, OF_A_CT}
    assert all(find_check(path) for path in vector_files())
    assert all((VECTORS / name).is_file() for name in (*SHAPES, NO_VECTORS[0]))


@pytest.mark.parametrize("name", SMALL)
def test_the_published_outputs_are_reproduced(name):
    errors = compare(name)
    assert errors and all(error <= TOLERANCE for error in errors.values()), errors


def test_the_loader_reads_a_real_ct_as_the_published_one_does():
    shared_path(*EXAMPLE_CT.split("/"))
    errors = compare(OF_A_CT)
    assert errors and all(error <= TOLERANCE for error in errors.values()), errors


@pytest.mark.parametrize(
    "name", [FULL_SIZE[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FULL_SIZE[1:])]
)
def test_the_published_network_is_reproduced_at_full_size(name):
    """By the command without a folder: 332 million weights, about 5 GB, in a process that gives them back."""
    result = parity("--only", name)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{name} " in result.stdout and " ok " in result.stdout and "; 9 compared)" in result.stdout


@pytest.mark.parametrize("name", sorted(INPUTS))
def test_every_figure_of_the_published_evaluator_is_compared(name):
    vector = json.loads((VECTORS / name).read_text()) if name.endswith(".json") else np.load(VECTORS / name)
    keys = set(vector) - {"rows"} | ({key for row in vector["rows"] for key in row} if "rows" in vector else set())
    assert keys - INPUTS[name] == set(compare(name))


def test_an_altered_vector_fails(tmp_path: Path, capsys):
    name = "anyres_90x120x20.npz"
    vector = dict(np.load(VECTORS / name))
    np.savez(tmp_path / name, **vector)
    assert run(tmp_path)
    vector["patches_sub"][0, 0, 8, 8, 3] += 2e-4 * vector["patches_std"]
    np.savez(tmp_path / name, **vector)
    capsys.readouterr()
    assert not run(tmp_path)
    shown = capsys.readouterr().out
    assert name in shown and "FAILED" in shown and "(patches;" in shown


def test_an_altered_figure_of_the_evaluator_fails(tmp_path: Path, capsys):
    vector = json.loads((VECTORS / "release_text.json").read_text())
    vector["rows"][2]["rouge_1"] += 2e-6
    (tmp_path / "release_text.json").write_text(json.dumps(vector))
    assert not run(tmp_path) and "(rouge_1;" in capsys.readouterr().out


def test_unknown_names_are_said_and_an_empty_folder_fails(tmp_path: Path):
    np.savez(tmp_path / "other.npz", values=np.zeros(1))
    result = parity(tmp_path)
    assert "other.npz" in result.stdout and "not checked" in result.stdout
    assert result.returncode == 1 and "no vector file was checked" in result.stdout


def test_relative_error():
    expected = np.array([0.0, 2.0, 4.0])
    assert relative_error(expected + [0, 0.5, 0], expected) == pytest.approx(0.5 / expected.std())
    assert relative_error(expected[:2], expected) == float("inf")
    assert relative_error([0.0, np.nan, 4.0], expected) == float("inf")


def test_weights_by_rule():
    """The rule of tests/data/parity/README.md, on one name of each kind."""
    for name, shape in {
        "a.running_mean": (5,),
        "a.running_var": (5,),
        "a.q_scale": (5,),
        "a.norm.gamma": (5,),
        "a.bias": (5,),
        "a.in_proj_bias": (5,),
        "a.weight": (5,),
        "b.weight": (4, 3, 2),
    }.items():
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
        expected = {
            "a.running_mean": 0.1 * noise,
            "a.running_var": 1 + 0.1 * np.abs(noise),
            "a.bias": 0.02 * noise,
            "a.in_proj_bias": 0.02 * noise,
            "b.weight": noise * np.sqrt(1 / 6),
        }.get(name, 1 + 0.05 * noise)
        assert np.allclose(rule_tensor(name, shape), expected, atol=1e-7)
    assert int(rule_tensor("a.num_batches_tracked", ())) == 0
    assert not rule_tensor("a.beta", (5,)).any()

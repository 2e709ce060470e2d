"""The parity command on the published vectors, and on vectors that were altered."""

from __future__ import annotations

import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from tests.parity import relative_error
from tests.parity_weights import rule_tensor
from tests.shared_data import shared_path

ROOT = Path(__file__).resolve().parents[1]


def parity(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.parity", str(folder), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_published_outputs_are_reproduced():
    """All files, at full size: about half a minute and 5 GB, in a process that gives them back."""
    folder = shared_path("parity")
    result = parity(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    for file in folder.glob("*.npz"):
        assert " ok " in lines[file.name]


def test_an_altered_vector_fails(tmp_path: Path):
    name = "anyres_90x120x20.npz"
    vector = dict(np.load(shared_path("parity", name)))
    np.savez(tmp_path / name, **vector)
    assert parity(tmp_path).returncode == 0
    vector["patches_sub"][0, 0, 8, 8, 3] += 2e-4 * vector["patches_std"]
    np.savez(tmp_path / name, **vector)
    result = parity(tmp_path)
    assert result.returncode == 1
    assert name in result.stdout and "FAILED" in result.stdout and "(patches;" in result.stdout


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
    """The rule of shared/parity/README.md, on one name of each kind."""
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

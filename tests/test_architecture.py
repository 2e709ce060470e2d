"""The shape of the code: arrows between modules in one direction, short files, and shared words that need no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "datasets", "training", "evaluation")
LONGEST_FILE = 300  # lines
# What the words shared by all must not load: scripts that only read a manifest start without them.
HEAVY = ("torch", "numpy", "transformers", "monai")


def source_files() -> list[Path]:
    """Every Python file of the rooms, and every script."""
    return sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])


def test_modules_import_in_one_direction():
    """The contracts of .importlinter; what breaks them is printed."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout[result.stdout.find("Contracts") :] + result.stderr


def test_no_file_is_long():
    files = source_files()
    assert len(files) > 100 and ROOT / "train_CTInstruct.py" in files
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


@pytest.mark.parametrize("module", ["datasets.vocabulary", "datasets.errors"])
def test_the_shared_words_load_nothing_heavy(module):
    program = f"import sys, {module}; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []

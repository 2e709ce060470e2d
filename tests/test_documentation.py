"""README and docs/: links lead somewhere, options exist, and the README stays short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")
# DeepSpeed's launcher, torchrun, TensorBoard, pip
OF_OTHERS = {"include", "module", "num_accelerators", "master_port", "logdir", "require-hashes", "no-deps"}
OF_OTHERS |= {"hostfile", "no_ssh", "node_rank", "master_addr", "nnodes", "nproc_per_node"}
MADE_BY_THE_USER = {"data/pretraining", "data/benchmarks"}  # folders that this project has not
SETTINGS = ("train_*.py", "evaluate_CTInstruct.py", "serve_CTInstruct.py", "training/**/*.py", "benchmarks/*.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if file.suffix == ".md" and anchor:
            assert anchor in _anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_exist(page: Path):
    """Each `--option` is a field of a script's settings, or one that some program of the project adds."""
    known = {*_settings_fields(), *_added_options(), *OF_OTHERS}
    assert not sorted(set(OPTION.findall(page.read_text(encoding="utf-8"))) - known)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path):
    names = re.findall(
        r"`((?:datasets|models|training|evaluation|benchmarks|data|tests)/[\w./]+)`", page.read_text(encoding="utf-8")
    )
    assert not [name for name in names if not (ROOT / name).exists() and name not in MADE_BY_THE_USER]


def test_the_readme_is_short_and_warns_beside_its_table():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    table = next(number for number, line in enumerate(lines) if line.startswith("| Task"))
    assert "phantom recipe, which is not the published one" in " ".join(lines[table - 6 : table])


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _settings_fields() -> Iterator[str]:
    """Annotated names of every class in the scripts and in training/, and ``no_`` before them, for switches."""
    for pattern in SETTINGS:
        for file in ROOT.glob(pattern):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                for part in node.body if isinstance(node, ast.ClassDef) else ():
                    if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                        yield from (part.target.id, f"no_{part.target.id}")


def _added_options() -> Iterator[str]:
    """Names in calls of ``add_argument``, and in the script of the lock."""
    for room in ("datasets", "models", "evaluation", "benchmarks", "training", "tests/campaign"):
        for file in (ROOT / room).rglob("*.py"):
            yield from re.findall(r'"--([\w-]+)"', file.read_text(encoding="utf-8"))
    yield from re.findall(r"--([\w-]+)", (ROOT / ".ci" / "lock").read_text(encoding="utf-8"))
    yield "help"

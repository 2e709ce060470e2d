"""The Python of README and docs/ runs as it stands, on a tiny model and the example volume."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from transformers import GenerationMixin

from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from tests.ct_files import write_dicom
from tests.launch import REPOSITORY
from tests.tiny_model import tiny_ctinstruct

EXAMPLE = Path("data/instruction_sft/volumes/example_phantom.nii.gz")
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SNIPPETS = {
    f"{page.name}-{number}": snippet
    for page in PAGES
    for number, snippet in enumerate(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(
        tiny_ctinstruct().eval(), tmp_path_factory.mktemp("model"), training={"labels": ["liver", "spleen"]}
    )


@pytest.fixture
def workplace(tmp_path, monkeypatch) -> Path:
    """A folder with the files that snippets name."""
    for name in (EXAMPLE, "ct.nii.gz", "now.nii.gz", "prior.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / EXAMPLE, tmp_path / name)
    write_dicom(tmp_path / "study", np.random.default_rng(0).integers(-500, 500, (40, 44, 18)).astype(np.int16) * 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_there_are_snippets_where_they_are_promised():
    assert {"README.md-0", "recipes.md-0", "released_model.md-0", "formats.md-0"} <= set(SNIPPETS)


@pytest.mark.parametrize("name", SNIPPETS)
def test_a_snippet_runs(name, folder, workplace, monkeypatch):
    """Any name of a model gives the tiny one, which answers everything by one mask."""
    load, search = CTInstruct.from_pretrained, GenerationMixin.generate

    def generate(language_model, **options):
        allowed = {"prefix_allowed_tokens_fn": lambda _, given: [forced[min(len(given), len(forced) - 1)]]}
        return search(language_model, **options, **allowed)

    tokenizer = load(folder).tokenizer
    forced = [*tokenizer("It is <SEG>.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    monkeypatch.setattr(CTInstruct, "from_pretrained", lambda source, **options: load(folder, **options))
    monkeypatch.setattr(GenerationMixin, "generate", generate)
    exec(compile(SNIPPETS[name], name, "exec"), {})
    if name == "README.md-0":
        assert {file.name for file in workplace.glob("liver.*")} == {"liver.nii.gz", "liver.png"}

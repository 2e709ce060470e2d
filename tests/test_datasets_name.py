"""Our `datasets` package beside the Hugging Face one of the same name, which libraries probe for.

The scripts lie in the repository's root, which Python puts first on its path, so that ours is the one imported.  The
installed libraries only ask `find_spec("datasets")` and the installed version; both answers are tried here.
"""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch import LAUNCHER_VARIABLES

REPOSITORY = Path(__file__).resolve().parents[1]

PROBE = """
import sys
import transformers, peft, accelerate, deepspeed
import transformers.trainer, transformers.modelcard
import datasets
from datasets.errors import InputError
import torch

print("package", datasets.__file__)
print("accelerate believes", accelerate.utils.is_datasets_available())
loader = accelerate.Accelerator(cpu=True).prepare(torch.utils.data.DataLoader([1, 2, 3]))
print("batches", [int(batch) for batch in loader])
configuration = transformers.Qwen2Config(
    vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=2
)
model = transformers.AutoModelForCausalLM.from_config(configuration)
model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
print("tokens", model.generate(input_ids=torch.tensor([[1, 2]]), max_new_tokens=2, do_sample=False).shape[0])
"""


def clean_variables() -> dict[str, str]:
    variables = {key: value for key, value in os.environ.items() if key not in (*LAUNCHER_VARIABLES, "PYTHONPATH")}
    return {**variables, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def absent() -> dict[str, str]:
    """Variables of a process where Hugging Face's package is not installed, as in the tested environment."""
    if any(distribution.metadata["Name"] == "datasets" for distribution in importlib.metadata.distributions()):
        pytest.skip("Hugging Face's datasets is installed here: an environment without it cannot be tried")
    return clean_variables()


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """Variables of a process that finds a double of Hugging Face's package: its name, a version, an error on import."""
    package, metadata = tmp_path / "site" / "datasets", tmp_path / "site" / "datasets-2.0.0.dist-info"
    package.mkdir(parents=True)
    metadata.mkdir()
    (package / "__init__.py").write_text('raise RuntimeError("the wrong package was imported")\n')
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: datasets\nVersion: 2.0.0\n")
    (metadata / "RECORD").write_text("datasets/__init__.py,,\ndatasets-2.0.0.dist-info/METADATA,,\n")
    # Python's path has this after the script's folder and before the true site-packages
    return {**clean_variables(), "PYTHONPATH": str(tmp_path / "site")}


def start(environment: dict[str, str], *command: str, folder: Path = REPOSITORY) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_double_raises_where_it_is_found(installed, tmp_path):
    """Else the tests below would prove nothing."""
    done = start(installed, "-c", "import datasets", folder=tmp_path)
    assert done.returncode == 1 and "the wrong package was imported" in done.stderr


@pytest.mark.parametrize("case", ["absent", "installed"])
def test_libraries_work_and_ours_is_imported(case, request):
    done = start(request.getfixturevalue(case), "-c", PROBE)
    assert done.returncode == 0, done.stderr
    for line in (
        f"package {REPOSITORY / 'datasets' / '__init__.py'}",
        f"accelerate believes {case == 'installed'}",
        "batches [1, 2, 3]",
        "tokens 1",
    ):
        assert line in done.stdout.splitlines(), done.stdout


def test_training_runs(installed, tmp_path):
    options = ["--run_dir", str(tmp_path / "run"), "--max_iters", "2", "--workers", "1"]
    done = start(installed, "tests/toy_task.py", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "step_000002" / "manifest.json").is_file()


@pytest.mark.parametrize("script", sorted(path.name for path in REPOSITORY.glob("*_*.py")))
def test_entry_scripts_start(installed, script, tmp_path):
    """From another folder too, where the package is found beside the script and nowhere else."""
    done = start(installed, str(REPOSITORY / script), "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "--preset" in done.stdout or "--checkpoint" in done.stdout

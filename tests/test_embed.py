"""A file of embeddings, and what a linear probe finds in it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.errors import InputError, WriteError
from evaluation.embed.__main__ import main
from evaluation.embed.embedders import Embedder
from evaluation.embed.embeddings import Embeddings, embed_all, read_embeddings, save_embeddings
from evaluation.embed.probe import probe, read_labels
from models import CTInstruct
from models.checkpoints.folder import save_checkpoint
from tests.test_asking import IMAGE
from tests.tiny_model import tiny_ctinstruct


def test_a_folder_is_embedded_and_probed(tmp_path, capsys):
    model, scans, output = tmp_path / "model", tmp_path / "scans", tmp_path / "found" / "e.safetensors"
    save_checkpoint(tiny_ctinstruct().eval(), model)
    scans.mkdir()
    for name in ("a", "b"):
        shutil.copy(IMAGE, scans / f"{name}.nii.gz")
    (scans / "c.nii.gz").write_bytes(b"")
    (tmp_path / "labels.csv").write_text("image,effusion\na.nii.gz,1\nb.nii.gz,0\n")
    command = ["--checkpoint", str(model), "--images", str(scans), "--output", str(output), "--precision", "fp32"]
    assert main([*command, "--probe", str(tmp_path / "labels.csv")]) == 0
    printed = capsys.readouterr()
    assert "2 of 3 CTs are in" in printed.out and "c.nii.gz: the file is empty" in printed.err
    found, single = read_embeddings(output), CTInstruct.from_pretrained(model).embed(IMAGE)
    assert [Path(image).name for image in found.images] == ["a.nii.gz", "b.nii.gz"]
    assert np.allclose(found.volumes, single.volume, atol=1e-5)
    assert np.allclose(found.patches[found.owners == 1], single.patches, atol=1e-5)
    probed = json.loads(output.with_suffix(".probe.json").read_text())
    assert probed == {"effusion": {"positive": 1, "negative": 1, "auc": None}}
    assert "no AUC of effusion: it takes 2 CTs with 1 and 2 with 0" in printed.out


def test_a_probe_finds_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    truth = np.repeat([0.0, 1.0], 40)
    volumes = rng.standard_normal((80, 6)).astype(np.float32)
    volumes[:, 2] += 4 * truth
    embeddings = Embeddings([f"{n}.nii" for n in range(80)], volumes, volumes, np.arange(80))
    unknown = np.where(np.arange(80) % 2, truth, np.nan)
    found = probe(embeddings, {"seen": truth, "half": unknown, "noise": rng.permutation(truth)})
    assert found["seen"]["auc"] > 0.97 and found["half"]["auc"] > 0.9 and 0.25 < found["noise"]["auc"] < 0.75
    assert (found["half"]["positive"], found["half"]["negative"]) == (20, 20)


def test_labels_are_matched_by_path_or_by_a_name_that_is_the_only_one(tmp_path):
    images = [str(tmp_path / "x" / "ct.nii"), str(tmp_path / "y" / "ct.nii"), str(tmp_path / "z.nii")]
    table = tmp_path / "labels.csv"
    table.write_text(f"image,a,b\n{images[1]},1,\nz.nii,0,1\nct.nii,1,1\nother.nii,1,1\n")
    labels = read_labels(table, images)
    assert np.array_equal(labels["a"], [np.nan, 1, 0], equal_nan=True)
    assert np.array_equal(labels["b"], [np.nan, np.nan, 1], equal_nan=True)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("image,a\nz.nii,yes\n", "line 2, a: 'yes' is none of 0, 1 and empty"),
        ("name,a\nz.nii,1\n", "needs a column 'image'"),
        ("image,a\nelse.nii,1\n", "names none of the 1 embedded CTs"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, complaint):
    table = tmp_path / "labels.csv"
    table.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_labels(table, ["z.nii"])


def test_wrong_arguments_and_files(tmp_path, capsys):
    assert main(["--checkpoint", "x"]) == 2 and "give --checkpoint and --images" in capsys.readouterr().err
    (tmp_path / "e").write_text("nothing")
    with pytest.raises(InputError, match="no file of embeddings"):
        read_embeddings(tmp_path / "e")
    one = Embeddings(["a"], np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32), np.zeros(1, int))
    assert read_embeddings(save_embeddings(one, tmp_path / "f")).images == ["a"]
    asked = ["--checkpoint", "x", "--images", str(tmp_path)]
    assert main([*asked, "--top", "0"]) == 2
    assert capsys.readouterr().err.startswith("error: --top 0: give the number")
    with pytest.raises(WriteError, match="cannot be written"):
        save_embeddings(one, tmp_path / "e" / "below a file")


@pytest.mark.parametrize("device", ["gpu9", "meta", "mps", "cuda", "cuda:99"])
def test_a_device_that_this_machine_lacks(device, tmp_path, capsys):
    if (device == "cuda" and torch.cuda.is_available()) or (device == "mps" and torch.backends.mps.is_available()):
        pytest.skip(f"this machine has {device}")
    assert main(["--checkpoint", "absent", "--images", str(tmp_path), "--device", device]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --device {device}: is no device ") and said.count("\n") == 1


@pytest.mark.parametrize("output", [".", "/", "{folder}"])
def test_a_folder_in_the_place_of_the_output_is_told_before_the_model_is_loaded(output, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("evaluation.embed.__main__.load_embedder", lambda *_: pytest.fail("the model is loaded"))
    shutil.copy(IMAGE, tmp_path / "a.nii.gz")
    output = output.format(folder=tmp_path)
    assert main(["--checkpoint", "absent", "--images", str(tmp_path), "--output", output]) == 2
    assert capsys.readouterr().err == f"error: {output}: is a folder; name the file that the embeddings go to\n"
    with pytest.raises(InputError, match="is a folder; name the file"):
        embed_all(Embedder(lambda image: pytest.fail(image), {}), ["a"], output)

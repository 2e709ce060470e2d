"""CTs found by words; embeddings on several ranks, and gone on with after a kill."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from datasets.volume.cache import VolumeLoader
from evaluation.embed import embeddings as module
from evaluation.embed.__main__ import main
from evaluation.embed.embedders import Embedder
from evaluation.embed.embeddings import Embeddings, embed_all, read_embeddings, save_embeddings
from evaluation.embed.search import search
from models.answering.embedding import VolumeEmbedding
from models.checkpoints.folder import save_checkpoint
from models.checkpoints.pretrained_vision import load_pretrained_vision, load_pretraining, save_pretraining
from models.text.text_encoder import TextEncoder
from models.text.tiny_text_encoder import build_tiny_text_encoder
from tests.ct_files import write_nifti
from tests.pretraining_samples import tiny_pretraining
from tests.tiny_model import tiny_ctinstruct

TEXTS = ["pleural effusion on the left", "no finding at all", "a stone"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run with its text encoder, as a tiny one leaves it, with projections that are not trivial."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_pretraining(running_centre=True).eval()
    with torch.no_grad():
        torch.nn.init.normal_(model.text_projection.weight)
        torch.nn.init.normal_(model.image_projection.bias)
        model.centre.mean.normal_(std=0.1)
    save_pretraining(model, folder / "model")
    build_tiny_text_encoder(TEXTS, model.text_width, layers=1).save(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(3):
        rng = np.random.default_rng(number)
        shape = (40 + 3 * number, 44, 18)
        write_nifti(folder / f"{number}.nii.gz", rng.normal(40 * number, 300, shape).astype(np.float32), np.eye(4))
    return folder


def test_search_ranks_by_the_cosines_of_pretraining(run, scans, tmp_path, capsys):
    output = tmp_path / "e.safetensors"
    command = ["--checkpoint", str(run / "model"), "--images", str(scans), "--output", str(output)]
    assert main([*command, "--precision", "fp32", "--search", *TEXTS, "--top", "2"]) == 0
    found = json.loads(output.with_suffix(".search.json").read_text())
    model, paths = load_pretraining(run / "model"), sorted(scans.iterdir())
    loader = VolumeLoader(model.vision.preprocessing)
    with torch.inference_mode():
        volumes = model.embed_volumes([loader.volume(path)[0] for path in paths])
        scores = model.label_scores(volumes, TextEncoder.load(run / "text_encoder").encode(TEXTS))
    for number, text in enumerate(TEXTS):
        expected = {str(path): float(scores[place, number]) for place, path in enumerate(paths)}
        assert [hit["image"] for hit in found[text]] == sorted(expected, key=expected.get, reverse=True)
        for hit in found[text]:
            assert hit["similarity"] == pytest.approx(expected[hit["image"]], abs=1e-4)
    assert len({tuple(hit["image"] for hit in hits) for hits in found.values()}) > 1  # the text matters
    assert TEXTS[0] in capsys.readouterr().out


def test_what_search_lacks_is_said_in_one_line(run, tmp_path, capsys):
    model = save_checkpoint(tiny_ctinstruct().eval(), tmp_path / "tuned")
    array = np.zeros((1, 7), np.float32)
    tuned = Embeddings(["a"], array, array, np.zeros(1, int), str(model))
    for embeddings, pretraining, complaint in (
        (tuned, "", "has no projections to texts, which a run of pretraining alone keeps"),
        (Embeddings(["a"], array, array, np.zeros(1, int)), "", "does not say which model made it"),
        (tuned, str(run / "model"), "these embeddings have 7"),
    ):
        with pytest.raises(InputError, match=complaint):
            search(embeddings, ["x"], pretraining)
    with pytest.raises(InputError, match="a text is empty"):
        search(tuned, [" "])
    save_embeddings(tuned, tmp_path / "e")
    assert main(["--output", str(tmp_path / "e"), "--search", "x"]) == 2
    assert "name it by --pretraining" in capsys.readouterr().err
    wrong = build_tiny_text_encoder(TEXTS, 64, layers=1).save(tmp_path / "wrong")
    width = load_pretrained_vision(run / "model")[0].token_width
    fitting = Embeddings(["a"], np.ones((1, width), np.float32), array, np.zeros(1, int), str(run / "model"))
    with pytest.raises(InputError, match="gives 64 numbers"):
        search(fitting, ["x"], text_encoder=str(wrong))


def counting_embedder(calls: list[str], checkpoint: str = "m") -> Embedder:
    """The embedding of a file is made of its name alone; one called bad cannot be read."""

    def embed(image: str) -> VolumeEmbedding:
        calls.append(image)
        if "bad" in image:
            raise InputError(f"{image}: bad")
        patches = np.full((len(Path(image).stem), 3), ord(Path(image).stem[0]), np.float32)
        return VolumeEmbedding(patches.mean(0), patches, patches[None, None], np.ones((1, 1, 1), bool))

    return Embedder(embed, {"checkpoint": {"folder": checkpoint}})


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_any_number_of_ranks_gives_the_same_file(ranks, tmp_path, monkeypatch):
    images = [f"{name}.nii" for name in ("a", "bb", "bad", "ccc", "d")]
    calls: list[str] = []
    meeting, told = threading.Barrier(ranks), [{} for _ in range(ranks)]

    def gather(failed: dict) -> list[dict]:
        told[int(threading.current_thread().name[-1])] = failed
        meeting.wait()
        return told

    monkeypatch.setattr(module.distributed, "barrier", meeting.wait)
    monkeypatch.setattr(module, "wait_for_all", meeting.wait)
    monkeypatch.setattr(module.distributed, "all_gather_object", gather)

    def work(rank: int) -> tuple[Embeddings, dict[str, str]]:
        threading.current_thread().name = f"rank {rank}"
        return embed_all(counting_embedder(calls), images, tmp_path / "e", rank, ranks)

    with ThreadPoolExecutor(ranks) as pool:
        results = list(pool.map(work, range(ranks)))
    assert sorted(calls) == sorted(images)
    for found, failed in results:
        assert failed == {"bad.nii": "bad.nii: bad"}
        assert found.images == [image for image in images if image != "bad.nii"] and found.checkpoint == "m"
        assert found.volumes[:, 0].tolist() == [ord("a"), ord("b"), ord("c"), ord("d")]
        assert found.owners.tolist() == [0, 1, 1, 2, 2, 2, 3]
    assert read_embeddings(save_embeddings(results[0][0], tmp_path / "e")).images == results[0][0].images
    assert not (tmp_path / "e.parts").exists()


def test_a_killed_run_goes_on_and_another_model_begins_anew(tmp_path):
    images = []
    for name in ("a", "bb", "ccc"):
        (tmp_path / f"{name}.nii").write_text(name)
        images.append(str(tmp_path / f"{name}.nii"))
    first: list[str] = []
    embedder = counting_embedder(first)

    def killed(image: str) -> VolumeEmbedding:
        if image == images[2]:
            raise KeyboardInterrupt
        return embedder.embed(image)

    with pytest.raises(KeyboardInterrupt):
        embed_all(Embedder(killed, embedder.made_with), images, tmp_path / "e")
    second: list[str] = []
    found, _ = embed_all(counting_embedder(second), images, tmp_path / "e")
    assert second == images[2:] and found.images == images and len(found.patches) == 6
    third: list[str] = []
    embed_all(counting_embedder(third, "another"), images, tmp_path / "e")
    assert third == images
    Path(images[0]).write_text("changed")
    fourth: list[str] = []
    embed_all(counting_embedder(fourth), images, tmp_path / "e")
    assert fourth == images[:1]

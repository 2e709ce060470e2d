"""Text metrics against own n-gram counting, a plain longest common subsequence, and cases counted by hand."""

from __future__ import annotations

import math
import re
import shutil
import socket
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.errors import InputError
from evaluation.answering.runner import Scoring
from evaluation.metrics import text as text_module
from evaluation.metrics.bertscore import bertscore, greedy_f1, load_encoder
from evaluation.metrics.text import exact_match, meteor, normalize_answer, sentence_scores, text_metrics, token_f1

# Words and spaces only, so that every tokeniser cuts them alike and the oracles can use split().
PAIRS = [
    ("there is a nodule in the right upper lobe", "a nodule is seen in the right upper lobe of the lung"),
    ("no effusion", "no pleural effusion is present"),
    ("the the the the the the the", "the cat is on the mat"),  # Papineni's example: clipped precision 2/7
    ("the heart is enlarged and the aorta is calcified", "the heart is enlarged and the aorta is calcified"),
    ("no effusion", "no effusion is seen"),  # two words: no 3-gram to count
    ("nodules", "nodule"),  # no stemming
    ("normal", "cardiomegaly"),
]


def ngrams(words: list[str], order: int) -> Counter:
    return Counter(tuple(words[i : i + order]) for i in range(len(words) - order + 1))


def own_bleu(pairs: list[tuple[str, str]], order: int, skip_absent_orders: bool) -> float:
    matched, total = [0] * order, [0] * order
    length = reference_length = 0
    for prediction, reference in pairs:
        p, r = prediction.split(), reference.split()
        length, reference_length = length + len(p), reference_length + len(r)
        for n in range(1, order + 1):
            matched[n - 1] += sum((ngrams(p, n) & ngrams(r, n)).values())
            total[n - 1] += max(len(p) - n + 1, 0)
    orders = [n for n in range(order) if total[n]] if skip_absent_orders else list(range(order))
    if any(matched[n] == 0 for n in orders):
        return 0.0
    brevity = 1.0 if length >= reference_length else math.exp(1 - reference_length / length)
    return brevity * math.prod(matched[n] / total[n] for n in orders) ** (1 / len(orders))


def own_rouge_l(prediction: str, reference: str) -> float:
    p, r = prediction.split(), reference.split()
    table = np.zeros((len(p) + 1, len(r) + 1), dtype=int)
    for i, a in enumerate(p):
        for j, b in enumerate(r):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return 2 * table[-1, -1] / (len(p) + len(r))


def own_rouge_n(prediction: str, reference: str, order: int) -> float:
    p, r = ngrams(prediction.split(), order), ngrams(reference.split(), order)
    total = sum(p.values()) + sum(r.values())
    return 2 * sum((p & r).values()) / total if total else 0.0


@pytest.mark.parametrize(("prediction", "reference"), PAIRS)
def test_bleu_and_rouge_of_a_sentence_equal_own_counting(prediction: str, reference: str) -> None:
    scores = sentence_scores(prediction, reference)
    for order in range(1, 5):
        assert scores[f"bleu_{order}"] == pytest.approx(own_bleu([(prediction, reference)], order, True))
    assert scores["rouge_1"] == pytest.approx(own_rouge_n(prediction, reference, 1))
    assert scores["rouge_2"] == pytest.approx(own_rouge_n(prediction, reference, 2))
    assert scores["rouge_l"] == pytest.approx(own_rouge_l(prediction, reference))


def test_clipped_unigram_precision_is_papinenis_two_sevenths() -> None:
    assert sentence_scores(*PAIRS[2])["bleu_1"] == pytest.approx(2 / 7)


def test_corpus_bleu_pools_counts_and_is_sacrebleus() -> None:
    from sacrebleu.metrics import BLEU

    predictions, references = (list(side) for side in zip(*PAIRS, strict=True))
    metrics = text_metrics(predictions, references, resamples=50)["metrics"]
    for order in range(1, 5):
        value = metrics[f"corpus_bleu_{order}"]["value"]
        assert value == pytest.approx(own_bleu(PAIRS, order, False))
        library = BLEU(lowercase=True, smooth_method="none", max_ngram_order=order)
        assert value == pytest.approx(library.corpus_score(predictions, [references]).score / 100)
        mean = np.mean([own_bleu([pair], order, True) for pair in PAIRS])
        assert metrics[f"bleu_{order}"]["value"] == pytest.approx(mean)


def test_bleu_tokens_are_13a_in_lower_case() -> None:
    # "lobe." is two tokens under 13a and case does not count, so one of five words is wrong here.
    assert sentence_scores("The LEFT lobe, here.", "the right lobe, here.")["bleu_1"] == pytest.approx(5 / 6)


@pytest.fixture
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "wordnet_reader", lambda: None)


def test_meteor_cases_counted_by_hand(no_wordnet: None) -> None:
    # One word of one: P = R = F = 1, one chunk of one match, penalty 0.5.
    assert meteor("nodule", "nodule") == pytest.approx(0.5)
    # Four of four in one chunk: penalty 0.5 * (1/4)**3.
    assert meteor("a b c d", "a b c d") == pytest.approx(1 - 0.5 / 64)
    # Two matches of P = 2/2, R = 2/4, one chunk: F = P R / (0.9 P + 0.1 R), penalty 0.5 * (1/2)**3.
    assert meteor("b c", "a b c d") == pytest.approx(0.5 / (0.9 + 0.05) * (1 - 0.0625))
    # The same words swapped: two matches in two chunks, penalty 0.5.
    assert meteor("d a", "a d") == pytest.approx(0.5)
    # Stems match: "nodules" and "nodule".
    assert meteor("nodules", "nodule") == pytest.approx(0.5)
    assert meteor("effusion", "nodule") == 0


def test_meteor_synonyms_come_from_the_wordnet_that_is_given(no_wordnet: None) -> None:
    def synsets(word: str) -> list:
        return [SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda: "tumor")])] if word == "tumour" else []

    assert meteor("tumour", "tumor", wordnet=SimpleNamespace(synsets=synsets)) == pytest.approx(0.5)
    assert meteor("tumour", "tumor") == 0  # no synonyms without WordNet


def test_meteor_without_wordnet_has_another_name_and_says_so(no_wordnet: None, monkeypatch: pytest.MonkeyPatch) -> None:
    result = text_metrics(["a nodule"], ["a nodule"], resamples=10)
    assert "meteor_exact_stem" in result["metrics"] and "meteor" not in result["metrics"]
    assert any("nltk.downloader wordnet" in note for note in result["notes"])
    reader = SimpleNamespace(synsets=lambda word: [])
    monkeypatch.setattr(text_module, "wordnet_reader", lambda: reader)
    assert "meteor" in text_metrics(["a nodule"], ["a nodule"], resamples=10)["metrics"]


def test_nothing_opens_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a text metric tried to open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text_metrics([p for p, _ in PAIRS], [r for _, r in PAIRS], resamples=10)


def test_exact_match_and_token_f1_by_hand() -> None:
    assert normalize_answer("The  Right, upper lobe!") == "right upper lobe"
    assert exact_match("The liver.", "liver") == 1 and exact_match("spleen", "liver") == 0
    assert token_f1("right lower lobe", "the right upper lobe") == pytest.approx(2 / 3)
    assert token_f1("lobe lobe", "lobe") == pytest.approx(2 / 3)  # a repeated word counts once: P 1/2, R 1
    assert token_f1("", "") == 1 and token_f1("", "x") == 0


@pytest.mark.parametrize("blank", ["", "  \n"])
def test_empty_texts(blank: str) -> None:
    assert set(sentence_scores(blank, "a nodule").values()) == {0.0}
    assert set(sentence_scores("a nodule", blank).values()) == {0.0}
    assert set(sentence_scores(blank, "").values()) == {1.0}
    metrics = text_metrics([blank, "a nodule"], ["a nodule", "a nodule"], resamples=10)["metrics"]
    assert metrics["exact_match"]["value"] == 0.5
    assert metrics["corpus_bleu_1"]["value"] == pytest.approx(math.exp(1 - 4 / 2))
    assert text_metrics([], [])["metrics"]["bleu_1"]["value"] is None


def test_bertscore_without_a_model_says_not_computed() -> None:
    metrics = text_metrics(["no effusion"], ["no pleural effusion"], resamples=10)["metrics"]
    assert metrics["bertscore"]["value"] is None and metrics["bertscore"]["reason"].startswith("not computed")


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for pair in PAIRS for side in pair for word in side.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(vocabulary), **size)).save_pretrained(folder)
    BertTokenizerFast(vocab={word: index for index, word in enumerate(vocabulary)}).save_pretrained(folder)
    return str(folder)


def test_bertscore_equals_a_loop_over_token_pairs(tiny_bert: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()

    def tokens(text: str) -> list[np.ndarray]:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1].numpy()
        return [vector / np.linalg.norm(vector) for vector in hidden]

    scores = bertscore([p for p, _ in PAIRS], [r for _, r in PAIRS], tiny_bert, device="cpu")
    for (prediction, reference), score in zip(PAIRS, scores, strict=True):
        p, r = tokens(prediction), tokens(reference)
        assert len(p) == len(prediction.split())
        precision = np.mean([max(float(a @ b) for b in r) for a in p])
        recall = np.mean([max(float(a @ b) for a in p) for b in r])
        assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-5)
    assert scores[3] == pytest.approx(1, abs=1e-6)
    metrics = text_metrics([PAIRS[0][0]], [PAIRS[0][1]], bertscore_folder=tiny_bert, resamples=10)["metrics"]
    assert metrics["bertscore"]["value"] == pytest.approx(scores[0], abs=1e-5)


def test_bertscore_of_empty_texts_and_of_a_wrong_folder(tiny_bert: str, tmp_path) -> None:
    assert bertscore(["", ""], ["", "the heart"], tiny_bert, device="cpu") == [1.0, 0.0]
    assert greedy_f1(torch.eye(2), torch.eye(2)) == 1
    with pytest.raises(InputError, match="is no folder"):
        bertscore(["a"], ["a"], tmp_path / "absent")
    with pytest.raises(InputError, match="no loadable encoder"):
        bertscore(["a"], ["a"], tmp_path)
    named = re.escape(f"--bertscore_model {tmp_path}: ")
    with pytest.raises(InputError, match=f"^{named}.*no loadable encoder"):  # before hours of answering, not after them
        Scoring.of(str(tmp_path), "", "")
    assert Scoring.of(tiny_bert, "", "").bertscore_folder == tiny_bert


@pytest.mark.parametrize("content", [b"", b"\xff" * 64], ids=["empty", "noise"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_bertscore_of_a_damaged_folder(name: str, content: bytes, tiny_bert: str, tmp_path) -> None:
    folder = Path(shutil.copytree(tiny_bert, tmp_path / "bert"))
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=r"^BERTScore: .*no loadable encoder"):
        load_encoder(folder)

"""METEOR's synonyms from a WordNet database as its authors ship it, here one of two meanings, written byte by byte."""

from __future__ import annotations

from pathlib import Path

import nltk
import pytest

from evaluation.metrics.text import meteor
from evaluation.metrics.wordnet import DEBIAN_FOLDER, WordNetFolder

LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
NOUNS = (("tumor", "tumour", "neoplasm"), ("lung",))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nltk.data, "path", list(nltk.data.path))
    for part in LETTERS:
        for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
            (tmp_path / name).write_text("")
    data, index = "", []
    for number, words in enumerate(NOUNS):
        offset = len(data)
        members = " ".join(f"{word} 0" for word in words)
        data += f"{offset:08d} 14 n {len(words):02x} {members} 000 | meaning {number}  \n"
        index += [f"{word} n 1 0 1 0 {offset:08d}  \n" for word in words]
    (tmp_path / "data.noun").write_text(data)
    (tmp_path / "index.noun").write_text("".join(sorted(index)))
    return tmp_path


def test_synonyms_of_a_folder_match_in_meteor(folder: Path) -> None:
    reader = WordNetFolder(folder)
    assert [lemma.name() for synset in reader.synsets("tumour") for lemma in synset.lemmas()] == list(NOUNS[0])
    # Five words of five in one chunk: 1 - 0.5 / 5^3; without the synonym four words in two chunks.
    assert meteor("a neoplasm of the lung", "a tumor of the lung", reader) == pytest.approx(1 - 0.5 / 125)
    assert meteor("a lung of the lung", "a tumor of the lung", reader) < 0.8


@pytest.mark.skipif(not (DEBIAN_FOLDER / "data.noun").is_file(), reason="Debian's wordnet-base is not installed")
def test_debians_wordnet_is_read() -> None:
    reader = WordNetFolder(DEBIAN_FOLDER)
    assert meteor("a neoplasm of the lung", "a tumor of the lung", reader) == pytest.approx(1 - 0.5 / 125)

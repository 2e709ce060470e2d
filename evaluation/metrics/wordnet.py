"""WordNet's synonyms for METEOR, wherever they are installed: nltk's data, or the package `wordnet-base` of Debian."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import nltk
from nltk.corpus.reader.wordnet import WordNetCorpusReader

DEBIAN_FOLDER = Path("/usr/share/wordnet")  # WordNet 3.0, which is also what nltk's data hold
WORDNET_HINT = (
    "WordNet is not installed (python -m nltk.downloader wordnet, or Debian's wordnet-base): exact words and stems only"
)
_LEXICOGRAPHER_FILES = 45


class NoSynonyms:
    """Stands in for nltk's WordNet reader where its data is absent: no word has a synonym, so METEOR keeps exact and
    stem matches."""

    def synsets(self, _word: str) -> list[Any]:
        """The synonyms of a word, by the name that nltk calls: none."""
        return []


class WordNetFolder(WordNetCorpusReader):
    """WordNet 3.0 as its authors ship it, which lacks one file of nltk's copy: the names of the lexicographers' files.

    METEOR does not use these names, so numbers stand for them.
    """

    def __init__(self, folder: Path) -> None:
        if str(folder) not in nltk.data.path:
            nltk.data.path.append(str(folder))  # nltk opens files below these folders alone
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the languages that are not there
            super().__init__(str(folder), None)

    def open(self, file: str) -> Any:
        """A file of the database."""
        if file == "lexnames":
            return io.StringIO("".join(f"{number:02d}\t{number}\t0\n" for number in range(_LEXICOGRAPHER_FILES)))
        return super().open(file)

    def map_wn(self, version: str = "wordnet") -> None:
        """Nothing to map: this is version 3.0 itself."""


@cache
def wordnet_reader() -> Any:
    """nltk's WordNet if its data lies in nltk's data path, else Debian's, else None.  Never fetches."""
    for entry in ("corpora/wordnet.zip", "corpora/wordnet"):
        try:
            nltk.data.find(entry)
        except LookupError:
            continue
        from nltk.corpus import wordnet

        return wordnet
    return WordNetFolder(DEBIAN_FOLDER) if (DEBIAN_FOLDER / "data.noun").is_file() else None

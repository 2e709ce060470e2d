"""Which files of a repository are wanted: settings, tokenizer, and one way of storing the weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import PurePosixPath

from datasets.errors import InputError
from models.hub.names import HubName

_SETTINGS = "config.json"
_SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "*.spm", "*.bpe")  # settings and tokenizers


class HubError(InputError):
    """A model cannot be had from the hub, or not be sent there; the message names it and says what to do."""


@dataclass(frozen=True)
class Wanted:
    """Patterns of a repository's files: `weights` are ways to store them, of which the first that is there is taken.

    single: the last way, of which a repository must have one file; one of several is chosen by naming it.
    """

    weights: tuple[tuple[str, ...], ...]
    single: tuple[str, ...] = ()
    small: tuple[str, ...] = _SMALL


# A CTInstruct folder, or a language model's
MODEL = Wanted((("model.safetensors", "model-*.safetensors"), ("pytorch_model.bin", "pytorch_model-*.bin")))
# The transformer may lie in a folder of its own; layers after it do.
TEXT_ENCODER = Wanted(
    (("model*.safetensors", "0_*/model*.safetensors"), ("pytorch_model*.bin", "0_*/pytorch_model*.bin")),
    small=(*_SMALL, "*_Dense/*"),
)
# What pretraining leaves behind, or a released vision file
VISION = Wanted((("vision.safetensors", "objectives.safetensors"),), single=("*.pt", "*.pth"), small=(_SETTINGS,))


@dataclass(frozen=True)
class Selection:
    """patterns: of the files to download.  path: of the folder or file in the repository that is meant; "": its top."""

    patterns: tuple[str, ...]
    path: str = ""


def select(paths: Sequence[str], name: HubName, wanted: Wanted) -> Selection:
    """Choose from the paths of a repository's files.

    The model may also lie in a folder of the repository, if that is the only one with config.json and weights.

    Raises HubError where there is nothing that is wanted, or more than one thing.
    """
    if name.file:
        if name.file in paths:
            return Selection((*wanted.small, name.file), name.file)
        raise HubError(f"{name}: there is no such file; the repository holds {_listed(paths)}")
    for way in wanted.weights:
        if matching(paths, way):
            return Selection((*wanted.small, *way))
    for way in wanted.weights:
        if len(folders := _model_folders(paths, way)) == 1:
            return Selection(tuple(f"{folders[0]}/{pattern}" for pattern in (*wanted.small, *way)), folders[0])
        if folders:
            raise HubError(
                f"{name}: holds models in {', '.join(folders)}; fetch one with `hf download {name.repository} "
                f"--include '{folders[0]}/*' --local-dir FOLDER` and give FOLDER/{folders[0]}"
            )
    files = matching(paths, wanted.single)
    if len(files) > 1:
        example = HubName(name.repository, name.revision or "main", files[0])
        raise HubError(f"{name}: holds {len(files)} files of weights; name one, for example {example}")
    if files:
        return Selection((*wanted.small, files[0]), files[0])
    missing = " or ".join([*(way[0] for way in wanted.weights), *wanted.single[:1]])
    raise HubError(f"{name}: has no {missing}; it holds {_listed(paths)}")


def matching(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The paths that one of the patterns describes, sorted; "*" stands for any text, slashes too."""
    patterns = list(patterns)
    return sorted(path for path in paths if any(fnmatch(path, pattern) for pattern in patterns))


def _model_folders(paths: Sequence[str], way: tuple[str, ...]) -> list[str]:
    found = {str(path.parent) for path in map(PurePosixPath, paths) if matching([path.name], way)}
    return sorted(folder for folder in found if f"{folder}/{_SETTINGS}" in paths)


def _listed(paths: Sequence[str]) -> str:
    shown = sorted(paths)[:6]
    return (", ".join(shown) or "nothing") + (f" and {len(paths) - 6} more" if len(paths) > 6 else "")

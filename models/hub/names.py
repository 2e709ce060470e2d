"""Tell a hub name, `owner/name` or `owner/name@revision`, from a path of this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WEIGHT_FILES = (".pt", ".pth", ".bin", ".gguf", ".safetensors")
_WORD = r"[A-Za-z0-9][\w.-]*"
_NAME = re.compile(
    rf"(?P<repository>(?:{_WORD}/)?{_WORD})"
    rf"(?:@(?P<revision>[^@\s]+?))?"
    rf"(?:/(?P<file>[^@\s]+(?:{'|'.join(map(re.escape, WEIGHT_FILES))})))?"
)


@dataclass(frozen=True)
class HubName:
    """A repository of models, a branch, tag or commit of it (None: its main branch), and one file of it, if named."""

    repository: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"{self.repository}{revision}" + (f"/{self.file}" if self.file else "")


def hub_name(source: str | Path, bare: bool = False) -> HubName | None:
    """What `source` names on the hub, or None where it means this machine, whether or not it exists there.

    `owner/name`, `owner/name@revision`, and a file of either: `owner/name@revision/vision.pt`, `owner/name/model.gguf`.
    A path that exists is local; so is one with more slashes, with the ending of a weight file, or one whose first
    folder exists, because `runs/tuned` misspelt is not to be looked for elsewhere.  With a revision the hub is meant.

    bare: take a word without a slash for a name too ("gpt2").
    """
    text = str(source)
    match = _NAME.fullmatch(text)
    if match is None or Path(text).exists():
        return None
    name = HubName(match["repository"], match["revision"], match["file"])
    owner, slash, _ = name.repository.partition("/")
    if not slash and (not bare or name.file):
        return None
    if name.revision:
        return name
    if name.file and not name.file.endswith(".gguf"):
        return None
    if (slash and Path(owner).exists()) or Path(name.repository).suffix in WEIGHT_FILES:
        return None
    return name


def not_found(source: str | Path) -> str:
    """One line about a path that is nowhere and is no hub name either."""
    owner, slash, rest = str(source).partition("/")
    if owner and slash and rest and "/" not in rest and Path(owner).is_dir():
        return f"{source}: no such file or folder; if the hub's {source} is meant, write {source}@main"
    return f"{source}: no such file or folder, and no hub name (owner/name or owner/name@revision)"

"""References from a page to lines of the code: read, checked, and their numbers put right.

    python -m tests.method_lines [PAGE ...]

A reference is a link with a line number, and behind it what stands on that line, for instance

    [models/ctinstruct.py:52](../models/ctinstruct.py#L52) `def forward`

Code moves, so the text is what counts: the command searches it in the named file and rewrites the number.  Where the
file has gone, or a quoted definition (``def``, ``class``) has gone from it, the reference follows to the one line of
the project that has the text.  It is an error where the text stands nowhere, or on several lines: then a longer piece
of the line must be quoted.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "docs" / "method.md", ROOT / "docs" / "README.md")
ROOMS = ("datasets", "models", "training", "evaluation")  # and the scripts beside them
REFERENCE = re.compile(
    r"\[(?P<shown>[^\]\s:]+):(?P<line>\d+)\]\((?P<target>[^)#\s]+)#L(?P<anchor>\d+)\)\s+`(?P<quote>[^`\n]+)`"
)


@dataclass(frozen=True)
class Reference:
    """A link of a page to a line; `target` as the page writes it, relative to its own folder."""

    page: Path
    shown: str
    line: int
    target: str
    anchor: int
    quote: str

    @property
    def file(self) -> Path:
        """What the link leads to."""
        return Path(os.path.normpath(self.page.parent / self.target))

    def problem(self) -> str | None:
        """What is wrong with the reference, or None."""
        name = f"{self.page.name}: {self.shown}:{self.line}"
        if not self.file.is_file():
            return f"{name}: no such file: {self.target}"
        if self.file != ROOT / self.shown or self.line != self.anchor:
            return f"{name}: shows another place than its link, {self.target}#L{self.anchor}"
        lines = self.file.read_text(encoding="utf-8").splitlines()
        if not 0 < self.line <= len(lines) or self.quote not in lines[self.line - 1]:
            return f"{name}: `{self.quote}` is not on that line; run python -m tests.method_lines"
        return None


def references(page: Path) -> list[Reference]:
    """The references of a page, in order."""
    return [_reference(page, match) for match in REFERENCE.finditer(page.read_text(encoding="utf-8"))]


def corrected(page: Path) -> tuple[str, list[str], list[str]]:
    """The page's text with every number put right; which references follow to another file; what could not be done."""
    moves: list[str] = []
    problems: list[str] = []

    def put_right(match: re.Match[str]) -> str:
        reference = _reference(page, match)
        places = _places(reference)
        if len(places) != 1:
            problems.append(_not_one(reference, places))
            return match[0]
        ((file, line),) = places
        target = os.path.relpath(file, page.parent).replace(os.sep, "/")
        shown = file.relative_to(ROOT).as_posix()
        if shown != reference.shown:
            moves.append(f"{reference.shown}: `{reference.quote}` is now in {shown}")
        return f"[{shown}:{line}]({target}#L{line}) `{reference.quote}`"

    text = REFERENCE.sub(put_right, page.read_text(encoding="utf-8"))
    return text, moves, problems


def _reference(page: Path, match: re.Match[str]) -> Reference:
    return Reference(page, match["shown"], int(match["line"]), match["target"], int(match["anchor"]), match["quote"])


def _places(reference: Reference) -> list[tuple[Path, int]]:
    """(file, line) of the quoted text: in the named file, or, where the reference may follow it, in the project."""
    is_there = reference.file.is_file()
    found = list(_lines_with(reference.quote, [reference.file] if is_there else []))
    if found or (is_there and not reference.quote.startswith(("def ", "class "))):
        return found
    return list(_lines_with(reference.quote, _source_files()))


def _lines_with(quote: str, files: Sequence[Path]) -> Iterator[tuple[Path, int]]:
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if quote in line:
                yield file, number


def _source_files() -> list[Path]:
    return [*sorted(ROOT.glob("*.py")), *(file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")))]


def _not_one(reference: Reference, places: Sequence[tuple[Path, int]]) -> str:
    what = f"{reference.page.name}: {reference.shown}: `{reference.quote}`"
    if not places:
        return f"{what} stands nowhere; quote what stands there now"
    where = ", ".join(f"{file.relative_to(ROOT)}:{line}" for file, line in places[:6])
    return f"{what} stands on {len(places)} lines ({where}); quote more of the line"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.method_lines", description="Put line numbers right.")
    parser.add_argument("pages", nargs="*", type=Path, default=PAGES, help="the two of docs/ where none is named")
    failed = False
    for page in map(Path.resolve, parser.parse_args(arguments).pages):
        text, moves, problems = corrected(page)
        if text != page.read_text(encoding="utf-8"):
            page.write_text(text, encoding="utf-8")
        print(f"{page.name}: {len(references(page))} references", *moves, sep="\n")
        for problem in problems:
            failed = True
            print(f"error: {problem}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Command-line options from a dataclass of hyper-parameters.

Every field is an option of the same name (`--max_iters 100`).  The comment behind a field, or above it, is its help
text, so that the top of a script is the one place where a hyper-parameter is written down.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import inspect
import io
import sys
import textwrap
import tokenize
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from datasets.errors import InputError

Settings = TypeVar("Settings")


class ArgumentsError(InputError):
    """An option is unknown or has an unusable value."""


NamedDefaults = Mapping[str, Mapping[str, Any]]  # name of a preset or recipe -> field -> value


def parse(
    dataclass_type: type[Settings],
    presets: NamedDefaults | None = None,
    argv: Sequence[str] | None = None,
    *,
    recipes: NamedDefaults | None = None,
) -> Settings:
    """Build an instance of `dataclass_type` from the command line.

    A value comes from, in rising order: the field's default, the preset chosen by `--preset`, the recipe chosen by
    `--recipe`, the option.  A preset and a recipe never set the same field.  A field named `preset` (or `recipe`) holds
    the chosen name, and its default is the one used where the option is absent.  Types: bool
    (`--flag`, `--no_flag`, `--flag true`), int, float, str, Path, Literal, tuple or list of these (`--betas 0.9 0.95`
    or `--betas 0.9,0.95`), and Optional of any (`none` gives None).  Metadata `const` is the value of an option given
    bare, `help` its help text.  The DeepSpeed launcher's `--local_rank` is ignored.

    Raises ArgumentsError for an unknown option, a value of the wrong type or a missing required option.
    """
    parser = _Parser(description=inspect.cleandoc(dataclass_type.__doc__ or ""), allow_abbrev=False)
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    types_of, comments = get_type_hints(dataclass_type), _field_comments(dataclass_type)
    fields = {field.name: field for field in _fields(dataclass_type) if field.init}
    choices = {option: sets for option, sets in (("preset", presets), ("recipe", recipes)) if sets}
    _check_named_defaults(dataclass_type.__name__, set(fields), choices)
    for option, sets in choices.items():
        help_text = comments.get(option, "named set of defaults")
        if option in fields:
            help_text = _with_default(help_text, fields[option])
        parser.add_argument(f"--{option}", choices=list(sets), default=argparse.SUPPRESS, help=help_text)
    for name, field in fields.items():
        if name not in choices:
            help_text = field.metadata.get("help") or comments.get(name, "")
            _add_option(parser, field, types_of[name], help_text)

    given = vars(parser.parse_args(sys.argv[1:] if argv is None else list(argv)))
    given.pop("local_rank", None)
    values: dict[str, Any] = {}
    for option, sets in choices.items():
        chosen = given.get(option, _default(fields[option]) if option in fields else "")
        values.update(sets.get(str(chosen), {}))
    values.update({name: value for name, value in given.items() if name in fields})
    required = {name for name, field in fields.items() if _default(field) is dataclasses.MISSING}
    if missing := sorted(required - set(values)):
        raise ArgumentsError("missing options: " + ", ".join(f"--{name}" for name in missing))
    return dataclass_type(**values)


def _check_named_defaults(owner: str, fields: set[str], choices: Mapping[str, NamedDefaults]) -> None:
    """A mistake in a script, not of its user: an unknown field, or one that both a preset and a recipe set."""
    setters: dict[str, str] = {}
    for option, sets in choices.items():
        for name, values in sets.items():
            if unknown := sorted(set(values) - fields):
                raise TypeError(f"{option} {name!r} sets fields that {owner} lacks: {unknown}")
            for field in values:
                if setters.setdefault(field, option) != option:
                    raise TypeError(f"{owner}: both a {setters[field]} and a {option} set {field!r}")


def _fields(dataclass_type: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(dataclass_type)


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as plain JSON types (paths as strings)."""
    return plain(dataclasses.asdict(settings))


def plain(value: Any) -> Any:
    """A field's value as JSON types."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class _Parser(argparse.ArgumentParser):
    """argparse that raises one clear line in place of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            first = message.removeprefix("unrecognized arguments: ").split()[0]
            name = first.split("=")[0]
            known = [option for action in self._actions for option in action.option_strings if option != "--local_rank"]
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "--help lists the options"
            raise ArgumentsError(f"unknown option {name}: {hint}")
        raise ArgumentsError(message.removeprefix("argument "))


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field, annotation: Any, help_text: str) -> None:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    flag, element, optional, help_text = f"--{field.name}", annotation, False, _with_default(help_text, field)
    if get_origin(element) in (Union, types.UnionType):
        kept = [part for part in get_args(element) if part is not type(None)]
        if len(kept) != 1:
            raise TypeError(f"field {field.name!r}: a command-line option cannot be {annotation}")
        element, optional = kept[0], len(get_args(annotation)) > 1
    if element is bool and not optional:
        parser.add_argument(flag, nargs="?", const=True, type=_boolean, metavar="true|false", help=help_text, **options)
        parser.add_argument(f"--no_{field.name}", action="store_const", const=False, help=argparse.SUPPRESS, **options)
    elif get_origin(element) in (tuple, list) or element in (tuple, list):
        parser.add_argument(
            flag,
            nargs="*",
            action=_Sequence,
            annotation=element,
            optional=optional,
            metavar="VALUE",
            help=help_text,
            **options,
        )
    else:
        if "const" in field.metadata:
            options.update(nargs="?", const=field.metadata["const"])
        convert, metavar = _scalar(element, field.name)
        parser.add_argument(
            flag, type=_or_none(convert) if optional else convert, metavar=metavar, help=help_text, **options
        )


class _Sequence(argparse.Action):
    """A tuple or list option, separated by spaces or commas, of fixed or free length; "none" where it may be None."""

    def __init__(self, *arguments: Any, annotation: Any, optional: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.optional = optional
        parts = get_args(annotation) or (str, ...)
        self.kind = get_origin(annotation) or annotation
        self.length = None if self.kind is list or parts[-1] is Ellipsis else len(parts)
        self.converters = [_scalar(part, self.dest)[0] for part in parts if part is not Ellipsis]

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        words = [word for value in values for word in value.split(",") if word]
        if self.optional and [word.lower() for word in words] == ["none"]:
            setattr(namespace, self.dest, None)
            return
        if self.length is not None and len(words) != self.length:
            parser.error(f"argument {option}: needs {self.length} values, got {len(words)}")
        converters = self.converters if self.length is not None else self.converters * len(words)
        try:
            result = self.kind(convert(word) for convert, word in zip(converters, words, strict=False))
        except (ValueError, argparse.ArgumentTypeError) as error:
            parser.error(f"argument {option}: {error}")
        setattr(namespace, self.dest, result)


def _scalar(kind: Any, name: str) -> tuple[Any, str]:
    """The function that turns a word into a value of `kind`, and the word that stands for it in --help."""
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}

        def choose(word: str) -> Any:
            if word not in choices:
                raise argparse.ArgumentTypeError(f"invalid choice {word!r} (choose from {', '.join(choices)})")
            return choices[word]

        return choose, "|".join(choices)
    if kind is bool:
        return _boolean, "true|false"
    if kind in (int, float, str, Path):
        return kind, kind.__name__.upper()
    raise TypeError(f"field {name!r}: a command-line option cannot be of type {kind}")


def _boolean(word: str) -> bool:
    if word.lower() in ("true", "yes", "1"):
        return True
    if word.lower() in ("false", "no", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is neither true nor false")


def _or_none(convert: Any) -> Any:
    def optional(word: str) -> Any:
        return None if word.lower() == "none" else convert(word)

    optional.__name__ = getattr(convert, "__name__", "value")  # argparse puts it into "invalid int value"
    return optional


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _with_default(help_text: str, field: dataclasses.Field) -> str:
    default = _default(field)
    note = "required" if default is dataclasses.MISSING else f"default: {default!r}"
    return f"{help_text} ({note})".strip().replace("%", "%%")


def _field_comments(dataclass_type: type) -> dict[str, str]:
    """Help texts from comments: behind a field on its last line, or on the lines of their own right above it.

    Classes are read from the base to the derived one; a field that is redeclared without a comment keeps its base's.
    """
    found: dict[str, str] = {}
    for cls in reversed(dataclass_type.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(cls))
        except (OSError, TypeError):  # built at run time: there is no source to read
            continue
        comments: dict[int, tuple[str, bool]] = {}
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                alone = not token.line[: token.start[1]].strip()
                comments[token.start[0]] = (token.string.lstrip("# ").strip(), alone)
        for node in ast.iter_child_nodes(ast.parse(source).body[0]):
            if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
                continue
            behind = comments.get(node.end_lineno or node.lineno)
            above: list[str] = []
            line = node.lineno - 1
            while comments.get(line, ("", False))[1]:
                above.insert(0, comments[line][0])
                line -= 1
            if text := behind[0] if behind else " ".join(above):
                found[node.target.id] = text
    return found

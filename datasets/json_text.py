"""JSON text as Python values, with every way in which it can be damaged told by one kind of error."""

from __future__ import annotations

import json
import re
from typing import Any

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    Raises ValueError, of one line, for what is no JSON, for lists or objects thousands deep, and for half of a
    surrogate pair, which no tokenizer and no file takes.
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("lists or objects are nested too deep") from error
    if _SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start : error.start + 1]
            raise ValueError(f"holds \\u{ord(half):04x}, half of a character written as two") from error
    return value

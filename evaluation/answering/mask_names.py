"""Names of mask files: two different masks never have one name, and no name leaves its folder."""

from __future__ import annotations

import hashlib
from urllib.parse import quote_plus

_LONGEST = 100  # of a file system's 255, for each of the two parts


def mask_name(record_id: str, label: str, number: int = 0) -> str:
    """The file of a record's mask, as ``case_1@left+kidney.nii.gz``.

    Letters, digits and ``_ . - ~`` stay, a blank becomes +, all else its percent code.  number: above 0 where a label
    stands for the second time in an answer.
    """
    again = f"@{number}" if number else ""
    return f"{_quoted(record_id)}@{_quoted(label)}{again}.nii.gz"


def _quoted(text: str) -> str:
    quoted = quote_plus(text, safe="", errors="surrogatepass")
    if quoted[:1] in ("", "."):  # a file that begins with a point is hidden
        quoted = "%2E" + quoted[1:] if quoted else "%"
    if len(quoted) <= _LONGEST:
        return quoted
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]
    return f"{quoted[: _LONGEST - 17]}%{digest}"

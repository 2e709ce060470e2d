"""Making very many objects at once, as the records of a manifest."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_search_for_cycles() -> Iterator[None]:
    """Within it Python does not look for garbage that refers to itself, of which plain records make none.

    It would go through the records again and again while they become more, which takes as long as making them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

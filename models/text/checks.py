"""What text embeddings must be like for a vision model to be asked with them."""

from __future__ import annotations

from torch import Tensor


def check_width(embeddings: Tensor, width: int) -> None:
    """Raise ValueError for text embeddings (..., C) of another width than the model's."""
    if embeddings.shape[-1] != width:
        raise ValueError(
            f"text embeddings {tuple(embeddings.shape)}: the model takes {width}, its query_width; build it with the "
            "width of the text encoder"
        )


def check_queries(queries: Tensor, masks: Tensor, width: int) -> None:
    """Raise ValueError where a volume has no structures, or not one mask (n, ...) for each query (n, C)."""
    if not len(queries) or len(queries) != len(masks):
        raise ValueError(f"{len(queries)} structures and {len(masks)} masks: as many are needed, at least one")
    check_width(queries, width)

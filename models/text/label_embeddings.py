"""What the queries of `<SEG>` are drawn to: the text encoder's embeddings of the structures to segment."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from datasets.errors import InputError
from datasets.label_descriptions import canonical, descriptions
from models.text.text_encoder import TextEncoder


def label_embeddings(text_encoder: str, labels: Iterable[str], width: int) -> dict[str, Tensor]:
    """Embedding (width,) of each label, by its description in data/label_descriptions or, without one, by its name.

    text_encoder: hub name or folder of the one that the mask decoder, whose queries have `width`, was pretrained with.

    Raises InputError where it cannot be found or has another width.
    """
    encoder = TextEncoder.load(text_encoder)
    if encoder.width != width:
        raise InputError(
            f"--query_text_encoder {text_encoder} gives {encoder.width} numbers and the mask decoder takes {width}: "
            "name the one that the vision model was pretrained with"
        )
    distinct, known = sorted(set(labels)), descriptions()
    texts = [known.get(canonical(label), canonical(label)) for label in distinct]
    return dict(zip(distinct, encoder.encode(texts), strict=True)) if distinct else {}

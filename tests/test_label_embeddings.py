"""Embeddings of labels: by description where there is one, and only of the width that masks are asked with."""

from __future__ import annotations

import pytest
import torch

from datasets.errors import InputError
from datasets.label_descriptions import describe
from models.text.label_embeddings import label_embeddings
from models.text.tiny_text_encoder import build_tiny_text_encoder


def test_labels_are_embedded_as_pretraining_embeds_them(tmp_path):
    encoder = build_tiny_text_encoder([describe("liver"), describe("spleen"), "a gadget of metal"], 64)
    folder = str(encoder.save(tmp_path / "text_encoder"))
    found = label_embeddings(folder, ["liver", "Spleen", "liver", "Some_Gadget"], 64)
    assert set(found) == {"liver", "Spleen", "Some_Gadget"}
    expected = encoder.encode([describe("liver"), describe("spleen"), "some gadget"])
    for label, embedding in zip(("liver", "Spleen", "Some_Gadget"), expected, strict=True):
        assert torch.allclose(found[label], embedding, atol=1e-6)
    assert label_embeddings(folder, [], 64) == {}
    with pytest.raises(InputError, match="gives 64 numbers and the mask decoder takes 128"):
        label_embeddings(folder, ["liver"], 128)

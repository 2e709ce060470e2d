"""Where visual tokens stand in a batch, and which positions its tokens have, against a loop over rows and volumes."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
import torch

from datasets.conversation import Conversation
from datasets.manifest import QuestionPart
from tests.embedding_loop import embed_by_a_loop
from tests.tiny_model import collate, make_sample, tiny_ctinstruct


@pytest.fixture(scope="module")
def model():
    return tiny_ctinstruct().eval()


def asking(model, kind, **volumes):
    """A sample of a kind of `ANSWERS` about the given volumes, which go by their names."""
    counts = [prod(model.config.token_grid(volume.patch_grid, volume.patches.shape[-1])) for volume in volumes.values()]
    parts = [QuestionPart(type="image")] * len(counts) + [QuestionPart(type="text", text="What changed?")]
    prompt = Conversation(model.tokenizer).prompt(parts, counts)
    own = {"volumes": list(volumes.values()), "volume_keys": list(volumes), "prompt_ids": prompt}
    return replace(make_sample(kind, model.tokenizer), **own)


def test_input_embeddings_are_a_loop_over_rows_and_volumes(model):
    """Different volumes in a row and turned round in another, rows that share them, rows without, padding."""
    a, b = make_sample("two_volumes", model.tokenizer, 4).volumes
    c = replace(a, patches=-a.patches)  # as large as `a`: its content alone tells the two apart
    assert a.patch_grid != b.patch_grid
    samples = [
        asking(model, "text_only"),
        asking(model, "two_volumes", a=a, b=b),
        asking(model, "yes_no", a=a, b=b),
        asking(model, "diagnosis", c=c),
        asking(model, "text_only"),
        asking(model, "open_vqa", c=c),
        asking(model, "two_volumes", a=a, c=c),
        asking(model, "two_volumes", b=b, a=a),
        asking(model, "two_volumes", a=a, b=b),
    ]
    batch = collate(samples, model.tokenizer)
    assert batch.volumes_of == [0, 1, 1, 3, 4, 3, 6, 7, 8] and not batch.attention_mask.all()
    with torch.no_grad():
        embeddings, positions = model.input_embeddings(batch, model.encode(batch))
    expected, expected_positions = embed_by_a_loop(model, batch, [sample.volumes for sample in samples])
    assert torch.equal(positions, expected_positions)
    assert torch.allclose(embeddings, expected, atol=1e-4)
    visual = {row: expected[row][batch.input_ids[row] == model.image_id] for row in (1, 6, 7)}
    of_a, of_c = visual[6].chunk(2)
    assert (of_a - of_c).abs().max() > 0.01 < (visual[1] - visual[7]).abs().max(), "swapped tokens would be seen"

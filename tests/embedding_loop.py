"""What CTInstruct's `input_embeddings` is to give, written as a loop over tokens; for tests."""

from __future__ import annotations

import torch


@torch.no_grad()
def embed_by_a_loop(model, batch, volumes):
    """What `input_embeddings` is to give, token by token: embeddings (B, L, hidden) and rotary positions (3, B, L).

    `volumes` has the list of each row's own volumes, one shared by several rows standing in each; all are encoded here
    one by one.  A text token takes the table's row of its id and the next position on all three axes.  An image token
    takes the next token of the row's volume, at (slice, x, y) from where the volume began; text goes on after the
    largest of the three.  Padding, which nothing reads, is at position 1.
    """
    table = model.language_model.get_input_embeddings().weight
    embeddings = torch.zeros(*batch.input_ids.shape, table.shape[1])
    positions = torch.ones(3, *batch.input_ids.shape, dtype=torch.long)
    for row, ids in enumerate(batch.input_ids.tolist()):
        waiting = []  # of every volume of the row: its tokens, each with its place
        for volume in volumes[row]:
            (encoded,) = model.encode_volumes([volume])
            slices, height, width = model.vision.llm_grid(encoded)
            places = [(t, x, y) for t in range(slices) for x in range(height) for y in range(width)]
            waiting.append(list(zip(model.vision.llm_tokens(encoded), places, strict=True)))
        following, begun = 0, False
        for column, token in enumerate(ids):
            embeddings[row, column] = table[token]
            if not batch.attention_mask[row, column]:
                continue
            if token != model.image_id:
                positions[:, row, column] = following
                following += 1
                continue
            if not begun:
                start, begun = following, True
            embeddings[row, column], place = waiting[0].pop(0)
            positions[:, row, column] = torch.tensor(place) + start
            following = max(following, start + max(place) + 1)
            if not waiting[0]:  # the volume ends, and the row's next one may follow
                waiting.pop(0)
                begun = False
        assert not waiting, "there are tokens of a volume left"
    return embeddings, positions

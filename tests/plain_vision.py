"""The 2D1D network once more, as plainly as it can be written: loops, no batching, no shared work.

It reads a model's parameters but runs none of its code, except MONAI's convolution blocks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def layer_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Over the last axis, by its definition."""
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * scale


def peg(x: Tensor, convolution: nn.Conv3d, shape: tuple[int, int, int]) -> Tensor:
    """x (tokens in their given order, C): depthwise 3x3x3, two slices back in T, centred in X and Y; tap by tap."""
    size_t, size_x, size_y = shape
    output = torch.zeros_like(x)
    for t in range(size_t):
        for i in range(size_x):
            for j in range(size_y):
                total = convolution.bias.clone()
                for a in range(3):
                    for b in range(3):
                        for c in range(3):
                            u, v, w = t + a - 2, i + b - 1, j + c - 1
                            if u >= 0 and 0 <= v < size_x and 0 <= w < size_y:
                                source = x[(u * size_x + v) * size_y + w]
                                total = total + convolution.weight[:, 0, a, b, c] * source
                output[(t * size_x + i) * size_y + j] = total
    return output


def attention(x: Tensor, part: nn.Module, heads: int, bias: Tensor | None, visible: Tensor | None) -> Tensor:
    """x (n, C) of one sequence; one head and one query at a time."""
    query = layer_norm(x, part.norm.gamma) @ part.to_q.weight.T
    key, value = (x @ part.to_kv.weight.T).split(query.shape[1], dim=1)
    width = query.shape[1] // heads
    output = torch.zeros_like(query)
    for head in range(heads):
        columns = slice(head * width, (head + 1) * width)
        for i in range(len(x)):
            q = query[i, columns] / query[i, columns].norm() * part.q_scale
            logits = torch.full((len(x),), -math.inf, dtype=x.dtype)
            for j in range(len(x)):
                if visible is None or visible[j]:
                    k = key[j, columns] / key[j, columns].norm() * part.k_scale
                    logits[j] = 8 * (q @ k) + (0 if bias is None else bias[head, i, j])
            output[i, columns] = logits.softmax(0) @ value[:, columns]
    return output @ part.to_out.weight.T


def feed_forward(x: Tensor, part: nn.Sequential) -> Tensor:
    """LayerNorm, gated GELU, no biases."""
    hidden = (layer_norm(x, part[0].weight) + part[0].bias) @ part[1].weight.T
    first, gate = hidden[:, : hidden.shape[1] // 2], hidden[:, hidden.shape[1] // 2 :]
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return (first * gelu) @ part[4].weight.T


def transformer(
    x: Tensor, model: nn.Module, heads: int, shape: tuple[int, int, int], bias: Tensor | None, visible: Tensor | None
) -> Tensor:
    """x (sequences, n, C); PEG sees all tokens in the order they stand in, attention one sequence at a time."""
    for position, attend, feed in model.layers:
        x = x + peg(x.flatten(0, 1), position.dsconv, shape).view(x.shape)
        x = x + torch.stack(
            [attention(row, attend, heads, bias, None if visible is None else visible[i]) for i, row in enumerate(x)]
        )
        x = x + torch.stack([feed_forward(row, feed) for row in x])
    return layer_norm(x, model.norm_out.gamma)


def position_bias(net: nn.ModuleList, size_x: int, size_y: int) -> Tensor:
    """(heads, X*Y, X*Y), pair by pair."""
    tokens = [(i, j) for i in range(size_x) for j in range(size_y)]
    rows = []
    for query in tokens:
        for key in tokens:
            offset = [float(a - b) for a, b in zip(query, key, strict=True)]
            x = torch.tensor([math.copysign(math.log(abs(r) + 1), r) for r in offset], dtype=net[2].weight.dtype)
            for layer in (net[0][0], net[1][0]):
                x = layer.weight @ x + layer.bias
                x = torch.where(x > 0, x, 0.1 * x)
            rows.append(net[2].weight @ x + net[2].bias)
    return torch.stack(rows).view(len(tokens), len(tokens), -1).permute(2, 0, 1)


def positions(height: int, width: int, channels: int) -> Tensor:
    """Sinusoidal 2D positions (height * width, channels), number by number."""
    table = torch.zeros(height, width, channels, dtype=torch.float64)
    half = channels // 2
    for i in range(height):
        for j in range(width):
            for c in range(0, half, 2):
                rate = 10000 ** (-c / half)
                for offset, place in ((0, i), (half, j)):
                    table[i, j, offset + c] = math.sin(place * rate)
                    table[i, j, offset + c + 1] = math.cos(place * rate)
    return table.view(height * width, channels)


def query_layer(queries: Tensor, memory: Tensor, keys: Tensor, layer: nn.Module, heads: int) -> Tensor:
    """Cross-attention of (n, C) queries to (m, C) memory, then the feed-forward, both pre-norm."""
    width = queries.shape[1]
    weights, biases = layer.multihead_attn.in_proj_weight.split(width), layer.multihead_attn.in_proj_bias.split(width)
    normed = layer_norm(queries, layer.norm2.weight) + layer.norm2.bias
    q, k, v = (x @ w.T + b for x, w, b in zip((normed, keys, memory), weights, biases, strict=True))
    parts = []
    for head in range(heads):
        columns = slice(head * width // heads, (head + 1) * width // heads)
        logits = q[:, columns] @ k[:, columns].T / math.sqrt(width // heads)
        parts.append(logits.softmax(-1) @ v[:, columns])
    project = layer.multihead_attn.out_proj
    queries = queries + torch.cat(parts, dim=1) @ project.weight.T + project.bias
    normed = layer_norm(queries, layer.norm3.weight) + layer.norm3.bias
    return queries + layer.linear2(F.relu(layer.linear1(normed)))


def slice_mask(model: nn.Module, token: Tensor, skips: list[Tensor], queries: Tensor) -> Tensor:
    """Mask logits (n, c0, c1) of one slice: token (C,), its five maps (C_i, h_i, w_i), projected queries (n, width)."""
    config = model.config
    height, width = config.inplane_grid
    pooled = []
    for skip in skips:
        blocks = skip.reshape(len(skip), height, skip.shape[1] // height, width, skip.shape[2] // width)
        pooled.append(blocks.mean(dim=(2, 4)).flatten(1).T)
    memory = model.projection_layer(torch.cat(pooled, dim=1))
    keys = memory + positions(height, width, config.query_width).to(memory)
    for layer in model.transformer_decoder.layers:
        queries = query_layer(queries, memory, keys, layer, config.query_heads)
    norm = model.transformer_decoder.norm
    embeddings = model.mask_embed_proj(layer_norm(queries, norm.weight) + norm.bias)
    features = token[None, :, None, None]
    decoder = model.decoder
    blocks = (decoder.decoder_vit, decoder.decoder1, decoder.decoder2, decoder.decoder3, decoder.decoder4)
    for block, skip in zip(blocks, skips[::-1], strict=True):
        features = block(features, skip[None].contiguous())  # MONAI's own forward
    return torch.einsum("nc,chw->nhw", embeddings, decoder.transp_conv(features)[0])

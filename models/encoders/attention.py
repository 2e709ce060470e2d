"""Blocks of the 2D1D transformers: position-generating convolution, cosine attention, feed-forward, position bias.

The names of parameters and the order of sub-modules are those of the published weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.recompute import recomputed

LOGIT_SCALE = 8.0  # multiplies the cosine of query and key
# Keys and values are of the input as it is, so a layer multiplies what the layers before it add, and a part that all
# tokens share would soon drown the rest.  As in BERT and ViT the branches begin small.
BRANCH_INIT = 0.02
FEEDFORWARD_FACTOR = 8 / 3  # 4 x width, times 2/3 because the gate doubles the first layer


class GammaLayerNorm(nn.Module):
    """Layer norm with a learned scale; the shift is a buffer that stays zero but is part of the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class PositionGenerator(nn.Module):
    """PEG (Chu et al. 2021): a depthwise 3x3x3 convolution that tells a token its place by its neighbours.

    Along T the kernel sees the two slices before and the slice itself; in the plane it is centred.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x: Tensor, video_shape: tuple[int, int, int]) -> Tensor:
        """x (batch, tokens, C) holding T*X*Y tokens -> the same shape.

        Tokens are *reshaped* to (T, X, Y) in the order they stand in.  In the temporal transformer that order is
        (X*Y, T), so neighbours are then not neighbours in space; the published weights were trained with it.
        """
        slices, width = video_shape[0], x.shape[-1]
        video = F.pad(x.reshape(*video_shape, width).permute(0, 3, 1, 2), (1, 1, 1, 1, 0, 0, 2, 0))
        # a 2D convolution for each slice that the kernel sees: the gradient of torch's depthwise 3D one is slow on CPUs
        taps = [
            F.conv2d(video[t : t + slices], self.dsconv.weight[:, :, t], groups=width)
            for t in range(self.dsconv.kernel_size[0])
        ]
        output = sum(taps) + self.dsconv.bias[:, None, None]
        return output.permute(0, 2, 3, 1).reshape(x.shape)


class CosineAttention(nn.Module):
    """Multi-head attention over l2-normalised queries and keys, without biases.

    Queries come from the normed input; keys and values from the input as it is, as in the published weights, where
    `context_norm` exists but is not used.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))
        self.norm = GammaLayerNorm(width)
        self.context_norm = GammaLayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """x (batch, n, C); bias (heads, n, n) added to the logits; key_mask (batch, n), False hides a key."""
        query = self.to_q(self.norm(x))
        key, value = self.to_kv(x).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        # The norm of 64 squares needs more digits than bfloat16 has.
        query = (F.normalize(query.float(), dim=-1) * self.q_scale).to(value.dtype)
        key = (F.normalize(key.float(), dim=-1) * self.k_scale).to(value.dtype)
        mask = bias.to(value.dtype) if bias is not None else None
        if key_mask is not None:
            visible = key_mask[:, None, None, :]
            mask = visible if mask is None else mask.masked_fill(~visible, float("-inf"))
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=LOGIT_SCALE)
        return self.to_out(output.transpose(1, 2).flatten(2))


class GatedGelu(nn.Module):
    """(..., 2n) -> (..., n): the first half, times gelu of the second."""

    def forward(self, x: Tensor) -> Tensor:
        values, gate = x.chunk(2, dim=-1)
        return F.gelu(gate) * values


def feed_forward(width: int) -> nn.Sequential:
    """LayerNorm, Linear, gated GELU, Linear; the fourth place held a dropout and keeps the indices of the weights."""
    inner = int(FEEDFORWARD_FACTOR * width)
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * inner, bias=False),
        GatedGelu(),
        nn.Identity(),
        nn.Linear(inner, width, bias=False),
    )


class Transformer(nn.Module):
    """Layers of x += PEG(x); x += Attention(x); x += FeedForward(x), and a final norm."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self.layers = nn.ModuleList(
            nn.ModuleList([PositionGenerator(width), CosineAttention(width, heads, head_width), feed_forward(width)])
            for _ in range(depth)
        )
        self.norm_out = GammaLayerNorm(width)
        for position, attention, feedforward in self.layers:
            nn.init.trunc_normal_(position.dsconv.weight, std=BRANCH_INIT)
            nn.init.zeros_(position.dsconv.bias)
            nn.init.trunc_normal_(attention.to_out.weight, std=BRANCH_INIT)
            nn.init.trunc_normal_(feedforward[-1].weight, std=BRANCH_INIT)

    def forward(
        self,
        x: Tensor,
        video_shape: tuple[int, int, int],
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """x (batch, n, C) holding the T*X*Y tokens of one volume -> the same shape.  See the parts for the rest."""
        for layer in self.layers:
            recompute = self.gradient_checkpointing and self.training
            x = recomputed(recompute, layer, _run_layer, layer, x, video_shape, bias, key_mask)
        return self.norm_out(x)


def _run_layer(
    layer: nn.ModuleList, x: Tensor, video_shape: tuple[int, int, int], bias: Tensor | None, key_mask: Tensor | None
) -> Tensor:
    position, attention, feedforward = layer
    x = x + position(x, video_shape)
    x = x + attention(x, bias, key_mask)
    return x + feedforward(x)


class ContinuousPositionBias(nn.Module):
    """Relative position bias of a grid of any size, by a small network on log-scaled offsets (Liu et al. 2022)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(0.1)),
                nn.Linear(width, heads),
            ]
        )

    def forward(self, size_x: int, size_y: int) -> Tensor:
        """-> (heads, X*Y, X*Y): entry (h, i, j) is for query i and key j, both in x-major order."""
        weight = self.net[0][0].weight
        grid = torch.cartesian_prod(torch.arange(size_x), torch.arange(size_y)).to(weight.device)
        offset = (grid[:, None] - grid[None, :]).float()
        bias = (offset.sign() * torch.log(offset.abs() + 1)).to(weight.dtype)
        for layer in self.net:
            bias = layer(bias)
        return bias.permute(2, 0, 1)

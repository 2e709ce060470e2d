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

    beta: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> the same shape."""
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.beta)


class PositionGenerator(nn.Module):
    """PEG (Chu et al. 2021): a depthwise 3x3x3 convolution that tells a token its place by its neighbours.

    Along T the kernel sees the two slices before and the slice itself; in the plane it is centred.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x: Tensor, video_shape: tuple[int, int, int]) -> Tensor:
        """x (batch, tokens, C) holding T*X*Y tokens -> the same shape; video_shape: (T, X, Y)."""
        slices, width = video_shape[0], x.shape[-1]
        # Quirk: tokens are *reshaped* to (T, X, Y) in the order they stand in.  In the temporal transformer that order
        # is (X*Y, T), so neighbours are then not neighbours in space; the published weights were trained with it.
        video = x.reshape(*video_shape, width).permute(0, 3, 1, 2)
        # Quirk: zeros surround the video, two slices before it and none behind, so a token sees no later slice.
        video = F.pad(video, (1, 1, 1, 1, 0, 0, 2, 0))
        # a 2D convolution for each slice that the kernel sees: the gradient of torch's depthwise 3D one is slow on CPUs
        kernel, bias = self.dsconv.weight, self.dsconv.bias
        assert bias is not None  # Conv3d makes one unless told not to
        taps = [
            F.conv2d(video[t : t + slices], kernel[:, :, t], groups=width) for t in range(self.dsconv.kernel_size[0])
        ]
        output = sum(taps) + bias[:, None, None]
        return output.permute(0, 2, 3, 1).reshape(x.shape)


class CosineAttention(nn.Module):
    """Multi-head attention over l2-normalised queries and keys, each times a learned scale, without biases."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))
        self.norm = GammaLayerNorm(width)
        self.context_norm = GammaLayerNorm(width)  # quirk: in the published weights, and unused
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, bias: Tensor | None = None, key_mask: Tensor | None = None) -> Tensor:
        """x (batch, n, C) -> the same shape.

        bias (heads, n, n) is added to the logits; key_mask (batch, n) hides a key where it is False.
        """
        query = self.to_q(self.norm(x))
        key, value = self.to_kv(x).chunk(2, dim=-1)  # quirk: of x as it is, where the queries are of the normed x
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


class TransformerLayer(nn.ModuleList):
    """x += PEG(x); x += Attention(x); x += FeedForward(x).  A list, as the published weights number the three."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__([PositionGenerator(width), CosineAttention(width, heads, head_width), feed_forward(width)])

    def forward(
        self, x: Tensor, video_shape: tuple[int, int, int], bias: Tensor | None, key_mask: Tensor | None
    ) -> Tensor:
        """As `Transformer.forward`."""
        position, attention, feedforward = self
        x = x + position(x, video_shape)
        x = x + attention(x, bias, key_mask)
        return x + feedforward(x)

    def begin_small(self) -> None:
        """Random weights under which each of the three adds little."""
        for name in ("0.dsconv.weight", "1.to_out.weight", "2.4.weight"):
            nn.init.trunc_normal_(self.get_parameter(name), std=BRANCH_INIT)
        nn.init.zeros_(self.get_parameter("0.dsconv.bias"))


class Transformer(nn.Module):
    """Layers of position-generating convolution, attention and feed-forward, and a final norm."""

    def __init__(self, width: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        layers = [TransformerLayer(width, heads, head_width) for _ in range(depth)]
        self.layers = nn.ModuleList(layers)
        self.norm_out = GammaLayerNorm(width)
        for layer in layers:
            layer.begin_small()

    def forward(
        self,
        x: Tensor,
        video_shape: tuple[int, int, int],
        bias: Tensor | None = None,
        key_mask: Tensor | None = None,
    ) -> Tensor:
        """x (batch, n, C) holding the T*X*Y tokens of one volume -> the same shape.

        video_shape is (T, X, Y), for the convolution; bias (heads, n, n) and key_mask (batch, n) are for the attention.
        """
        for layer in self.layers:
            recompute = self.gradient_checkpointing and self.training
            x = recomputed(recompute, layer, layer, x, video_shape, bias, key_mask)
        return self.norm_out(x)


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
        weight = next(self.net.parameters())
        grid = torch.cartesian_prod(torch.arange(size_x), torch.arange(size_y)).to(weight.device)
        offset = (grid[:, None] - grid[None, :]).float()
        bias = (offset.sign() * torch.log(offset.abs() + 1)).to(weight.dtype)
        for layer in self.net:
            bias = layer(bias)
        return bias.permute(2, 0, 1)

"""Contrastive learning of images and texts: symmetric InfoNCE over all ranks, with a queue of earlier texts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

INITIAL_TEMPERATURE = 0.07
INITIAL_LABEL_SCALE = 10.0  # of cosines with labels, as in SigLIP (Zhai et al. 2023)
LARGEST_SCALE = 100.0  # as in CLIP: beyond it training becomes unstable
SAME_TEXT = 1e-5  # largest difference of the numbers of two embeddings of one text, rounding


@dataclass(frozen=True)
class ContrastiveOutput:
    """loss: of this rank's pairs; its mean over the ranks is the loss of the whole batch.  accuracy: share of this
    rank's images that are nearest to their own text, among all texts compared with."""

    loss: Tensor
    accuracy: Tensor


class ContrastiveLoss(nn.Module):
    """InfoNCE (van den Oord et al. 2018) in both directions, as in CLIP (Radford et al. 2021).

    For N pairs over all ranks, with images v_i, texts t_j of length 1, queued texts q_k and scale s = 1 / temperature:

        image to text   -log softmax over (s v_i.t_1, ..., s v_i.t_N, s v_i.q_1, ..., s v_i.q_Q) at t_i
        text to image   -log softmax over (s t_i.v_1, ..., s t_i.v_N) at v_i

    averaged over the pairs and the two directions.  A text that is the same as t_i, elsewhere in the batch or in the
    queue, is no negative of pair i: it is left out of the sums, in either direction.

    The queue holds the text encoder's embeddings of the last `queue_size` texts before projection.  The encoder is
    frozen, and each step projects them anew, so they are never out of date.  It is the same on all ranks.  It is a
    buffer without a place in the state dictionary: part of a run's state, as the optimiser's moments are, and saved
    with that, and kept in float32 whatever the precision of the weights.

    Scaling over W ranks: a rank's loss averages over its own B = N / W pairs, but the images of other ranks, gathered
    with gradient, enter it too; the gradient of an image is summed over the losses of all ranks.  The averaging of
    parameter gradients over ranks (DDP, ZeRO) divides by W once.  Loss and gradients so equal those of one process
    with the concatenated batch.
    """

    queue: Tensor
    queued: Tensor

    def __init__(self, text_width: int, queue_size: int = 512, temperature: float = INITIAL_TEMPERATURE) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / temperature)]))  # DeepSpeed wants an axis
        self.register_buffer("queue", torch.zeros(queue_size, text_width), persistent=False)
        self.register_buffer("queued", torch.zeros((), dtype=torch.long), persistent=False)  # how many ever

    @property
    def scale(self) -> Tensor:
        """1 / temperature, at most LARGEST_SCALE; without an axis."""
        return bounded_exp(self.log_scale[0].float(), LARGEST_SCALE)

    @property
    def filled(self) -> int:
        """Texts in the queue."""
        return min(int(self.queued), len(self.queue))

    def forward(self, images: Tensor, texts: Tensor, project: Callable[[Tensor], Tensor]) -> ContrastiveOutput:
        """images (B, E) of length 1; texts (B, C) raw embeddings of their texts, in the same order.

        project: raw embeddings (n, C) -> (n, E) of length 1.  In training the texts enter the queue afterwards.

        Raises ValueError, on all ranks, where the ranks have different numbers of pairs.
        """
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts: they must be pairs")
        images, texts = images.float(), texts.detach().float()
        first = check_equal_batches(len(images), images.device)
        all_images, all_texts = gather_with_gradient(images), gather_with_gradient(texts)
        candidates = torch.cat([all_texts, self.queue[: self.filled].float()])
        projected = project(candidates).float()

        own = torch.arange(first, first + len(images), device=images.device)
        repeated = torch.cdist(texts, candidates, p=math.inf) <= SAME_TEXT
        repeated[torch.arange(len(own)), own] = False
        to_texts = (self.scale * images @ projected.T).masked_fill(repeated, -math.inf)
        to_images = self.scale * projected[own] @ all_images.T
        to_images = to_images.masked_fill(repeated[:, : len(all_images)], -math.inf)
        loss = (F.cross_entropy(to_texts, own) + F.cross_entropy(to_images, own)) / 2
        if self.training:
            self._enqueue(all_texts)
        return ContrastiveOutput(loss, (to_texts.detach().argmax(1) == own).float().mean())

    @torch.no_grad()
    def _enqueue(self, texts: Tensor) -> None:
        """Write the newest texts over the oldest."""
        size = len(self.queue)
        kept = texts[-size:] if size else texts[:0]
        if len(kept):
            start = int(self.queued) + len(texts) - len(kept)
            places = torch.arange(start, start + len(kept), device=texts.device) % size
            self.queue[places] = kept.to(self.queue.dtype)
        self.queued += len(texts)


def bounded_exp(log_value: Tensor, largest: float) -> Tensor:
    """exp(log_value), at most `largest`; beyond that only a gradient that leads back passes."""
    return _Bounded.apply(log_value, math.log(largest)).exp()


def check_equal_batches(size: int, device: torch.device) -> int:
    """The place of this rank's first pair among those of all ranks.

    Raises ValueError, on all ranks, where the sizes differ.
    """
    if not _distributed():
        return 0
    sizes = torch.zeros(dist.get_world_size(), dtype=torch.long, device=device)
    sizes[dist.get_rank()] = size
    dist.all_reduce(sizes)
    if bool((sizes != sizes[0]).any()):
        raise ValueError(f"the ranks have different numbers of pairs, {sizes.tolist()}: give each the same micro-batch")
    return dist.get_rank() * size


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """(B, C) of each rank -> (W B, C), by rank; the gradient is the sum of those that the ranks have for this part."""
    return _Gather.apply(tensor) if _distributed() else tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.chunk(dist.get_world_size())[dist.get_rank()]


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bound = bound
        return value.clamp(max=bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return gradient * ((value <= ctx.bound) | (gradient > 0)), None


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1

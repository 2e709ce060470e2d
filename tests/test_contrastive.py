"""InfoNCE against a loop in plain Python, and two processes against one."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.text.contrastive import ContrastiveLoss

WIDTH, TEXT_WIDTH, PAIRS = 6, 5, 4


class Toy(nn.Module):
    """Two linear projections and the loss."""

    def __init__(self, queue_size: int = 7):
        super().__init__()
        torch.manual_seed(0)
        self.images, self.texts = nn.Linear(3, WIDTH), nn.Linear(TEXT_WIDTH, WIDTH)
        self.contrastive = ContrastiveLoss(TEXT_WIDTH, queue_size)

    def project(self, raw):
        return F.normalize(self.texts(raw), dim=-1)

    def forward(self, inputs, raw):
        return self.contrastive(F.normalize(self.images(inputs), dim=-1), raw, self.project)


def data(step: int, pairs: int = PAIRS):
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(pairs, 3, generator=generator), torch.randn(pairs, TEXT_WIDTH, generator=generator)


def brute_force(model: Toy, inputs, raw, queue) -> float:
    """The two sums, pair by pair; `queue` is a list of raw texts, and equal texts are no negatives."""
    images = F.normalize(model.images(inputs), dim=-1).tolist()
    texts, queued = model.project(raw).tolist(), model.project(torch.stack(queue)).tolist() if queue else []
    scale = min(math.exp(float(model.contrastive.log_scale.detach())), 100.0)

    def dot(a, b):
        return scale * sum(x * y for x, y in zip(a, b, strict=True))

    losses = []
    for i in range(len(images)):
        batch = [j for j in range(len(images)) if j == i or not torch.equal(raw[i], raw[j])]
        others = [k for k in range(len(queued)) if not torch.equal(raw[i], queue[k])]
        to_texts = [dot(images[i], texts[j]) for j in batch] + [dot(images[i], queued[k]) for k in others]
        to_images = [dot(texts[i], images[j]) for j in batch]
        own = dot(images[i], texts[i])
        losses += [math.log(sum(math.exp(x - own) for x in row)) for row in (to_texts, to_images)]
    return sum(losses) / len(losses)


def test_equals_a_loop_with_queue_and_repeated_texts():
    model, queue = Toy(), []
    for step in range(5):
        inputs, raw = data(step)
        if step:
            raw[1] = raw[3]  # twice in the batch
            raw[0] = queue[-2]  # and in the queue
        expected = brute_force(model, inputs, raw, queue)
        assert float(model(inputs, raw).loss.detach()) == pytest.approx(expected, rel=1e-5)
        queue = [*queue, *raw][-7:]
        stored = {tuple(row) for row in model.contrastive.queue[: model.contrastive.filled].tolist()}
        assert stored == {tuple(row) for row in torch.stack(queue).tolist()}
        with torch.no_grad():
            model.texts.weight.add_(0.3)  # the next step must see the queue through the new projection
    assert model.contrastive.filled == 7


def test_a_text_elsewhere_in_the_batch_or_queue_is_no_negative():
    """Of one text in many copies nothing can be told apart: with all negatives left out the loss is 0."""
    model = Toy()
    inputs, raw = data(0)
    raw[:] = raw[0]
    for _ in range(3):
        output = model(inputs, raw)
    assert float(output.loss.detach()) == pytest.approx(0, abs=1e-6)


def test_evaluation_leaves_the_queue_alone():
    model = Toy()
    model(*data(0))
    before = model.contrastive.queue.clone()
    model.eval()
    model(*data(1))
    assert model.contrastive.filled == PAIRS and torch.equal(model.contrastive.queue, before)


@pytest.mark.parametrize("queue_size", [0, 3])
def test_a_batch_larger_than_the_queue(queue_size):
    model = Toy(queue_size)
    for step in range(3):
        inputs, raw = data(step)
        expected = brute_force(model, inputs, raw, [] if not step or not queue_size else [*data(step - 1)[1]][-3:])
        assert float(model(inputs, raw).loss.detach()) == pytest.approx(expected, rel=1e-5)


def test_temperature_starts_at_its_value_and_is_held_at_the_bound():
    loss = ContrastiveLoss(TEXT_WIDTH)
    assert float(loss.scale) == pytest.approx(1 / 0.07, rel=1e-6)
    with torch.no_grad():
        loss.log_scale.fill_(6.0)
    assert float(loss.scale) == pytest.approx(100.0, rel=1e-5)
    (-loss.scale).backward()  # descent would raise it further
    assert float(loss.log_scale.grad) == 0
    loss.scale.backward()
    assert float(loss.log_scale.grad) == pytest.approx(100.0, rel=1e-5)


def test_accuracy_counts_images_nearest_to_their_text():
    loss = ContrastiveLoss(3, queue_size=0)
    images = torch.eye(3)
    assert float(loss(images, torch.eye(3), lambda raw: raw).accuracy) == 1
    assert float(loss(images, torch.eye(3)[[0, 2, 1]], lambda raw: raw).accuracy) == pytest.approx(1 / 3)


def three_steps(model: Toy, batches) -> list[torch.Tensor]:
    """Loss and gradients of three steps with a queue that fills, without updates of the weights."""
    results = []
    for inputs, raw in batches:
        model.zero_grad()
        inputs = inputs.clone().requires_grad_()
        loss = model(inputs, raw).loss
        loss.backward()
        results.append([loss.detach(), inputs.grad, *(p.grad.clone() for p in model.parameters())])
    return results


def _batches():
    for step in range(3):
        inputs, raw = data(step, 2 * PAIRS)
        raw[1] = raw[6]  # the same text on both ranks
        yield inputs, raw


def _rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2)
    part = slice(rank * PAIRS, (rank + 1) * PAIRS)
    model = Toy()
    torch.save(three_steps(model, [(i[part], r[part]) for i, r in _batches()]), f"{folder}/{rank}.pt")
    message = ""
    try:
        model(*data(9, PAIRS + rank))
    except ValueError as error:
        message = str(error)
    Path(f"{folder}/{rank}.txt").write_text(message)
    torch.distributed.destroy_process_group()


def test_two_ranks_equal_the_concatenated_batch(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    expected = three_steps(Toy(), _batches())
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for first, second, whole in zip(*ranks, expected, strict=True):
        torch.testing.assert_close((first[0] + second[0]) / 2, whole[0], rtol=1e-5, atol=1e-6)
        # an input's gradient is of the sum over the ranks, a parameter's is averaged by DDP or ZeRO
        torch.testing.assert_close(torch.cat([first[1], second[1]]) / 2, whole[1], rtol=1e-4, atol=1e-6)
        for one, other, both in zip(first[2:], second[2:], whole[2:], strict=True):
            assert both.abs().max() > 1e-4
            torch.testing.assert_close((one + other) / 2, both, rtol=1e-4, atol=1e-6)
    for rank in (0, 1):
        assert (tmp_path / f"{rank}.txt").read_text().startswith("the ranks have different numbers of pairs, [4, 5]")

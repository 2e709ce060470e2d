"""Which labels a training step asks for."""

from __future__ import annotations

import numpy as np

from datasets.label_choice import choose_labels


def test_a_step_asks_for_all_labels_or_for_sixty_at_random():
    assert choose_labels([0, 5, 0, 0, 7], 60, 1) == [0, 1, 2, 3, 4]
    assert choose_labels([], 60, 1) == []
    voxels, counts = [1] * 20 + [0] * 100, np.zeros(120)
    for seed in range(200):
        chosen = choose_labels(voxels, 60, seed)
        assert len(set(chosen)) == 60 and chosen == sorted(chosen) == choose_labels(voxels, 60, seed)
        counts[chosen] += 1
    assert counts.min() >= 70 and counts.max() <= 130  # each label in half of the 200 steps, present or not


def test_balanced_present_labels_come_first_and_absent_ones_are_few():
    def choose(voxels, limit, seed):
        return choose_labels(voxels, limit, seed, "balanced")

    voxels = [0, 5, 0, 0, 7, 0, 0, 0]
    seen = set()
    for seed in range(100):
        chosen = choose(voxels, 60, seed)
        assert chosen[:2] == [1, 4] and len(chosen) == 4 and not {1, 4} & set(chosen[2:])
        assert len(set(chosen)) == 4
        seen.update(chosen[2:])
        assert chosen == choose(voxels, 60, seed)
    assert seen == {0, 2, 3, 5, 6, 7}
    crowded = choose([1] * 70 + [0] * 70, 60, 0)
    assert len(crowded) == len(set(crowded)) == 60 and max(crowded) < 70
    nearly = choose([1] * 58 + [0] * 70, 60, 0)
    assert nearly[:58] == list(range(58)) and len(nearly) == 60
    assert len(choose([0] * 5, 60, 1)) == 1
    assert choose([3], 60, 1) == [0]
    # as it was drawn before there was a choice
    assert choose(voxels, 60, 5) == [1, 4, 3, 6]
    assert choose([1] * 9 + [0] * 9, 5, 3) == [3, 4, 6, 7, 8]

"""Percentiles by counting are numpy's, to the last bit; so are volumes that are laid out plane by plane."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from datasets.volume import percentiles as module
from datasets.volume.axis_order import laid_out
from datasets.volume.percentiles import percentiles

WANTED = (0.5, 99.5, 0, 100, 37.123)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (1, 2, 1, 1), (1, 7, 5, 3), (1, 40, 41, 199)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_whole_numbers(shape: tuple[int, ...], order: str) -> None:
    random = np.random.default_rng(shape[-1])
    for scale in (3, 900, 100_000):  # few values, those of a CT, and far apart
        array = np.asarray(np.rint(random.normal(-500, scale, shape)), dtype=np.float32, order=order)
        found, expected = percentiles(array, WANTED), np.percentile(array, WANTED)
        assert found.tolist() == expected.tolist() and found.dtype == expected.dtype


def test_other_numbers_are_left_to_numpy() -> None:
    random = np.random.default_rng(0)
    for array in (
        random.normal(0, 900, (9, 9, 9)),
        [[-0.5, -0.25, 7]],
        [1e9, 2, 3],
        [3e5, -9e5, 0],
        [-3e9, -3e9 + 512],
    ):
        array = np.asarray(array, dtype=np.float32)
        assert percentiles(array, WANTED).tolist() == np.percentile(array, WANTED).tolist()


def test_a_ct_is_counted_and_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    def sorted_instead(*_: object) -> None:
        raise AssertionError("the whole volume was sorted")

    monkeypatch.setattr(module.np, "percentile", sorted_instead)
    array = np.arange(-1024, 3072, dtype=np.float32).repeat(3)
    assert percentiles(array, (50,)).tolist() == [1023.5]


def test_a_volume_in_any_order_of_axes_is_laid_out_along_its_last() -> None:
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    for axes in permutations(range(3)):
        for view in (array.transpose(axes), array.transpose(axes)[::-1, 1:, ::-1], array[:1].transpose(axes)):
            found = laid_out(view)
            assert found.flags.c_contiguous and np.array_equal(found, view)
    assert laid_out(array) is array

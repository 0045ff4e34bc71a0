"""Randomness by key."""

import numpy as np
import pytest

from lib import rng
from lib.rng import permutation, uniform


def test_uniform_is_a_pure_function_of_its_key():
    rows = np.arange(100)
    grid = uniform("stream", 3, 1, rows[:, None], np.arange(7))
    assert grid.shape == (100, 7) and grid.dtype == np.float64
    assert (grid == uniform("stream", 3, 1, rows[:, None], np.arange(7))).all()
    assert grid[42, 5] == uniform("stream", 3, 1, 42, 5)
    assert (grid[::-1] == uniform("stream", 3, 1, rows[::-1, None], np.arange(7))).all()


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64])
def test_uniform_takes_any_integer_type(dtype):
    assert (uniform(1, np.arange(100, dtype=dtype)) == [uniform(1, i) for i in range(100)]).all()


@pytest.mark.parametrize(
    "first, second",
    [(("a", 1, 2), ("b", 1, 2)), (("a", 1, 2), ("a", 2, 1)), ((0, 0), (0,)), ((0, 1), (1, 0)), (("a", 1), ("a", -1))],
)
def test_streams_differ(first, second):
    numbers = [uniform(*key, np.arange(2000)) for key in (first, second)]
    assert (numbers[0] != numbers[1]).all()
    assert abs(np.corrcoef(*numbers)[0, 1]) < 0.08  # 3.5 standard errors of independent numbers


@pytest.mark.parametrize("key", [("a",), ("order", 0, 0), ("order", 1, 0), (7, 7)])
def test_uniform_is_roughly_uniform(key):
    numbers = uniform(*key, np.arange(100_000))
    assert numbers.min() >= 0 and numbers.max() < 1
    counts = np.histogram(numbers, bins=50, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 96  # chi-square, 49 degrees: p = 0.0001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.015


def test_stream_seeds_other_generators():
    seeds = [rng.stream("dropout", seed, step) for seed in range(5) for step in range(5)]
    assert len(set(seeds)) == 25 and all(isinstance(seed, int) and 0 <= seed < 2**53 for seed in seeds)
    assert rng.stream("dropout", 3, 4) == seeds[3 * 5 + 4]


def test_permutation():
    orders = [permutation(50, "order", 0, epoch).tolist() for epoch in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] and orders[1] == permutation(50, "order", 0, 1).tolist()
    assert permutation(1, 0).tolist() == [0]
    first = [permutation(10, epoch)[0] for epoch in range(1000)]
    assert np.bincount(first, minlength=10).min() > 60  # 100 each

"""What a run's diagnostics say of the space that an encoder spans."""

import itertools
import math

import numpy as np
import pytest

from lib.evaluation import diagnostics


def test_geometry_of_orthogonal_vectors():
    found = diagnostics.embedding_stats(np.eye(3, 8), np.eye(3, 8), np.eye(8, dtype=np.float32))
    assert found["effective_rank"] == pytest.approx(8) and found["alignment"] == 0
    assert found["uniformity"] == pytest.approx(-4)  # all pairs are at distance sqrt(2)
    few = np.eye(5, 16, dtype=np.float32)
    assert diagnostics.embedding_stats(few, few, few)["effective_rank"] == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 64])
def test_geometry_of_docs_that_are_all_alike(dim):
    one = np.full((50, dim), dim**-0.5, dtype=np.float32)
    found = diagnostics.embedding_stats(one, one, one)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3) and found["alignment"] == 0
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)


def test_geometry_by_loops():
    random = np.random.default_rng(0)
    q_emb, positives, sample = (random.standard_normal((n, 6)).astype(np.float32) for n in (9, 9, 20))
    q_emb, positives, sample = (x / np.linalg.norm(x, axis=1)[:, None] for x in (q_emb, positives, sample))
    found = diagnostics.embedding_stats(q_emb, positives, sample)
    squared = [((a - b) ** 2).sum() for a, b in zip(q_emb, positives)]
    assert found["alignment"] == pytest.approx(np.mean(squared))
    pairs = [math.exp(-2 * ((a - b) ** 2).sum()) for a, b in itertools.combinations(sample, 2)]
    assert found["uniformity"] == pytest.approx(math.log(np.mean(pairs)), abs=1e-4)
    singular = np.linalg.svd(sample, compute_uv=False)
    share = singular / singular.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)
    opposite = diagnostics.embedding_stats(q_emb, -q_emb, sample)
    assert opposite["alignment"] == pytest.approx(4, rel=1e-5)


def test_uniformity_is_of_distances_whatever_the_lengths():
    """--normalize off: vectors that are no unit vectors."""
    sample = 3 * np.eye(4, dtype=np.float32)
    assert diagnostics.embedding_stats(sample, sample, sample)["uniformity"] == pytest.approx(-2 * 18, rel=1e-4)

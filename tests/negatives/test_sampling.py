"""Sampling from lists: chances, without replacement, a function of seed, epoch and query; what it refuses."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from test_filters import candidates_of, mined, settings

from lib.cli import Choice
from lib.files import BadInput
from lib.negatives.candidates import drawn_candidates, random_docs
from lib.negatives.sampling import SAMPLING, Sampling, parse_sampling
from lib.negatives.sampling import slots as slots_of_sampling


def many(scores, positive, n, *, source="dense"):
    """The same list for n queries."""
    return candidates_of([[(d, s, None) for d, s in enumerate(scores)]] * n, [positive] * n, source=source)


SCORES, SCORE_OF_POSITIVE = [2.0, 1.5, 1.0, 0.25, -1.0], 1.25


def probabilities(text):
    """The chance of each of SCORES to be drawn first."""
    name, *numbers = text.split(":")
    if name == "uniform":
        weights = [1.0 for _ in SCORES]
    elif name == "softmax":
        weights = [math.exp(s / float(numbers[0])) for s in SCORES]
    else:
        a, b = map(float, numbers)
        weights = [math.exp(-a * (s - SCORE_OF_POSITIVE - b) ** 2) for s in SCORES]
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize("text", ["uniform", "simans:0.5:0", "simans:2:-0.5", "softmax:1", "softmax:0.7"])
def test_draws_have_their_probabilities(text):
    candidates, epochs = many(SCORES, SCORE_OF_POSITIVE, 100), 60
    draws = np.concatenate(
        [slots_of_sampling(parse_sampling(text), candidates, 2, seed=0, epoch=epoch) for epoch in range(epochs)]
    )
    wanted = probabilities(text)
    expected = len(draws) * wanted
    counts = np.bincount(draws[:, 0], minlength=5)
    assert ((counts - expected) ** 2 / expected).sum() < 25  # chi-square, 4 degrees of freedom: p 5e-5
    pairs = wanted[:, None] * wanted / (1 - wanted[:, None])  # the second out of what the first left
    np.fill_diagonal(pairs, 0)
    found = np.zeros((5, 5))
    np.add.at(found, (draws[:, 0], draws[:, 1]), 1)
    rest = len(draws) * pairs[pairs > 0]
    assert ((found[pairs > 0] - rest) ** 2 / rest).sum() < 52  # 19 degrees of freedom: p 7e-5
    assert found.trace() == 0


def test_the_top_are_the_first_of_the_list():
    candidates = candidates_of([[(9, 1, None), (3, 5, None), (4, 2, None)], [(1, 0, None)]], [0.0, 0.0])
    for epoch in range(3):
        slots = slots_of_sampling(parse_sampling("top"), candidates, 2, seed=epoch, epoch=epoch)
        assert slots.tolist() == [[0, 1], [0, -1]]


WAYS = st.sampled_from(["top", "uniform", "simans:0.5:0", "simans:20:1", "softmax:1", "softmax:0.01"])


@settings(60)
@hypothesis.given(
    candidates=mined(), text=WAYS, count=st.integers(1, 9), seed=st.integers(0, 9), epoch=st.integers(0, 9)
)
def test_sampling_is_without_replacement_and_a_function_of_seed_epoch_and_query(candidates, text, count, seed, epoch):
    sampling = parse_sampling(text)
    slots = slots_of_sampling(sampling, candidates, count, seed=seed, epoch=epoch)
    assert slots.shape == (len(candidates.docs), count)
    for row, docs in zip(slots, candidates.docs):
        real = row[row >= 0].tolist()
        assert len(set(real)) == len(real) == min(count, (docs >= 0).sum())
        assert all(docs[slot] >= 0 for slot in real) and (row[len(real) :] == -1).all()
    assert (slots_of_sampling(sampling, candidates, count, seed=seed, epoch=epoch) == slots).all()
    fewer = slots_of_sampling(sampling, candidates, max(1, count - 1), seed=seed, epoch=epoch)
    assert (fewer == slots[:, : max(1, count - 1)]).all()
    for i in range(len(slots)):  # alone as in company
        alone = candidates.select(np.array([i]))
        assert (slots_of_sampling(sampling, alone, count, seed=seed, epoch=epoch) == slots[i]).all()


@pytest.mark.parametrize("text", ["uniform", "simans:0.5:0", "softmax:1"])
def test_sampling_changes_with_seed_epoch_query_and_source(text):
    candidates, sampling = many(SCORES, SCORE_OF_POSITIVE, 40), parse_sampling(text)
    slots = slots_of_sampling(sampling, candidates, 2, seed=0, epoch=0)
    assert (slots_of_sampling(sampling, candidates, 2, seed=1, epoch=0) != slots).any()
    assert (slots_of_sampling(sampling, candidates, 2, seed=0, epoch=1) != slots).any()
    assert (slots != slots[0]).any()
    other = many(SCORES, SCORE_OF_POSITIVE, 40, source="bm25")
    assert (slots_of_sampling(sampling, other, 2, seed=0, epoch=0) != slots).any()


def test_sampling_passes_over_gaps():
    candidates = many(SCORES, SCORE_OF_POSITIVE, 30)
    candidates.docs[:, [0, 3]], candidates.scores[:, [0, 3]] = -1, np.nan
    for text in ("top", "uniform", "simans:0.5:0", "softmax:1"):
        slots = slots_of_sampling(parse_sampling(text), candidates, 4, seed=0, epoch=0)
        assert (np.sort(slots[:, :3]) == [1, 2, 4]).all() and (slots[:, 3] == -1).all()


# ------------------------------------------------------------------------------------------ a row from outside


def hottest(candidates, progress, first, last):
    """exp(s / T), T going from FIRST to LAST, so that the draws get harder."""
    return candidates.scores / (first + progress * (last - first))


def above_average(candidates, progress):
    """Evenly among those that are no lower than the mean of their list, and no others."""
    there = candidates.docs >= 0
    mean = np.where(there, candidates.scores, 0).sum(1) / np.maximum(there.sum(1), 1)
    return np.where(candidates.scores >= mean[:, None], 0.0, -np.inf)


def test_hardness_may_rise_with_the_training(monkeypatch):
    limits = {"above": 0}
    monkeypatch.setitem(SAMPLING, "hottest", Sampling(hottest, {"FIRST": limits, "LAST": limits}, ("scores",)))
    candidates, sampling = many(SCORES, SCORE_OF_POSITIVE, 600), parse_sampling("hottest:100:.01")
    for progress, wanted in (
        (0.0, probabilities("softmax:100")),
        (0.5, probabilities("softmax:50")),
        (1.0, [1] + [0] * 4),
    ):
        drawn = slots_of_sampling(sampling, candidates, 1, seed=0, epoch=0, progress=progress)[:, 0]
        np.testing.assert_allclose(np.bincount(drawn, minlength=5) / 600, wanted, atol=0.06)


def test_how_many_are_drawn_may_differ_by_query(monkeypatch):
    monkeypatch.setitem(SAMPLING, "above_average", Sampling(above_average, {}, ("scores",)))
    lists = [[(1, 9, None), (2, 1, None), (3, 1, None)], [(4, 5, None), (5, 5, None)], [(6, 2, None), (7, 1, None)], []]
    candidates = candidates_of(lists, [0.0] * 4)
    for epoch in range(5):
        slots = slots_of_sampling(parse_sampling("above_average"), candidates, 3, seed=0, epoch=epoch)
        assert [sorted(row[row >= 0].tolist()) for row in slots] == [[0], [0, 1], [0], []]
        assert (np.diff((slots >= 0).astype(int), axis=1) <= 0).all()  # those that are there come first


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("best", "'best' is none of top, teacher, uniform, simans:A:B:A1:B1, softmax:T0:T1, spread"),
        ("top:1", "write top, with a number for each letter"),
        ("simans:1", "write simans:A:B:A1:B1, with a number for each letter"),
        ("simans:a:0", "a: must be a number"),
        ("softmax:0", "0: must be above 0"),
    ],
)
def test_wrong_ways_of_sampling_are_refused(text, wanted):
    with pytest.raises(BadInput) as refused:
        parse_sampling(text)
    assert str(refused.value) == f"{text}: {wanted}"


def test_ways_of_sampling_keep_their_numbers():
    assert [parse_sampling(text).numbers for text in ("top", "simans:.5:0")] == [(), (0.5, 0.0, 0.5, 0.0)]
    assert parse_sampling("softmax:2") == Choice("softmax:2", "softmax", (2.0, 2.0))
    assert parse_sampling("softmax:2:.1").numbers == (2.0, 0.1)
    assert parse_sampling("simans:1:0:5").numbers == (1.0, 0.0, 5.0, 0.0)  # each its own, where it is left out


@pytest.mark.parametrize("text", ["simans:0.5:0", "softmax:1"])
def test_scores_that_are_not_there_weigh_nothing(tiny, text):
    random = drawn_candidates("random", random_docs, tiny, tiny.split("train").queries, 5, seed=0)
    with pytest.raises(BadInput, match="weighs scores of docs and positives, and random lacks some"):
        slots_of_sampling(parse_sampling(text), random, 2, seed=0, epoch=0)
    one = candidates_of([[(1, 5, None), (2, 3, None)]], [4.0])
    one.scores[0, 1] = np.nan
    with pytest.raises(BadInput, match="weighs scores of docs and positives, and dense lacks some"):
        slots_of_sampling(parse_sampling(text), one, 2, seed=0, epoch=0)


def test_simans_needs_the_score_of_the_positive():
    with pytest.raises(BadInput, match="simans"):
        slots_of_sampling(parse_sampling("simans:0.5:0"), many(SCORES, np.nan, 2), 2, seed=0, epoch=0)

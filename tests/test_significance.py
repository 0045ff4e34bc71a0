"""Paired tests over queries and over seeds, what they can detect, and Holm's correction."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from lib.evaluation import significance
from lib.evaluation.significance import paired_test


def power_of(difference, spread, queries, *, level=0.05):
    """How often a two-sided test on `queries` pairs finds a true mean difference."""
    shift, z = difference * np.sqrt(queries) / spread, scipy.stats.norm.ppf(1 - level / 2)
    return float(scipy.stats.norm.cdf(shift - z) + scipy.stats.norm.cdf(-shift - z))


def test_paired_test_of_equal_arrays():
    found = paired_test([0.1, 0.5, 0.0], [0.1, 0.5, 0.0], seed=0)
    assert found == {"difference": 0, "low": 0, "high": 0, "p": 1, "wins": 0, "ties": 3, "losses": 0, "queries": 3}


def test_paired_test_of_a_clear_difference():
    random = np.random.default_rng(0)
    b = random.random(200)
    found = paired_test(b + 0.1 + 0.05 * random.standard_normal(200), b, seed=0)
    assert found["p"] < 0.001 and 0.08 < found["low"] < found["difference"] < found["high"] < 0.12
    assert found["wins"] > 180 and found["queries"] == 200


def test_paired_test_is_symmetric_and_repeatable():
    random = np.random.default_rng(1)
    a, b = random.random(40).round(1), random.random(40).round(1)
    ab, ba = paired_test(a, b, seed=3), paired_test(b, a, seed=3)
    assert ab == paired_test(a, b, seed=3) != paired_test(a, b, seed=4)
    assert ab["p"] == ba["p"] and ab["difference"] == pytest.approx(-ba["difference"])
    assert ab["low"] == pytest.approx(-ba["high"]) and ab["high"] == pytest.approx(-ba["low"])
    assert (ab["wins"], ab["ties"], ab["losses"]) == (ba["losses"], ba["ties"], ba["wins"])


@pytest.mark.parametrize("difference", [[0.4, -0.1, 0.3, 0.2, 0.2, -0.3, 0.5, 0.1], [1, 1, 1, 0, 0, -1, 1, 1]])
def test_p_is_near_the_exact_randomisation_test(difference):
    flips = [
        abs(sum(sign * d for sign, d in zip(signs, difference)))
        for signs in itertools.product((1, -1), repeat=len(difference))
    ]
    exact = np.mean([flip >= abs(sum(difference)) - 1e-12 for flip in flips])
    assert paired_test(difference, [0] * len(difference), seed=0)["p"] == pytest.approx(exact, abs=0.015)


def test_paired_test_of_one_query():
    found = paired_test([1.0], [0.0], seed=0)
    assert found["p"] == 1 and (found["low"], found["high"], found["wins"]) == (1, 1, 1)


# -------------------------------------------------------------------------------- seeds, power, many arms


def normal(seed, *shape, mean=0.0, spread=1.0):
    """Normal numbers."""
    return mean + spread * np.random.default_rng(seed).standard_normal(shape)


def test_one_seed_is_the_paired_test():
    a, b = normal(0, 30, mean=0.2), normal(1, 30)
    found, wanted = significance.paired_seeds([a], [b], seed=5, rounds=500), paired_test(a, b, seed=5, rounds=500)
    assert {key: found[key] for key in wanted} == wanted and set(found) - set(wanted) == {
        "effect",
        "detectable",
        "p_seeds",
    }
    assert found["p_seeds"] == found["p"]
    spread = math.sqrt(sum((d - np.mean(a - b)) ** 2 for d in a - b) / 29)
    assert found["effect"] == pytest.approx(np.mean(a - b) / spread)
    assert found["detectable"] == pytest.approx((1.959964 + 0.841621) * spread / math.sqrt(30))


def test_seeds_that_differ_widen_the_interval():
    queries = normal(0, 1, 80, spread=0.1)
    widths = []
    for spread in (0.0, 0.05, 0.2):
        shift = spread * np.array([[-1.0], [0.0], [1.0], [-1.0], [1.0]])  # of mean 0
        found = significance.paired_seeds(queries + shift, np.zeros((5, 80)), seed=0, rounds=1000)
        assert found["difference"] == pytest.approx(queries.mean())
        assert found["low"] < found["difference"] < found["high"]
        plain = paired_test(queries[0], np.zeros(80), seed=0, rounds=1000)
        assert found["p"] == pytest.approx(plain["p"]) and found["queries"] == 80
        widths.append(found["high"] - found["low"])
    same = plain["high"] - plain["low"]
    assert widths[0] == pytest.approx(same, rel=0.1)  # seeds that say the same add nothing
    assert widths[1] > 1.5 * same and widths[2] > 2.5 * widths[1]


def test_the_interval_over_seeds_and_queries_is_as_wide_as_both_variances_say():
    """Of a difference that is seed + query, resampled: (variance of seeds + variance of queries)."""
    seeds, queries = normal(0, 6, 1, spread=0.1), normal(1, 1, 50, spread=0.3)
    found = significance.paired_seeds(seeds + queries, np.zeros((6, 50)), seed=0, rounds=4000)
    wanted = 2 * 1.96 * math.sqrt(seeds.var() / 6 + queries.var() / 50)
    assert found["high"] - found["low"] == pytest.approx(wanted, rel=0.08)


def test_arms_that_are_equal_have_no_effect():
    found = significance.paired_seeds(np.ones((2, 9)), np.ones((2, 9)), seed=0, rounds=200)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert (found["effect"], found["detectable"], found["ties"]) == (0, 0, 9)


def test_a_crossed_test_by_hand():
    """Seeds that say the same: the paired t test over queries; seeds alone differ: the t test over seeds."""
    queries, seeds = normal(0, 1, 40, mean=0.3), normal(1, 6, 1, mean=0.5)
    wanted = scipy.stats.ttest_1samp(queries[0], 0).pvalue
    assert significance.crossed_test(np.repeat(queries, 3, axis=0)) == pytest.approx(wanted)
    wanted = scipy.stats.ttest_1samp(seeds[:, 0], 0).pvalue
    assert significance.crossed_test(np.repeat(seeds, 900, axis=1)) == pytest.approx(wanted, rel=1e-6)
    assert significance.crossed_test(np.zeros((3, 5))) == 1 and significance.crossed_test(np.ones((3, 5))) == 0


@pytest.mark.parametrize(
    "seeds, queries, of_seed, of_query", [(5, 80, 0.3, 1.0), (3, 50, 0.0, 1.0), (5, 200, 1.0, 0.3), (8, 60, 0.2, 0.0)]
)
def test_an_arm_is_rarely_better_than_itself_on_other_seeds(seeds, queries, of_seed, of_query):
    random, found, alone = np.random.default_rng(4), 0, 0
    for _ in range(1000):
        values = of_seed * random.standard_normal((seeds, 1)) + random.standard_normal((seeds, queries))
        values += of_query * random.standard_normal((1, queries))
        found += significance.crossed_test(values) < 0.05
        alone += scipy.stats.ttest_1samp(values.mean(0), 0).pvalue < 0.05
    assert 0.005 <= found / 1000 <= 0.075  # 50, give or take chance
    assert alone / 1000 > 0.2 or of_seed < 0.5  # what a test over queries finds where runs differ


def test_power_by_hand():
    assert power_of(0, 1, 50) == pytest.approx(0.05) == power_of(0, 3, 7)
    assert power_of(0.2, 1.0, 100) == pytest.approx(0.5160, abs=1e-4)  # both tails of N(2, 1) at 1.96
    assert power_of(-0.2, 1.0, 100) == pytest.approx(power_of(0.2, 1.0, 100))
    assert power_of(0.4, 2.0, 100) == pytest.approx(power_of(0.2, 1.0, 100))
    assert power_of(0.1, 1.0, 50, level=0.2) > power_of(0.1, 1.0, 50)


@pytest.mark.parametrize("power, level", [(0.8, 0.05), (0.5, 0.05), (0.95, 0.01)])
def test_what_is_detectable_is_found_with_that_power(power, level):
    least = significance.detectable(0.3, 120, power=power, level=level)
    assert power_of(least, 0.3, 120, level=level) == pytest.approx(power, abs=1e-3)  # but for one tail
    assert significance.detectable(0.3, 480, power=power, level=level) == pytest.approx(least / 2)
    assert significance.detectable(0.0, 120) == 0


def found_share(difference, queries, *, repeats, seed, rounds=500):
    """How often paired_test() finds a true difference between arms: normal per-query values, spread 1."""
    random, found = np.random.default_rng(seed), 0
    for repeat in range(repeats):
        values = difference + random.standard_normal(queries)
        found += paired_test(values, np.zeros(queries), seed=repeat, rounds=rounds)["p"] < 0.05
    return found / repeats


@pytest.mark.parametrize("wanted", [0.3, 0.8])
def test_simulated_power_is_the_predicted_power(wanted):
    least = significance.detectable(1.0, 60, power=wanted)
    found = found_share(least, 60, repeats=300, seed=1, rounds=300)
    assert found == pytest.approx(power_of(least, 1.0, 60), abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.8, 0.95])
def test_simulated_power_is_the_predicted_power_with_many_repeats(wanted):
    least = significance.detectable(1.0, 100, power=wanted)
    found = found_share(least, 100, repeats=4000, seed=2)
    assert found == pytest.approx(power_of(least, 1.0, 100), abs=0.03)


def significant(repeats, *, seeds, queries, rounds):
    """How many of the comparisons of an arm with itself are significant: seeds differ query by query."""
    random, count = np.random.default_rng(3), 0
    for repeat in range(repeats):
        a, b = random.beta(0.5, 0.5, size=(2, seeds, queries)).round(1)
        count += significance.paired_seeds(a, b, seed=repeat, rounds=rounds)["p"] < 0.05
    return count


def test_an_arm_is_rarely_better_than_itself():
    assert 1 <= significant(100, seeds=2, queries=40, rounds=300) <= 10  # 5 of 100, give or take chance


@pytest.mark.slow
def test_an_arm_is_better_than_itself_once_in_twenty():
    assert significant(3000, seeds=2, queries=60, rounds=1000) / 3000 == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(
    "p, wanted",
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * .01, then 2 * .03, then 1 * .04, but never less
        ([0.005, 0.011, 0.02, 0.04, 0.13], [0.025, 0.044, 0.06, 0.08, 0.13]),
        ([0.6, 0.9, 0.5], [1.0, 1.0, 1.0]),
        ([0.02, 0.02], [0.04, 0.04]),
        ([0.04, 0.001], [0.04, 0.002]),
    ],
)
def test_holm_by_hand(p, wanted):
    assert significance.holm(p) == pytest.approx(wanted)
    assert significance.holm(p[::-1]) == pytest.approx(wanted[::-1])

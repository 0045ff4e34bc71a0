"""Paired tests over queries and over seeds, what they can detect, and Holm's correction."""

import itertools
import math
import runpy

import numpy as np
import pytest
import scipy.stats
from conftest import ROOT

from lib.evaluation import significance
from lib.evaluation.significance import paired_test

LEVEL = runpy.run_path(str(ROOT / "tests/bench/level_of_the_tests.py"))  # the simulation


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


def pair(a, b, **others):
    """The test of a against b in a comparison that may have other arms."""
    return significance.compare({"a": a, "b": b} | others, [("a", "b")])[0]


def test_one_seed_is_a_test_over_queries_and_decides_nothing():
    a, b = normal(0, 1, 30, mean=0.2), normal(1, 1, 30)
    found, wanted = pair(a, b), paired_test(a[0], b[0], seed=0)
    assert {key: found[key] for key in wanted} == wanted
    assert (found["over"], found["differs"], found["detectable"]) == ("queries", None, None)
    assert found["effect"] == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))


def test_two_arms_want_three_seeds_and_three_arms_two():
    a, b, c = normal(0, 2, 30, mean=9), normal(1, 2, 30), normal(2, 2, 30)
    assert (pair(a, b)["over"], pair(a, b)["differs"]) == ("queries", None)
    assert (pair(a, b, c=c)["over"], pair(a, b, c=c)["differs"]) == ("queries and seeds", True)
    a, b = normal(0, 3, 30, mean=9), normal(1, 3, 30)
    assert (pair(a, b)["over"], pair(a, b)["differs"]) == ("queries and seeds", True)
    assert pair(a[:, :1], b[:, :1])["differs"] is None  # of one query nothing can be said either


@pytest.mark.parametrize("seeds", [3, 5, 30])
def test_where_only_seeds_differ_it_is_the_t_test_over_seeds(seeds):
    of_seed = normal(1, seeds, 1, mean=0.5)
    found = pair(np.repeat(of_seed, 40, axis=1), np.zeros((seeds, 40)))
    wanted = scipy.stats.ttest_1samp(of_seed[:, 0], 0)
    assert found["p"] == pytest.approx(wanted.pvalue, rel=1e-6)
    assert (found["low"], found["high"]) == pytest.approx(tuple(wanted.confidence_interval()), rel=1e-6)


def test_where_only_queries_differ_it_is_the_normal_test_over_queries():
    queries = normal(0, 1, 400, mean=0.05)
    found = pair(np.repeat(queries, 3, axis=0), np.zeros((3, 400)))
    error = queries.std(ddof=1) / 20
    assert found["p"] == pytest.approx(2 * scipy.stats.norm.sf(queries.mean() / error))
    assert found["high"] - found["low"] == pytest.approx(2 * 1.959964 * error)
    assert found["detectable"] == pytest.approx((1.959964 + 0.841621) * error)  # the textbook's


def test_what_seeds_do_is_estimated_from_all_arms_and_pairs_of_seeds_share_it():
    """By hand: the residual mean square of arms x seeds, as a two-way analysis of variance has it."""
    means = normal(3, 4, 3, spread=0.1)  # 4 arms, 3 seeds
    values = {arm: np.repeat(row[:, None], 50, axis=1) for arm, row in enumerate(means)}
    rest = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    error = math.sqrt(2 * (rest**2).sum() / 6 / 3)
    found = significance.compare(values, [(1, 0)])[0]
    wanted = 2 * scipy.stats.t.sf(abs(means[1].mean() - means[0].mean()) / error, 6)
    assert found["p"] == pytest.approx(wanted, rel=1e-6)
    shifted = {arm: rows + np.array([[5.0], [-3.0], [1.0]]) for arm, rows in values.items()}
    assert significance.compare(shifted, [(1, 0)])[0]["p"] == pytest.approx(wanted, rel=1e-6)


def test_arms_of_other_seeds_differ_by_what_seeds_do_to_all_arms():
    """As the arm of --control: by hand, where only seeds differ, the t test of two independent samples."""
    of_seed, others = normal(1, 4, 1), normal(2, 4, 1)
    values = {"a": np.repeat(of_seed, 40, axis=1), "b": np.repeat(of_seed + 0.2, 40, axis=1)}
    values["control"] = np.repeat(others, 40, axis=1)
    pairs, seeds = [("b", "a"), ("control", "a")], {"control": ("1000",)}
    same, control = significance.compare(values, pairs, seeds)
    wanted = scipy.stats.ttest_ind(others[:, 0], of_seed[:, 0])
    assert control["p"] == pytest.approx(wanted.pvalue, rel=1e-6)
    assert same["p"] < 1e-9  # the seeds of another arm say nothing of a pair that shares its own
    assert same == significance.compare({arm: values[arm] for arm in "ab"}, pairs[:1])[0] | {"p_holm": same["p_holm"],
        "p_equal_holm": same["p_equal_holm"], "detectable": same["detectable"]}  # fmt: skip


def test_two_seeds_of_two_arms_and_a_control_say_nothing_of_others():
    values = {arm: normal(n, 2, 300, mean=n) for n, arm in enumerate(("a", "b", "control"))}
    tests = significance.compare(values, [("b", "a"), ("control", "a")], {"control": ("1000",)})
    assert {t["over"] for t in tests} == {"queries"} and {t["decision"] for t in tests} == {"open"}


def test_the_same_arm_on_other_seeds_is_rarely_different():
    """Seeds that move all arms alike, ten times as much as each by itself: few steps from random weights."""
    rng, rounds, found = np.random.default_rng(5), 400, 0
    for _ in range(rounds):
        shared, own = 0.03 * rng.standard_normal((3, 1)), 0.03 * rng.standard_normal((3, 1))
        values = {arm: shared + 0.003 * rng.standard_normal((3, 1)) for arm in "abcd"}
        values = {arm: mean + 0.2 * rng.standard_normal((3, 800)) for arm, mean in (values | {"control": own}).items()}
        found += significance.compare(values, [("control", "a")], {"control": ("1000",)})[0]["differs"]
    assert found / rounds <= 0.05 + 2 * (0.05 * 0.95 / rounds) ** 0.5


def test_an_arm_without_seeds_is_compared_with_each_seed_of_another():
    a, b = normal(0, 4, 60, mean=0.3), normal(1, 1, 60)
    found, all_seeds = pair(a, b), pair(a, np.repeat(b, 4, axis=0))
    assert found["difference"] == pytest.approx(np.mean(a - b)) and found["over"] == "queries and seeds"
    assert found["p"] == pytest.approx(all_seeds["p"])


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_leaves_out_0_where_p_is_below_5_percent(seed):
    a, b = normal(seed, 3, 40, mean=0.25, spread=0.5), normal(seed + 9, 3, 40, spread=0.5)
    found = pair(a, b, c=normal(seed + 99, 3, 40))
    assert (found["p"] < 0.05) == (found["low"] > 0 or found["high"] < 0)
    assert found["low"] < found["difference"] < found["high"]


def test_a_comparison_is_corrected_for_its_pairs():
    values = {arm: normal(arm, 3, 50, mean=0.1 * arm) for arm in range(5)}
    pairs = [(arm, 0) for arm in range(1, 5)]
    tests = significance.compare(values, pairs)
    assert [t["p_holm"] for t in tests] == significance.holm([t["p"] for t in tests])
    assert [t["differs"] for t in tests] == [t["p_holm"] < 0.05 for t in tests]
    alone = significance.compare(values, pairs[:1])[0]
    assert alone["p"] == tests[0]["p"] and alone["detectable"] < tests[0]["detectable"]
    assert significance.compare(values, []) == []


def test_arms_that_are_equal_have_no_effect():
    found = pair(np.ones((3, 9)), np.ones((3, 9)))
    assert (found["difference"], found["p"], found["differs"], found["ties"]) == (0, 1, False, 9)
    assert found["effect"] == 0 and max(-found["low"], found["high"], found["detectable"]) < 1e-12
    assert pair(np.ones((3, 9)), np.zeros((3, 9)))["p"] == 0


@pytest.mark.parametrize("arms, seeds, of_seed, of_arm", [(2, 3, 0.03, 0.15), (4, 2, 0.04, 0), (3, 5, 0.01, 0.15)])
def test_equal_arms_are_rarely_different(arms, seeds, of_seed, of_arm):
    """5 % at most, give or take chance; tests/bench/level_of_the_tests.py simulates longer."""
    how = {"of_seed": of_seed, "of_arm": of_arm, "queries": 100, "comparisons": 250}
    found = LEVEL["level"](arms, seeds, **how, rng=np.random.default_rng(4))
    each, any_of_them = found["ours"]
    assert each < 0.08 and any_of_them < 0.08
    if seeds == 2:  # the simulation can tell a test that does not hold its level
        assert found["two arms alone"][1] > 0.12


@pytest.mark.parametrize("arms, seeds, of_seed", [(2, 3, 0.0), (4, 3, 0.012), (3, 5, 0.006)])
def test_what_is_detectable_is_detected(arms, seeds, of_seed):
    found = LEVEL["power"](arms, seeds, of_seed=of_seed, queries=100, comparisons=150, rng=np.random.default_rng(5))
    assert found > 0.68  # four fifths, give or take chance


@pytest.mark.slow
@pytest.mark.parametrize("of_arm", [0.0, 0.15])
@pytest.mark.parametrize("of_seed", [0.0, 0.006, 0.012])
@pytest.mark.parametrize("arms, seeds", [(2, 3), (2, 5), (4, 2), (4, 3), (10, 2), (10, 3), (10, 5)])
def test_the_level_is_held(arms, seeds, of_seed, of_arm):
    rng = np.random.default_rng(6)
    found = LEVEL["level"](arms, seeds, of_seed=of_seed, of_arm=of_arm, comparisons=2000, rng=rng)["ours"]
    assert max(found) <= 0.055 + 0.01  # 5.5 %, and two standard deviations of a share of 2,000


@pytest.mark.slow
def test_an_arm_is_better_than_itself_once_in_twenty_over_queries():
    random, found = np.random.default_rng(3), 0
    for repeat in range(3000):
        a, b = random.beta(0.5, 0.5, size=(2, 60)).round(1)
        found += paired_test(a, b, seed=repeat, rounds=1000)["p"] < 0.05
    assert found / 3000 == pytest.approx(0.05, abs=0.012)


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


# ------------------------------------------------------------------------------------------- equal, and tie groups


def test_equal_is_what_two_one_sided_tests_say():
    """By hand, where only queries differ: both z tests against -margin and +margin, the less certain one."""
    queries = normal(0, 1, 900, mean=0.002, spread=0.03)
    found = pair(np.repeat(queries, 3, axis=0), np.zeros((3, 900)))
    error = queries.std(ddof=1) / 30
    above, below = (queries.mean() + 0.01) / error, (0.01 - queries.mean()) / error
    assert found["p_equal"] == pytest.approx(scipy.stats.norm.sf(min(above, below)))
    assert found["error"] == pytest.approx(error)
    of_seed = normal(1, 5, 1, mean=0.003, spread=0.002)  # where only seeds differ: Student's t
    found = pair(np.repeat(of_seed, 40, axis=1), np.zeros((5, 40)))
    wanted = scipy.stats.ttest_1samp(of_seed[:, 0], 0.01, alternative="less").pvalue
    assert found["p_equal"] == pytest.approx(wanted, rel=1e-6)


def test_an_arm_is_better_worse_equal_or_open():
    base, shifts = normal(0, 1, 2000), {"a": 0.0, "better": 0.1, "worse": -0.1, "equal": 0.0, "open": 0.005}
    values = {arm: base + shift + normal(n, 3, 2000, spread=0.05) for n, (arm, shift) in enumerate(shifts.items())}
    values["open"] += normal(9, 1, 2000, spread=0.4)  # it does one thing with one query and another with the next
    arms = [arm for arm in values if arm != "a"]
    assert [t["decision"] for t in significance.compare(values, [(arm, "a") for arm in arms])] == arms
    one_seed = {arm: rows[:1] for arm, rows in values.items()}
    assert {t["decision"] for t in significance.compare(one_seed, [(arm, "a") for arm in arms])} == {"open"}


@pytest.mark.parametrize("of_seed, of_arm", [(0.0, 0.15), (0.006, 0.15)])
def test_equal_and_better_are_false_in_5_percent_at_most(of_seed, of_arm):
    """Three arms, three seeds: one is exactly as far from the first as the margin, which is not equal; one is level."""
    rng, rounds = np.random.default_rng(7), 300
    said = {"equal": 0, "better": 0}
    for _ in range(rounds):
        values = 0.1 * rng.standard_normal((3, 3, 1500)) + of_arm / 3 * rng.standard_normal((3, 1, 1500))
        values += of_seed * rng.standard_normal((3, 3, 1))
        values[1] -= significance.MARGIN
        far, level = significance.compare(dict(enumerate(values)), [(1, 0), (2, 0)])
        said["equal"] += far["decision"] == "equal"
        said["better"] += level["decision"] in ("better", "worse")
    assert max(said.values()) / rounds <= 0.05 + 2 * (0.05 * 0.95 / rounds) ** 0.5


def test_letters_of_groups_that_overlap():
    """a > c alone is shown, so that b stands with both."""
    values = {
        arm: mean + normal(n, 3, 300, spread=0.35)
        for n, (arm, mean) in enumerate({"c": 0, "a": 0.08, "b": 0.04}.items())
    }
    tests = significance.compare(values, [("a", "b"), ("a", "c"), ("b", "c")])
    assert [t["differs"] for t in tests] == [False, True, False]
    assert significance.tie_groups(values) == {"a": "a", "b": "ab", "c": "b"}


def test_letters_of_one_arm_and_of_none_that_differ():
    assert significance.tie_groups({"a": np.ones((3, 4))}) == {"a": "a"}
    assert significance.tie_groups({"a": np.ones((3, 4)), "b": np.ones((3, 4))}) == {"a": "a", "b": "a"}

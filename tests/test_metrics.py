"""Measures by hand and against pytrec_eval; paired tests, power, Holm's correction, geometry."""

import itertools
import math

import numpy as np
import pytest
import pytrec_eval
import scipy.stats
from lib.metrics import MEASURES, paired_test, per_query

from lib import metrics


def ranked(*doc_ids):
    """A ranking {doc_id: score} in the order given."""
    return {doc_id: float(-rank) for rank, doc_id in enumerate(doc_ids)}


def one(ranking, grades):
    """The values of a single query."""
    return per_query({"q": ranking}, {"q": grades})["q"]


FILLERS = [f"x{i:02}" for i in range(120)]


@pytest.mark.parametrize(
    "ranking, grades, wanted",
    [
        pytest.param(ranked("a", "b", "c"), {"b": 1}, (1 / 2, 1 / math.log2(3), 1, 1), id="second"),
        pytest.param(ranked("a", "b", "c"), {"z": 1}, (0, 0, 0, 0), id="not found"),
        pytest.param(
            ranked("a", "b", "c"),
            {"a": 1, "c": 1, "z": 1},
            (1, (1 + 1 / 2) / (1 + 1 / math.log2(3) + 1 / 2), 2 / 3, 2 / 3),
            id="three positives",
        ),
        pytest.param(
            ranked("a", "b"),
            {"a": 1, "b": 3},
            (1, (1 + 3 / math.log2(3)) / (3 + 1 / math.log2(3)), 1, 1),
            id="the gain is the grade",
        ),
        pytest.param(
            ranked("a", "b"), {"a": 0, "b": 1}, (1 / 2, 1 / math.log2(3), 1, 1), id="grade 0 is not relevant"
        ),
        pytest.param({"a": 1.0, "b": 1.0}, {"a": 1}, (1 / 2, 1 / math.log2(3), 1, 1), id="ties: b before a"),
        pytest.param({"a": 1.0, "b": 1.0}, {"b": 1}, (1, 1, 1, 1), id="ties: b first"),
        pytest.param({"d10": 1.0, "d9": 1.0}, {"d9": 1}, (1, 1, 1, 1), id="ties: ids compare as strings"),
        pytest.param(ranked(*FILLERS[:9], "a"), {"a": 1}, (1 / 10, 1 / math.log2(11), 1, 1), id="tenth"),
        pytest.param(ranked(*FILLERS[:10], "a"), {"a": 1}, (0, 0, 0, 1), id="eleventh"),
        pytest.param(ranked(*FILLERS[:99], "a"), {"a": 1}, (0, 0, 0, 1), id="hundredth"),
        pytest.param(ranked(*FILLERS[:100], "a"), {"a": 1}, (0, 0, 0, 0), id="hundred and first"),
    ],
)
def test_values_by_hand(ranking, grades, wanted):
    assert one(ranking, grades) == pytest.approx(
        dict(zip(("mrr@10", "ndcg@10", "recall@10", "recall@100"), wanted))
    )


def test_judged_queries_are_the_denominator():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {"b": 1}}
    values = per_query({"q1": ranked("a"), "q4": {}, "unjudged": ranked("a")}, qrels)
    assert set(values) == {"q1", "q2", "q4"}
    assert values["q2"] == values["q4"] == dict.fromkeys(MEASURES, 0.0)
    assert metrics.mean(values) == pytest.approx(dict.fromkeys(MEASURES, 1 / 3))


@pytest.mark.parametrize("rankings", [{}, {"other": {"a": 1.0}}, {"q": {}}])
def test_nothing_ranked_scores_zero(rankings):
    assert per_query(rankings, {"q": {"a": 1}}) == {"q": dict.fromkeys(MEASURES, 0.0)}


def test_inputs_are_left_alone():
    rankings, qrels = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"b": 1, "a": 0}}
    per_query(rankings, qrels)
    assert rankings == {"q": {"a": 2.0, "b": 1.0}} and qrels == {"q": {"b": 1, "a": 0}}


@pytest.mark.parametrize("seed", range(4))
def test_parity_with_pytrec_eval(seed):
    random = np.random.default_rng(seed)
    rankings, qrels = {}, {}
    for q in range(25):
        docs = random.permutation(300)[: random.integers(1, 150)]
        rankings[f"q{q}"] = {f"d{d}": float(random.integers(40)) for d in docs}  # many ties
        judged = random.permutation(300)[: random.integers(2, 40)]
        qrels[f"q{q}"] = {
            f"d{d}": int(g) for d, g in zip(judged, [1, *random.integers(0, 4, size=len(judged) - 1)])
        }
    values = per_query(rankings, qrels)
    top = {
        q: dict(sorted(docs.items(), key=lambda item: (item[1], item[0]), reverse=True)[:10])
        for q, docs in rankings.items()
    }
    whole = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100"}).evaluate(rankings)
    cut = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"}).evaluate(top)
    for q in qrels:
        wanted = {
            "mrr@10": cut[q]["recip_rank"],
            "ndcg@10": whole[q]["ndcg_cut_10"],
            "recall@10": whole[q]["recall_10"],
            "recall@100": whole[q]["recall_100"],
        }
        assert values[q] == pytest.approx(wanted, abs=1e-9)


def test_rankings_end_where_the_rows_do():
    rows, scores = np.array([[2, 0, -1], [-1, -1, -1]]), np.array([[0.5, 0.25, 0.0], [0.0, 0.0, 0.0]])
    assert metrics.to_rankings(["q", "007"], ["a", "b", "c"], rows, scores) == {
        "q": {"c": 0.5, "a": 0.25},
        "007": {},
    }


def test_score_reads_search_results_by_row(tiny):
    qrels = tiny.split("test")
    rows = np.array([[qrels.positives(i)[0], -1] for i in range(len(qrels))])
    values = metrics.score(tiny, "test", np.array([[1.0, 0.0]] * len(qrels)), rows)
    assert list(values) == [tiny.queries.ids[row] for row in qrels.queries]
    assert all(found["mrr@10"] == 1 for found in values.values())
    assert values["q58"]["recall@10"] == 0.5 and values["q49"]["recall@10"] == 1  # q58 has two positives


def test_paired_test_of_equal_arrays():
    found = paired_test([0.1, 0.5, 0.0], [0.1, 0.5, 0.0], seed=0)
    assert found == {
        "difference": 0,
        "low": 0,
        "high": 0,
        "p": 1,
        "wins": 0,
        "ties": 3,
        "losses": 0,
        "queries": 3,
    }


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


@pytest.mark.parametrize(
    "difference", [[0.4, -0.1, 0.3, 0.2, 0.2, -0.3, 0.5, 0.1], [1, 1, 1, 0, 0, -1, 1, 1]]
)
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
    found, wanted = metrics.paired_seeds([a], [b], seed=5, rounds=500), paired_test(a, b, seed=5, rounds=500)
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
        found = metrics.paired_seeds(queries + shift, np.zeros((5, 80)), seed=0, rounds=1000)
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
    found = metrics.paired_seeds(seeds + queries, np.zeros((6, 50)), seed=0, rounds=4000)
    wanted = 2 * 1.96 * math.sqrt(seeds.var() / 6 + queries.var() / 50)
    assert found["high"] - found["low"] == pytest.approx(wanted, rel=0.08)


def test_arms_that_are_equal_have_no_effect():
    found = metrics.paired_seeds(np.ones((2, 9)), np.ones((2, 9)), seed=0, rounds=200)
    assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)
    assert (found["effect"], found["detectable"], found["ties"]) == (0, 0, 9)


def test_a_crossed_test_by_hand():
    """Seeds that say the same: the paired t test over queries; seeds alone differ: the t test over seeds."""
    queries, seeds = normal(0, 1, 40, mean=0.3), normal(1, 6, 1, mean=0.5)
    wanted = scipy.stats.ttest_1samp(queries[0], 0).pvalue
    assert metrics.crossed_test(np.repeat(queries, 3, axis=0)) == pytest.approx(wanted)
    wanted = scipy.stats.ttest_1samp(seeds[:, 0], 0).pvalue
    assert metrics.crossed_test(np.repeat(seeds, 900, axis=1)) == pytest.approx(wanted, rel=1e-6)
    assert metrics.crossed_test(np.zeros((3, 5))) == 1 and metrics.crossed_test(np.ones((3, 5))) == 0


@pytest.mark.parametrize(
    "seeds, queries, of_seed, of_query",
    [(5, 80, 0.3, 1.0), (3, 50, 0.0, 1.0), (5, 200, 1.0, 0.3), (8, 60, 0.2, 0.0)],
)
def test_an_arm_is_rarely_better_than_itself_on_other_seeds(seeds, queries, of_seed, of_query):
    random, found, alone = np.random.default_rng(4), 0, 0
    for _ in range(1000):
        values = of_seed * random.standard_normal((seeds, 1)) + random.standard_normal((seeds, queries))
        values += of_query * random.standard_normal((1, queries))
        found += metrics.crossed_test(values) < 0.05
        alone += scipy.stats.ttest_1samp(values.mean(0), 0).pvalue < 0.05
    assert 0.005 <= found / 1000 <= 0.075  # 50, give or take chance
    assert alone / 1000 > 0.2 or of_seed < 0.5  # what a test over queries finds where runs differ


def test_power_by_hand():
    assert metrics.power(0, 1, 50) == pytest.approx(0.05) == metrics.power(0, 3, 7)
    assert metrics.power(0.2, 1.0, 100) == pytest.approx(0.5160, abs=1e-4)  # both tails of N(2, 1) at 1.96
    assert metrics.power(-0.2, 1.0, 100) == pytest.approx(metrics.power(0.2, 1.0, 100))
    assert metrics.power(0.4, 2.0, 100) == pytest.approx(metrics.power(0.2, 1.0, 100))
    assert metrics.power(0.1, 1.0, 50, level=0.2) > metrics.power(0.1, 1.0, 50)


@pytest.mark.parametrize("power, level", [(0.8, 0.05), (0.5, 0.05), (0.95, 0.01)])
def test_what_is_detectable_is_found_with_that_power(power, level):
    least = metrics.detectable(0.3, 120, power=power, level=level)
    assert metrics.power(least, 0.3, 120, level=level) == pytest.approx(power, abs=1e-3)  # but for one tail
    assert metrics.detectable(0.3, 480, power=power, level=level) == pytest.approx(least / 2)
    assert metrics.detectable(0.0, 120) == 0


def found_share(difference, queries, *, repeats, seed, rounds=500):
    """How often paired_test() finds a true difference between arms: normal per-query values, spread 1."""
    random, found = np.random.default_rng(seed), 0
    for repeat in range(repeats):
        values = difference + random.standard_normal(queries)
        found += paired_test(values, np.zeros(queries), seed=repeat, rounds=rounds)["p"] < 0.05
    return found / repeats


@pytest.mark.parametrize("wanted", [0.3, 0.8])
def test_simulated_power_is_the_predicted_power(wanted):
    least = metrics.detectable(1.0, 60, power=wanted)
    found = found_share(least, 60, repeats=300, seed=1, rounds=300)
    assert found == pytest.approx(metrics.power(least, 1.0, 60), abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.8, 0.95])
def test_simulated_power_is_the_predicted_power_with_many_repeats(wanted):
    least = metrics.detectable(1.0, 100, power=wanted)
    found = found_share(least, 100, repeats=4000, seed=2)
    assert found == pytest.approx(metrics.power(least, 1.0, 100), abs=0.03)


def significant(repeats, *, seeds, queries, rounds):
    """How many of the comparisons of an arm with itself are significant: seeds differ query by query."""
    random, count = np.random.default_rng(3), 0
    for repeat in range(repeats):
        a, b = random.beta(0.5, 0.5, size=(2, seeds, queries)).round(1)
        count += metrics.paired_seeds(a, b, seed=repeat, rounds=rounds)["p"] < 0.05
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
    assert metrics.holm(p) == pytest.approx(wanted)
    assert metrics.holm(p[::-1]) == pytest.approx(wanted[::-1])


# ----------------------------------------------------------------------------------------------- geometry


def test_geometry_of_orthogonal_vectors():
    found = metrics.geometry(np.eye(3, 8), np.eye(3, 8), np.eye(8, dtype=np.float32))
    assert found["effective_rank"] == pytest.approx(8) and found["alignment"] == 0
    assert found["uniformity"] == pytest.approx(-4)  # all pairs are at distance sqrt(2)
    few = np.eye(5, 16, dtype=np.float32)
    assert metrics.geometry(few, few, few)["effective_rank"] == pytest.approx(5, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 64])
def test_geometry_of_docs_that_are_all_alike(dim):
    one = np.full((50, dim), dim**-0.5, dtype=np.float32)
    found = metrics.geometry(one, one, one)
    assert found["effective_rank"] == pytest.approx(1, abs=1e-3) and found["alignment"] == 0
    assert found["uniformity"] == pytest.approx(0, abs=1e-5)


def test_geometry_by_loops():
    random = np.random.default_rng(0)
    q_emb, positives, sample = (random.standard_normal((n, 6)).astype(np.float32) for n in (9, 9, 20))
    q_emb, positives, sample = (x / np.linalg.norm(x, axis=1)[:, None] for x in (q_emb, positives, sample))
    found = metrics.geometry(q_emb, positives, sample)
    squared = [((a - b) ** 2).sum() for a, b in zip(q_emb, positives)]
    assert found["alignment"] == pytest.approx(np.mean(squared))
    pairs = [math.exp(-2 * ((a - b) ** 2).sum()) for a, b in itertools.combinations(sample, 2)]
    assert found["uniformity"] == pytest.approx(math.log(np.mean(pairs)), abs=1e-4)
    singular = np.linalg.svd(sample, compute_uv=False)
    share = singular / singular.sum()
    assert found["effective_rank"] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)
    opposite = metrics.geometry(q_emb, -q_emb, sample)
    assert opposite["alignment"] == pytest.approx(4, rel=1e-5)


def test_uniformity_is_of_distances_whatever_the_lengths():
    """--normalize off: vectors that are no unit vectors."""
    sample = 3 * np.eye(4, dtype=np.float32)
    assert metrics.geometry(sample, sample, sample)["uniformity"] == pytest.approx(-2 * 18, rel=1e-4)

"""Measures by hand and against pytrec_eval; the paired test."""

import itertools
import math

import numpy as np
import pytest
import pytrec_eval

from lib import metrics
from lib.metrics import MEASURES, paired_test, per_query


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


def made_runs():
    """(summary, per-query values) of two arms with two seeds each: b beats a by 0.1 on every query."""
    random, runs = np.random.default_rng(0), []
    base = {f"q{i}": random.random() / 2 for i in range(60)}
    for arm, gain in (("a", 0.0), ("b", 0.1)):
        for seed, shift in ((0, -0.02), (1, 0.02)):
            values = {qid: dict.fromkeys(MEASURES, value + gain + shift) for qid, value in base.items()}
            runs.append(
                (
                    {
                        "negatives": arm,
                        "seed": seed,
                        "test": metrics.mean(values),
                        "train_s": seed + 1,
                        "mine_s": 0,
                    },
                    values,
                )
            )
    return base, runs


def test_compare_arms_averages_over_seeds_and_tests_against_the_first():
    base, runs = made_runs()
    a, b = metrics.compare_arms(runs, measure="mrr@10")
    mean = np.mean(list(base.values()))
    assert (a["arm"], a["seeds"], b["arm"], b["seeds"]) == ("a", [0, 1], "b", [0, 1])
    assert a["test"]["mrr@10"] == pytest.approx([mean - 0.02, mean + 0.02])
    assert (a["train_s"], a["mine_s"]) == (1.5, 0) and "against_first" not in a
    assert b["against_first"]["difference"] == pytest.approx(0.1) and b["against_first"]["p"] < 0.001
    assert (b["against_first"]["wins"], b["against_first"]["queries"]) == (60, 60)


def test_arms_table():
    base, runs = made_runs()
    result = {
        "collection": "made",
        "steps": 7,
        "bm25": dict.fromkeys(MEASURES, 0.25),
        "untrained": dict.fromkeys(MEASURES, 0.125),
        "arms": metrics.compare_arms(runs, measure="mrr@10"),
    }
    lines = metrics.arms_table(result, measure="mrr@10").splitlines()
    cells = {
        row[1].strip(): [cell.strip() for cell in row[2:-1]]
        for row in (line.split("|") for line in lines[:6])
    }
    assert list(cells) == ["negatives", "---", "*bm25*", "*untrained*", "a", "b"]
    assert len({len(row) for row in cells.values()}) == 1
    assert cells["*bm25*"][:4] == ["0.2500"] * 4
    assert cells["a"][0] == f"{np.mean(list(base.values())):.4f} ± 0.0283"  # 0.02 * sqrt(2)
    assert cells["b"][4].startswith("+0.1000 [+0.1000, +0.1000], p = 0.0001") and cells["a"][4] == ""
    assert "made, 7 steps, 2 seeds" in lines[-1]

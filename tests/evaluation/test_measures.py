"""Measures by hand and against pytrec_eval, the scores of what a search returns, and the files of both."""

import math

import ir_measures
import numpy as np
import pytest
import pytrec_eval

from lib.evaluation import measures
from lib.evaluation.measures import MEASURES, per_query
from lib.files import BadInput
from lib.search.hits import Hits


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
        pytest.param(ranked("a", "b"), {"a": 0, "b": 1}, (1 / 2, 1 / math.log2(3), 1, 1), id="grade 0 is not relevant"),
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
    assert one(ranking, grades) == pytest.approx(dict(zip(("mrr@10", "ndcg@10", "recall@10", "recall@100"), wanted)))


def test_judged_queries_are_the_denominator():
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 0}, "q4": {"b": 1}}
    values = per_query({"q1": ranked("a"), "q4": {}, "unjudged": ranked("a")}, qrels)
    assert set(values) == {"q1", "q2", "q4"}
    assert values["q2"] == values["q4"] == dict.fromkeys(MEASURES, 0.0)
    assert measures.mean(values) == pytest.approx(dict.fromkeys(MEASURES, 1 / 3))


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
        qrels[f"q{q}"] = {f"d{d}": int(g) for d, g in zip(judged, [1, *random.integers(0, 4, size=len(judged) - 1)])}
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
    assert measures.to_rankings(["q", "007"], ["a", "b", "c"], rows, scores) == {"q": {"c": 0.5, "a": 0.25}, "007": {}}


def test_score_reads_search_results_by_row(tiny):
    qrels = tiny.split("test")
    rows = np.array([[qrels.positives(i)[0], -1] for i in range(len(qrels))])
    values = measures.score(tiny, "test", Hits(np.array([[1.0, 0.0]] * len(qrels)), rows))
    assert list(values) == [tiny.queries.ids[row] for row in qrels.queries]
    assert all(found["mrr@10"] == 1 for found in values.values())
    assert values["q58"]["recall@10"] == 0.5 and values["q49"]["recall@10"] == 1  # q58 has two positives


def test_ties_are_in_the_order_of_trec_eval():
    docs = {"a": 1.0, "c": 1.0, "b": 1.0, "d": 2.0}
    assert measures.in_order(docs) == ["d", "c", "b", "a"]
    assert measures.per_query({"q": docs}, {"q": {"c": 1}})["q"]["mrr@10"] == 0.5


# ------------------------------------------------------------------------------- run files and per-query files


def test_run_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "eval" / "run.trec"
    rows = np.array([[2, 0, -1], [1, -1, -1], [-1, -1, -1]])
    scores = np.array([[1.25, 1 / 3, 0], [-7.5e-9, 0, 0], [0, 0, 0]], dtype=np.float32)
    rankings = measures.to_rankings(["q1", "007", "q3"], ["a", "b", "c"], rows, scores)
    measures.write_rankings(path, rankings, tag="bm25")
    assert path.read_text().splitlines()[0].split() == ["q1", "Q0", "c", "1", "1.25", "bm25"]
    found = {(line.query_id, line.doc_id): np.float32(line.score) for line in ir_measures.read_trec_run(str(path))}
    assert found == {("q1", "c"): scores[0, 0], ("q1", "a"): scores[0, 1], ("007", "b"): scores[1, 0]}


def test_per_query_files_give_back_what_was_written(tmp_path):
    values = {"q1": {"mrr@10": 1 / 3, "recall@10": 0.0}, "007": {"mrr@10": 1.0, "recall@10": 0.1}}
    measures.write_per_query(tmp_path / "p.jsonl", values)
    assert measures.read_per_query(tmp_path / "p.jsonl") == values


@pytest.mark.parametrize("line, value", [('{"qid": "q2", "mrr@10"', "JSON"), ('["q2", 0.5]', "object")])
def test_bad_per_query_files(tmp_path, line, value):
    (tmp_path / "p.jsonl").write_text(f'{{"qid": "q1", "mrr@10": 1.0}}\n\n{line}\n')
    with pytest.raises(BadInput, match=rf"p\.jsonl:3: .*{value}"):
        measures.read_per_query(tmp_path / "p.jsonl")

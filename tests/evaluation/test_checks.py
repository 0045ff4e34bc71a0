"""Evaluations: identities between measures, ties, holes, run files, slices; equal to trec_eval's library."""

import gzip
import itertools
import json
import math

import faiss
import numpy as np
import pytest
import pytrec_eval
from conftest import slowly
from ir_measures import RR, P, R, Success, nDCG

from lib.evaluation import checks, measures, retrieval
from lib.files import BadInput

CHECKED = [RR, P @ 1, Success @ 1, R @ 1, R @ 5, R @ 10, R @ 100, nDCG @ 10]
NAMES = {"ndcg@10": "ndcg_cut_10", "recall@10": "recall_10", "recall@100": "recall_100"}


def random_run(seed):
    """({qid: {doc_id: score}}, qrels) with ties, grades, docs that nobody judged, queries that nobody ran."""
    random = np.random.default_rng(seed)
    docs = [f"d{i}" for i in range(30)]
    qrels = {
        f"q{q}": {doc: int(random.integers(0, 4)) for doc in random.choice(docs, random.integers(1, 9), replace=False)}
        for q in range(6)
    }
    rankings = {
        f"q{q}": {
            doc: float(random.integers(0, 5)) / 3 for doc in random.choice([*docs, "x1", "x2"], 12, replace=False)
        }
        for q in range(1, 7)
    }
    return rankings, qrels


@pytest.mark.parametrize("first", [0, *map(slowly, range(250, 1000, 250))])
def test_random_runs_are_as_in_trec_eval(first):
    for seed in range(first, first + 250):
        rankings, qrels = random_run(seed)
        if not any(max(grades.values()) >= 1 for grades in qrels.values()):
            continue
        values = measures.per_query(rankings, qrels)
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.10,100", "recip_rank"}).evaluate(
            rankings
        )
        for qid, own in values.items():
            other = theirs.get(qid, dict.fromkeys([*NAMES.values(), "recip_rank"], 0.0))
            for name, their_name in NAMES.items():
                assert own[name] == pytest.approx(other[their_name], abs=1e-6)
            assert own["mrr@10"] == pytest.approx(other["recip_rank"] if other["recip_rank"] >= 0.1 else 0, abs=1e-6)
        check_identities(values, rankings, qrels)


def check_identities(values, rankings, qrels):
    """Identities between measures, and a second evaluation, in another order, that gives the same."""
    assert values.keys() == {qid for qid, grades in qrels.items() if max(grades.values()) >= 1}
    backwards = {qid: dict(reversed(rankings[qid].items())) for qid in reversed(rankings)}
    for qid, again in checks.per_query(CHECKED, backwards, qrels).items():
        own = values[qid]
        assert again["P@1"] == again["Success@1"] == float(own["mrr@10"] == 1.0)
        assert again["R@1"] <= again["R@5"] <= again["R@10"] <= again["R@100"]
        assert all(0 <= value <= 1 + 1e-6 for value in (*own.values(), *again.values()))
        for name, other in {"ndcg@10": "nDCG@10", "recall@10": "R@10", "recall@100": "R@100"}.items():
            assert own[name] == pytest.approx(again[other], abs=1e-6)
        assert own["mrr@10"] == pytest.approx(again["RR"] if again["RR"] >= 0.1 else 0, abs=1e-6)


@pytest.mark.parametrize("wrong", [{"mrr@10": 1.0}, {"mrr@10": 0.37}, {"ndcg@10": 1.5}, {"recall@100": 0.5}])
def test_each_identity_fails_when_its_fault_is_put_in(wrong):
    qrels = {"q": {"a": 1, "b": 1}, "p": {"c": 1}}
    rankings = {"q": {"x": 3.0, "a": 2.0, "b": 1.0}, "p": {"c": 1.0}}
    values = measures.per_query(rankings, qrels)
    check_identities(values, rankings, qrels)
    with pytest.raises(AssertionError):
        check_identities(values | {"q": values["q"] | wrong}, rankings, qrels)


@pytest.mark.parametrize("seed", range(5))
def test_the_tie_interval_holds_every_order_of_ties(seed):
    random = np.random.default_rng(seed)
    docs = list("abcde")
    qrels = {"q": {doc: int(random.integers(0, 3)) for doc in docs} | {"z": 1}}
    ranking = {doc: float(random.integers(0, 2)) for doc in docs}
    interval = checks.tie_interval({"q": ranking}, qrels)
    seen = []
    for order in itertools.permutations(docs):
        if all(ranking[a] >= ranking[b] for a, b in itertools.pairwise(order)):
            scores = {doc: -float(rank) for rank, doc in enumerate(order)}
            seen.append(measures.mean(measures.per_query({"q": scores}, qrels)))
    for name in measures.MEASURES:
        values = [found[name] for found in seen]
        assert interval[name] == pytest.approx((min(values), max(values)))


def test_scores_that_are_no_numbers_are_refused():
    for score in (math.nan, math.inf):
        with pytest.raises(BadInput, match="doc a for query q is (nan|inf)"):
            checks.check_rankings({"q": {"a": score}})


def test_holes_bound_what_missing_judgements_hide():
    qrels = {"q": {"a": 1}, "p": {"b": 1}}
    rankings = {"q": {"x": 3.0, "a": 2.0}, "p": {"b": 1.0}}
    bounds = checks.hole_bounds(rankings, qrels)
    assert bounds["mrr@10"] == pytest.approx((0.75, 1.0)) and bounds["ndcg@10"][1] == pytest.approx(1.0)


def test_slices_have_means_and_intervals():
    values = {f"q{i}": {"mrr@10": float(i % 2)} for i in range(20)}
    rows = checks.by_slice(values, {qid: "odd" if int(qid[1:]) % 2 else "even" for qid in values}, measure="mrr@10")
    assert {row["value"]: row["mean"] for row in rows} == {"even": 0.0, "odd": 1.0}
    (one,) = checks.by_slice(values, dict.fromkeys(values, "all"), measure="mrr@10")
    assert one["low"] < one["mean"] == 0.5 < one["high"] and one["queries"] == 20


@pytest.mark.parametrize(
    "line, message",
    [
        ("q1 Q0 a 1 0.5", "6 columns"),
        ("q1 Q0 a 1 nan t", "score 'nan'"),
        ("q1 Q0 a 1 x t", "score 'x'"),
        ("q1 Q0 b 2 0.4 t", "doc b stands twice"),
    ],
)
def test_bad_run_files_are_one_line(tmp_path, line, message):
    (tmp_path / "run").write_text(f"q1 Q0 b 1 0.9 t\n{line}\n")
    with pytest.raises(BadInput, match=f"run:2: .*{message}"):
        checks.read_run_file(tmp_path / "run")


RUN = {"q1": {"b": 2.0, "a": 0.5}, "q2": {"c": -1.0}}


@pytest.mark.parametrize(
    "name, text, wanted",
    [
        ("r.trec", "q1 Q0 b 1 2 t\nq1 Q0 a 2 .5 t\nq2 Q0 c 1 -1 t\n", RUN),
        ("r.tsv", "q1\tb\t1\t2.0\nq1\ta\t2\t0.5\nq2\tc\t1\t-1\n", RUN),
        ("r.json", json.dumps(RUN, indent=1), RUN),
        ("r.tsv", "q1\tb\t1\nq1\ta\t2\nq2\tc\t1\n", {"q1": {"b": -1.0, "a": -2.0}, "q2": {"c": -1.0}}),
        ("r.tsv", "q1 b 2\nq1 a .5\nq2 c -1\n", RUN),  # a number that is not whole: scores
        ("r.tsv", "q1 a .5\nq1 b 2\nq2 c -1\n", RUN),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_runs_of_every_form_are_read(tmp_path, name, text, wanted, packed):
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert checks.read_run_file(path) == wanted


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("r.tsv", "q1 a 1\nq1 b 2 3\n", "r.tsv:2: 3 columns are wanted, found 4"),
        ("r.tsv", "q1 a 9\nq1 b 8\n", "query q1: its third column has whole numbers that do not rise"),
        ("qrels.tsv", "q1 0 d1 1\n", "qrels.tsv:1: rank 'd1' is no whole number; are these judgements"),
        ("r.tsv", "q1 a\n", "r.tsv:1: 6 columns are wanted, found 2"),
        ("r.json", "[1]", "an object of objects"),
        ("r.json", '{"q1": {"a": null}}', "query q1: score None"),
        ("r.json", '{"q1": {"a": "x"}}', "query q1: score 'x'"),
        ("r.json", '{"q1": ', "not valid JSON"),
        ("r.json", "{}", "no queries"),
    ],
)
def test_runs_of_no_form_are_one_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        checks.read_run_file(tmp_path / name)


@pytest.mark.parametrize("text", ["NoSuch", "nDCG@x", "P@"])
def test_measures_that_nobody_knows_are_refused(text):
    with pytest.raises(BadInput, match="one of ir_measures"):
        checks.parse_measures(text)


@pytest.mark.parametrize("text", ["P@0", "nDCG@-1"])
def test_measures_of_no_docs_are_refused(text):
    with pytest.raises(BadInput, match="one of ir_measures"):
        checks.parse_measures(text)


@pytest.mark.parametrize("name", ["ERR@10", "alpha_nDCG@10"])
def test_a_measure_that_cannot_be_computed_is_one_line(tiny, name, monkeypatch):
    monkeypatch.setenv("PATH", "")
    qrels = tiny.qrels_dict("test")
    rankings = {qid: {"c01": 1.0, "a01": 0.5} for qid in qrels}
    with pytest.raises(BadInput, match=f"{name}.*cannot compute this here"):
        checks.per_query(checks.parse_measures(name), rankings, qrels)


def test_ranks_from_0_and_names_that_stand_twice(tmp_path):
    (tmp_path / "r.json").write_text('{"q1": {"b": 0, "a": 1}, "q2": {"c": 0}}')
    found = checks.read_run_file(tmp_path / "r.json")
    assert found["q1"]["b"] > found["q1"]["a"]
    (tmp_path / "r.json").write_text('{"q1": {"b": 1, "a": 0}, "q2": {"c": 0}}')  # falling: scores
    assert checks.read_run_file(tmp_path / "r.json")["q1"] == {"b": 1, "a": 0}
    for text in ('{"q1": {"b": 2}, "q1": {"a": 1}}', '{"q1": {"b": 2, "b": 1}}'):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(BadInput, match="stands twice"):
            checks.read_run_file(tmp_path / "r.json")


def test_a_run_file_is_measured_as_the_run_itself(tiny, tmp_path):
    split, rankings = tiny.split("test"), {}
    for n, row in enumerate(split.queries):
        docs = [tiny.docs.ids[doc] for doc in split.positives(n)[:9]]
        rankings[tiny.queries.ids[row]] = {doc: float(9 - i) for i, doc in enumerate(docs)} | {"nobody-knows": -1.0}
    measures.write_rankings(tmp_path / "run.trec", rankings, tag="t")
    found, _ = retrieval.of_run_file(tmp_path / "run.trec", tiny, "test", self_match="drop")
    values, result = retrieval.measured(found, tiny, "test", more=checks.parse_measures("AP P@5"))
    assert result["mean"]["mrr@10"] == 1 and result["mean"]["AP"] == pytest.approx(1) and 0 < result["unjudged@10"] < 1


def test_a_run_of_docs_that_nobody_knows_is_refused_and_some_are_counted(tiny, tmp_path, capsys):
    qid, doc = (x.ids[row] for x, row in ((tiny.queries, tiny.split("test").queries[0]), (tiny.docs, 0)))
    (tmp_path / "run").write_text(f"{qid} Q0 doc-1 1 2 t\n{qid} Q0 doc-2 2 1 t\n")
    with pytest.raises(BadInput, match=f"run: 2 of its 2 docs are not in tiny: ids such as doc-1, and there .* {doc}"):
        retrieval.of_run_file(tmp_path / "run", tiny, "test", self_match="drop")
    (tmp_path / "run").write_text(f"{qid} Q0 doc-1 1 2 t\n{qid} Q0 {doc} 2 1 t\n")
    retrieval.of_run_file(tmp_path / "run", tiny, "test", self_match="drop")
    assert "note: " in (said := capsys.readouterr().err) and "1 of its 2 docs are not in tiny" in said


@pytest.mark.parametrize("line", ["{qid} Q0 {doc} {rank} {score} t", "{qid} {doc} {rank} {score}"])
def test_scores_that_rise_with_the_ranks_are_said(tmp_path, line, capsys):
    def read(q1, q2):
        runs = [("q1", q1), ("q2", q2)]
        lines = [
            line.format(qid=qid, doc=f"d{rank}", rank=rank, score=score)
            for qid, scores in runs
            for rank, score in enumerate(scores, 1)
        ]
        (tmp_path / "run").write_text("\n".join(reversed(lines)))
        assert list(checks.read_run_file(tmp_path / "run")["q1"].values()) == q1[::-1]
        return capsys.readouterr().err

    assert "for 1 of 2 queries (q2)" in read([0.9, 0.5], [0.1, 0.5, 0.9])
    assert read([0.9, 0.5, 0.5, 0.1], [3, 2]) == ""
    assert "2 of 2" in read([0.1, 0.9], [1, 2])


def test_a_compressed_run_has_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        measures.write_rankings(tmp_path / f"{name}.gz", {"q": {"d1": 0.5, "d\u00e9": 0.25}}, tag="t")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert checks.read_run_file(tmp_path / "a.gz") == {"q": {"d1": 0.5, "d\u00e9": 0.25}}


def test_queries_are_told_apart_by_whether_their_doc_has_a_label_in_training(tiny):
    known = {doc for grades in tiny.qrels_dict("train").values() for doc, grade in grades.items() if grade >= 1}
    wanted = {qid: any(doc in known for doc in grades) for qid, grades in tiny.qrels_dict("test").items()}
    found = retrieval.metadata_values(tiny, "test", "labelled")
    assert {qid: value.startswith("its doc") for qid, value in found.items()} == wanted


def test_rare_values_of_a_field_are_one_row(tiny, monkeypatch):
    queries = tiny.split("test").queries
    asked = {tiny.queries.ids[row]: "often" if i < 2 else i for i, row in enumerate(queries)}
    monkeypatch.setattr(type(tiny.queries), "record", lambda self, row: {"metadata": {"place": asked[self.ids[row]]}})
    monkeypatch.setattr(retrieval, "VALUES", len(queries))
    assert retrieval.metadata_values(tiny, "test", "place") == {qid: str(value) for qid, value in asked.items()}
    monkeypatch.setattr(retrieval, "VALUES", 3)
    found = retrieval.metadata_values(tiny, "test", "place")
    assert set(found.values()) == {"often", "2", f"others ({len(queries) - 3} values)"}


def test_ranks_in_the_place_of_scores(tmp_path):
    (tmp_path / "r.json").write_text('{"q1": {"a": 1, "b": 2}, "q2": {"a": 1}}')
    assert checks.read_run_file(tmp_path / "r.json") == {"q1": {"a": -1, "b": -2}, "q2": {"a": -1}}
    (tmp_path / "r.txt").write_text("q1 a 12 1\nq1 b 11 2\n")
    with pytest.raises(BadInput, match="its last column counts 1, 2, 3"):
        checks.read_run_file(tmp_path / "r.txt")
    (tmp_path / "r.txt").write_text("q1 a 1 2\nq1 b 2 1\n")
    assert checks.read_run_file(tmp_path / "r.txt") == {"q1": {"a": 2.0, "b": 1.0}}


@pytest.mark.parametrize("factory", ["PCA8,HNSW4", "NSG8", "IVF16_HNSW8,Flat", "PCA8,IVF16,Flat"])
def test_exhaustive_search_of_what_an_index_holds_is_exact(factory):
    random = np.random.default_rng(0)
    docs, queries = (random.standard_normal((n, 16)).astype(np.float32) for n in (800, 10))
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(docs)
    index.add(docs)
    seen = [vectors if "PCA" not in factory else faiss.downcast_VectorTransform(index.chain.at(0)).apply(vectors)
            for vectors in (queries, docs)]  # fmt: skip
    products = seen[0] @ seen[1].T
    wanted = np.sort(-products, axis=1)[:, :10]
    scores = np.take_along_axis(products, wanted.argsort(1), 1)
    _, whole, found = checks.hits_of(index, queries, (scores, wanted.argsort(1)), 10)
    np.testing.assert_allclose(-whole.scores, wanted, atol=1e-4)
    assert (found.scores != whole.scores).any()  # the index itself finds less, before and after

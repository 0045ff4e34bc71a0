"""Indexes of many kinds: built, tuned, searched among some docs; what each part of the error costs."""

import faiss
import numpy as np
import pytest
from conftest import slowly

from lib.evaluation import checks, measures
from lib.files import BadInput
from lib.search import exact, faiss_index, tune
from lib.search.approximate import Approximate
from lib.search.exact import Array
from lib.search.faiss_index import make_index

KINDS = ["Flat", "HNSW16", "HNSW16_SQ8", "IVF8,Flat", "IVF8,SQ8", "IVF8,PQ8x4fs,RFlat", "SQ8", "PQ8x4", "IVF8,PQ8x4",
         "RaBitQ", "IVF8,RaBitQ"]  # fmt: skip
QUICK = {"Flat", "HNSW16", "IVF8,SQ8", "IVF8,PQ8x4fs,RFlat"}
EXACT = {"Flat", "IVF8,Flat", "HNSW16"}  # their vectors are as they were


@pytest.fixture(scope="module")
def space():
    """Docs and queries of different lengths around common centres: inner products, not cosines."""
    random = np.random.default_rng(3)
    centres = random.standard_normal((12, 16))
    docs = centres[random.integers(0, 12, 1500)] + 0.4 * random.standard_normal((1500, 16))
    docs *= random.uniform(0.5, 2, (1500, 1))
    queries = centres[random.integers(0, 12, 60)] + 0.4 * random.standard_normal((60, 16))
    return docs.astype(np.float32), queries.astype(np.float32)


@pytest.mark.parametrize(
    "kind", [kind if kind in ("Flat", "HNSW16", "IVF8,SQ8", "IVF8,PQ8x4fs,RFlat") else slowly(kind) for kind in KINDS]
)
def test_each_kind_is_built_tuned_and_finds_inner_products(space, kind):
    docs, queries = space
    vectors = Array(docs)
    best = tune.exact_best(vectors, queries)
    index = make_index(vectors, kind)
    assert index.ntotal == 1500 and index.metric_type == faiss.METRIC_INNER_PRODUCT
    points = tune.curve(index, vectors, queries, best[:2])
    assert all(0 <= point.recall <= 1 and point.single > 0 and point.p50_ms <= point.p99_ms for point in points)
    point, reached = tune.choose(points, 0.9)
    faiss_index.set_parameters(index, point.parameters)
    hits = faiss_index.search(index, queries, 10, known=best[1][:, :3])
    products = np.einsum("qd,qkd->qk", queries, docs[hits.rows])
    assert (np.diff(hits.scores, axis=1) <= 0).all()
    # scores are inner products as the index holds the vectors: exact, or near
    assert np.abs(hits.scores - products).mean() < (1e-4 if kind in EXACT else 9)
    assert np.abs(hits.known[:, 0] - best[0][:, 0]).mean() < (1e-3 if kind in EXACT else 9)
    if kind in EXACT:
        assert reached and point.recall >= 0.85


def test_recall_counts_copies_as_found():
    exact_scores = np.array([[3.0, 2.0, 2.0]], dtype=np.float32)
    assert tune.recall(np.array([[3.0, 2.0, 2.0]]), exact_scores, k=3) == 1
    assert tune.recall(np.array([[2.0, 2.0, 2.0]]), exact_scores, k=2) == 1  # three docs score 2: any of them will do
    assert tune.recall(np.array([[3.0, 1.0, 0.5]]), exact_scores, k=3) == pytest.approx(1 / 3)


@pytest.mark.parametrize("spec, message", [("nonsense", "nonsense"), ("IVF9999,Flat", "training points")])
def test_an_index_that_cannot_be_is_one_line(space, spec, message):
    with pytest.raises(BadInput, match=f"index {spec}: .*{message}") as refused:
        make_index(Array(space[0]), spec)
    assert "\n" not in str(refused.value)


def test_parameters_that_an_index_lacks_are_refused(space):
    with pytest.raises(BadInput, match="nprobe=3"):
        faiss_index.set_parameters(make_index(Array(space[0]), "Flat"), "nprobe=3")


@pytest.mark.parametrize(
    "numbers, wanted",
    [
        ({"exact_seconds": 0.001}, "Flat"),  # nobody waits
        ({"expected_queries": 10}, "Flat"),  # nothing would pay back
        ({}, "HNSW32"),
        ({"max_ram": 7e8}, "HNSW32_SQ8"),
        ({"max_ram": 4e8}, "IVF4096,SQ8"),
        ({"max_ram": 1e8}, "IVF4096,RaBitQ"),
        ({"max_ram": 1e6}, "IVF4096,RaBitQ"),
    ],
)
def test_auto_decides_by_size_memory_and_use(numbers, wanted):
    asked = {"max_ram": 4e9, "expected_queries": 100_000, "exact_seconds": 0.05, "build_rate": 5000} | numbers
    plans = tune.plan(np.broadcast_to(np.float32(0), (1_000_000, 256)), **asked)
    assert plans[0][0] == wanted and plans[0][1]


@pytest.mark.parametrize("spec", ["Flat", "HNSW16", "IVF8,Flat:nprobe=8"])
def test_mining_through_an_index_finds_what_exact_search_finds(space, spec):
    docs, queries = space
    among = np.sort(np.random.default_rng(0).permutation(1500)[:700])
    known = np.array([[3, -1]] * len(queries))
    find = Approximate(spec)
    for rows in (None, among):
        found, wanted = find(queries, docs, 8, known, among=rows), exact.search(queries, docs, 8, known, among=rows)
        assert np.mean([len(np.intersect1d(a, b)) / 8 for a, b in zip(found.rows, wanted.rows)]) > 0.9
        same = found.rows == wanted.rows
        np.testing.assert_allclose(found.scores[same], wanted.scores[same], atol=1e-4)
        np.testing.assert_allclose(found.known, wanted.known, atol=1e-4)
        assert rows is None or np.isin(found.rows, rows).all()


@pytest.mark.parametrize("kind", ["IVF8,SQ4", *map(slowly, ("IVF8,PQ8x4", "Flat", "HNSW16", "RaBitQ"))])
def test_the_parts_of_the_error_add_up(space, kind):
    docs, queries = space
    index, best = make_index(Array(docs), kind), tune.exact_best(Array(docs), queries, 40)
    qids, doc_ids = [f"q{i}" for i in range(len(queries))], [f"d{i}" for i in range(len(docs))]
    random = np.random.default_rng(1)
    qrels = {qid: {f"d{best[1][i, random.integers(15)]}": 1, "d7": 2} for i, qid in enumerate(qids)}
    rankings = [
        measures.to_rankings(qids, doc_ids, hits.rows, hits.scores)
        for hits in checks.hits_of(index, queries, best[:2], 40)
    ]
    parts = checks.error_split(rankings, qrels)
    for qid, own in parts.items():
        whole = measures.per_query(rankings[2], {qid: qrels[qid]})[qid]["ndcg@10"]
        assert sum(own.values()) == pytest.approx(1 - whole, abs=1e-12)
        if kind == "Flat":
            assert own["quantisation"] == own["search"] == 0
    if kind == "HNSW16":
        assert all(own["quantisation"] == 0 for own in parts.values())
    if kind.startswith("IVF8"):
        assert any(own["quantisation"] for own in parts.values())

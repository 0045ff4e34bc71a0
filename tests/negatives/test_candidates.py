"""Candidates that never are positives, and what is sampled of them."""

import numpy as np
import pytest
from conftest import known_by_text, write_collection

from lib.data import collection as collection_
from lib.files import BadInput
from lib.negatives import candidates as candidates_
from lib.negatives.candidates import Candidates, drawn_candidates
from lib.negatives.pool import Pool, held_out, open_pool
from lib.negatives.sampler import by_label
from lib.negatives.sampling import parse_sampling
from lib.negatives.sampling import slots as slots_of_sampling
from lib.search import bm25, exact
from lib.search.hits import Hits


def random_search(collection, query_rows, k, *, seed):
    """A made-up search: (scores, rows) in falling order, some lists ending early; scores (n, P) of the known
    positives, found or not; and, beside it, all scores (n, docs)."""
    random = np.random.default_rng(seed)
    every = random.normal(size=(len(query_rows), len(collection.docs))).astype(np.float32)
    rows = np.argsort(-every, axis=1)[:, :k]
    scores = np.take_along_axis(every, rows, 1)
    ended = np.arange(rows.shape[1]) >= random.integers(k // 2, k + 1, size=len(rows))[:, None]
    known = collection.known_docs(query_rows)
    positive = np.where(known >= 0, np.take_along_axis(every, np.maximum(known, 0), 1), np.nan)
    return (np.where(ended, 0, scores), np.where(ended, -1, rows), positive), every


def check_clean(collection, query_rows, docs):
    """No known positive of the query and no text twice in any list of doc rows; lists end with -1."""
    known = known_by_text(collection)
    for query, row in zip(query_rows, docs):
        texts = [collection.docs.text(doc) for doc in row if doc >= 0]
        assert not set(texts) & known.get(collection.queries.text(query), set())
        assert len(texts) == len(set(texts))
        assert (row[len(texts) :] == -1).all()


@pytest.mark.filterwarnings("ignore:.*(empty slice|All-NaN).*")  # queries without any positive
@pytest.mark.parametrize("depth", [1, 5, 30])
def test_searched_candidates_are_no_positives_and_keep_their_order(collection, depth):
    query_rows = np.arange(len(collection.queries))  # those without any positive, too
    k = min(len(collection.docs), depth + candidates_.overfetch(collection))
    (scores, rows, of_positives), every = random_search(collection, query_rows, k, seed=depth)
    hits = Hits(scores, rows, of_positives)
    found = Candidates.from_hits(collection, query_rows, hits, source="dense", count=depth)
    known, text = known_by_text(collection), collection.docs.text
    first = {text(row): row for row in reversed(range(len(collection.docs)))}
    check_clean(collection, query_rows, found.docs)
    for i, query in enumerate(query_rows):
        positives, wanted, seen = known.get(collection.queries.text(query), set()), [], set()
        itself = {text(row) for row, ident in enumerate(collection.docs.ids) if ident == collection.queries.ids[query]}
        for doc, score in zip(rows[i], scores[i]):
            if doc >= 0 and text(doc) not in positives | seen | itself:
                seen.add(text(doc))
                wanted.append((doc, score, len(seen)))
        kept = found.docs[i] >= 0
        listed = zip(found.docs[i][kept], found.scores[i][kept], found.ranks[i][kept])
        assert list(listed) == wanted[:depth]
        assert (found.ranks[i][~kept] == 0).all() and np.isnan(found.scores[i][~kept]).all()
        if positives:
            best = max([every[i, first[doc]] for doc in positives])
            assert found.positive[i] == pytest.approx(best, rel=1e-6, abs=1e-6)
        else:
            assert np.isnan(found.positive[i])
    assert (found.docs >= 0).sum() + sum(found.dropped.values()) == (rows >= 0).sum()


def test_candidates_from_vectors_are_the_best_docs(collection):
    random = np.random.default_rng(1)
    query_rows = collection.split("train").queries[::2]
    q_emb = random.normal(size=(len(query_rows), 4)).astype(np.float32)
    d_emb = random.normal(size=(len(collection.docs), 4)).astype(np.float32)
    hits = exact.search(q_emb, d_emb, 6 + candidates_.overfetch(collection), collection.known_docs(query_rows))
    found = Candidates.from_hits(collection, query_rows, hits, source="dense", count=6)
    check_clean(collection, query_rows, found.docs)
    scores = q_emb @ d_emb.T
    for i, row in enumerate(query_rows):
        known = collection.known_docs(np.array([row]))[0]
        assert found.positive[i] == pytest.approx(scores[i, known[known >= 0]].max(), rel=1e-5)
        free = ~collection.known_positive(np.array([row]), np.arange(len(collection.docs))[None])[0]
        docs = collection.docs.groups[np.flatnonzero(free)[np.argsort(-scores[i, free])]]
        listed = collection.docs.groups[found.docs[i][found.docs[i] >= 0]]
        assert listed.tolist() == list(dict.fromkeys(docs.tolist()))[:6]


def test_overfetch_leaves_enough(tiny):
    qrels = tiny.split("train")
    assert candidates_.overfetch(tiny) == 3  # q14 has three positives
    depth = 10
    positives_first = np.stack(
        [
            np.concatenate([p, np.setdiff1d(np.arange(40), p)])[: depth + 3]
            for p in (qrels.positives(i) for i in range(len(qrels)))
        ]
    )
    scores = np.broadcast_to(-np.arange(depth + 3, dtype=np.float32), positives_first.shape)
    known = np.zeros((len(qrels), 3), dtype=np.float32)
    hits = Hits(scores, positives_first, known)
    found = Candidates.from_hits(tiny, qrels.queries, hits, source="dense", count=depth)
    copies = {tiny.docs.row_of["a08"], tiny.docs.row_of["a12"]}
    for listed in found.docs:
        assert (listed >= 0).sum() >= depth - 1 and len(copies & set(listed.tolist())) <= 1


def test_mined_bm25_candidates_are_no_positives(tiny):
    for split in collection_.SPLITS:
        rows = tiny.split(split).queries
        hits = bm25.BM25.load(tiny.docs).search(tiny.queries.view(rows), 20, tiny.known_docs(rows))
        check_clean(tiny, rows, Candidates.from_hits(tiny, rows, hits, source="bm25", count=15).docs)


def test_what_any_source_proposes_is_admitted_only_where_it_may_be_a_negative(crowded):
    query_rows = np.arange(len(crowded.queries))
    proposed = np.argsort(np.random.default_rng(0).random((len(query_rows), len(crowded.docs))), axis=1)
    proposed[:, 3] = -1  # a list may have gaps
    pool = Pool("some", np.flatnonzero(np.arange(len(crowded.docs)) % 3 > 0).astype(np.int32))
    found = Candidates("foreign", query_rows, proposed).admit(crowded, pool, count=6)
    check_clean(crowded, query_rows, found.docs)
    never = crowded.no_negative(query_rows, proposed)
    for docs, ranks, listed, bad in zip(found.docs, found.ranks, proposed, never):
        wanted = {}  # text -> its first doc
        for doc in listed[~bad & (listed >= 0) & (listed % 3 > 0)].tolist():
            wanted.setdefault(crowded.docs.text(doc), doc)
        wanted = list(wanted.values())[:6]
        assert docs[docs >= 0].tolist() == wanted
        assert ranks[docs >= 0].tolist() == [*range(1, len(wanted) + 1)]
    assert found.count + sum(found.dropped.values()) == (proposed >= 0).sum()
    assert found.dropped["positive"] == crowded.known_positive(query_rows, proposed).sum() > 0
    assert found.dropped["outside the pool"] > 0
    again = found.admit(crowded, pool, count=6)
    assert again.dropped == found.dropped and (again.docs == found.docs).all() and (again.ranks == found.ranks).all()


def test_a_source_that_draws_outside_the_pool_is_named(tiny):
    def draw_everything(collection, query_rows, count, *, pool, seed, epoch):
        return np.tile(np.arange(len(collection.docs)), (len(query_rows), 1))

    pool, hidden = open_pool("labelled", tiny), held_out(tiny).sum()
    outside = len(tiny.docs) - len(pool.rows)
    wanted = (
        f"the source mine drew {2 * outside} docs outside the pool labelled, {2 * hidden} of which only dev or test"
    )
    with pytest.raises(BadInput, match=wanted):
        drawn_candidates("mine", draw_everything, tiny, tiny.split("train").queries[:2], 4, pool=pool, seed=0)
    drawn_candidates("mine", draw_everything, tiny, tiny.split("train").queries[:2], 4, seed=0)  # the pool all


def random_docs(collection, query_rows, count, **how):
    """What the source random draws, as a batch is given it."""
    return drawn_candidates("random", candidates_.random_docs, collection, query_rows, count, **how).docs


@pytest.mark.parametrize("count", [1, 4, 12])
def test_random_docs_are_no_positives(collection, count):
    query_rows = np.arange(len(collection.queries))
    for epoch in range(5):
        docs = random_docs(collection, query_rows, count, seed=0, epoch=epoch)
        assert docs.shape == (len(query_rows), count)
        check_clean(collection, query_rows, docs)


def test_random_docs_depend_on_seed_epoch_and_query_alone(tiny):
    queries = tiny.split("train").queries
    docs = random_docs(tiny, queries, 4, seed=0, epoch=1)
    assert (random_docs(tiny, queries[7:9], 4, seed=0, epoch=1) == docs[7:9]).all()
    assert (random_docs(tiny, queries, 4, seed=0, epoch=2) != docs).any()
    assert (random_docs(tiny, queries, 4, seed=1, epoch=1) != docs).any()


def test_random_docs_reach_the_whole_corpus_evenly(tiny):
    queries = tiny.split("train").queries[:1]
    drawn = np.concatenate([random_docs(tiny, queries, 4, seed=0, epoch=epoch)[0] for epoch in range(1000)])
    counts = np.bincount(drawn, minlength=40)
    positives = tiny.split("train").positives(0)
    assert (counts[positives] == 0).all()
    free = np.setdiff1d(np.arange(40), [*positives, tiny.docs.row_of["a08"], tiny.docs.row_of["a12"]])
    assert counts[free].min() > 60 and counts[free].max() < 150  # 4000 draws over 38 texts: 105 each


def candidates_of(lists, *, source="bm25"):
    """Candidates with the given lists of doc rows for the queries 0, 1, ..., their ranks 1, 2, ..."""
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    for i, found in enumerate(lists):
        docs[i, : len(found)] = found
    scores = np.where(docs >= 0, -docs.astype(np.float32), np.nan)
    ranks = np.where(docs >= 0, np.arange(1, 1 + docs.shape[1]), 0).astype(np.int32)
    positive = np.full(len(lists), np.nan, dtype=np.float32)
    return Candidates(source, np.arange(len(lists)), docs, scores, positive, {}, ranks)


LISTS = [[3, 1, 4, 15, 9, 2, 6], [5, 8], [], [7, 11, 12, 13]]
UNIFORM = parse_sampling("uniform")


def drawn_docs(candidates, count, *, seed=0, epoch, sampling=UNIFORM):
    """What is sampled as one (B, count) array, whatever the sources and bands: -1 for none."""
    parts = by_label(candidates, slots_of_sampling(sampling, candidates, count, seed=seed, epoch=epoch))
    stacked = np.stack([np.full((len(candidates.docs), count), -1), *parts.values()])
    assert ((stacked >= 0).sum(0) <= 1).all()  # no draw stands under two codes
    return stacked.max(0)


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_draw_is_without_replacement_and_from_the_querys_own_list(count):
    candidates = candidates_of(LISTS).select(np.array([3, 0, 1, 2]))
    for epoch in range(20):
        drawn = drawn_docs(candidates, count, epoch=epoch)
        for pick, row in zip((3, 0, 1, 2), drawn):
            real = row[row >= 0].tolist()
            assert set(real) <= set(LISTS[pick]) and len(set(real)) == len(real) == min(count, len(LISTS[pick]))


def test_draw_is_deterministic_and_even():
    candidates = candidates_of(LISTS)
    draws = [drawn_docs(candidates, 2, epoch=epoch) for epoch in range(700)]
    assert (drawn_docs(candidates, 2, epoch=5) == draws[5]).all()
    alone = candidates.select(np.array([0]))
    assert (drawn_docs(alone, 2, epoch=5) == draws[5][:1]).all()
    assert (drawn_docs(candidates, 2, seed=1, epoch=5) != draws[5]).any()
    counts = np.bincount(np.concatenate([d[0] for d in draws]), minlength=16)
    assert counts.sum() == 1400 and all(140 < counts[doc] < 260 for doc in LISTS[0])  # 200 each
    assert {tuple(sorted(d[3])) for d in draws} == {(a, b) for a in LISTS[3] for b in LISTS[3] if a < b}


def test_draws_come_by_band_of_ranks():
    candidates = candidates_of([list(range(20, 27)), [30, 31]])
    candidates.ranks[:] = [[1, 10, 11, 30, 31, 100, 101], [2, 0, 0, 0, 0, 0, 0]]
    drawn = by_label(candidates, slots_of_sampling(parse_sampling("top"), candidates, 7, seed=0, epoch=0))
    assert {(key.name, key.ranks): [set(row[row >= 0].tolist()) for row in docs] for key, docs in drawn.items()} == {
        ("bm25", "1-10"): [{20, 21}, {30}],
        ("bm25", "11-30"): [{22, 23}, set()],
        ("bm25", "31-100"): [{24, 25}, set()],
        ("bm25", ">100"): [{26}, set()],
        ("bm25", ""): [set(), {31}],  # whoever gave it has no ranks
    }
    assert all(docs.shape == (2, 7) and docs.dtype == np.int32 for docs in drawn.values())
    assert candidates_.band_names() == ["1-10", "11-30", "31-100", ">100"]


def test_draws_of_a_file_come_by_its_sources():
    candidates = candidates_of([[20, 21, 22], [23, 20]], source="file")
    candidates.origins = ("dense", "random")
    candidates.origin = np.array([[0, 1, 0], [1, 0, 0]], dtype=np.int8)
    candidates.ranks[:] = [[1, 0, 12], [0, 3, 0]]
    drawn = by_label(candidates, slots_of_sampling(parse_sampling("top"), candidates, 3, seed=0, epoch=0))
    assert {(key.name, key.ranks): docs.max(1).tolist() for key, docs in drawn.items()} == {
        ("dense (file)", "1-10"): [20, 20],
        ("dense (file)", "11-30"): [22, -1],
        ("random (file)", ""): [21, 23],
    }


def test_select_keeps_what_belongs_together():
    candidates = candidates_of(LISTS)
    candidates.positive[:] = [0, 1, 2, 3]
    found = candidates.select(np.array([3, 1]))
    assert found.queries.tolist() == [3, 1] and found.positive.tolist() == [3, 1]
    for name in ("docs", "scores", "ranks"):
        np.testing.assert_array_equal(getattr(found, name), getattr(candidates, name)[[3, 1]])
    assert found.origin is None and found.source == "bm25"
    with pytest.raises(AssertionError, match="not mined for"):
        candidates.select(np.array([1, -1]))


def test_describe():
    candidates = candidates_of([[1, 2], [3], []])  # the score of doc d is -d
    candidates.positive[:] = [-1.5, -9.0, np.nan]
    assert candidates.describe() == {
        "queries": 3,
        "candidates": 3,
        "shortest_list": 0,
        "empty_lists": 1,
        "mean_score": -2.0,
        "mean_positive_score": -5.25,
        "outscore_positive": pytest.approx(2 / 3, abs=1e-6),
        "dropped": {},
    }
    candidates.notes = {"last_still_above": 0.25}
    assert candidates.describe()["last_still_above"] == 0.25


def test_one_query_with_many_positives_widens_no_row_but_its_own(tmp_path):
    docs = {f"d{i}": f"doc number {i}" for i in range(200)}
    queries = {f"q{i}": f"query {i}" for i in range(12)}
    qrels = [("q0", f"d{i}", 1) for i in range(100)] + [(f"q{i}", f"d{i}", 1) for i in range(1, 12)]
    folder = write_collection(tmp_path / "wide", docs, queries, {"train": qrels})
    collection = collection_.load_collection(folder)
    rows = collection.split("train").queries
    random = np.random.default_rng(0)
    q_emb, d_emb = (random.normal(size=(n, 8)).astype(np.float32) for n in (12, 200))
    widths = {}

    def search(part, k, known):
        widths[known.shape[1]] = len(part), k
        return exact.search(q_emb[part], d_emb, k, known)

    found = candidates_.search_candidates(collection, rows, 5, search, source="dense")
    assert widths == {1: (11, 6), 100: (1, 105)}
    together = Candidates.from_hits(
        collection, rows, exact.search(q_emb, d_emb, 105, collection.known_docs(rows)), source="dense", count=5
    )
    for name in ("queries", "docs", "ranks", "scores", "positive"):
        np.testing.assert_array_equal(getattr(found, name), getattr(together, name))

"""Candidates that never are positives, what is sampled of them, negatives files."""

import json

import numpy as np
import pytest
from conftest import known_by_text

from lib.data import collection as collection_
from lib.files import BadInput
from lib.negatives import candidates as candidates_
from lib.negatives import files as negatives_files
from lib.negatives.candidates import Candidates
from lib.negatives.filters import apply, parse_filter
from lib.negatives.sampler import by_label
from lib.negatives.sampling import Sampling
from lib.search import bm25, exact
from lib.search.hits import Hits

# ------------------------------------------------------------------------------------------------ candidates


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
@pytest.mark.parametrize("positive, reduce", [("max", max), ("min", min), ("mean", np.mean)])
@pytest.mark.parametrize("depth", [1, 5, 30])
def test_searched_candidates_are_no_positives_and_keep_their_order(collection, depth, positive, reduce):
    query_rows = np.arange(len(collection.queries))  # those without any positive, too
    k = min(len(collection.docs), depth + candidates_.overfetch(collection))
    (scores, rows, of_positives), every = random_search(collection, query_rows, k, seed=depth)
    hits = Hits(scores, rows, of_positives)
    found = Candidates.from_hits(collection, query_rows, hits, source="dense", count=depth, positive=positive)
    known, text = known_by_text(collection), collection.docs.text
    first = {text(row): row for row in reversed(range(len(collection.docs)))}
    check_clean(collection, query_rows, found.docs)
    for i, query in enumerate(query_rows):
        positives, wanted, seen = known.get(collection.queries.text(query), set()), [], set()
        for doc, score in zip(rows[i], scores[i]):
            if doc >= 0 and text(doc) not in positives | seen:
                seen.add(text(doc))
                wanted.append((doc, score, len(seen)))
        kept = found.docs[i] >= 0
        listed = zip(found.docs[i][kept], found.scores[i][kept], found.ranks[i][kept])
        assert list(listed) == wanted[:depth]
        assert (found.ranks[i][~kept] == 0).all() and np.isnan(found.scores[i][~kept]).all()
        if positives:
            best = reduce([every[i, first[doc]] for doc in positives])
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


@pytest.mark.parametrize("count", [1, 4, 12])
def test_random_docs_are_no_positives(collection, count):
    query_rows = np.arange(len(collection.queries))
    for epoch in range(5):
        docs = candidates_.random_docs(collection, query_rows, count, seed=0, epoch=epoch)
        assert docs.shape == (len(query_rows), count)
        check_clean(collection, query_rows, docs)


def test_random_docs_depend_on_seed_epoch_and_query_alone(tiny):
    queries = tiny.split("train").queries
    docs = candidates_.random_docs(tiny, queries, 4, seed=0, epoch=1)
    assert (candidates_.random_docs(tiny, queries[7:9], 4, seed=0, epoch=1) == docs[7:9]).all()
    assert (candidates_.random_docs(tiny, queries, 4, seed=0, epoch=2) != docs).any()
    assert (candidates_.random_docs(tiny, queries, 4, seed=1, epoch=1) != docs).any()


def test_random_docs_reach_the_whole_corpus_evenly(tiny):
    queries = tiny.split("train").queries[:1]
    drawn = np.concatenate([candidates_.random_docs(tiny, queries, 4, seed=0, epoch=epoch)[0] for epoch in range(1000)])
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
UNIFORM = Sampling.parse("uniform")


def drawn_docs(candidates, count, *, seed=0, epoch, sampling=UNIFORM):
    """What is sampled as one (B, count) array, whatever the sources and bands: -1 for none."""
    parts = by_label(candidates, sampling.slots(candidates, count, seed=seed, epoch=epoch))
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
    drawn = by_label(candidates, Sampling.parse("top").slots(candidates, 7, seed=0, epoch=0))
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
    drawn = by_label(candidates, Sampling.parse("top").slots(candidates, 3, seed=0, epoch=0))
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


# ----------------------------------------------------------------------------------------------------- files


def write(path, collection, *mined, **changes):
    """A negatives file of the candidates, its header as mine_negatives.py writes it."""
    header = {"collection": collection.name, "collection_fingerprint": collection.fingerprint} | changes
    return negatives_files.write_negatives(
        path, header, (r for c in mined for r in negatives_files.records_of(c, collection))
    )


@pytest.fixture
def mined(tiny):
    """BM25's and random candidates for the train queries of tests/tiny."""
    rows = tiny.split("train").queries
    hits = bm25.BM25.load(tiny.docs).search(tiny.queries.view(rows), 12, tiny.known_docs(rows))
    return (
        Candidates.from_hits(tiny, rows, hits, source="bm25", count=8),
        candidates_.drawn_candidates("random", candidates_.random_docs, tiny, rows, 5, seed=0),
    )


def test_a_file_gives_back_what_was_written(tiny, mined, tmp_path):
    path, qrels = tmp_path / "n.jsonl", tiny.split("train")
    bm25, random = mined
    assert write(path, tiny, bm25) == (bm25.docs >= 0).sum()
    loaded = negatives_files.load_candidates(path, tiny, qrels)
    width = loaded.docs.shape[1]
    assert loaded.source == "file" and (loaded.queries == qrels.queries).all()
    assert (loaded.docs == bm25.docs[:, :width]).all() and (bm25.docs[:, width:] == -1).all()
    np.testing.assert_allclose(loaded.scores, bm25.scores[:, :width], rtol=1e-5)
    np.testing.assert_allclose(loaded.positive, bm25.positive, rtol=1e-5)
    assert (loaded.ranks == bm25.ranks[:, :width]).all() and bm25.ranks.max() == 8
    assert loaded.origins == ("bm25",) and not loaded.origin.any()
    write(path, tiny, bm25, random)
    both = negatives_files.load_candidates(path, tiny, qrels)
    for i, listed in enumerate(both.docs):
        wanted = list(dict.fromkeys([d for part in (bm25, random) for d in part.docs[i].tolist() if d >= 0]))
        assert listed[listed >= 0].tolist() == wanted
        own = (bm25.docs[i] >= 0).sum()  # the first source that proposed a doc counts
        names = [both.origins[number] for number in both.origin[i][: len(wanted)]]
        assert names == ["bm25"] * own + ["random"] * (len(wanted) - own)
        assert (both.ranks[i] > 0).sum() == own
        assert np.isfinite(both.scores[i]).sum() == (bm25.docs[i] >= 0).sum()  # a doc of both keeps BM25's score


def test_records_hold_what_the_format_says(tiny, mined, tmp_path):
    path, bm25 = tmp_path / "n.jsonl", mined[0]
    write(path, tiny, *mined)
    header, rows = negatives_files.read_negatives(path)
    records = [record for _, record in rows]
    assert header["collection_fingerprint"] == tiny.fingerprint
    assert set(records[0]) == {"qid", "doc_id", "source", "rank", "score", "positive_score"}
    assert records[0]["qid"] == tiny.queries.ids[bm25.queries[0]] and records[0]["rank"] == 1
    assert records[0]["doc_id"] == tiny.docs.ids[bm25.docs[0, 0]]
    assert {record["rank"] for record in records if record["source"] == "random"} == {0}
    window = apply(bm25, [parse_filter("window:3:5")], tiny)  # ranks are those of the mining
    ranks = [record["rank"] for record in negatives_files.records_of(window, tiny)]
    assert ranks[:3] == [3, 4, 5] and set(ranks) == {3, 4, 5}
    assert {record["source"] for record in records} == {"bm25", "random"}
    assert all(record["score"] is None for record in records if record["source"] == "random")


def spoiled(path, number, **changes):
    """Change keys of one line of a JSONL file; None deletes a key."""
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[number - 1]) | changes
    lines[number - 1] = json.dumps({key: value for key, value in record.items() if value is not None})
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"doc_id": "c99"}, [":5:", "c99"]),
        ({"qid": "q99"}, [":5:", "q99"]),
        ({"doc_id": None}, [":5:", "doc_id"]),
        ({"qid": ["q01"]}, [":5:", "q01"]),
        ({"score": "high"}, [":5:", "high"]),
        ({"rank": "high"}, [":5:", "high"]),
        ({"positive_score": "high"}, [":5:", "high"]),
        ({"source": ["bm25"]}, [":5:", "source"]),
        ({"qid": "q01", "doc_id": "c01"}, ["c01", "q01", "positive"]),
        ({"qid": "q14", "doc_id": "a09"}, ["a09", "q14", "positive"]),
    ],
)
def test_a_wrong_record_is_refused(tiny, mined, tmp_path, changes, wanted):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined)
    spoiled(path, 5, **changes)
    with pytest.raises(BadInput) as refused:
        negatives_files.load_candidates(path, tiny, tiny.split("train"))
    for part in ["n.jsonl", *wanted]:
        assert part in str(refused.value)


def test_a_file_of_another_collection_is_refused(tiny, mined, tmp_path):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined, collection_fingerprint="0123456789abcdef")
    with pytest.raises(BadInput, match=f"0123456789abcdef.*{tiny.fingerprint}"):
        negatives_files.load_candidates(path, tiny, tiny.split("train"))


@pytest.mark.parametrize(
    "content, wanted",
    [
        (b"", "header"),
        (b'{"qid": "q01", "doc_id": "c02", "source": "bm25", "score": 1.0}\n', "header"),
        (b"[]\n", "object"),
    ],
)
def test_a_file_without_a_header_is_refused(tiny, tmp_path, content, wanted):
    path = tmp_path / "n.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"n\.jsonl:1: .*{wanted}"):
        negatives_files.load_candidates(path, tiny, tiny.split("train"))


def test_files_without_use_are_refused(tiny, mined, tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl: .*[Nn]o such file"):
        negatives_files.load_candidates(tmp_path / "none.jsonl", tiny, tiny.split("train"))
    write(tmp_path / "n.jsonl", tiny, *mined)
    with pytest.raises(BadInput, match="no negatives for the queries"):
        negatives_files.load_candidates(tmp_path / "n.jsonl", tiny, tiny.split("test"))

"""Arms, candidates that never are positives, the draw, the supply of a training, negatives files."""

import json
import types

import numpy as np
import pytest
import torch
from conftest import known_by_text

from lib import data, formats, index, negatives
from lib.negatives import Candidates, Queue, Stage, Supply, parse_arm
from lib.run import BadInput


@pytest.mark.parametrize(
    "arm, stages",
    [
        ("in_batch", [Stage(0.0, ())]),
        ("bm25:4", [Stage(0.0, (("bm25", 4),))]),
        ("bm25:2+refresh:3", [Stage(0.0, (("bm25", 2), ("refresh", 3)))]),
        ("in_batch+dense:10", [Stage(0.0, (("dense", 10),))]),
        ("random:4,refresh:4@0.3", [Stage(0.0, (("random", 4),)), Stage(0.3, (("refresh", 4),))]),
        (
            "in_batch,file:1@0.25,random:2+file:1@.5",
            [Stage(0.0, ()), Stage(0.25, (("file", 1),)), Stage(0.5, (("random", 2), ("file", 1)))],
        ),
    ],
)
def test_arms(arm, stages):
    assert parse_arm(arm) == stages


@pytest.mark.parametrize(
    "arm, value",
    [
        ("", "''"),
        ("bm24:4", "bm24:4"),
        ("bm25", "bm25"),
        ("bm25:0", "bm25:0"),
        ("bm25:-1", "bm25:-1"),
        ("bm25:1.5", "bm25:1.5"),
        ("in_batch:4", "in_batch:4"),
        ("bm25:4+", "''"),
        ("bm25:4+bm25:2", "twice"),
        ("bm25 :4", "bm25 :4"),
        ("random:4,refresh:4", "@"),
        ("random:4,refresh:4@0", "@0"),
        ("random:4,refresh:4@1", "@1"),
        ("random:4,refresh:4@soon", "@soon"),
        ("random:4,refresh:4@nan", "@nan"),
        ("random:4@0.5", "@0.5"),
        ("random:4,refresh:4@0.5,bm25:4@0.4", "@0.4"),
        ("random:4,refresh:4@-0.5", "@-0.5"),
    ],
)
def test_bad_arms(arm, value):
    with pytest.raises(BadInput) as refused:
        parse_arm(arm)
    assert value in str(refused.value) and arm in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arm, wanted", [("in_batch", "0"), ("bm25:2+refresh:2", "4"), ("random:4,refresh:8@0.5", "4 then 8")]
)
def test_explicit_negatives_of_an_arm(arm, wanted):
    assert negatives.count_by_stage(arm) == wanted


def test_sources_of_an_arm_in_order_of_first_use():
    assert negatives.arm_sources("random:4+bm25:1,refresh:2+random:1@0.3") == ["random", "bm25", "refresh"]
    assert negatives.arm_sources("in_batch") == []


# ------------------------------------------------------------------------------------------------ candidates


def random_search(collection, query_rows, k, *, seed):
    """(scores, rows) of a made-up search: random docs in falling order of score, some lists ending early."""
    random = np.random.default_rng(seed)
    rows = np.stack([random.permutation(len(collection.docs))[:k] for _ in query_rows])
    scores = -np.sort(-random.random(rows.shape), axis=1).astype(np.float32)
    ended = np.arange(rows.shape[1]) >= random.integers(k // 2, k + 1, size=len(rows))[:, None]
    return np.where(ended, 0, scores), np.where(ended, -1, rows)


def check_clean(collection, query_rows, docs):
    """No known positive of the query and no text twice in any list of doc rows; lists end with -1."""
    known = known_by_text(collection)
    for query, row in zip(query_rows, docs):
        texts = [collection.docs.text(doc) for doc in row if doc >= 0]
        assert not set(texts) & known.get(collection.queries.text(query), set())
        assert len(texts) == len(set(texts))
        assert (row[len(texts) :] == -1).all()


@pytest.mark.parametrize("depth", [1, 5, 30])
def test_searched_candidates_are_no_positives_and_keep_their_order(collection, depth):
    query_rows = np.arange(len(collection.queries))  # those without any positive, too
    k = min(len(collection.docs), depth + negatives.overfetch(collection))
    scores, rows = random_search(collection, query_rows, k, seed=depth)
    found = negatives.from_search(collection, query_rows, (scores, rows), source="dense", depth=depth)
    known, text = known_by_text(collection), collection.docs.text
    check_clean(collection, query_rows, found.docs)
    for i, query in enumerate(query_rows):
        positives, wanted, seen = known.get(collection.queries.text(query), set()), [], set()
        for doc, score in zip(rows[i], scores[i]):
            if doc >= 0 and text(doc) not in positives | seen:
                seen.add(text(doc))
                wanted.append((doc, score))
        kept = found.docs[i] >= 0
        assert list(zip(found.docs[i][kept], found.scores[i][kept])) == wanted[:depth]
        best = [score for doc, score in zip(rows[i], scores[i]) if doc >= 0 and text(doc) in positives]
        assert found.positive[i] == max(best) if best else np.isnan(found.positive[i])
    assert (found.docs >= 0).sum() + sum(found.dropped.values()) == (rows >= 0).sum()


def test_overfetch_leaves_enough(tiny):
    qrels = tiny.split("train")
    assert negatives.overfetch(tiny) == 3  # q14 has three positives
    depth = 10
    positives_first = np.stack(
        [
            np.concatenate([p, np.setdiff1d(np.arange(40), p)])[: depth + 3]
            for p in (qrels.positives(i) for i in range(len(qrels)))
        ]
    )
    scores = np.broadcast_to(-np.arange(depth + 3, dtype=np.float32), positives_first.shape)
    found = negatives.from_search(tiny, qrels.queries, (scores, positives_first), source="dense", depth=depth)
    copies = {tiny.docs.row_of["a08"], tiny.docs.row_of["a12"]}
    for listed in found.docs:
        assert (listed >= 0).sum() >= depth - 1 and len(copies & set(listed.tolist())) <= 1


def test_mined_bm25_candidates_are_no_positives(tiny):
    for split in data.SPLITS:
        rows = tiny.split(split).queries
        search = index.BM25.load(tiny.docs).search(tiny.queries.texts(rows), 20)
        check_clean(tiny, rows, negatives.from_search(tiny, rows, search, source="bm25", depth=15).docs)


@pytest.mark.parametrize("count", [1, 4, 12])
def test_random_docs_are_no_positives(collection, count):
    query_rows = np.arange(len(collection.queries))
    for epoch in range(5):
        docs = negatives.random_docs(collection, query_rows, count, seed=0, epoch=epoch)
        assert docs.shape == (len(query_rows), count)
        check_clean(collection, query_rows, docs)


def test_random_docs_depend_on_seed_epoch_and_query_alone(tiny):
    queries = tiny.split("train").queries
    docs = negatives.random_docs(tiny, queries, 4, seed=0, epoch=1)
    assert (negatives.random_docs(tiny, queries[7:9], 4, seed=0, epoch=1) == docs[7:9]).all()
    assert (negatives.random_docs(tiny, queries, 4, seed=0, epoch=2) != docs).any()
    assert (negatives.random_docs(tiny, queries, 4, seed=1, epoch=1) != docs).any()


def test_random_docs_reach_the_whole_corpus_evenly(tiny):
    queries = tiny.split("train").queries[:1]
    drawn = np.concatenate(
        [negatives.random_docs(tiny, queries, 4, seed=0, epoch=epoch)[0] for epoch in range(1000)]
    )
    counts = np.bincount(drawn, minlength=40)
    positives = tiny.split("train").positives(0)
    assert (counts[positives] == 0).all()
    free = np.setdiff1d(np.arange(40), [*positives, tiny.docs.row_of["a08"], tiny.docs.row_of["a12"]])
    assert counts[free].min() > 60 and counts[free].max() < 150  # 4000 draws over 38 texts: 105 each


def candidates_of(lists, *, source="bm25"):
    """Candidates with the given lists of doc rows for the queries 0, 1, ..."""
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    for i, found in enumerate(lists):
        docs[i, : len(found)] = found
    scores = np.where(docs >= 0, -docs.astype(np.float32), np.nan)
    return Candidates(
        source, np.arange(len(lists)), docs, scores, np.full(len(lists), np.nan, dtype=np.float32), {}
    )


LISTS = [[3, 1, 4, 15, 9, 2, 6], [5, 8], [], [7, 11, 12, 13]]


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_draw_is_without_replacement_and_from_the_querys_own_list(count):
    candidates = candidates_of(LISTS)
    for epoch in range(20):
        drawn = negatives.draw(candidates, np.array([3, 0, 1, 2]), count, seed=0, epoch=epoch)
        assert drawn.shape == (4, count)
        for pick, row in zip((3, 0, 1, 2), drawn):
            real = row[row >= 0].tolist()
            assert set(real) <= set(LISTS[pick]) and len(set(real)) == len(real) == min(
                count, len(LISTS[pick])
            )


def test_draw_is_deterministic_and_even():
    candidates = candidates_of(LISTS)
    draws = [negatives.draw(candidates, np.arange(4), 2, seed=0, epoch=epoch) for epoch in range(700)]
    assert (negatives.draw(candidates, np.arange(4), 2, seed=0, epoch=5) == draws[5]).all()
    assert (negatives.draw(candidates, np.array([0]), 2, seed=0, epoch=5) == draws[5][:1]).all()
    assert (negatives.draw(candidates, np.arange(4), 2, seed=1, epoch=5) != draws[5]).any()
    counts = np.bincount(np.concatenate([d[0] for d in draws]), minlength=16)
    assert counts.sum() == 1400 and all(140 < counts[doc] < 260 for doc in LISTS[0])  # 200 each
    assert {tuple(sorted(d[3])) for d in draws} == {(a, b) for a in LISTS[3] for b in LISTS[3] if a < b}


def test_describe():
    candidates = candidates_of([[1, 2], [3], []])  # the score of doc d is -d
    candidates.positive[:] = [-1.5, -9.0, np.nan]
    assert negatives.describe(candidates) == {
        "queries": 3,
        "candidates": 3,
        "shortest_list": 0,
        "mean_score": -2.0,
        "mean_positive_score": -5.25,
        "outscore_positive": pytest.approx(2 / 3, abs=1e-6),
        "dropped": {},
    }


# ---------------------------------------------------------------------------------------------------- supply


def make_supply(arm, collection, *, steps=12, refresh_every=4, batch_size=6):
    """A Supply whose made-up miner records its calls and finds the docs i + 5, i + 6, ... for query i."""
    calls, qrels = [], collection.split("train")
    order = data.QueryOrder(len(qrels), batch_size=batch_size, seed=0)

    def mine(source, picks, depth):
        calls.append(types.SimpleNamespace(source=source, picks=picks.tolist(), depth=depth))
        docs = (picks[:, None] + 5 + np.arange(depth)) % len(collection.docs)
        return Candidates(
            source,
            qrels.queries[picks],
            docs.astype(np.int32),
            np.zeros(docs.shape, dtype=np.float32),
            np.zeros(len(picks), dtype=np.float32),
            {},
        )

    supply = Supply(
        arm,
        steps=steps,
        refresh_every=refresh_every,
        depth=3,
        seed=0,
        collection=collection,
        mine=mine,
        upcoming=order.upcoming,
    )
    return supply, order, calls


def play(supply, order, steps=12):
    """Run the steps of a training; for each, (sources mined, {source: negatives per query})."""
    seen = []
    for step in range(steps):
        mined, picks = supply.prepare(step), order.picks(step)
        drawn = supply.draw(picks, step=step, epoch=order.epoch(step))
        for source, docs in zip(supply.sources, drawn):
            assert docs.shape[0] == len(picks)
            if source != "random":
                assert np.isin((docs - picks[:, None] - 5) % 40, range(3)).all()  # from the query's own list
        seen.append((mined, {source: docs.shape[1] for source, docs in zip(supply.sources, drawn)}))
    return seen


def test_in_batch_needs_nothing(tiny):
    supply, order, calls = make_supply("in_batch", tiny)
    assert play(supply, order) == [([], {})] * 12 and not calls


def test_adore_is_mined_at_each_step_for_that_step(tiny):
    supply, order, calls = make_supply("adore:2", tiny)
    assert play(supply, order) == [(["adore"], {"adore": 2})] * 12
    for step, found in enumerate(calls):
        assert (found.picks, found.depth) == (sorted(order.picks(step).tolist()), 2)


def test_the_depth_is_never_below_the_number_drawn(tiny):
    supply, _, calls = make_supply("bm25:5", tiny)
    supply.prepare(0)
    assert calls[0].depth == 5


@pytest.mark.parametrize("source", ["bm25", "dense", "file"])
def test_a_fixed_source_is_mined_once_for_all_queries(tiny, source):
    supply, order, calls = make_supply(f"{source}:2", tiny)
    assert play(supply, order) == [([source], {source: 2})] + [([], {source: 2})] * 11
    assert len(calls) == 1 and calls[0].picks == list(range(36)) and calls[0].depth == 3
    assert supply.describe(source)["candidates"] == 36 * 3


def test_refresh_is_mined_every_so_often_for_the_upcoming_queries(tiny):
    supply, order, calls = make_supply("refresh:2", tiny, steps=10)
    assert [step for step, (mined, _) in enumerate(play(supply, order, steps=10)) if mined] == [0, 4, 8]
    for call, steps in zip(calls, (range(0, 4), range(4, 8), range(8, 10))):
        assert call.picks == sorted({pick for step in steps for pick in order.picks(step).tolist()})
        assert len(call.picks) < 36


def test_stages_switch_at_their_steps(tiny):
    supply, order, calls = make_supply("random:1,bm25:2+refresh:2@0.5,refresh:3@0.75", tiny)
    seen = play(supply, order)
    assert [mined for mined, _ in seen] == [[]] * 6 + [["bm25", "refresh"]] + [[]] * 3 + [["refresh"], []]
    counts = {
        "first": {"random": 1, "bm25": 0, "refresh": 0},
        "second": {"random": 0, "bm25": 2, "refresh": 2},
        "third": {"random": 0, "bm25": 0, "refresh": 3},
    }
    assert [found for _, found in seen] == [counts["first"]] * 6 + [counts["second"]] * 3 + [
        counts["third"]
    ] * 3
    assert [call.source for call in calls] == ["bm25", "refresh", "refresh"]


def test_random_draws_avoid_positives_and_change_with_the_epoch(tiny):
    supply, order, _ = make_supply("random:3", tiny)
    qrels, picks = tiny.split("train"), np.arange(36)
    first, second = (supply.draw(picks, step=0, epoch=epoch)[0] for epoch in (0, 1))
    check_clean(tiny, qrels.queries, first)
    assert (first != second).any()


def test_a_supply_goes_on_where_another_stopped(tiny, tmp_path):
    arm = "random:1,bm25:2+refresh:2@0.25"
    whole, order, _ = make_supply(arm, tiny)
    stopped, _, _ = make_supply(arm, tiny)
    wanted = play(whole, order)
    assert play(stopped, order, steps=6) == wanted[:6]
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    again, _, calls = make_supply(arm, tiny)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    draws = [
        [supply.draw(order.picks(5), step=5, epoch=1)[i].tolist() for i in range(3)]
        for supply in (stopped, again)
    ]
    assert draws[0] == draws[1] and again.describe("bm25") == stopped.describe("bm25")
    assert [again.prepare(step) for step in range(6, 12)] == [mined for mined, _ in wanted[6:]]
    assert [call.source for call in calls] == ["refresh", "refresh"]


def test_arms_with_a_queue(tiny):
    supply, order, calls = make_supply("random:1,queue:4+random:2@0.5,queue:9@0.75", tiny)
    assert supply.queue_size == 9 and make_supply("random:1", tiny)[0].queue_size == 0
    queue = Queue(9, 2, device="cpu")
    assert supply.queued(queue, 6) is None  # nothing in it yet
    queue.push(np.array([3, 5]), np.zeros((2, 2), dtype=np.float32))
    assert supply.queued(queue, 0) is None  # its stage has not begun
    number, docs = supply.queued(queue, 6)
    assert supply.sources[number - 1] == "queue" and docs.tolist() == [3, 5]
    assert [part.shape for part in supply.draw(order.picks(6), step=6, epoch=0)] == [
        (6, 2),
        (6, 0),
    ] and not calls


def test_a_queue_holds_the_last_docs_each_once():
    queue = Queue(5, 2, device="cpu")
    for number, docs in enumerate(([1, 2, 3], [4, 2], [7, 8])):
        queue.push(
            np.array(docs, dtype=np.int32), np.array([[number, doc] for doc in docs], dtype=np.float32)
        )
        assert len(queue.docs) == len(queue.vectors) == len(set(queue.docs.tolist())) <= 5
    assert queue.docs.tolist() == [3, 4, 2, 7, 8]
    assert queue.vectors.tolist() == [[0, 3], [1, 4], [1, 2], [2, 7], [2, 8]]
    other = Queue(5, 2, device="cpu")
    other.load_state_dict(queue.state_dict())
    assert other.docs.tolist() == queue.docs.tolist() and torch.equal(other.vectors, queue.vectors)


def test_teacher_scores_find_their_columns(tiny, tmp_path):
    rows, qrels = tiny.docs.row_of, tiny.split("train")
    records = [
        {
            "qid": "q01",
            "doc_id": "c02",
            "source": "x",
            "score": 1.0,
            "teacher_score": 0.25,
            "teacher_positive_score": 2.5,
        },
        {"qid": "q12", "doc_id": "a12", "source": "x", "score": 2.0, "teacher_score": 0.5},
        {"qid": "q12", "doc_id": "c02", "source": "x", "score": 1.0},
    ]
    path = tmp_path / "n.jsonl"
    formats.write_negatives(path, {"collection_fingerprint": tiny.fingerprint}, records)
    supply, _, _ = make_supply("file:2", tiny)
    supply._mine = lambda source, picks, depth: negatives.load_candidates(path, tiny, qrels)
    supply.prepare(0)
    picks = np.array([11, 0])  # q12 and q01
    positives = np.array([rows["a01"], rows["c01"]])
    batch = data.make_batch(tiny, qrels.queries[picks], positives, [np.array([[rows["a08"]], [rows["c02"]]])])
    column = {tiny.docs.ids[doc]: j for j, doc in enumerate(batch.docs)}  # a08 stands for its copy a12, too
    wanted = np.full((2, 4), np.nan)
    wanted[0, column["a08"]], wanted[1, column["c02"]], wanted[1, column["c01"]] = 0.5, 0.25, 2.5
    np.testing.assert_array_equal(supply.teacher(batch, picks), wanted)


# ----------------------------------------------------------------------------------------------------- files


def write(path, collection, *mined, **changes):
    """A negatives file of the candidates, its header as mine_negatives.py writes it."""
    header = {"collection": collection.name, "collection_fingerprint": collection.fingerprint} | changes
    return formats.write_negatives(path, header, (r for c in mined for r in negatives.records(c, collection)))


@pytest.fixture
def mined(tiny):
    """BM25's and random candidates for the train queries of tests/tiny."""
    rows = tiny.split("train").queries
    search = index.BM25.load(tiny.docs).search(tiny.queries.texts(rows), 12)
    return (
        negatives.from_search(tiny, rows, search, source="bm25", depth=8),
        negatives.random_candidates(tiny, rows, 5, seed=0),
    )


def test_a_file_gives_back_what_was_written(tiny, mined, tmp_path):
    path, qrels = tmp_path / "n.jsonl", tiny.split("train")
    bm25, random = mined
    assert write(path, tiny, bm25) == (bm25.docs >= 0).sum()
    loaded = negatives.load_candidates(path, tiny, qrels)
    width = loaded.docs.shape[1]
    assert loaded.source == "file" and (loaded.queries == qrels.queries).all()
    assert (loaded.docs == bm25.docs[:, :width]).all() and (bm25.docs[:, width:] == -1).all()
    np.testing.assert_allclose(loaded.scores, bm25.scores[:, :width], rtol=1e-5)
    write(path, tiny, bm25, random)
    both = negatives.load_candidates(path, tiny, qrels)
    for i, listed in enumerate(both.docs):
        wanted = list(dict.fromkeys([d for part in (bm25, random) for d in part.docs[i].tolist() if d >= 0]))
        assert listed[listed >= 0].tolist() == wanted
        assert (
            np.isfinite(both.scores[i]).sum() == (bm25.docs[i] >= 0).sum()
        )  # a doc of both keeps BM25's score


def test_records_hold_what_the_format_says(tiny, mined, tmp_path):
    path, bm25 = tmp_path / "n.jsonl", mined[0]
    write(path, tiny, *mined)
    header, rows = formats.read_negatives(path)
    records = [record for _, record in rows]
    assert header["collection_fingerprint"] == tiny.fingerprint
    assert set(records[0]) == {"qid", "doc_id", "source", "rank", "score", "positive_score", "round"}
    assert records[0]["qid"] == tiny.queries.ids[bm25.queries[0]] and records[0]["rank"] == 1
    assert records[0]["doc_id"] == tiny.docs.ids[bm25.docs[0, 0]]
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
        ({"qid": "q01", "doc_id": "c01"}, ["c01", "q01", "positive"]),
        ({"qid": "q14", "doc_id": "a09"}, ["a09", "q14", "positive"]),
    ],
)
def test_a_wrong_record_is_refused(tiny, mined, tmp_path, changes, wanted):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined)
    spoiled(path, 5, **changes)
    with pytest.raises(BadInput) as refused:
        negatives.load_candidates(path, tiny, tiny.split("train"))
    for part in ["n.jsonl", *wanted]:
        assert part in str(refused.value)


def test_a_file_of_another_collection_is_refused(tiny, mined, tmp_path):
    path = tmp_path / "n.jsonl"
    write(path, tiny, *mined, collection_fingerprint="0123456789abcdef")
    with pytest.raises(BadInput, match=f"0123456789abcdef.*{tiny.fingerprint}"):
        negatives.load_candidates(path, tiny, tiny.split("train"))


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
        negatives.load_candidates(path, tiny, tiny.split("train"))


def test_files_without_use_are_refused(tiny, mined, tmp_path):
    with pytest.raises(BadInput, match=r"none\.jsonl: .*[Nn]o such file"):
        negatives.load_candidates(tmp_path / "none.jsonl", tiny, tiny.split("train"))
    write(tmp_path / "n.jsonl", tiny, *mined)
    with pytest.raises(BadInput, match="no negatives for the queries"):
        negatives.load_candidates(tmp_path / "n.jsonl", tiny, tiny.split("test"))

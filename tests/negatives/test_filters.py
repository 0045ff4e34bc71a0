"""Filters against loops over their definitions, what they refuse, and that no positive is ever mined."""

import collections
import dataclasses
import json
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import known_by_text, write_collection

from lib.data import collection as collection_
from lib.files import BadInput
from lib.negatives import filters
from lib.negatives.candidates import Candidates, drawn_candidates, random_docs
from lib.negatives.filters import apply, parse_filter
from lib.search.hits import Hits


def settings(examples):
    """As many examples, however long each takes."""
    return hypothesis.settings(max_examples=examples, deadline=None)


SLOTS = st.lists(
    st.tuples(st.integers(0, 39), st.integers(-8, 8), st.sampled_from([None, 0.0, 0.25, 0.5, 1.0])),
    max_size=7,
    unique_by=lambda slot: slot[0],
)


def candidates_of(lists, positives, *, source="dense"):
    """Candidates from [[(doc, score, teacher's score or None)]] and a positive's score for each list."""
    width = max(map(len, lists))
    docs = np.full((len(lists), width), -1, dtype=np.int32)
    scores, teacher = (np.full(docs.shape, np.nan, dtype=np.float32) for _ in range(2))
    for i, slots in enumerate(lists):
        for j, (doc, score, taught) in enumerate(slots):
            docs[i, j], scores[i, j] = doc, score
            teacher[i, j] = np.nan if taught is None else taught
    ranks = np.where(docs >= 0, 1 + np.arange(width), 0).astype(np.int32)
    positive = np.array(positives, dtype=np.float32)
    return Candidates(source, np.arange(len(lists)), docs, scores, positive, {}, ranks, teacher=teacher)


@st.composite
def mined(draw, low=-8, high=8):
    """Candidates with at least one doc; scores are small integers."""
    lists = draw(st.lists(SLOTS, min_size=1, max_size=5).filter(any))
    positives = st.lists(st.integers(low, high), min_size=len(lists), max_size=len(lists))
    return candidates_of(lists, draw(positives))


def slots_of(candidates):
    """[[(doc, score, rank, teacher's score or None)]], list by list."""
    arrays = (candidates.docs, candidates.scores, candidates.ranks, candidates.teacher)
    return [
        [
            (int(doc), float(score), int(rank), None if math.isnan(taught) else float(taught))
            for doc, score, rank, taught in zip(*row)
            if doc >= 0
        ]
        for row in zip(*arrays)
    ]


def quantile_of(values, level):
    """The quantile by linear interpolation between the sorted values."""
    values, at = sorted(values), level * (len(values) - 1)
    low, high = values[math.floor(at)], values[math.ceil(at)]
    return low + (high - low) * (at - math.floor(at))


#   text: keep(score, positive score, rank, teacher's score, all positive scores)
DEFINITIONS = {
    "window:3:5": lambda s, p, rank, taught, every: 3 <= rank <= 5,
    "window:1:1": lambda s, p, rank, taught, every: rank == 1,
    "max_score:2.5": lambda s, p, rank, taught, every: s <= 2.5,
    "max_score:-3": lambda s, p, rank, taught, every: s <= -3,
    "margin:0": lambda s, p, rank, taught, every: s < p,
    "margin:1.5": lambda s, p, rank, taught, every: s < p - 1.5,
    "margin:-2": lambda s, p, rank, taught, every: s < p + 2,
    "percpos:0.75": lambda s, p, rank, taught, every: s < (0.75 * p if p >= 0 else 1.25 * p),
    "percpos:1": lambda s, p, rank, taught, every: s < p,
    "quantile:0.5": lambda s, p, rank, taught, every: s <= quantile_of(every, 0.5),
    "quantile:0": lambda s, p, rank, taught, every: s <= min(every),
    "quantile:1": lambda s, p, rank, taught, every: s <= max(every),
    "denoise:0.25": lambda s, p, rank, taught, every: taught is None or taught <= 0.25,
}


@settings(60)
@hypothesis.given(candidates=mined(), text=st.sampled_from(sorted(DEFINITIONS)))
def test_filters_equal_their_definitions(candidates, text):
    every, before = candidates.positive.tolist(), slots_of(candidates)
    found = apply(candidates, [parse_filter(text)], None)
    keep = DEFINITIONS[text]
    wanted = [
        [slot for slot in slots if keep(slot[1], positive, slot[2], slot[3], every)]
        for slots, positive in zip(before, every)
    ]
    assert slots_of(found) == wanted
    for row, slots in zip(found.docs, wanted):  # closed up to the left
        assert (row[: len(slots)] >= 0).all() and (row[len(slots) :] == -1).all()
    there = found.docs >= 0
    assert np.isnan(found.scores[~there]).all() and (found.ranks[~there] == 0).all()
    assert found.dropped == {text: sum(map(len, before)) - sum(map(len, wanted))}
    assert slots_of(candidates) == before and candidates.dropped == {}  # what was given stays as it was


@settings(60)
@hypothesis.given(candidates=mined(), eighths=st.lists(st.integers(0, 8), min_size=2, max_size=2))
def test_a_lower_share_of_the_positive_keeps_no_more(candidates, eighths):
    low, high = (slots_of(apply(candidates, [parse_filter(f"percpos:{n / 8}")], None)) for n in sorted(eighths))
    assert all(set(a) <= set(b) for a, b in zip(low, high))


@settings(40)
@hypothesis.given(candidates=mined(low=1), eighths=st.integers(0, 8))
def test_a_share_of_a_score_above_zero_is_the_papers_threshold(candidates, eighths):
    share = eighths / 8
    wanted = [
        [slot for slot in slots if slot[1] < positive * share]
        for slots, positive in zip(slots_of(candidates), candidates.positive.tolist())
    ]
    assert slots_of(apply(candidates, [parse_filter(f"percpos:{share}")], None)) == wanted


def test_a_share_of_a_score_below_zero_lies_below_it():
    candidates = candidates_of([[(d, s, None) for d, s in enumerate((-1, -9, -10, -11, -12))]], [-10.0])
    assert [slot[1] for slot in slots_of(apply(candidates, [parse_filter("percpos:0.9")], None))[0]] == [-12]
    assert [slot[1] for slot in slots_of(apply(candidates, [parse_filter("percpos:1")], None))[0]] == [-11, -12]


@settings(60)
@hypothesis.given(
    candidates=mined(),
    level=st.sampled_from([0, 0.25, 0.5, 0.75, 1]),
    a=st.sampled_from([0.5, 2, 4]),
    b=st.integers(-20, 20),
)
def test_a_quantile_cares_for_no_rising_affine_map(candidates, level, a, b):
    mapped = dataclasses.replace(
        candidates,
        scores=(a * candidates.scores + b).astype(np.float32),
        positive=(a * candidates.positive + b).astype(np.float32),
    )
    each = [parse_filter(f"quantile:{level}")]
    found, wanted = apply(mapped, each, None), apply(candidates, each, None)
    assert (found.docs == wanted.docs).all() and found.dropped == wanted.dropped


def test_a_quantile_is_over_the_queries_that_have_a_positive():
    candidates = candidates_of([[(0, 5, None), (1, 3, None)], [(2, 5, None), (3, 1, None)]], [4.0, np.nan])
    found = apply(candidates, [parse_filter("quantile:0.5")], None)
    assert found.docs.tolist() == [[1, -1], [3, -1]]


@settings(60)
@hypothesis.given(candidates=mined(), texts=st.lists(st.sampled_from(sorted(DEFINITIONS)), min_size=1, max_size=5))
def test_what_is_dropped_and_what_is_kept_is_what_was_there(candidates, texts):
    before = sum(map(len, slots_of(candidates)))
    found = apply(candidates, list(map(parse_filter, texts)), None)
    assert set(found.dropped) == set(texts)
    assert sum(map(len, slots_of(found))) + sum(found.dropped.values()) == before


def test_a_filter_written_twice_counts_what_both_dropped():
    candidates = candidates_of([[(d, s, None) for d, s in enumerate((9, 7, 5, 3))]], [6.0])
    found = apply(candidates, [parse_filter("margin:0")] * 2, None)
    assert found.docs.tolist() == [[2, 3, -1, -1]] and found.dropped == {"margin:0": 2}


def test_a_filter_has_nothing_to_do_where_nothing_is_left():
    candidates = candidates_of([[(1, 9, None)]], [6.0])
    found = apply(candidates, [parse_filter("margin:0"), parse_filter("percpos:0.9")], None)
    assert found.dropped == {"margin:0": 1, "percpos:0.9": 0} and (found.docs == -1).all()


def test_each_filter_sees_what_the_ones_before_it_left():
    candidates = candidates_of([[(d, s, None) for d, s in enumerate((9, 7, 5, 3))]], [6.0])
    found = apply(candidates, [parse_filter("margin:0"), parse_filter("window:2:3")], None)
    assert found.docs.tolist() == [[2, -1, -1, -1]]  # the ranks are those of the mining
    assert found.dropped == {"margin:0": 2, "window:2:3": 1}
    assert apply(candidates, [], None) is candidates


def test_all_that_belongs_to_a_candidate_moves_with_it():
    candidates = candidates_of([[(4, 9, 0.1), (5, 1, 0.2), (6, 9, 0.3), (7, 2, 0.4)]], [5.0], source="file")
    candidates.origin, candidates.origins = np.array([[0, 1, 1, 0]], dtype=np.int8), ("bm25", "dense")
    found = apply(candidates, [parse_filter("denoise:0.35")], None)
    found = found.keep(found.scores < 5, depth=3)
    assert found.docs.tolist() == [[5, -1, -1]] and found.scores[0, 0] == 1 and found.ranks[0, 0] == 2
    assert found.origin[0, 0] == 1 and found.origin.dtype == np.int8
    assert found.teacher[0, 0] == pytest.approx(0.2) and found.docs.dtype == np.int32


def test_a_list_is_cut_to_its_depth():
    candidates = candidates_of([[(d, -d, None) for d in range(6)], [(7, 0, None)]], [0.0, 0.0])
    mask = (candidates.docs >= 0) & (candidates.docs != 1)
    assert candidates.keep(mask, depth=3).docs.tolist() == [[0, 2, 3], [7, -1, -1]]
    assert candidates.keep(mask).docs[0].tolist() == [0, 2, 3, 4, 5, -1]


# ---------------------------------------------------------------------------------------- never a positive


@st.composite
def worlds(draw):
    """Docs with copies, queries with copies, judgements in two splits."""
    texts = draw(st.lists(st.integers(0, 8), min_size=3, max_size=14))
    docs = {f"d{i}": f"text number {text}" for i, text in enumerate(texts)}
    asked = draw(st.lists(st.integers(0, 4), min_size=2, max_size=6))
    queries = {f"q{i}": f"query number {text}" for i, text in enumerate(asked)}
    judged = st.dictionaries(st.sampled_from(sorted(docs)), st.integers(0, 2), min_size=1, max_size=3)
    qrels = {"train": [], "dev": []}
    for number, qid in enumerate(queries):
        grades = draw(judged)
        grades[min(grades)] = 1
        qrels["dev" if number == 1 else "train"] += [(qid, doc, grade) for doc, grade in grades.items()]
    return docs, queries, qrels


@settings(30)
@hypothesis.given(world=worlds(), depth=st.integers(1, 15), seed=st.integers(0, 99))
def test_no_positive_is_ever_mined(tmp_path_factory, world, depth, seed):
    collection = collection_.load_collection(write_collection(tmp_path_factory.mktemp("made") / "made", *world))
    random, rows = np.random.default_rng(seed), collection.split("train").queries
    found = np.stack([random.permutation(len(collection.docs)) for _ in rows])
    found[:, len(found[0]) - random.integers(0, 3) :] = -1
    scores = -np.sort(-random.random(found.shape), axis=1).astype(np.float32)
    known = np.where(collection.known_docs(rows) >= 0, 0.5, np.nan).astype(np.float32)
    hits = Hits(scores, found, known)
    mined = Candidates.from_hits(collection, rows, hits, source="dense", count=depth)
    known, text = known_by_text(collection), collection.docs.text
    for row, fetched, docs in zip(rows, found, mined.docs):
        positives = known[collection.queries.text(row)]
        free = list(dict.fromkeys(text(doc) for doc in fetched if doc >= 0 and text(doc) not in positives))
        assert [text(doc) for doc in docs if doc >= 0] == free[:depth]
    assert (mined.docs >= 0).sum() + sum(mined.dropped.values()) == (found >= 0).sum()


# ---------------------------------------------------------------------------------------------------- answers


def listed(collection, lists, *, queries):
    """Candidates with docs by id, without scores."""
    rows = [[(collection.docs.row_of[doc], 0, None) for doc in docs] for docs in lists]
    found = candidates_of(rows, [0.0] * len(rows))
    return dataclasses.replace(found, queries=np.array([collection.queries.row_of[qid] for qid in queries]))


def ids(collection, candidates):
    """[[id of doc]] of Candidates."""
    return [[collection.docs.ids[doc] for doc in row if doc >= 0] for row in candidates.docs]


def asked(place, docs, queries):
    """A collection of docs {id: text} whose queries have further keys: {id: {key: value}}."""
    texts = {qid: f"question {qid}" for qid in queries}
    qrels = {"train": [(qid, "positive", 1) for qid in queries]}
    folder = write_collection(place / "asked", docs | {"positive": "the answer itself"}, texts, qrels)
    lines = [json.dumps({"_id": qid, "text": texts[qid]} | more) + "\n" for qid, more in queries.items()]
    (folder / "queries.jsonl").write_text("".join(lines), encoding="utf-8")
    return collection_.load_collection(folder)


ANSWERED = {
    "cat": "The Cat, as ever, sat.",
    "concatenate": "They concatenate lists; a bobcat did not.",
    "york": "He came to new-YORK by ship",
    "apart": "new roads lead to york",
    "end": "All roads lead to rome",
}


@pytest.mark.parametrize(
    "answers, left",
    [
        (["cat"], ["concatenate", "york", "apart", "end"]),
        (["New York", "Rome"], ["cat", "concatenate", "apart"]),
        (["concat", "bob"], list(ANSWERED)),
        (["as ever", "they CONCATENATE"], ["york", "apart", "end"]),
        (["?!", ""], list(ANSWERED)),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["record", "metadata"])
def test_answers_are_found_as_whole_words(tmp_path, answers, left, place):
    own = {"answers": answers} if place == "record" else {"metadata": {"answers": answers}}
    collection = asked(tmp_path, ANSWERED, {"q": own, "none": {}})
    candidates = listed(collection, [list(ANSWERED), ["cat", "end"]], queries=["q", "none"])
    found = apply(candidates, [parse_filter("answer")], collection)
    assert ids(collection, found) == [left, ["cat", "end"]]
    assert found.dropped == {"answer": 5 - len(left)}


@pytest.mark.parametrize("answers", ["Rome", 7, [7], {"a": 1}, [["Rome"]]], ids=str)
def test_an_answer_that_is_no_list_of_strings_is_refused_or_taken_whole(tmp_path, answers):
    docs = {"letters": "e m o r", "end": "all roads lead to rome 7"}
    collection = asked(tmp_path, docs, {"q": {"answers": answers}})
    try:
        found = apply(listed(collection, [list(docs)], queries=["q"]), [parse_filter("answer")], collection)
    except BadInput as refused:
        assert "answers" in str(refused)
    else:
        assert ids(collection, found) == [["letters"]]


def test_a_split_without_answers_is_refused(tmp_path):
    collection = asked(tmp_path, ANSWERED, {"q": {"answers": []}, "r": {"metadata": {"answer": ["cat"]}}})
    candidates = listed(collection, [["cat"], ["end"]], queries=["q", "r"])
    with pytest.raises(BadInput, match='filter answer: no query .* has "answers"'):
        apply(candidates, [parse_filter("answer")], collection)


# --------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("nothing:1", "'nothing' is none of window:FIRST:LAST, max_score:X"),
        ("window", "write window:FIRST:LAST, with a number for each letter"),
        ("window:1.5:3", "1.5: must be a whole number"),
        ("window:-1:3", "-1: must be at least 0"),
        ("answer:1", "write answer, with a number"),
        ("quantile:1.5", "1.5: must be at most 1"),
        ("percpos:95", "95: must be at most 1"),
        ("near_copy:-0.5", "-0.5: must be at least 0"),
        ("denoise:1.01", "1.01: must be at most 1"),
        ("margin:nan", "nan: must be a number"),
        ("max_score:inf", "inf: must be a number"),
    ],
)
def test_wrong_filters_are_refused(text, wanted):
    with pytest.raises(BadInput) as refused:
        parse_filter(text)
    assert str(refused.value).startswith(f"{text}: ") and wanted in str(refused.value)


def test_filters_keep_their_numbers():
    assert parse_filter("window:11:30").numbers == (11, 30)
    assert parse_filter("percpos:.95").numbers == (0.95,) and parse_filter("answer").numbers == ()
    assert {text.split(":")[0] for text in DEFINITIONS} | {"near_copy", "answer", "not_same"} <= set(filters.FILTERS)


@pytest.mark.parametrize("text", ["max_score:1", "margin:1", "percpos:0.9", "quantile:0.5"])
def test_scores_that_are_not_there_cannot_be_compared(tiny, text):
    random = drawn_candidates("random", random_docs, tiny, tiny.split("train").queries, 5, seed=0)
    with pytest.raises(BadInput, match=f"--filters {text}: needs scores, and random has none"):
        apply(random, [parse_filter(text)], tiny)
    both = candidates_of([[(1, 5, None), (2, 3, None)]], [4.0], source="file")
    both.origins, both.origin = ("bm25", "dense"), np.array([[0, 1]], dtype=np.int8)
    with pytest.raises(BadInput, match=f"--filters {text}: bm25, dense score on scales of their own"):
        apply(both, [parse_filter(text)], tiny)
    both.origins = ("bm25",)
    apply(both, [parse_filter(text)], tiny)


@pytest.mark.parametrize("text", ["margin:1", "percpos:0.9", "quantile:0.5"])
def test_positive_scores_that_are_not_there_cannot_be_compared(text):
    candidates = candidates_of([[(1, 5, None), (2, 3, None)]], [np.nan])
    with pytest.raises(BadInput, match=f"{text}: needs scores of the positives, and dense has none"):
        apply(candidates, [parse_filter(text)], None)


@pytest.mark.parametrize("text", ["margin:1", "percpos:0.9"])
def test_a_query_without_a_score_of_its_positive_loses_nothing(text):
    lists = [[(1, 5, None), (2, 3, None)], [(1, 5, None), (2, 3, None)]]
    found = apply(candidates_of(lists, [4.0, np.nan]), [parse_filter(text)], None)
    wanted = [[(2, 3.0, 2, None)][: text == "percpos:0.9"], [(1, 5.0, 1, None), (2, 3.0, 2, None)]]
    assert slots_of(found) == wanted and found.dropped == {text: 2 - len(wanted[0])}


def test_denoising_needs_a_teacher(tiny):
    candidates = dataclasses.replace(candidates_of([[(1, 5, None)]], [4.0]), teacher=None)
    with pytest.raises(BadInput, match="denoise goes by a cross-encoder"):
        apply(candidates, [parse_filter("denoise:0.1")], tiny)


@pytest.mark.parametrize("times", [1, 1.5, 2, 5])
def test_balance_keeps_a_doc_in_the_lists_that_rank_it_best(tiny, times):
    collection = tiny
    train, random = collection.split("train"), np.random.default_rng(0)
    docs = random.permuted(np.tile(np.arange(len(collection.docs)), (len(train), 1)), axis=1)[:, :8]
    found = Candidates("dense", train.queries, docs).admit(collection)
    kept = apply(found, [parse_filter(f"balance:{times}")], collection)
    answers = collections.Counter()
    for i in range(len(train)):
        own = {collection.docs.groups[doc] for doc in train.positives(i)}
        answers.update(dict.fromkeys(own, 1 / len(own)))
    for doc in np.unique(collection.docs.groups):
        stands = [np.argwhere(collection.docs.groups[each.docs] == doc) for each in (found, kept)]
        stands = [places[each.docs[tuple(places.T)] >= 0] for places, each in zip(stands, (found, kept))]
        ranks = [sorted(each.ranks[tuple(places.T)].tolist()) for places, each in zip(stands, (found, kept))]
        assert ranks[1] == ranks[0][: math.ceil(times * answers[doc] - 1e-9)]

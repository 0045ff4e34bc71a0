"""The audit: what hiding does to a collection, and how far its estimates can be trusted."""

import json

import numpy as np
import pytest

from lib.data import collection as collection_
from lib.files import BadInput
from lib.negatives import audit
from lib.negatives import candidates as candidates_

QUERIES, DEPTH = 300, 12


def simulate(seed, *, share=0.5, found=0.4, queries=QUERIES, false=0.0):
    """Made-up candidates in which hidden positives are known; (candidates, is_hidden(), truly positive).

    A query has a hidden positive with probability `share`, which stands among its 4 ... DEPTH candidates with
    probability `found`. A share `false` of the others are positives that nobody labelled. All positives
    have margins s - s+ of N(0, 1), true negatives of N(-3, 1).
    """
    random = np.random.default_rng(seed)
    docs = np.arange(queries * DEPTH, dtype=np.int32).reshape(queries, DEPTH)
    docs[np.arange(DEPTH) >= random.integers(4, DEPTH + 1, size=queries)[:, None]] = -1
    has = random.random(queries) < share
    inside = random.random(queries) < found
    place = random.integers(0, 4, size=queries)
    rows = np.arange(queries)
    hidden_docs = np.where(inside, docs[rows, place], queries * DEPTH + rows)
    hidden = np.stack([rows, hidden_docs], axis=1)[has].astype(np.int64)
    is_hidden = np.zeros(docs.shape, dtype=bool)
    is_hidden[rows[has & inside], place[has & inside]] = True
    unlabelled = (random.random(docs.shape) < false) & ~is_hidden & (docs >= 0)
    positive = random.normal(5, 2, size=queries).astype(np.float32)
    margin = random.normal(size=docs.shape) - 3 * ~(is_hidden | unlabelled)
    scores = np.where(docs >= 0, positive[:, None] + margin, np.nan).astype(np.float32)
    ranks = np.where(docs >= 0, np.arange(1, DEPTH + 1), 0).astype(np.int32)
    candidates = candidates_.Candidates("made", rows, docs, scores, positive, {}, ranks)
    groups = np.arange(queries * (DEPTH + 1), dtype=np.int32)
    seen = audit.is_hidden(candidates, hidden, groups)
    np.testing.assert_array_equal(seen, is_hidden)
    return candidates, seen, unlabelled


# -------------------------------------------------------------------------------------------------- estimates


@pytest.mark.parametrize("share, found", [(0.3, 0.1), (0.5, 0.4), (1.0, 0.9)])
def test_the_interval_covers_the_planted_rate(share, found):
    covered, widths, rates = 0, [], []
    for seed in range(100):
        candidates, seen, _ = simulate(seed, share=share, found=found)
        planted = share * found * QUERIES / (candidates.docs >= 0).sum()
        row = audit.estimate(candidates, seen, share=share)
        low, high = row["interval"]
        assert low <= row["rate"] <= high
        assert row["per_unlabelled"] == pytest.approx(row["rate"] / share)
        covered += low <= planted <= high
        widths.append((high - low) / planted)
        rates.append(row["rate"] / planted)
    assert 90 <= covered <= 99  # an interval that always covers says too little
    assert np.mean(rates) == pytest.approx(1, abs=0.1) and np.mean(widths) < 1.6


def test_half_as_many_unlabelled_positives_are_not_found():
    """An interval around half of what was planted would cover seldom: the coverage above can fail."""
    covered = 0
    for seed in range(100):
        candidates, seen, _ = simulate(seed)
        low, high = audit.estimate(candidates, seen, share=0.5)["interval"]
        covered += low <= 0.5 * 0.5 * 0.4 * QUERIES / (candidates.docs >= 0).sum() <= high
    assert covered < 10


def test_an_oracle_leaves_a_rate_of_exactly_zero():
    for seed in range(20):
        candidates, seen, _ = simulate(seed)
        before = audit.estimate(candidates, seen, share=0.5)
        assert before["hidden"] == seen.sum() > 0
        clean = candidates.keep((candidates.docs >= 0) & ~seen)
        hidden = np.stack([candidates.queries, np.where(seen, candidates.docs, -1).max(1)], axis=1)
        groups = np.arange(QUERIES * (DEPTH + 1))
        row = audit.estimate(clean, audit.is_hidden(clean, hidden[seen.any(1)], groups), share=0.5, before=before)
        assert (row["rate"], row["hidden"], row["per_unlabelled"], row["interval"][0]) == (0, 0, 0, 0)
        assert (row["caught"], row["cost"]) == (1, 0)
        assert row["negatives"] == before["negatives"] - before["hidden"]
        assert 0 < row["interval"][1] < before["interval"][0]


def test_what_a_filter_caught_and_cost():
    candidates, seen, _ = simulate(3)
    before = audit.estimate(candidates, seen, share=0.5)
    drop = np.zeros_like(seen)
    drop[: QUERIES // 2, 1] = True
    kept = candidates.keep((candidates.docs >= 0) & ~drop)
    front = np.argsort((candidates.docs < 0) | drop, axis=1, kind="stable")
    left = np.take_along_axis(seen & ~drop, front, 1)
    row = audit.estimate(kept, left & (kept.docs >= 0), share=0.5, before=before)
    assert row["caught"] == pytest.approx((seen & drop).sum() / seen.sum())
    assert row["cost"] == pytest.approx((~seen & drop).sum() / ((candidates.docs >= 0) & ~seen).sum())


def test_copies_of_a_hidden_doc_are_hidden_for_its_query_alone():
    docs = np.array([[3, 4, -1], [3, 5, 4]], dtype=np.int32)
    none = np.full(docs.shape, np.nan, dtype=np.float32)
    ranks = np.ones_like(docs)
    candidates = candidates_.Candidates("made", np.array([7, 9]), docs, none, none[:, 0], {}, ranks)
    groups = np.array([0, 1, 2, 3, 3, 5, 0])  # 3 and 4 have the same text
    found = audit.is_hidden(candidates, np.array([[7, 4], [8, 5]]), groups)
    assert found.tolist() == [[True, True, False], [False] * 3]


def test_bands_add_up():
    candidates, seen, _ = simulate(1)
    rows = dict(audit.bands(candidates, seen, share=0.5))
    assert list(rows) == ["1-10", "11-30"]
    whole = audit.estimate(candidates, seen, share=0.5)
    for key in ("negatives", "hidden"):
        assert sum(row[key] for row in rows.values()) == whole[key]
    assert rows["11-30"]["hidden"] == 0 and rows["1-10"]["hidden"] == seen.sum()


@pytest.mark.parametrize("false", [0.02, 0.1, 0.3, 0.6])
def test_the_bound_holds_for_positives_like_the_hidden_ones(false):
    held, bounds = 0, []
    for seed in range(100):
        candidates, seen, unlabelled = simulate(seed, found=0.8, false=false)
        there = candidates.docs >= 0
        bound = audit.upper_bound(candidates, seen, there)
        held += bound >= unlabelled.sum() / (there & ~seen).sum()
        bounds.append(bound)
    assert held >= 90
    assert max(bounds) < min(1, 1.5 * false + 0.15)  # well below 1: it says something


def test_without_enough_to_compare_the_bound_is_one():
    candidates, seen, _ = simulate(0, found=0.8)
    there = candidates.docs >= 0
    few = seen & (np.cumsum(seen.any(1)) <= 19)[:, None]
    enough = seen & (np.cumsum(seen.any(1)) <= 20)[:, None]
    assert audit.upper_bound(candidates, few, there) == 1
    assert audit.upper_bound(candidates, enough, there) < 1
    candidates.scores[:] = np.nan
    assert audit.upper_bound(candidates, seen, there) == 1


@pytest.mark.parametrize(
    "count, n, low, high",
    [  # Newcombe (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(count, n, low, high):
    assert audit.interval(count, n) == pytest.approx((low, high), abs=5e-5)


# ----------------------------------------------------------------------------------------------------- hiding


def hidden_ids(collection, hidden):
    """[(qid, doc id)] of rows."""
    return [(collection.queries.ids[q], collection.docs.ids[d]) for q, d in hidden.tolist()]


@pytest.mark.parametrize("split, share", [("train", 1.0), ("train", 0.5), ("dev", 1.0)])
def test_hiding_leaves_the_rest_as_it_is(collection, split, share):
    audited, hidden = audit.hide(collection, split, share, seed=3)
    assert audited.fingerprint != collection.fingerprint
    assert audited.queries.ids == collection.queries.ids
    assert audited.docs.ids[: len(collection.docs)] == collection.docs.ids
    assert audited.docs.texts(range(len(collection.docs))) == collection.docs.texts()
    assert len(hidden) == len({query for query, _ in hidden.tolist()}) > 0
    assert not audited.known_positive(hidden[:, 0], hidden[:, 1:]).any()
    pairs = hidden_ids(audited, hidden)
    for name in collection.qrels:
        before, after = collection.qrels_dict(name), audited.qrels_dict(name)
        assert list(before) == list(after)
        gone = {(q, d): grade for q in before for d, grade in before[q].items() if d not in after[q]}
        assert all(before[q][d] == grade for q in after for d, grade in after[q].items())
        assert all(grade >= 1 for grade in gone.values())
        if name != split:
            assert not gone
    judged = collection.qrels_dict(split)
    positives = {qid: [d for d, grade in grades.items() if grade >= 1] for qid, grades in judged.items()}
    for qid, doc in pairs:
        if len(positives[qid]) > 1:
            assert doc in positives[qid] and doc not in audited.qrels_dict(split)[qid]
        else:
            assert doc not in collection.docs.row_of
            assert doc.startswith(positives[qid][0])
    planted = audited.docs.ids[len(collection.docs) :]
    picked = len(gone_of(collection, audited, split)) + len(planted)
    assert picked == len(judged) if share == 1 else 0.2 * len(judged) < picked < 0.8 * len(judged)


def gone_of(collection, audited, split):
    """The judgements that hiding removed."""
    before, after = collection.qrels_dict(split), audited.qrels_dict(split)
    return [(q, d) for q in before for d in before[q] if d not in after[q]]


def test_a_single_positive_gets_an_edited_copy(tiny):
    audited, hidden = audit.hide(tiny, "train", 1.0, seed=0)
    several = {"q06", "q14", "q32"}
    pairs = dict(hidden_ids(audited, hidden))
    assert set(pairs) == set(tiny.qrels_dict("train"))  # every query lost one or got one
    assert {qid for qid, _ in gone_of(tiny, audited, "train")} == several
    lost = total = 0
    for qid in set(pairs) - several:
        (original,) = (d for d, grade in tiny.qrels_dict("train")[qid].items() if grade >= 1)
        old, new = (
            collection.docs.record(collection.docs.row_of[ident])
            for collection, ident in ((tiny, original), (audited, pairs[qid]))
        )
        assert new["title"] == old["title"] and new["text"] != old["text"]
        words = iter(old["text"].split(" "))
        assert all(word in words for word in new["text"].split(" "))  # the same words in the same order
        total += len(old["text"].split(" "))
        lost += len(old["text"].split(" ")) - len(new["text"].split(" "))
    assert lost / total == pytest.approx(audit.EDITED, abs=0.04)


def contents(folder):
    """{path below the folder: bytes} of all files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_seed_decides_every_byte(tiny, tmp_path, monkeypatch):
    found = []
    for number, seed in enumerate([0, 0, 1]):
        monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / str(number)))
        audited, hidden = audit.hide(tiny, "train", 0.6, seed=seed)
        found.append((contents(audited.docs.path.parent), hidden.tolist()))
    assert set(found[0][0]) == {
        "corpus.jsonl",
        "queries.jsonl",
        "hidden.jsonl",
        "qrels/train.tsv",
        "qrels/dev.tsv",
        "qrels/test.tsv",
    }
    assert found[0] == found[1]
    assert found[0][0]["hidden.jsonl"] != found[2][0]["hidden.jsonl"]
    again, hidden = audit.hide(tiny, "train", 0.6, seed=1)  # the cached one
    assert hidden.tolist() == found[2][1]
    assert len(list((tmp_path / "2/audit").iterdir())) == 1


def test_a_corpus_without_a_final_newline(folder):
    path = folder / "corpus.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    collection = collection_.load_collection(str(folder))
    audited, hidden = audit.hide(collection, "train", 1.0, seed=0)
    assert len(audited.docs) == 40 + 33 and len(hidden) == 36
    assert audited.docs.texts(range(40)) == collection.docs.texts()


def test_docs_may_have_a_title_alone(folder):
    path = folder / "corpus.jsonl"
    docs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    docs = [{"_id": doc["_id"], "title": doc["text"]} for doc in docs]
    path.write_text("".join(json.dumps(doc) + "\n" for doc in docs), encoding="utf-8")
    audited, _ = audit.hide(collection_.load_collection(str(folder)), "train", 1.0, seed=0)
    assert len(audited.docs) >= 40


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_a_bad_share_is_refused(tiny, share):
    with pytest.raises(BadInput, match="--audit"):
        audit.hide(tiny, "train", share, seed=0)


def test_edits_leave_a_word():
    texts = ["one", "  indented", "a b", "x\ny z", " ".join(map(str, range(200)))]
    for text in texts:
        edits = [audit.edited(text, seed, 5) for seed in range(200)]
        assert edits == [audit.edited(text, seed, 5) for seed in range(200)]
        assert all(edit.split() for edit in edits), text
    assert len(set(edits)) == 200


# ---------------------------------------------------------------------------------------------------- reports


def test_the_table():
    candidates, seen, _ = simulate(0)
    whole = audit.estimate(candidates, seen, share=0.5)
    table = audit.table(
        [
            ("bm25", "none", "all", whole),
            ("bm25", "x:1", "all", audit.estimate(candidates, seen, share=0.5, before=whole)),
        ]
    )
    head, rule, *rows = (line.strip("| ").split(" | ") for line in table.splitlines())
    assert len(rows) == 2 and len(head) == len(rule) == len(rows[1]) == 10
    assert rows[0][:5] == ["bm25", "none", "all", f"{whole['negatives']:,}", f"{whole['hidden']:,}"]
    assert rows[0][5].startswith(f"{whole['rate']:.3%} [") and rows[1][-2:] == ["0.0%", "0.0%"]


def listed(collection, docs, scores):
    """Candidates of the first queries."""
    docs, scores = np.array(docs, dtype=np.int32), np.array(scores, dtype=np.float32)
    positive = np.arange(len(docs), dtype=np.float32)
    return candidates_.Candidates(
        "made", np.arange(len(docs)), docs, scores, positive, {}, np.where(docs >= 0, 3, 0).astype(np.int32)
    )


def test_the_page_shows_the_highest_margins_first(tiny):
    candidates = listed(tiny, [[10, 11, 12], [13, 14, 15]], [[5, 4, 3], [5.5, 4.5, 9]])
    page = audit.page(candidates, candidates.docs == 14, tiny, count=4)
    shown = [line for line in page.splitlines() if "rank 3" in line]
    order = [15, 10, 13, 11]
    assert len(shown) == 4 and "The 4 hardest negatives by made" in page
    for line, row in zip(shown, order):
        assert tiny.docs.text(row)[:40] in line and line.strip().startswith("negative")
    marked = audit.page(candidates, candidates.docs == 13, tiny, count=4)
    assert [line.strip().startswith("*hidden") for line in marked.splitlines() if "rank 3" in line] == [
        False, False, True, False,
    ]  # fmt: skip
    assert tiny.docs.text(tiny.docs.row_of["c01"])[:40] in page  # the positive of the first query


@pytest.mark.parametrize("scored", [True, False])
def test_the_page_shows_candidates_alone(tiny, scored):
    """Fewer than the page has room for, in lists that end early: the missing ones are no docs."""
    scores = [[5, np.nan], [np.nan, np.nan], [4, 3]] if scored else np.full((3, 2), np.nan)
    candidates = listed(tiny, [[10, -1], [-1, -1], [11, 12]], scores)
    page = audit.page(candidates, candidates.docs == 99, tiny, count=30)
    assert page.count("**") == 3 * 2
    assert tiny.docs.text(39)[:40] not in page and "rank 0" not in page


def test_docs_without_a_rank_are_in_no_band_of_ranks(tiny):
    rows = tiny.split("train").queries
    candidates = candidates_.drawn_candidates("random", candidates_.random_docs, tiny, rows, 5, seed=0)
    labels = [label for label, _ in audit.bands(candidates, candidates.docs == 3, share=0.5)]
    assert "1-10" not in labels


def test_nothing_hidden_nothing_caught():
    """Where no hidden doc came up, a filter cannot have caught all of them."""
    candidates, seen, _ = simulate(0, found=0.0)
    assert not seen.any()
    before = audit.estimate(candidates, seen, share=0.5)
    row = audit.estimate(candidates, seen, share=0.5, before=before)
    assert row.get("caught") != 1
    json.dumps(row, allow_nan=False)


def test_texts_have_no_effect_on_the_page():
    shown = audit._short("a <script>x</script> ![b](http://c) *d* `e` \x1b[0m")
    assert "<script>" not in shown and "\\!\\[b\\]" in shown and "\\*d\\*" in shown and "\x1b" not in shown

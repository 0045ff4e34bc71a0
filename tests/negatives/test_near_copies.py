"""Near-copies: signatures that estimate how alike two texts are, and the filter that drops them."""

import numpy as np
import pytest
from conftest import known_by_text, write_collection
from test_filters import candidates_of, ids, listed

from lib.data import collection as collection_
from lib.negatives import near_copies
from lib.negatives.filters import apply, parse_filter


def words(n, seed):
    """n made-up words."""
    random = np.random.default_rng(seed)
    return ["".join(random.choice(list("abcdefghij"), size=6)) for _ in range(n)]


def jaccard(a, b):
    """The share of 3-word shingles that two lists of words have in common."""
    a, b = ({tuple(x[i : i + 3]) for i in range(len(x) - 2)} for x in (a, b))
    return len(a & b) / len(a | b)


@pytest.mark.parametrize("changed", [0, 1, 2, 4, 8, 15, 30, 80])
@pytest.mark.parametrize("seed", range(4))
def test_signatures_estimate_jaccard_similarity(seed, changed):
    first, other = words(80, seed), words(80, 100 + seed)
    second = list(first)
    for at in np.random.default_rng(seed).permutation(80)[:changed]:
        second[at] = other[at]
    a, b = (near_copies.signature(" ".join(part)) for part in (first, second))
    assert a.shape == (near_copies.HASHES,) and a.dtype == np.uint32
    estimate = (a == b).mean()
    assert estimate == pytest.approx(jaccard(first, second), abs=0.15)
    assert (estimate == 1) == (changed == 0)


def test_signatures_are_of_words_in_order():
    same = near_copies.signature("The quick, brown fox: jumps!")
    assert (near_copies.signature("  the QUICK brown\nfox jumps ") == same).all()
    assert (near_copies.signature("jumps fox brown quick the") == same).mean() < 0.1
    part = near_copies.signature("a b c d e f a b c d e f")  # a shingle counts once
    assert (part == near_copies.signature("a b c d e f a b c d e f a b c d e f")).all()
    short = [near_copies.signature(text) for text in ("", "one", "two", "one two", "two one", "one two three")]
    for i, a in enumerate(short):
        assert all((a == b).mean() < 0.1 for b in short[:i])


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A query with two positives, near-copies of both, an unrelated doc; one of the positives is in dev."""
    text, more = words(60, 1), words(60, 2)
    docs = {
        "p": " ".join(text),
        "p-word": " ".join([*text[:30], "changed", *text[31:]]),
        "p-half": " ".join([*text[:30], *words(30, 3)]),
        "r": " ".join(more),
        "r-word": " ".join([*more[:59], "changed"]),
        "else": " ".join(words(60, 4)),
        "s": "one two",
        "s-more": "one two two",
    }
    queries = {"q": "which one", "same": "which one", "other": "what is it"}
    qrels = {"train": [("q", "p", 1), ("other", "s", 1)], "dev": [("same", "r", 1)]}
    folder = tmp_path_factory.mktemp("data") / "copied"
    return collection_.load_collection(write_collection(folder, docs, queries, qrels))


def test_near_copies_of_any_known_positive_are_found(copied):
    docs = ["p-word", "else", "p-half", "r-word", "s-more"]
    candidates = listed(copied, [docs, docs], queries=["q", "other"])
    found = apply(candidates, [parse_filter("near_copy:0.7")], copied)
    assert ids(copied, found) == [["else", "p-half", "s-more"], docs]  # each against its own positives alone
    assert found.dropped == {"near_copy:0.7": 2}
    found = apply(candidates, [parse_filter("near_copy:0.2")], copied)  # half a doc: 28 of 88 shingles
    assert ids(copied, found) == [["else", "s-more"], docs]


@pytest.mark.parametrize("similarity, wanted", [(0.7, 2), (0.31, 3), (0.32, 2), (1.0, 0)])
def test_the_share_of_near_copies_is_exact(copied, similarity, wanted):
    docs = ["p-word", "else", "p-half", "r-word", "s-more"]  # p-half shares 28 of 88 shingles: .318
    candidates = listed(copied, [docs, docs, []], queries=["q", "other", "q"])
    found = near_copies.share_of_near_copies(candidates, copied, similarity=similarity)
    assert found == {"positive": wanted / 10, "query": 0}
    nothing = near_copies.share_of_near_copies(listed(copied, [[], []], queries=["q", "other"]), copied)
    assert nothing == {"positive": None, "query": None}


@pytest.mark.parametrize("similarity", [0.05, 0.2, 0.5, 1.0])
def test_near_copies_equal_a_loop_over_signatures(collection, similarity):
    rows = np.arange(len(collection.queries))
    docs = np.random.default_rng(0).integers(len(collection.docs), size=(len(rows), 9))
    candidates = candidates_of([[(doc, 0, None) for doc in row] for row in docs], [0.0] * len(rows))
    found = apply(candidates, [parse_filter(f"near_copy:{similarity}")], collection)
    known, text = known_by_text(collection), collection.docs.text
    signature = {text: near_copies.signature(text) for text in collection.docs.texts()}
    dropped = 0
    for row, before, after in zip(rows, docs, found.docs):
        positives = known.get(collection.queries.text(row), ())
        near = [
            any((signature[text(doc)] == signature[positive]).mean() >= similarity for positive in positives)
            for doc in before
        ]
        dropped += sum(near)
        assert after[after >= 0].tolist() == before[~np.array(near)].tolist()
    assert 0 < dropped < docs.size


def test_signatures_are_made_once(copied, monkeypatch):
    first = near_copies.minhash(copied.docs)
    monkeypatch.setattr(near_copies, "signature", lambda text: pytest.fail("made again"))
    assert (near_copies.minhash(copied.docs) == first).all() and first.shape == (8, near_copies.HASHES)

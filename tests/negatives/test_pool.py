"""Which docs may be negatives: the pools, what they leak, and that every source keeps to them."""

import numpy as np
import pytest
from conftest import make_encoder, write_collection

from lib.data.collection import load_collection
from lib.files import BadInput
from lib.model.embedder import Embedder
from lib.model.encoder import averaged_twin
from lib.negatives.candidates import drawn_candidates
from lib.negatives.pool import EVERYTHING, Pool, advise, describe_pool, held_out, labelled, open_pool
from lib.negatives.sources import SOURCES, Miner

DOCS = 140


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    """140 docs: 60 labelled in training, 20 of dev, 20 of test, 40 of nobody; the last is a copy of the first."""
    docs = {f"d{i}": f"doc about topic {i % 7} and word{i} word{i * 3}" for i in range(DOCS)}
    docs[f"d{DOCS - 1}"] = docs["d0"]
    queries = {f"q{i}": f"topic {i % 7} word{i}" for i in range(100)}
    splits = {"train": range(60), "dev": range(60, 80), "test": range(80, 100)}
    qrels = {split: [(f"q{i}", f"d{i}", 1) for i in rows] for split, rows in splits.items()}
    return load_collection(write_collection(tmp_path_factory.mktemp("data") / "pools", docs, queries, qrels))


def file_of(folder, rows):
    path = folder / "docs.txt"
    path.write_text("".join(f"d{row}\n" for row in rows))
    return path


def test_labelled_and_held_out_docs(collection):
    assert np.flatnonzero(labelled(collection)).tolist() == [*range(60), DOCS - 1]  # a copy of a positive is one
    assert np.flatnonzero(held_out(collection)).tolist() == [*range(60, 100)]


def test_the_three_pools(collection, tmp_path):
    assert open_pool("all", collection) is EVERYTHING
    assert open_pool("labelled", collection).rows.tolist() == [*range(60), DOCS - 1]
    rows = [*range(0, DOCS, 2)]  # knows nothing of the labels
    pool = open_pool(file_of(tmp_path, rows), collection)
    assert pool.rows.tolist() == rows and not pool.leaks
    found = describe_pool(pool, collection)
    assert (
        found["docs"] == 70
        and found["share_of_corpus"] == 0.5
        and found["held_out"] == pytest.approx(20 / 70, abs=1e-4)
    )


@pytest.mark.parametrize(
    "name, share, advised",
    [
        ("labelled", 0.8, ""),
        ("labelled", 0.1, "all had more MRR@10"),
        ("all", 0.1, "labelled was better or level"),
        ("all", 0.8, "labelled was better or level"),
        ("all", 1.0, ""),
    ],
)
def test_labelled_docs_are_advised_where_the_corpus_has_others(name, share, advised):
    line = advise({"name": name, "docs": 1234, "labelled_docs": share})
    assert line.startswith(f"{share:.0%} of the docs have a label in training; negatives come from 1,234 docs ({name})")
    assert ("docs/pools.md" in line) == bool(advised) and advised in line


@pytest.mark.parametrize(
    "rows",
    [[*range(60), *range(80, 100)], [*range(80), *range(100, DOCS)], [*range(60), *range(100, DOCS)]],
    ids=["with test positives", "without test positives", "without dev's and test's positives"],
)
def test_a_file_that_knows_the_labels_of_dev_or_test_is_refused(collection, tmp_path, rows):
    path = file_of(tmp_path, rows)
    with pytest.raises(BadInput, match="seems to know those labels; --allow_leak"):
        open_pool(path, collection)
    assert open_pool(path, collection, allow_leak=True).leaks


def test_an_unknown_doc_and_an_empty_file_are_refused(collection, tmp_path):
    path = tmp_path / "docs.txt"
    path.write_text("d1\nnobody\n")
    with pytest.raises(BadInput, match=r"docs.txt:2: doc 'nobody' is not in the collection"):
        open_pool(path, collection)
    path.write_text("\n")
    with pytest.raises(BadInput, match="no doc ids"):
        open_pool(path, collection)


@pytest.mark.parametrize(
    "source",
    [
        name
        for name, row in SOURCES.items()
        if row.draw or row.mine and not (row.given or row.needs_file or row.by_field)
    ],
)
def test_every_source_keeps_to_the_pool_and_depth_means_depth(collection, source):
    pool = Pool("some", np.arange(10, 90, dtype=np.int32))
    encoder = make_encoder(collection)
    embedder = Embedder(collection, encoder)
    miner = Miner(embedder, encoder, averaged_twin(encoder, 0.9), pool=pool, miner="bm25")
    positions = np.arange(60)
    if SOURCES[source].draw:
        queries = collection.split("train").queries
        docs = drawn_candidates(source, SOURCES[source].draw, collection, queries, 30, pool=pool, seed=0).docs
    else:
        docs = miner.mine(source, positions, 30).docs
    assert pool.holds(docs)[docs >= 0].all()
    if SOURCES[source].mine and source not in ("bm25", "miner"):  # BM25 leaves out docs that share no word
        assert (docs >= 0).all()  # lists are as deep as asked for, not thinned afterwards


@pytest.mark.parametrize("rows", [np.arange(10, 90), np.arange(100, 140), np.arange(60)])
@pytest.mark.parametrize("source", ["refresh", "adore"])
def test_docs_that_cannot_be_negatives_are_not_embedded_to_mine(collection, source, rows, monkeypatch):
    """Lists, scores and what the last lists still do are those of a search over all docs."""
    pool, encoder, positions = Pool("some", rows.astype(np.int32)), make_encoder(collection), np.arange(0, 60, 3)
    found, last = [], np.tile(rows[:4], (len(positions), 1))
    for _ in range(2):
        embedder = Embedder(collection, encoder)
        miner = Miner(embedder, encoder, averaged_twin(encoder, 0.9), pool=pool)
        found.append((miner.mine(source, positions, 5, last), miner.encoded))
        monkeypatch.setattr("lib.negatives.sources.embedded_docs", lambda *_: None)
    (some, count), (whole, everything) = found
    assert count == len({*rows.tolist(), *range(60)}) < everything == DOCS
    assert (some.docs == whole.docs).all() and some.notes == whole.notes and (some.docs >= 0).any()
    np.testing.assert_allclose(some.scores, whole.scores, rtol=1e-6)
    np.testing.assert_allclose(some.positive, whole.positive, rtol=1e-6)
    embedder.embed_docs(encoder)  # as an evaluation does: what is there is taken
    assert np.array_equal(embedder.embed_docs(encoder, rows), embedder.embed_docs(encoder)[rows])

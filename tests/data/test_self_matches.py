"""A doc that is the query itself, by id or by text: no negative of it in any source, and no result."""

import numpy as np
import pytest
from conftest import make_encoder, write_collection

from lib.data.batches import make_batch
from lib.data.collection import load_collection
from lib.evaluation import diagnostics, measures
from lib.files import BadInput
from lib.model.embedder import Embedder
from lib.model.encoder import averaged_twin
from lib.negatives.candidates import drawn_candidates, random_docs
from lib.negatives.files import load_candidates, write_negatives
from lib.negatives.sources import SOURCES, Miner
from lib.search.hits import Hits

TOPICS = "boil an egg|train a puppy|fix a flat tyre|grow some tomatoes|learn the guitar|bake white bread".split("|")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Questions among which each query looks for its paraphrase; it stands there itself, by id or by its text.

    The docs of b5 are apart: its own id is that of its positive.
    """
    docs, queries, qrels = {}, {}, []
    for i, topic in enumerate(TOPICS):
        docs |= {
            f"a{i}": f"What is the best way to {topic}?",
            f"p{i}": f"How do I {topic}?",
            f"x{i}": f"Who can {topic}",
        }
        by_text = i % 2
        queries[f"b{i}" if by_text else f"a{i}"] = docs[f"a{i}"] if by_text else f"Which way is best to {topic}?"
        qrels.append((f"b{i}" if by_text else f"a{i}", f"p{i}", 1))
    docs["b5"] = docs.pop("p5")
    qrels[5] = ("b5", "b5", 1)
    folder = tmp_path_factory.mktemp("data") / "questions"
    splits = {"train": qrels[:4], "dev": qrels[4:5], "test": qrels[5:]}
    return load_collection(write_collection(folder, docs, queries, splits))


def own_rows(collection, rows):
    """{query row: doc row of itself}."""
    return {row: collection.docs.row_of[f"a{collection.queries.ids[row][1:]}"] for row in rows.tolist()}


def test_what_a_query_itself_is(questions):
    rows = np.arange(len(questions.queries))
    everything = np.tile(np.arange(len(questions.docs)), (len(rows), 1))
    found = questions.is_itself(rows, everything)
    wanted = np.zeros_like(found)
    for row, own in own_rows(questions, rows).items():
        wanted[row, own] = True
    np.testing.assert_array_equal(found, wanted)  # b5, the positive with the query's own id, is none
    np.testing.assert_array_equal(
        questions.no_negative(rows, everything), found | questions.known_positive(rows, everything)
    )


@pytest.mark.parametrize("source", ["bm25", "dense", "refresh", "adore"])
def test_no_source_mines_it(questions, source):
    encoder = make_encoder(questions)
    miner = Miner(Embedder(questions, encoder), encoder, averaged_twin(encoder, 0.9))
    positions = np.arange(len(questions.split("train")))
    found = miner.mine(source, positions, len(questions.docs))
    for row, docs in zip(found.queries, found.docs):
        assert own_rows(questions, np.array([row]))[row] not in docs and (docs >= 0).sum() >= 5
    assert found.dropped["the query itself"] == len(positions)
    assert source in SOURCES


def test_none_is_drawn_or_counted_in_a_batch(questions):
    rows = questions.split("train").queries
    drawn = drawn_candidates("random", random_docs, questions, rows, len(questions.docs), seed=0).docs
    own = own_rows(questions, rows)
    assert all(own[row] not in docs for row, docs in zip(rows.tolist(), drawn))
    positives = np.array([questions.split("train").positives(i)[0] for i in range(len(rows))])
    own_docs = np.array([[own[row]] for row in rows.tolist()])
    batch = make_batch(questions, rows, positives, {1: own_docs})  # named as its negative, and beside the others
    for i, row in enumerate(rows.tolist()):
        assert batch.invalid[i, np.flatnonzero(batch.docs == own[row])[0]]


def test_a_file_that_names_it_is_refused(questions, tmp_path):
    row = questions.split("train").queries[0]
    records = [{"qid": questions.queries.ids[row], "doc_id": "a0", "source": "bm25", "rank": 1, "score": 1.0}]
    header = {"collection": "questions", "collection_fingerprint": questions.fingerprint}
    write_negatives(tmp_path / "n.jsonl", header, records)
    with pytest.raises(BadInput, match="a0 is a positive of a0, or that query itself"):
        load_candidates(tmp_path / "n.jsonl", questions, questions.split("train"))


def test_it_is_no_result_unless_asked_for(questions):
    split = "test"
    (row,) = questions.split(split).queries
    own, positive = questions.docs.row_of["a5"], questions.docs.row_of["b5"]
    rows = np.array([[own, positive, 0, 1]])
    hits = Hits(np.array([[4.0, 3, 2, 1]], dtype=np.float32), rows)
    left, found = measures.without_itself(questions, split, hits, 3)
    assert left.rows.tolist() == [[positive, 0, 1]] and left.scores.tolist() == [[3, 2, 1]] and found == 1
    assert measures.spare(questions, split) >= 1
    kept, dropped = (
        measures.score(questions, split, diagnostics.bm25_hits(questions, split, self_match=policy))["b5"]["mrr@10"]
        for policy in ("keep", "drop")
    )
    assert kept < dropped
    encoder = make_encoder(questions, dim=64)
    embedder = Embedder(questions, encoder)
    kept, dropped = (
        diagnostics.evaluate(embedder, encoder, split, self_match=policy)["b5"]["mrr@10"] for policy in ("keep", "drop")
    )
    assert kept < dropped


def test_a_collection_without_such_docs_is_as_before(tiny):
    rows = np.arange(len(tiny.queries))
    itself = tiny.is_itself(rows, np.tile(np.arange(len(tiny.docs)), (len(rows), 1)))
    by_id = [[tiny.docs.ids[d] == tiny.queries.ids[q] for d in range(len(tiny.docs))] for q in rows]
    np.testing.assert_array_equal(itself, by_id)

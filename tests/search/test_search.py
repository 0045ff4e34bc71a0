"""Search: exact, FAISS indexes on disk, BM25 against a hand-written one, and what all retrievers share."""

import json
import math
import sys
from collections import Counter

import bm25s
import faiss
import numpy as np
import pytest
import torch
from conftest import embed_texts, make_encoder, write_collection

from lib.data.collection import load_collection
from lib.data.tokens import tokenize
from lib.data.words import words
from lib.files import BadInput, read_json, write_json
from lib.model.encoder import embed, load_encoder, save_encoder
from lib.search import bm25, exact
from lib.search.bm25 import BM25
from lib.search.exact import Array
from lib.search.faiss_index import FaissRetriever, load_index, make_index, save_index
from lib.search.hits import Hits
from lib.search.retriever import open_retriever
from lib.search.sharded import Sharded


def vectors(n, dim=8, *, seed=0):
    """Random unit vectors (n, dim)."""
    found = np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("queries, docs, k", [(1, 1, 1), (5, 30, 10), (3, 7, 7), (3, 7, 100), (40, 500, 50)])
def test_exact_search_equals_argsort(queries, docs, k):
    q_emb, d_emb = vectors(queries, seed=1), vectors(docs, seed=2)
    scores, rows = exact.top_k(q_emb, d_emb, k)
    products = q_emb.astype(np.float64) @ d_emb.T.astype(np.float64)
    wanted = np.argsort(-products, axis=1)[:, :k]
    assert rows.shape == scores.shape == wanted.shape and (rows == wanted).all()
    np.testing.assert_allclose(scores, np.take_along_axis(products, wanted, 1), atol=1e-6)


@pytest.mark.parametrize("k, blocks", [(1, (4, 16)), (10, (4, 16)), (10, (7, 33)), (40, (100, 16)), (300, (40, 64))])
def test_search_by_torch_in_blocks_equals_faiss(k, blocks):
    q_emb, d_emb = vectors(20, seed=1), vectors(200, seed=2)
    d_emb[50:60] = d_emb[40:50]  # copies: the order of equal scores is that of their rows
    found = exact.top_k_by_torch(q_emb, d_emb, k, torch.device("cpu"), blocks=blocks)
    scores, rows = exact.by_score_and_row(*found)
    wanted, wanted_rows = exact.top_k(q_emb, d_emb, k)
    np.testing.assert_allclose(scores, wanted, atol=1e-6)
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    clear = scores > scores[:, -1:]  # among copies that reach the last place, either may have it
    assert (rows == wanted_rows)[clear].all()


def test_of_copies_the_first_rows_are_found_whatever_k():
    d_emb = vectors(400, seed=2)
    d_emb[200:230] = d_emb[7]  # more copies than places
    q_emb = d_emb[[7, 9]]
    for k in (1, 3, 10, 31, 60):
        _, rows = exact.top_k(q_emb, d_emb, k)
        assert rows[0, : min(k, 31)].tolist() == [7, *range(200, 230)][:k]


def test_vectors_of_another_system_are_searched_by_each_process_alone(tiny, tmp_path, monkeypatch):
    np.save(tmp_path / "queries.npy", vectors(len(tiny.queries), seed=1))
    np.save(tmp_path / "docs.npy", vectors(len(tiny.docs), seed=2))
    view = tiny.queries.view(tiny.split("train").queries)
    among = np.arange(3, 30)
    retriever = open_retriever(str(tmp_path), tiny, device=None)
    wanted = [retriever.search(view, 5, among=rows) for rows in (None, among)]
    monkeypatch.setattr(exact.dist, "map_rows", pytest.fail)  # which would share out what is shared out already
    for rows, hits in zip((None, among), wanted):
        np.testing.assert_array_equal(retriever.search(view, 5, among=rows).rows, hits.rows)
    assert np.isin(wanted[1].rows, among).all()
    (tmp_path / "docs.ids.json").write_text("3")
    with pytest.raises(BadInput, match="a list of ids is wanted"):
        open_retriever(str(tmp_path), tiny, device=None)


@pytest.fixture
def saved(tiny, tmp_path):
    """The folder of an index of 40 vectors, said to be of tests/tiny."""
    save_index(
        make_index(Array(vectors(40))),
        tmp_path / "index",
        {"encoder_fingerprint": "e" * 16, "corpus_fingerprint": tiny.docs.fingerprint, "precision": "fp32"},
    )
    return tmp_path / "index"


def test_a_loaded_index_searches_like_exact_search(saved, tiny):
    loaded = load_index(saved, encoder_fingerprint="e" * 16, collection=tiny)
    scores, rows = loaded.search(vectors(6, seed=3), 12)
    wanted_scores, wanted_rows = exact.top_k(vectors(6, seed=3), vectors(40), 12)
    assert (rows == wanted_rows).all()
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-6)
    meta = read_json(saved / "meta.json")
    assert (meta["docs"], meta["dim"]) == (40, 8)


def test_an_index_of_another_encoder_is_refused(saved, tiny):
    with pytest.raises(BadInput, match="encoder_fingerprint e{16}, this one is f{16}"):
        load_index(saved, encoder_fingerprint="f" * 16, collection=tiny)


def test_an_index_of_another_corpus_is_refused(saved, crowded):
    with pytest.raises(BadInput, match=f"corpus_fingerprint .* {crowded.docs.fingerprint}"):
        load_index(saved, encoder_fingerprint="e" * 16, collection=crowded)


def test_an_index_with_a_vector_missing_is_refused(saved, tiny):
    faiss.write_index(make_index(Array(vectors(39))), str(saved / "index.faiss"))
    with pytest.raises(BadInput, match="its digest differs.*build it again"):
        load_index(saved, encoder_fingerprint="e" * 16, collection=tiny)


def test_no_index_is_refused(tiny, tmp_path):
    with pytest.raises(BadInput, match=r"no index; make it with build_index\.py"):
        load_index(tmp_path / "none", encoder_fingerprint="e" * 16, collection=tiny)


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("The Moon's gravity", ["the", "moon", "s", "gravity"]),
        ("getHTTPResponse", ["get", "http", "response"]),
        ("parse_date_string(fmt2)", ["parse", "date", "string", "fmt", "2"]),
        ("HTTPServer2Go", ["http", "server", "2", "go"]),
        ("MAX_SIZE", ["max", "size"]),
        ("11 km, 4,000", ["11", "km", "4", "000"]),
        ("water", ["water"]),
        ("", []),
        ("?!", []),
    ],
)
def test_words(text, wanted):
    assert words(text) == wanted


@pytest.mark.parametrize("word", ["café", "naïve", "Überraschung", "Ökonomie", "straße"])
def test_words_with_accents_stay_whole(word):
    assert words(f"a {word} b") == ["a", word.lower(), "b"]


def bm25_loop(docs, query, *, k1=1.5, b=0.75):
    """Scores of all docs: the sum over query words of Lucene's idf times the saturated frequency."""
    bags = [Counter(words(doc)) for doc in docs]
    lengths = [sum(bag.values()) for bag in bags]
    scores = [0.0] * len(docs)
    for word in words(query):
        frequency = sum(word in bag for bag in bags)
        idf = math.log(1 + (len(docs) - frequency + 0.5) / (frequency + 0.5))
        for i, bag in enumerate(bags):
            norm = k1 * (1 - b + b * lengths[i] / (sum(lengths) / len(docs)))
            scores[i] += idf * bag[word] / (bag[word] + norm)
    return scores


def test_bm25_equals_a_double_loop(tiny):
    docs, queries = tiny.docs.texts(), [*tiny.queries.texts(), "Sun Sun moon", "SUN"]
    scores, rows, known = BM25.load(tiny.docs).search(queries, 40)
    assert known is None
    for i, query in enumerate(queries):
        wanted = np.array(bm25_loop(docs, query))
        order = [row for row in sorted(range(40), key=lambda row: (-round(wanted[row], 5), row)) if wanted[row] > 0]
        found = rows[i][rows[i] >= 0].tolist()
        assert found == order, query
        np.testing.assert_allclose(scores[i][: len(found)], wanted[found], rtol=1e-4)
        assert (rows[i][len(found) :] == -1).all() and (scores[i][len(found) :] == 0).all()


def test_docs_without_a_vector_take_no_place_of_others():
    q_emb, d_emb = vectors(3, seed=1), vectors(20, seed=2)
    d_emb[::2], q_emb[2] = 0, 0
    scores, rows = exact.top_k(q_emb, d_emb, 15)
    products = q_emb @ d_emb.T
    for i in (0, 1):
        wanted = [doc for doc in np.argsort(-products[i]) if doc % 2]
        assert rows[i].tolist() == [*wanted, *[-1] * 5]
        np.testing.assert_allclose(scores[i, :10], products[i, wanted], atol=1e-6)
    assert (rows[2] == -1).all()


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_index_in_pieces_is_the_librarys(monkeypatch, piece):
    monkeypatch.setattr(bm25, "PIECE", piece)
    random, library = np.random.default_rng(piece), bm25s.BM25()
    docs = [(random.zipf(1.3, random.integers(0, 30)) % 200).tolist() for _ in range(150)]
    vocabulary = {}
    docs = [[vocabulary.setdefault(word, len(vocabulary)) for word in doc] for doc in docs]
    library.index(
        (docs, {str(name): i for name, i in vocabulary.items()}), show_progress=False, create_empty_token=False
    )
    ids, ends = np.array([word for doc in docs for word in doc], dtype=np.int32), np.cumsum([0, *map(len, docs)])
    found = bm25.scores_of(ids, ends, len(vocabulary), library.k1, library.b)
    for name in ("data", "indices", "indptr"):
        assert found[name].dtype == library.scores[name].dtype and (found[name] == library.scores[name]).all()


def test_bm25_cuts_at_k(tiny):
    queries = tiny.queries.texts()
    bm25 = BM25.load(tiny.docs)
    whole, cut = bm25.search(queries, 40), bm25.search(queries, 5)
    assert cut.rows.shape == (60, 5)
    np.testing.assert_allclose(cut.scores, whole.scores[:, :5], rtol=1e-6)
    assert bm25.search(queries[:1], 1000).rows.shape == (1, 40)


@pytest.mark.parametrize("query", ["xylophone quartet", "", "???"])
def test_bm25_finds_nothing_without_a_shared_word(tiny, query):
    scores, rows, _ = BM25.load(tiny.docs).search([query, "saffron"], 10)
    assert (rows[0] == -1).all() and (scores[0] == 0).all()
    assert tiny.docs.ids[rows[1, 0]] == "007" and (rows[1, 1:] == -1).all()


def test_bm25_of_a_corpus_with_a_doc_without_words(tmp_path):
    made = load_collection(
        write_collection(
            tmp_path / "made", {"a": "!!!", "b": "red fox", "c": "red hen"}, {"q": "fox"}, {"test": [("q", "b", 1)]}
        )
    )
    scores, rows, _ = BM25.load(made.docs).search(["red fox"], 3)
    assert rows.tolist() == [[1, 2, -1]] and scores[0, 0] > scores[0, 1] > 0


# --------------------------------------------------------------------------------------- scores of given docs


@pytest.mark.parametrize("block", [1, 3, 1024])
def test_pair_scores_equal_a_loop(block):
    random = np.random.default_rng(0)
    q_emb, d_emb = (random.normal(size=(n, 5)).astype(np.float32) for n in (7, 20))
    rows = random.integers(-1, 20, size=(7, 4))
    rows[2] = -1
    found = exact.pair_scores(q_emb, d_emb, rows, block=block)
    assert found.shape == rows.shape and found.dtype == np.float32
    for i, row in enumerate(rows):
        wanted = [np.nan if doc < 0 else float(q_emb[i] @ d_emb[doc]) for doc in row]
        np.testing.assert_allclose(found[i], wanted, rtol=1e-5, atol=1e-6)


def test_exact_search_adds_the_scores_of_given_docs():
    q_emb, d_emb = vectors(7, seed=1), vectors(20, seed=2)
    known = np.random.default_rng(0).integers(-1, 20, size=(7, 4))
    plain, found = exact.search(q_emb, d_emb, 5), exact.search(q_emb, d_emb, 5, known)
    assert isinstance(found, Hits) and plain.known is None
    for hits in (plain, found):
        for array, wanted in zip(hits, exact.top_k(q_emb, d_emb, 5)):
            assert (array == wanted).all()
    np.testing.assert_array_equal(found.known, exact.pair_scores(q_emb, d_emb, known))


def test_bm25_scores_of_given_docs_are_those_of_the_search(tiny):
    bm25, queries = BM25.load(tiny.docs), [*tiny.queries.texts()[:20], "xyzzy"]
    scores, rows, _ = bm25.search(queries, len(tiny.docs))
    known = np.random.default_rng(0).integers(-1, len(tiny.docs), size=(len(queries), 6))
    again, same, extra = bm25.search(queries, len(tiny.docs), known)
    assert (again == scores).all() and (same == rows).all() and extra.dtype == np.float32
    for i, wanted in enumerate(known):
        by_doc = dict(zip(rows[i].tolist(), scores[i].tolist()))  # docs that are not found score 0
        for doc, score in zip(wanted.tolist(), extra[i].tolist()):
            assert np.isnan(score) if doc < 0 else score == by_doc.get(doc, 0)
    assert (extra[-1][known[-1] >= 0] == 0).all() and (extra > 0).any()


# ------------------------------------------------------------------------------------------- every retriever


@pytest.fixture
def trained(tiny, tmp_path):
    """A run folder with an encoder and its index of tests/tiny."""
    save_encoder(make_encoder(tiny), tmp_path / "R/encoder")
    encoder = load_encoder(tmp_path / "R/encoder")
    tokens = tokenize(tiny.docs, encoder, "doc")
    meta = {
        "encoder_fingerprint": encoder.fingerprint,
        "corpus_fingerprint": tiny.docs.fingerprint,
        "precision": "fp32",
    }
    save_index(make_index(Array(embed(encoder, tokens))), tmp_path / "R/index" / tiny.name, meta)
    return tmp_path / "R"


@pytest.fixture
def retrievers(tiny, trained):
    """BM25, the run's index, and exact search over vectors in files."""
    cpu = torch.device("cpu")
    found = [
        open_retriever("bm25", tiny, device=cpu),
        open_retriever(trained, tiny, device=cpu),
        open_retriever(trained, tiny, device=cpu, exact_in=1 << 30),
    ]
    assert [type(retriever) for retriever in found] == [BM25, FaissRetriever, Sharded]
    assert len({retriever.fingerprint for retriever in found}) == 3
    return found


@pytest.mark.parametrize("k", [1, 7, 40, 1000])
def test_all_retrievers_return_hits_of_the_same_shapes(tiny, retrievers, k):
    train = tiny.split("train").queries
    queries, known = tiny.queries.view(train), tiny.known_docs(train)
    for retriever in retrievers:
        hits = retriever.search(queries, k, known)
        assert isinstance(hits, Hits) and hits.scores.dtype == hits.known.dtype == np.float32
        assert hits.scores.shape == hits.rows.shape == (36, min(k, 40)) and hits.known.shape == known.shape
        assert np.issubdtype(hits.rows.dtype, np.integer) and (np.diff(hits.scores, axis=1) <= 0).all()
        assert (np.isnan(hits.known) == (known < 0)).all()
        for i, row in enumerate(hits.rows.tolist()):  # a known doc has the score that it was found with
            by_doc = dict(zip(row, hits.scores[i].tolist()))
            for doc, score in zip(known[i].tolist(), hits.known[i].tolist()):
                assert doc < 0 or doc not in by_doc or score == pytest.approx(by_doc[doc], abs=1e-6)
        plain = retriever.search(queries, k)
        assert plain.known is None and (plain.rows == hits.rows).all() and (plain.scores == hits.scores).all()


@pytest.mark.parametrize("k", [1, 7, 40, 1000])
def test_an_index_and_vectors_in_files_give_the_same_rows(tiny, retrievers, k):
    """Copies of a text among them, of which tests/tiny has a pair: equal scores stand in the order of rows."""
    train = tiny.split("train").queries
    hits, other = (one.search(tiny.queries.view(train), k, tiny.known_docs(train)) for one in retrievers[1:])
    np.testing.assert_allclose(hits.scores, other.scores, atol=1e-6)
    np.testing.assert_allclose(hits.known, other.known, atol=1e-6)
    np.testing.assert_array_equal(hits.rows, other.rows)


@pytest.mark.parametrize("key", ["encoder_fingerprint", "corpus_fingerprint", "precision"])
def test_an_index_that_does_not_say_what_made_it_is_refused(tiny, trained, key):
    path = trained / "index" / tiny.name / "meta.json"
    write_json(path, {name: value for name, value in read_json(path).items() if name != key})
    with pytest.raises(BadInput, match=f"meta.json: {key} is missing") as refused:
        open_retriever(trained, tiny, device=torch.device("cpu"))
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_run_without_an_index_is_searched_exactly(tiny, trained, crowded):
    found = open_retriever(trained, crowded, device=torch.device("cpu"))
    assert type(found) is Sharded and found.search(["query text 1"], 3).rows.shape == (1, 3)


def test_a_model_of_a_folder_is_searched_exactly(tiny, trained):
    found = [open_retriever(spec, tiny, device=torch.device("cpu")) for spec in (trained, trained / "encoder")]
    hits = [retriever.search(["how long should meat rest"], 5) for retriever in found]
    assert [type(retriever) for retriever in found] == [FaissRetriever, Sharded]
    assert (hits[0].rows == hits[1].rows).all()


@pytest.mark.parametrize("spec", ["bm26", "runs/none"])
def test_what_is_no_retriever_is_refused(tiny, spec):
    with pytest.raises(BadInput, match=f"{spec}: neither bm25 nor a run folder with an encoder"):
        open_retriever(spec, tiny, device=torch.device("cpu"))


def test_a_file_of_rankings_is_told_its_own_flag(tiny, tmp_path):
    (tmp_path / "run+bm25.trec").write_text("q1 Q0 d1 1 1 t\n")
    with pytest.raises(BadInput, match="run.bm25.trec: a file is no retriever; evaluate.py --run_file"):
        open_retriever(str(tmp_path / "run+bm25.trec"), tiny, device=torch.device("cpu"))


def with_zeros():
    """Vectors of queries and docs; the second query's and three docs' are zero, as of texts without a known word."""
    random = np.random.default_rng(0)
    q_emb, d_emb = (random.normal(size=(n, 6)).astype(np.float32) for n in (4, 30))
    q_emb[1], d_emb[[0, 5, 29]] = 0, 0
    return q_emb, d_emb


def test_a_zero_vector_finds_nothing_and_is_not_found():
    q_emb, d_emb = with_zeros()
    hits = exact.search(q_emb, d_emb, 30)
    assert (hits.rows[1] == -1).all()
    for row in (0, 2, 3):
        found = hits.rows[row][hits.rows[row] >= 0]
        assert len(found) == 27 and not set(found) & {0, 5, 29}
    some = exact.search(q_emb, d_emb, 5, among=np.array([0, 2, 5, 7]))
    assert (some.rows[1] == -1).all() and set(some.rows[0].tolist()) == {2, 7, -1}


def test_a_zero_vector_finds_nothing_in_an_index(tiny):
    encoder = make_encoder(tiny)
    encoder.fingerprint = "made"
    d_emb = embed_texts(encoder, tiny.docs.texts())
    d_emb[3] = 0
    retriever = FaissRetriever(encoder, make_index(Array(d_emb)))
    hits = retriever.search(["\u2603", tiny.docs.text(3)], 40)
    assert (hits.rows[0] == -1).all() and 3 not in hits.rows[1] and (hits.rows[1] >= 0).sum() == 39


def test_vectors_that_are_exported_find_the_same_docs(untrained, tmp_path, launch, refused, capsys):
    out, command = tmp_path / "out", ("build_index.py", "--run", "runs/R", "--export")
    assert launch(*command, out, cwd=untrained) == 0
    assert "docs.npy and queries.npy, float32" in capsys.readouterr().out
    tiny = load_collection(str(untrained / "tiny"))
    queries = tiny.queries.view(tiny.split("test").queries)
    own = open_retriever(str(untrained / "runs/R"), tiny, device=torch.device("cpu")).search(queries, 10)
    theirs = open_retriever(str(out), tiny, device=torch.device("cpu")).search(queries, 10)
    assert np.array_equal(own.rows, theirs.rows) and np.allclose(own.scores, theirs.scores, atol=1e-6)
    assert "exists: --overwrite it" in refused(*command, out, cwd=untrained)
    for place in ("runs/R", "tiny", "runs/R/config.json"):  # what it has not written is never replaced
        assert "there is something else" in refused(*command, place, "--overwrite", cwd=untrained)
    assert (untrained / "runs/R/config.json").exists()
    assert launch(*command, out, "--overwrite", "--dim", 8, cwd=untrained) == 0
    assert np.load(out / "docs.npy").shape == (len(tiny.docs), 8)
    assert "exclude each other" in refused(*command, tmp_path / "x", "--index", "Flat", cwd=untrained)


def test_an_export_as_parquet_holds_texts_and_metadata(untrained, tmp_path, launch):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "docs.parquet"
    assert launch("build_index.py", "--run", "runs/R", "--export", path, cwd=untrained) == 0
    table, tiny = parquet.read_table(path), load_collection(str(untrained / "tiny"))
    assert table.column_names == ["id", "title", "text", "metadata", "vector"]
    rows = table.to_pylist()
    assert [row["id"] for row in rows] == tiny.docs.ids
    record = tiny.docs.record(3)
    assert rows[3]["text"] == record["text"] and json.loads(rows[3]["metadata"]) == (record.get("metadata") or {})
    assert len(rows[3]["vector"]) == 16


def test_parquet_that_cannot_be_written_is_said_before_anything_is_embedded(untrained, tmp_path, refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    command = ("build_index.py", "--run", "runs/R", "--export", tmp_path / "docs.parquet")
    assert "pip install pyarrow" in refused(*command, cwd=untrained)

"""Search: exact over vectors, FAISS indexes on disk, and BM25."""
import json
import pathlib
import re

import bm25s
import faiss
import numpy as np
from tqdm import tqdm

from lib.run import BadInput, atomic_path, cache_dir, fingerprint, read_json, write_json

# queries times dimensions from which faiss multiplies matrices; its default, 128,000, makes the search for a
# single batch (adore, at every step) five times as slow
faiss.cvar.distance_compute_blas_threshold = 1024


def exact_search(q_emb, d_emb, k):
    """The k docs of largest inner product -> (scores (Q, k) float32, rows (Q, k) int64), best first.

    Equal scores, as of copies, stand in the order of their rows.
    """
    scores, rows = faiss.knn(q_emb, d_emb, min(k, len(d_emb)), metric=faiss.METRIC_INNER_PRODUCT)
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def pair_scores(q_emb, d_emb, rows, *, block=1024):
    """(Q, P) inner products of each query with its own docs: rows (Q, P), -1 for none, which gives nan."""
    scores = np.full(rows.shape, np.nan, dtype=np.float32)
    for begin in range(0, len(rows), block):
        part = slice(begin, begin + block)
        owner, column = np.nonzero(rows[part] >= 0)
        docs = rows[part][owner, column]
        scores[begin + owner, column] = np.einsum("nd,nd->n", q_emb[part][owner], d_emb[docs])
    return scores


# ---------------------------------------------------------------------------------------------- FAISS index

def build_index(d_emb):
    """A flat inner-product index over (M, D) vectors: exact, no training, 4 * D bytes a doc."""
    index = faiss.IndexFlatIP(d_emb.shape[1])
    index.add(d_emb)
    return index


def save_index(index, folder, meta):
    """Write an index with what it was made from. `meta` holds the fingerprints that a loader compares."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        faiss.write_index(index, str(temporary / "index.faiss"))
        write_json(temporary / "meta.json", meta | {"docs": index.ntotal, "dim": index.d})


def load_index(folder, *, encoder_fingerprint, collection):
    """The index of a folder; BadInput if another encoder or another corpus made it."""
    folder = pathlib.Path(folder)
    if not (folder / "meta.json").exists():
        raise BadInput(f"{folder}: no index; make it with build_index.py")
    meta = read_json(folder / "meta.json")
    for key, wanted in (("encoder_fingerprint", encoder_fingerprint),
                        ("corpus_fingerprint", collection.docs.fingerprint)):
        if meta[key] != wanted:
            raise BadInput(f"{folder}: the index was made with {key} {meta[key]}, this one is {wanted}; "
                           "build it again")
    index = faiss.read_index(str(folder / "index.faiss"))
    if index.ntotal != len(collection.docs):
        raise BadInput(f"{folder}: {index.ntotal} vectors for {len(collection.docs)} docs; build it again")
    return index


# ------------------------------------------------------------------------------------------------------ BM25

WORD = re.compile(r"[A-Z]+(?![^\W\d_A-Z])|[A-Z]?[^\W\d_A-Z]+|\d+")  # [^\W\d_A-Z]: letters but A to Z


def words(text):
    """Lower-case words; camelCase and snake_case names fall into their parts."""
    return [word.lower() for word in WORD.findall(text)]


class BM25:
    """Okapi BM25 with Lucene's idf over the words of a corpus (bm25s; k1 1.5, b 0.75)."""

    def __init__(self, index, vocabulary):
        self._index, self._vocabulary = index, vocabulary

    @staticmethod
    def key(texts):
        """Identifies the index of a corpus: its content, what counts as a word, the library's version."""
        return fingerprint(texts.fingerprint, WORD.pattern, bm25s.__version__)

    @classmethod
    def load(cls, texts):
        """The BM25 index of a corpus, built once and cached by the corpus's content."""
        folder = cache_dir("bm25", cls.key(texts))
        if not folder.exists():
            ids, vocabulary = [], {}
            for row in tqdm(range(len(texts)), unit="doc", unit_scale=True, desc="BM25 index", delay=1):
                ids.append([vocabulary.setdefault(word, len(vocabulary)) for word in words(texts.text(row))])
            index = bm25s.BM25()
            index.index((ids, vocabulary), show_progress=False, create_empty_token=False)
            with atomic_path(folder) as temporary:
                index.save(temporary, show_progress=False)
                (temporary / "words.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        index = bm25s.BM25.load(folder, load_corpus=False, load_vocab=False, mmap=True)
        return cls(index, json.loads((folder / "words.json").read_text(encoding="utf-8")))

    def search(self, queries, k, *, also=None, desc="BM25 search"):
        """The k best docs of each query text -> (scores (Q, k) float32, rows (Q, k) int64).

        Docs that share no word with the query are no results: their rows are -1, their scores 0. also (Q, P)
        doc rows, -1 for none: their scores (Q, P), nan for none, come third.
        """
        docs = self._index.scores["num_docs"]
        k = min(k, docs)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        extra = None if also is None else np.where(also >= 0, 0.0, np.nan).astype(np.float32)
        for i, query in enumerate(tqdm(queries, unit="query", unit_scale=True, desc=desc, delay=2)):
            ids = [self._vocabulary[word] for word in words(query) if word in self._vocabulary]
            if not ids:
                continue
            all_scores = self._index.get_scores_from_ids(ids)
            best = np.argpartition(-all_scores, k - 1)[:k]
            best = best[np.lexsort((best, -all_scores[best]))]
            found = all_scores[best] > 0
            scores[i, found], rows[i, found] = all_scores[best[found]], best[found]
            if also is not None:
                extra[i] = np.where(also[i] >= 0, all_scores[also[i]], np.nan)
        return (scores, rows) if also is None else (scores, rows, extra)

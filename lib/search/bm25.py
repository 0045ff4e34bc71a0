"""BM25 over the words of a corpus."""

import array
import json

import bm25s
import numpy as np
import scipy.sparse
from tqdm import tqdm

from lib.data.words import ASCII_WORD, WORD, words
from lib.files import cache_dir, cached, fingerprint
from lib.search.hits import Hits

PIECE = 1 << 14  # docs whose words are counted at once


class BM25:
    """Okapi BM25 with Lucene's idf over the words of a corpus (bm25s; k1 1.5, b 0.75)."""

    encoder = None

    def __init__(self, index, vocabulary, fingerprint):
        self._index, self._vocabulary, self.fingerprint = index, vocabulary, fingerprint

    @staticmethod
    def key(texts):
        """Identifies the index of a corpus: its content, what counts as a word, the library's version."""
        return fingerprint(texts.fingerprint, WORD.pattern, ASCII_WORD.pattern, bm25s.__version__)

    @classmethod
    def load(cls, texts):
        """The BM25 index of a corpus, built once and cached by the corpus's content."""
        key = cls.key(texts)

        def make(folder):
            ids, ends, vocabulary = array.array("i"), [0], {}
            for row in tqdm(range(len(texts)), unit="doc", unit_scale=True, desc="BM25 index", delay=1):
                ids.extend(vocabulary.setdefault(word, len(vocabulary)) for word in words(texts.text(row)))
                ends.append(len(ids))
            index = bm25s.BM25()
            found = scores_of(np.frombuffer(ids, dtype=np.int32), np.array(ends), len(vocabulary), index.k1, index.b)
            index.scores, index.vocab_dict, index.nonoccurrence_array = found, vocabulary, None
            index.save(folder, show_progress=False)
            (folder / "words.json").write_text(json.dumps(vocabulary), encoding="utf-8")

        def read(folder):
            index = bm25s.BM25.load(folder, load_corpus=False, load_vocab=False, mmap=True)
            return cls(index, json.loads((folder / "words.json").read_text(encoding="utf-8")), key)

        return cached(cache_dir("bm25", key), make, read)

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts. Docs that share no word with a query are no results: row -1, score 0."""
        k = min(k, self._index.scores["num_docs"] if among is None else len(among))
        scores = np.zeros((len(queries), k), dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        extra = None if known is None else np.where(known >= 0, 0.0, np.nan).astype(np.float32)
        for i, query in enumerate(tqdm(queries, unit="query", unit_scale=True, desc="BM25 search", delay=2)):
            ids = [self._vocabulary[word] for word in words(query) if word in self._vocabulary]
            if not ids:
                continue
            all_scores = self._index.get_scores_from_ids(ids)
            searched = all_scores if among is None else all_scores[among]
            best = np.argpartition(-searched, k - 1)[:k]
            best = best if among is None else among[best]
            best = best[np.lexsort((best, -all_scores[best]))]
            found = all_scores[best] > 0
            scores[i, found], rows[i, found] = all_scores[best[found]], best[found]
            if known is not None:
                extra[i] = np.where(known[i] >= 0, all_scores[known[i]], np.nan)
        return Hits(scores, rows, extra)


def scores_of(ids, ends, size, k1, b):
    """bm25s' index of the words `ids` (T,) of docs, doc i those from ends[i] to ends[i + 1]; `size` words there are.

    The numbers of its own index(), made of PIECE docs at a time, where that one holds and sorts the words of all docs
    in several arrays of 8 bytes each.
    """
    lengths = np.diff(ends)

    def pieces():
        """(first doc, how often each word stands in each doc, (n, size), by columns)."""
        for begin in range(0, len(lengths), PIECE):
            own = ends[begin : begin + PIECE + 1]
            words_of = np.ones(own[-1] - own[0], dtype=np.int32), ids[own[0] : own[-1]], own - own[0]
            counts = scipy.sparse.csr_array(words_of, shape=(len(own) - 1, size))
            counts.sum_duplicates()
            yield begin, counts.tocsc()

    frequency = np.zeros(size, dtype=np.int64)
    for _, counts in pieces():
        frequency += np.diff(counts.indptr)
    indptr = np.concatenate([[0], np.cumsum(frequency)])
    idf = np.log(1 + (len(lengths) - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    norms, place = k1 * ((1 - b) + b * lengths / (lengths.mean() or 1)), indptr[:-1].copy()
    data, rows = np.empty(indptr[-1], dtype=np.float32), np.empty(indptr[-1], dtype=np.int32)
    for begin, counts in pieces():
        own, docs = np.diff(counts.indptr), begin + counts.indices
        at = np.repeat(place - counts.indptr[:-1], own) + np.arange(counts.nnz)
        rows[at] = docs
        data[at] = np.repeat(idf, own) * (counts.data / (norms[docs] + counts.data))
        place += own
    return {"data": data, "indices": rows, "indptr": indptr, "num_docs": len(lengths)}

"""Search through an index made for the moment: what mining by approximate search would have found."""

import numpy as np

from lib.search.exact import Array, by_score_and_row, pair_scores, without_zeros
from lib.search.faiss_index import empty_index, make_index, set_parameters
from lib.search.hits import Hits


class Approximate:
    """exact.search() through an index, which is built once for the same vectors and docs.

    spec: a string of faiss.index_factory(), and behind a colon how it is searched, as in IVF64,Flat:nprobe=4. What is
    found is scored exactly, so that candidates and positives are compared by the same numbers. Threads that build a
    graph (HNSW) together build another one each time: only with one thread can such a run be repeated to the byte.
    """

    def __init__(self, spec):
        self._factory, _, self._parameters = spec.partition(":")
        self._built = None, None, None  # vectors, among, index

    def check(self, dim):
        """BadInput if there is no such index of vectors with `dim` dimensions: found before anything is trained."""
        set_parameters(empty_index(dim, self._factory), self._parameters)

    def __call__(self, q_emb, d_emb, k, known=None, *, among=None):
        """The Hits of query vectors (Q, D) among doc vectors (M, D)."""
        scores, rows = self.top_k(q_emb, Array(d_emb), k, among, key=d_emb)
        return Hits(scores, rows, None if known is None else pair_scores(q_emb, d_emb, known))

    def top_k(self, q_emb, vectors, k, among=None, *, key=None):
        """(exact scores (Q, k), doc rows (Q, k), -1 for none); key: the object that stands for the vectors."""
        key = vectors if key is None else key
        built = self._built  # a local: another thread may mine meanwhile
        if built[0] is not key or built[1] is not among:
            index = make_index(vectors, self._factory, among=among)
            set_parameters(index, self._parameters)
            self._built = built = key, among, index
        index = built[2]
        _, found = index.search(np.ascontiguousarray(q_emb), min(k, index.ntotal))
        rows = found if among is None else np.where(found < 0, -1, among[found])
        docs, at = np.unique(rows, return_inverse=True)
        d_emb = vectors.take(docs[docs >= 0])
        scores = pair_scores(q_emb, d_emb, at.reshape(rows.shape) - (len(docs) - len(d_emb)))
        scores, rows = by_score_and_row(np.where(rows < 0, -np.inf, scores).astype(np.float32), rows)
        scores, rows = without_zeros(q_emb, scores, rows, vectors.take)
        return np.where(rows < 0, np.float32(0), scores), rows

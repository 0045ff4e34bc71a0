"""A cross-encoder behind a retriever: the best docs read again, together with the query."""

import numpy as np

from lib.files import BadInput, fingerprint
from lib.search.hits import Hits


class Reranker:
    """Searches with a retriever and puts the first `depth` docs into the order of a cross-encoder's scores.

    Those behind keep their order. A reranked doc's score is the cross-encoder's plus 1, so that it is above all others.
    """

    def __init__(self, retriever, judge, docs, *, depth):
        self.retriever, self.judge, self.depth = retriever, judge, depth
        self.encoder = getattr(retriever, "encoder", None)
        self._docs = docs

    @property
    def fingerprint(self):
        """Identifies the retriever, the cross-encoder and the depth."""
        return fingerprint(self.retriever.fingerprint, self.judge.fingerprint, self.depth)

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts."""
        found = self.retriever.search(queries, max(k, self.depth), None, among)
        depth = min(self.depth, found.rows.shape[1])
        owner, column = np.nonzero(found.rows[:, :depth] >= 0)
        texts = {row: self._docs.text(row) for row in np.unique(found.rows[owner, column]).tolist()}
        pairs = [queries[i] for i in owner.tolist()], [texts[row] for row in found.rows[owner, column].tolist()]
        front = np.full((len(found.rows), depth), -np.inf, dtype=np.float32)
        if len(owner):
            scores = self.judge.score(*pairs, desc="reranking")
            if not np.isfinite(scores).all():
                raise BadInput("--rerank: the cross-encoder gives scores that are no numbers")
            front[owner, column] = 1 + scores
        order = np.argsort(-front, axis=1, kind="stable")
        rows = found.rows.copy()
        rows[:, :depth] = np.take_along_axis(found.rows[:, :depth], order, 1)
        # what lies behind counts down from 0, in the order that it had
        scores = np.broadcast_to(-np.arange(rows.shape[1], dtype=np.float32), rows.shape).copy()
        scores[:, :depth] = np.take_along_axis(front, order, 1)
        scores = np.where(rows < 0, np.float32(0), scores)
        return Hits(scores[:, :k], rows[:, :k])

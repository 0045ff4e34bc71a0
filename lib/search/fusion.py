"""Two retrievers as one: a convex mix of their scores, or reciprocal ranks."""

import numpy as np

from lib.files import fingerprint
from lib.search.exact import by_score_and_row
from lib.search.hits import Hits

DEPTH = 100  # docs that each retriever contributes, at least
RANK_CONSTANT = 60  # of reciprocal rank fusion (Cormack et al. 2009)


def min_max(scores, there):
    """(Q, C) in 0 ... 1 over the docs that are there."""
    low = np.where(there, scores, np.inf).min(1, keepdims=True)
    high = np.where(there, scores, -np.inf).max(1, keepdims=True)
    return np.where(there, (scores - low) / np.where(high > low, high - low, 1), 0)


def z_score(scores, there):
    """(Q, C) with mean 0 and deviation 1 over the docs that are there."""
    count = np.maximum(there.sum(1, keepdims=True), 1)
    mean = np.where(there, scores, 0).sum(1, keepdims=True) / count
    spread = np.sqrt(np.where(there, (scores - mean) ** 2, 0).sum(1, keepdims=True) / count)
    return np.where(there, (scores - mean) / np.where(spread > 0, spread, 1), 0)


NORMALISE = {"min_max": min_max, "z_score": z_score}
FUSIONS = ("convex", "rrf")


def _ranks(rows, listed):
    """(Q, C) rank from 1 of each doc of rows (Q, C) in its query's list (Q, k), inf where it is not there."""
    found = np.full(rows.shape, np.inf)
    for i, (docs, own) in enumerate(zip(rows, listed)):
        place = {doc: rank for rank, doc in enumerate(own.tolist(), 1) if doc >= 0}
        found[i] = [place.get(doc, np.inf) for doc in docs.tolist()]
    return found


class Fusion:
    """Searches with two retrievers; docs that either finds are scored by both (Bruch et al. 2023, 2210.11934).

    convex: weight times the first one's normalised score plus the rest times the second's; rrf: the sum of
    1 / (60 + rank), without weights.
    """

    def __init__(self, retrievers, *, names, how="convex", weight=0.5, normalise="min_max"):
        self.retrievers, self.names = retrievers, names
        self.how, self.weight, self.normalise = how, weight, normalise
        self._last = None, None  # what identifies the last both() of a collection's queries, and that
        self.encoder = next((r.encoder for r in retrievers if getattr(r, "encoder", None)), None)

    @property
    def fingerprint(self):
        """Identifies the retrievers and how they are mixed."""
        parts = [retriever.fingerprint for retriever in self.retrievers]
        return fingerprint(parts, self.how, self.weight, self.normalise)

    def both(self, queries, k, among=None):
        """(rows (Q, C) of what either finds among its k best, -1 for none; [scores (Q, C)]; [ranks (Q, C)] for rrf)."""
        if key := hasattr(queries, "fingerprint") and fingerprint(queries.fingerprint, k, among, self.how):
            if self._last[0] != key:  # dev is searched to choose a weight, and again to be measured
                self._last = key, self._both(queries, k, among)
            return self._last[1]
        return self._both(queries, k, among)

    def _both(self, queries, k, among):
        found = [retriever.search(queries, k, None, among).rows for retriever in self.retrievers]
        rows = np.sort(np.concatenate(found, axis=1), axis=1)
        rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
        rows = -np.sort(-rows, axis=1)
        rows = rows[:, : max(1, int((rows >= 0).sum(1).max(initial=0)))]
        scores = [r.search(queries, 1, rows, among).known for r in self.retrievers]
        return rows, scores, [_ranks(rows, own) for own in found] if self.how == "rrf" else None

    def mix(self, both, k, *, weight=None):
        """The Hits of k docs out of both()."""
        rows, scores, ranks = both
        if self.how == "rrf":
            mixed = sum(1 / (RANK_CONSTANT + rank) for rank in ranks)
        else:
            weight = self.weight if weight is None else weight
            first, second = (NORMALISE[self.normalise](np.nan_to_num(s), rows >= 0) for s in scores)
            mixed = weight * first + (1 - weight) * second
        mixed = np.where(rows >= 0, mixed, -np.inf).astype(np.float32)
        mixed, order = by_score_and_row(mixed, rows)
        return Hits(np.where(order < 0, np.float32(0), mixed)[:, :k], order[:, :k])

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts; of known docs there are no scores, since a mix is of those that are found."""
        return self.mix(self.both(queries, max(k, DEPTH), among), k)

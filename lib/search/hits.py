"""What a search returns, whoever searches."""

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """The k best docs of Q queries, best first.

    Every retriever has `search(queries, k, known=None, among=None) -> Hits`, with queries a sequence of str, known
    (Q, P) doc rows whose scores are wanted besides, -1 for none, and among the sorted doc rows that are searched,
    all by default; and a `fingerprint` that identifies it.
    """

    scores: np.ndarray  # (Q, k) float32
    rows: np.ndarray  # (Q, k) doc rows, -1 where a list ends early
    known: np.ndarray | None = None  # (Q, P) scores of the known docs, nan for none

    def without(self, drop, k):
        """The k best without those of the mask `drop` (Q, k'), as far as there are so many."""
        front = np.argsort(drop, axis=1, kind="stable")[:, :k]
        scores, rows, gone = (np.take_along_axis(values, front, 1) for values in (self.scores, self.rows, drop))
        return self._replace(scores=scores, rows=np.where(gone, -1, rows))

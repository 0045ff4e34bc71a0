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

"""What a search returns, whoever searches."""

from typing import NamedTuple

import numpy as np


class Hits(NamedTuple):
    """The k best docs of Q queries, best first.

    Every retriever has `search(queries, k, known=None) -> Hits`, with queries a sequence of str and known
    (Q, P) doc rows whose scores are wanted besides, -1 for none; and a `fingerprint` that identifies it.
    """

    scores: np.ndarray  # (Q, k) float32
    rows: np.ndarray  # (Q, k) doc rows, -1 where a list ends early
    known: np.ndarray | None = None  # (Q, P) scores of the known docs, nan for none

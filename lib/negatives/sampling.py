"""Sampling: which candidates of a list are drawn. A new way is a function and a row of SAMPLING.

Draws depend on seed, epoch and query alone. Weighted draws without replacement take the smallest of exponential
variables (Efraimidis & Spirakis 2006): a function of Candidates, the share of the training that is over and its numbers
returns the logarithm of each one's weight, (n, C), and -inf for what may not be drawn, so that K may differ by query.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.cli import choice
from lib.files import BadInput
from lib.rng import uniform

NARROWEST = 1e-6  # share of all scores that a doc has at least, so that copies fill a list that lacks others


def simans(candidates, progress, a, b, last_a, last_b):
    """exp(-A (s - s+ - B)^2): around the positive's score (Zhou et al. 2022, eq. 5); A and B move to A1 and B1."""
    a, b = _between(a, last_a, progress), _between(b, last_b, progress)
    return -a * (candidates.scores - candidates.positive[:, None] - b) ** 2


def softmax(candidates, progress, first, last):
    """exp(s / T), with T moving from T0 to T1: falling, the negatives grow harder (CoRNStack, Suresh et al. 2024)."""
    return candidates.scores / _between(first, last, progress)


def spread(candidates, progress):
    """The width of scores that a doc has for itself, up to halfway to its neighbours: hard and easy ones alike.

    K docs that differ say more than K alike (InDi, Cohen et al. 2024, who cluster vectors). Near-copies score alike,
    and here they share one width between them.
    """
    scores = np.where(candidates.docs >= 0, candidates.scores, np.nan)
    order = np.argsort(-scores, axis=1, kind="stable")  # nan last
    gaps = np.nan_to_num(-np.diff(np.take_along_axis(scores, order, 1), axis=1))
    widths = np.zeros(scores.shape)
    np.put_along_axis(widths, order, np.pad(gaps, ((0, 0), (1, 0))) + np.pad(gaps, ((0, 0), (0, 1))), 1)
    whole = widths.sum(1, keepdims=True)
    return np.log(np.maximum(widths, NARROWEST * np.where(whole > 0, whole, 1)))


def _between(first, last, progress):
    return first + (last - first) * progress


def first(candidates):
    """The order of the list."""
    return np.broadcast_to(np.arange(candidates.docs.shape[1], dtype=np.float64), candidates.docs.shape).copy()


def teacher(candidates):
    """The docs that the teacher of the file scores highest."""
    if candidates.teacher is None or np.isnan(candidates.teacher[candidates.docs >= 0]).any():
        raise BadInput(f"--sampling teacher goes by a teacher's scores, and {candidates.source} lacks some")
    return -candidates.teacher.astype(np.float64)


class Sampling(NamedTuple):
    """A way of sampling: its function, its numbers {letter: limits}, and which scores of the miner it reads; or
    `order`, a function of Candidates to (n, C) numbers, of which the smallest are taken and nothing is drawn."""

    function: Callable | None = None
    numbers: dict = {}
    needs: tuple = ()
    order: Callable | None = None


SAMPLING = {
    "top": Sampling(order=first),
    "teacher": Sampling(order=teacher),
    "uniform": Sampling(),
    "simans": Sampling(
        simans, {"A": {}, "B": {}, "A1": {"default": "A"}, "B1": {"default": "B"}}, ("scores", "positive")
    ),
    "softmax": Sampling(softmax, {"T0": {"above": 0}, "T1": {"above": 0, "default": "T0"}}, ("scores",)),
    "spread": Sampling(spread, needs=("scores",)),
}
parse_sampling = choice(SAMPLING)


def slots(sampling, candidates, count, *, seed, epoch, progress=0.0):
    """(n, count) slots of each list by a Choice of SAMPLING, without replacement, -1 where the list is too short.

    progress: the share of the training that is over.
    """
    there, row = candidates.docs >= 0, SAMPLING[sampling.name]
    if row.order:
        keys = row.order(candidates)
    else:
        keys = uniform(candidates.source, seed, epoch, candidates.queries[:, None], np.arange(there.shape[1]))
    if row.function:
        if (
            "scores" in row.needs
            and np.isnan(candidates.scores[there]).any()
            or "positive" in row.needs
            and np.isnan(candidates.positive[there.any(1)]).any()
        ):
            raise BadInput(
                f"--sampling {sampling.text} weighs scores of docs and positives, and {candidates.source} lacks some"
            )
        keys = np.log(-np.log(np.maximum(keys, 2.0**-60))) - row.function(candidates, progress, *sampling.numbers)
    keys[~there] = np.inf
    found = np.full((len(keys), count), -1, dtype=np.int64)
    order = np.argsort(keys, axis=1, kind="stable")[:, :count]
    drawn = np.take_along_axis(keys, order, 1) < np.inf  # a weight of 0, whose logarithm is -inf, is never drawn
    found[:, : order.shape[1]] = np.where(drawn, order, -1)
    return found

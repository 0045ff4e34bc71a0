"""Sampling: which candidates of a list are drawn. A new way is a function and a row of SAMPLING.

Draws depend on seed, epoch and query alone. Weighted draws without replacement take the smallest of
exponential variables (Efraimidis & Spirakis 2006): a function returns the logarithm of each one's weight.
"""

import dataclasses

import numpy as np

from lib.files import BadInput
from lib.rng import uniform


def simans(candidates, a, b):
    """exp(-A (s - s+ - B)^2): around the positive's score (Zhou et al. 2022, eq. 5)."""
    return -a * (candidates.scores - candidates.positive[:, None] - b) ** 2


def softmax(candidates, temperature):
    """exp(s / T)."""
    return candidates.scores / temperature


# name: (function or None, names of its numbers, which scores of the miner it needs)
SAMPLING = {
    "top": (None, "", ()),
    "uniform": (None, "", ()),
    "simans": (simans, "AB", ("scores", "positive")),
    "softmax": (softmax, "T", ("scores",)),
}
HELP = ", ".join(":".join([name, *letters]) for name, (_, letters, _) in SAMPLING.items())


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A way of sampling with its numbers. `text` is how it was written."""

    text: str
    name: str
    numbers: tuple = ()

    @classmethod
    def parse(cls, text):
        """The Sampling that `text` names, such as simans:0.5:0; BadInput if there is none."""
        name, *numbers = text.split(":")
        try:
            values = tuple(map(float, numbers))
        except ValueError:
            values = None
        if (
            values is None
            or len(SAMPLING.get(name, (0, "?" * 99))[1]) != len(values)
            or not np.isfinite(values).all()
            or name == "softmax"
            and values[0] <= 0
        ):
            raise BadInput(f"{text}: one of {HELP}, as in simans:0.5:0")
        return cls(text, name, values)

    def slots(self, candidates, count, *, seed, epoch):
        """(n, count) slots of each list, without replacement, -1 where the list is too short."""
        there = candidates.docs >= 0
        function, _, needs = SAMPLING[self.name]
        if self.name == "top":
            keys = np.broadcast_to(np.arange(there.shape[1], dtype=np.float64), there.shape).copy()
        else:
            keys = uniform(candidates.source, seed, epoch, candidates.queries[:, None], np.arange(there.shape[1]))
        if function:
            if (
                "scores" in needs
                and np.isnan(candidates.scores[there]).any()
                or "positive" in needs
                and np.isnan(candidates.positive[there.any(1)]).any()
            ):
                raise BadInput(
                    f"--sampling {self.text} weighs scores of docs and positives, and {candidates.source} lacks some"
                )
            keys = np.log(-np.log(np.maximum(keys, 2.0**-60))) - function(candidates, *self.numbers)
        keys[~there] = np.inf
        slots = np.full((len(keys), count), -1, dtype=np.int64)
        order = np.argsort(keys, axis=1, kind="stable")[:, :count]
        slots[:, : order.shape[1]] = np.where(np.take_along_axis(there, order, 1), order, -1)
        return slots

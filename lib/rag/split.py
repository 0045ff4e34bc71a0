"""What a gain in answers is made of: more relevant docs found, or better docs beside them.

For a question, retrievers A and B each give a context: relevant docs G at their ranks, others D in the places between.
The generator answers all four mixtures, and the Shapley values of the two players G and D (Shapley 1953) divide the
gain:

    recall effect     = 1/2 [Y(G_B, D_A) - Y(G_A, D_A) + Y(G_B, D_B) - Y(G_A, D_B)]
    distractor effect = 1/2 [Y(G_A, D_B) - Y(G_A, D_A) + Y(G_B, D_B) - Y(G_B, D_A)]

They add up to Y(G_B, D_B) - Y(G_A, D_A) exactly. If both find the same relevant docs at the same ranks, the recall
effect is 0.
"""

from typing import NamedTuple


class Ranked(NamedTuple):
    """The best docs of one retriever for one question, best first: some more than the k that are read."""

    rows: list  # doc rows
    gold: list  # bool: which of them are relevant


def context(golds, others, k):
    """The k doc rows of a context: relevant docs of one Ranked at their ranks, other docs of another in between.

    A place that a relevant doc leaves free goes to the other's next doc that is not relevant, from beyond its k best if
    need be. A relevant doc's place moves up only where those docs have run out.
    """
    places = {rank: row for rank, (row, gold) in enumerate(zip(golds.rows[:k], golds.gold[:k])) if gold}
    rest = iter([row for row, gold in zip(others.rows, others.gold) if not gold])
    found = [places.get(rank, -1) for rank in range(k)]
    return [row for row in (next(rest, -1) if row < 0 else row for row in found) if row >= 0]


def four_contexts(a, b, k):
    """The contexts (G_A, D_A), (G_B, D_A), (G_A, D_B), (G_B, D_B)."""
    return context(a, a, k), context(b, a, k), context(a, b, k), context(b, b, k)


def shapley(aa, ba, ab, bb):
    """(recall effect, distractor effect) of the measures Y of the four contexts; arrays or numbers."""
    return (ba - aa + bb - ab) / 2, (ab - aa + bb - ba) / 2

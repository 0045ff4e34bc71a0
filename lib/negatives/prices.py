"""What a false negative costs and a lost hard negative is worth, as measured, and where a filter breaks even by that.

prices.json has for each collection what MRR@10 falls by if all hard negatives were false or were replaced by random
docs, as a mean with a 95 % interval, measured at a quarter of them (experiments/prices.py; docs/false-negatives.md).
"""

import pathlib
from typing import NamedTuple

import numpy as np

from lib.files import read_json

PATH = pathlib.Path(__file__).with_name("prices.json")
LITTLE = 0.001  # of MRR@10: a filter that cannot gain as much does not pay
MANY = 5  # positives of a query from which on a collection is one of classes, as banking77, and not of single answers


class Price(NamedTuple):
    """A fall in MRR@10 for each unit of share, and its 95 % interval."""

    mean: float
    low: float
    high: float


class Prices(NamedTuple):
    """The prices of a collection."""

    collection: str
    false: Price  # of negatives that are positives
    lost: Price  # of hard negatives that are random docs instead


def nearest(collection, split):
    """The Prices measured on the collections whose queries have about as many positives: the widest of their intervals.

    None where none of prices.json is like it.
    """
    qrels = collection.split(split)
    many = np.mean([len(qrels.positives(i)) for i in range(len(qrels))]) >= MANY
    alike = [row for row in read_json(PATH) if (row["positives"] >= MANY) == many]
    if not alike:
        return None
    prices = []
    for name in ("false", "lost"):
        means, lows, highs = zip(*(row[name] for row in alike))
        prices.append(Price(float(np.mean(means)), min(lows), max(highs)))
    return Prices(", ".join(row["collection"] for row in alike), *prices)


def cost(share, prices):
    """A sentence: what such a share of false negatives costs."""
    mean, *limits = (share * price for price in prices.false)
    low, high = sorted(max(0.0, limit) for limit in limits)
    return (
        f"{share:.1%} false negatives cost {max(0.0, mean):.4f} [{low:.4f}, {high:.4f}] MRR@10 by the prices of "
        f"{prices.collection} (docs/false-negatives.md)"
    )


def break_even(caught, lost, prices):
    """The Price, in shares of the negatives that are false, from which on a filter gains more than it costs.

    caught, lost: the shares of false and of other negatives that it drops. The limits take what is worst and best for
    it of both prices; 1: at no share.
    """

    def share(false, true):
        pays, costs = caught * max(false, 0.0), lost * max(true, 0.0)
        return costs / (pays + costs) if pays + costs else 1.0

    false, true = prices.false, prices.lost
    return Price(share(false.mean, true.mean), share(false.high, true.low), share(false.low, true.high))


def verdict(row, first, prices, *, by_score):
    """A sentence: whether a filter pays. row: its audit.estimate(), first: that of the candidates before it.

    by_score: whether it drops what scores highest, the hardest of a list; the price of a lost one is of any of a list.
    """
    even = break_even(row["caught"], row["cost"], prices)
    most, one = (first[name] * row["caught"] * max(0.0, prices.false.high) for name in ("at_most", "per_unlabelled"))
    if most < LITTLE:
        return f"does not pay: at most {first['at_most']:.1%} are false, so that it gains {most:.4f} MRR@10 at the most"
    if one < LITTLE:
        return (
            "does not pay unless queries have several unlabelled positives each: with one, "
            f"{first['per_unlabelled']:.1%} are false, and it gains {one:.4f} MRR@10 at the most"
        )
    said = f"pays where more than {even.mean:.1%} [{even.low:.1%}, {even.high:.1%}] of the negatives are false"
    if first["at_most"] < even.low:
        return f"does not pay: it {said}, and at most {first['at_most']:.1%} are"
    if first["per_unlabelled"] > even.high and by_score:
        return f"open: it {said}, but it drops the same hard docs at every step, which was not measured"
    if first["per_unlabelled"] > even.high:
        return f"pays if every query has an unlabelled positive: it {said}, and then {first['per_unlabelled']:.1%} are"
    return f"open: it {said}; {first['per_unlabelled']:.1%} are if every query has an unlabelled positive"

"""Injection: known positives among the negatives, or easy docs in the place of hard ones, to measure what each costs.

An experiment and no way to train: how dear a false negative is can only be seen where it is known that it is one. Of
each train query with two positives or more, one is kept aside: it is never a positive, and is a negative just as often
as the arm says. All arms that inject keep the same docs aside, also those that inject nothing, to which the others are
compared.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.cli import Choice, choice
from lib.data.qrels import Qrels
from lib.files import BadInput
from lib.negatives.candidates import drawn_candidates, random_docs
from lib.negatives.pool import Pool
from lib.rng import uniform


def positives(collection, query_rows, kept, **how):
    """SHARE of the negatives become a known positive that training was not given: false negatives, on purpose"""
    return kept


def easy(collection, query_rows, kept, **how):
    """SHARE of them become random docs, of the same queries: hard negatives lost"""
    return np.where(kept >= 0, drawn_candidates("easy", random_docs, collection, query_rows, 1, **how).docs[:, 0], -1)


def hardest(collection, query_rows, kept, **how):
    """the same in the place of the one of the K that its miner ranks best"""
    return easy(collection, query_rows, kept, **how)


class Row(NamedTuple):
    """What takes a negative's place: its function of query rows and kept docs (B,), which returns docs (B,).

    first: the place of the negative that the list ranks best, not of any.
    """

    function: Callable
    first: bool = False
    numbers: dict = {"SHARE": {"least": 0, "most": 1}}


INJECTED = {"positives": Row(positives), "easy": Row(easy), "hardest": Row(hardest, first=True)}
parse_injected = choice(INJECTED)


@dataclasses.dataclass(frozen=True)
class Injection:
    """What an arm injects."""

    how: Choice  # of INJECTED
    kept: np.ndarray  # (n_train,) doc row that is kept aside for each train query, -1 where it has one positive only

    def replace(self, drawn, positions, query_rows, collection, *, pool: Pool, seed, epoch):
        """(negatives without what is replaced, (B, 1) what stands in its place, -1 for nothing).

        drawn: {code: (B, K) doc rows, -1 for none}, in the order of their list. Of the k negatives of a query at most
        one is replaced, with probability k * SHARE.
        """
        named = np.concatenate([np.empty((len(positions), 0), dtype=np.int32), *drawn.values()], axis=1)
        there = named >= 0
        chance, which = (uniform(what, seed, epoch, query_rows) for what in ("inject", "inject which"))
        row = INJECTED[self.how.name]
        docs = row.function(collection, query_rows, self.kept[positions], pool=pool, seed=seed, epoch=epoch)
        docs = np.where(chance < there.sum(1) * self.how.numbers[0], docs, -1)
        nth = np.floor(which * there.sum(1) * (not row.first)).astype(int)  # of those that are there
        gone = there & (np.cumsum(there, axis=1) - 1 == nth[:, None]) & (docs >= 0)[:, None]
        left, begin = {}, 0
        for code, part in drawn.items():
            left[code] = np.where(gone[:, begin : begin + part.shape[1]], -1, part)
            begin += part.shape[1]
        return left, docs[:, None]


def keep_aside(collection, *, seed):
    """(the collection without one positive of each train query that has two, (n_train,) these docs, -1 for none).

    They stay known as positives, and with them their copies. BadInput where no query has two.
    """
    train, groups = collection.split("train"), collection.docs.groups
    owner = np.repeat(np.arange(len(train)), np.diff(train.indptr))
    draws, kept = uniform("keep aside", seed, train.queries), np.full(len(train), -1)
    for i in range(len(train)):
        texts = np.unique(groups[train.positives(i)])
        if len(texts) > 1:
            kept[i] = texts[int(draws[i] * len(texts))]
    if (kept < 0).all():
        raise BadInput(
            f"--inject: no train query of {collection.name} has two positives, and one is kept aside of each; "
            "experiments/second_positives.py makes a collection whose queries have"
        )
    aside = (groups[train.docs] == kept[owner]) & (train.grades >= 1)
    parts = []
    for mask in (~aside, aside):
        counts = np.bincount(owner[mask], minlength=len(train))
        parts.append(
            Qrels(train.queries, np.concatenate([[0], np.cumsum(counts)]), train.docs[mask], train.grades[mask])
        )
    left, others = parts
    return dataclasses.replace(
        collection, qrels=collection.qrels | {"train": left}, left_out=(*collection.left_out, others)
    ), kept

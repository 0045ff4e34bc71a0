"""Filters over candidates: which docs of a mined list may serve as negatives, each with a count of what it dropped.

A filter is written name:value, as in percpos:0.95; several apply in the order given, each to what the ones
before it left. Let s be a candidate's score and s+ its query's positive score, both by the miner.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.cli import choice
from lib.data import fields
from lib.data.beir import metadata_of
from lib.data.words import normalise
from lib.files import BadInput
from lib.negatives.near_copies import near_copies_of_positives


def window(candidates, collection, first, last):
    """Ranks outside of first..last, counted from 1 in the list as it was mined."""
    return (candidates.ranks < first) | (candidates.ranks > last)


def max_score(candidates, collection, limit):
    """Scores above an absolute limit."""
    return candidates.scores > limit


def margin(candidates, collection, gap):
    """Scores not below s+ minus an absolute gap (MarginPos; Moreira et al. 2024, section 3)."""
    return candidates.scores >= candidates.positive[:, None] - gap


def percpos(candidates, collection, share):
    """Scores not below a share of s+ (TopK-PercPos; Moreira et al. 2024, section 3).

    The paper's threshold is s+ * share; for a negative s+ that would lie above it, so the distance
    |s+| * (1 - share) is taken off, which is the same where s+ is positive.
    """
    positive = candidates.positive[:, None]
    return candidates.scores >= positive - np.abs(positive) * (1 - share)


def quantile(candidates, collection, level):
    """Scores above that quantile of all queries' positive scores; a rising affine map changes nothing."""
    return candidates.scores > np.nanquantile(candidates.positive.astype(np.float64), level)


def near_copy(candidates, collection, similarity):
    """Docs whose 3-word shingles are this similar (Jaccard, by MinHash) to a positive's."""
    return near_copies_of_positives(collection, candidates.queries, candidates.docs, similarity=similarity)


def answer(candidates, collection):
    """Docs that hold an answer of the query: `answers` in a query's record or in its metadata."""
    drop = np.zeros(candidates.docs.shape, dtype=bool)
    text_of = functools.lru_cache(maxsize=1 << 16)(lambda row: normalise(collection.docs.text(row)))
    found = False
    for i, row in enumerate(candidates.queries):
        record = collection.queries.record(row)
        answers = record.get("answers") or metadata_of(record).get("answers") or []
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise BadInput(f'{collection.queries.path}: "answers" of {record["_id"]} must be a list of strings')
        found |= bool(answers)
        wanted = [f" {normalise(a)} " for a in answers if normalise(a)]
        if wanted:
            drop[i] = [doc >= 0 and any(a in f" {text_of(doc)} " for a in wanted) for doc in candidates.docs[i]]
    if not found:
        raise BadInput('the filter answer: no query of this split has "answers" in its record or metadata')
    return drop


def not_same(candidates, collection, field):
    """Docs that share this metadata field with a positive, as other chunks of its document do."""
    of_queries, of_docs = fields.values(collection, field, candidates.queries)
    found = np.where(candidates.docs >= 0, of_docs[candidates.docs], -1)  # (n, C)
    return ((found[:, :, None] == of_queries[:, None, :]) & (found >= 0)[:, :, None]).any(2)


def balance(candidates, collection, times):
    """Docs in more than this many lists for each query that they answer, rounded up, but where they rank best: hubs are
    pushed away no oftener than they are pulled, and docs that answer nothing never (of P positives each counts 1/P)."""
    groups, known = collection.docs.groups, collection.known_docs(candidates.queries)
    shares = np.repeat(1 / np.maximum((known >= 0).sum(1), 1), (known >= 0).sum(1))
    most = times * np.bincount(groups[known[known >= 0]], weights=shares, minlength=len(groups))
    rows, slots = np.nonzero(candidates.docs >= 0)
    docs = groups[candidates.docs[rows, slots]]
    order = np.lexsort((rows, candidates.ranks[rows, slots], docs))
    first = np.searchsorted(docs[order], docs[order])  # where the doc's own entries begin
    drop = np.zeros(candidates.docs.shape, dtype=bool)
    drop[rows[order], slots[order]] = np.arange(len(order)) - first >= most[docs[order]] - 1e-9
    return drop


def denoise(candidates, collection, limit):
    """Docs that a cross-encoder gives more than this (RocketQA, Qu et al. 2021: 0.1)."""
    if candidates.teacher is None:
        raise BadInput(
            "the filter denoise goes by a cross-encoder's scores: of mine_negatives.py --cross_encoder, or of its file"
        )
    return candidates.teacher > limit


def check_teacher(candidates, place):
    """BadInput if candidates have no scores of a cross-encoder, from 0 to 1, which denoising and relabelling go by."""
    if candidates.teacher is None or np.isnan(candidates.teacher).all():
        raise BadInput(f"{place}: has no teacher scores, which denoise and --relabel go by")
    low, high = np.nanmin(candidates.teacher), np.nanmax(candidates.teacher)
    if low < 0 or high > 1:
        raise BadInput(
            f"{place}: teacher scores from {low:.3g} to {high:.3g}, and denoise and --relabel want those of a "
            "cross-encoder, from 0 to 1"
        )


class Filter(NamedTuple):
    """A filter: its function, its numbers {letter: limits}, and which scores of the miner it reads."""

    function: Callable
    numbers: dict = {}
    needs: tuple = ()


WHOLE, SHARE = {"kind": int, "least": 0}, {"least": 0, "most": 1}
FILTERS = {
    "window": Filter(window, {"FIRST": WHOLE, "LAST": WHOLE}),
    "max_score": Filter(max_score, {"X": {}}, ("scores",)),
    "margin": Filter(margin, {"X": {}}, ("scores", "positive")),
    "percpos": Filter(percpos, {"SHARE": SHARE}, ("scores", "positive")),
    "quantile": Filter(quantile, {"LEVEL": SHARE}, ("scores", "positive")),
    "near_copy": Filter(near_copy, {"SIMILARITY": SHARE}),
    "answer": Filter(answer),
    "not_same": Filter(not_same, {"FIELD": {"kind": str}}),
    "balance": Filter(balance, {"TIMES": {"least": 1}}),
    "denoise": Filter(denoise, {"X": SHARE}),
}
parse_filter = choice(FILTERS)


def apply(candidates, filters, collection):
    """Candidates without what the filters drop, closed up to the left; each filter's count in `dropped`."""
    for each in filters:
        there, row = candidates.docs >= 0, FILTERS[each.name]
        for name in row.needs:
            values = candidates.scores[there] if name == "scores" else candidates.positive
            if there.any() and np.isnan(values).all():
                what = {"scores": "scores", "positive": "scores of the positives"}[name]
                raise BadInput(f"--filters {each.text}: needs {what}, and {candidates.source} has none")
        if row.needs and len(candidates.origins) > 1:
            raise BadInput(
                f"--filters {each.text}: {', '.join(candidates.origins)} score on scales of their "
                "own; filter when mining, where each source stands alone"
            )
        drop = row.function(candidates, collection, *each.numbers) & there
        before = candidates.dropped.get(each.text, 0)
        candidates = candidates.keep(there & ~drop)
        candidates.dropped = candidates.dropped | {each.text: before + int(drop.sum())}
    return candidates


# ---------------------------------------------------------------------------------------------- of positives


def rank(candidates, most):
    """Positives that this many docs score above, or more (consistency filtering; Nomic Embed 2024: the best 2)."""
    return (candidates.scores > candidates.positive[:, None]).sum(1) >= most


def score(candidates, least):
    """Positives that score below this (CoRNStack, Suresh et al. 2024: cosines of .7)."""
    return candidates.positive < least


# what a row drops by Candidates of the train queries, mined from the whole corpus: a whole number is how many of them
# it needs; without one it goes by the positives alone
POSITIVE_FILTERS = {
    "rank": Filter(rank, {"K": {"kind": int, "least": 1, "most": 1_000_000, "default": 2}}),
    "score": Filter(score, {"X": {"default": 0.7}}),
}
parse_positive_filter = choice(POSITIVE_FILTERS)


def inconsistent(each, miner, spec):
    """(Q,) which train queries a Choice of POSITIVE_FILTERS drops by the retriever `spec`, and (Q,) their positives'
    scores; of several positives the best counts."""
    depth = max([1, *(number for number in each.numbers if isinstance(number, int))])
    found = miner.propose(spec, "positive_filter", depth)
    drop = POSITIVE_FILTERS[each.name].function(found, *each.numbers)
    if drop.all():
        raise BadInput(f"--positive_filter {each.text}: by {spec} it drops every training pair")
    return drop, found.positive

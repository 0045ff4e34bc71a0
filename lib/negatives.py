"""Negatives: the grammar of arms, candidate lists and the records they are written as, and the draw for each step."""
import dataclasses
import re

import numpy as np

from lib import formats
from lib.run import BadInput, uniform

SOURCES = ("in_batch", "random", "bm25", "dense", "refresh", "file")
MINED = ("bm25", "dense", "refresh", "file")  # sources that draw from lists of candidates


@dataclasses.dataclass(frozen=True)
class Stage:
    """From fraction `begin` of training on, draw `parts` = ((source, negatives per query), ...)."""
    begin: float
    parts: tuple


def parse_arm(text):
    """The stages of an arm: `bm25:2+refresh:2`, or staged `random:4,refresh:4@0.3`; `in_batch` adds nothing explicit."""
    stages = []
    for piece in text.split(","):
        body, _, begin = piece.partition("@")
        parts = []
        for part in body.split("+"):
            match = re.fullmatch(r"(\w+)(?::(\d+))?", part)
            if not match or match[1] not in SOURCES:
                raise BadInput(f"--negatives {text}: {part!r} is no source; write source:K with one of {', '.join(SOURCES)}")
            count = int(match[2] or 0)
            if (match[1] == "in_batch") != (match[2] is None) or (match[2] and not count):
                raise BadInput(f"--negatives {text}: {part!r}; in_batch takes no number, every other source at least 1")
            if match[1] != "in_batch":
                parts.append((match[1], count))
        if len({name for name, _ in parts}) < len(parts):
            raise BadInput(f"--negatives {text}: a source stands twice in {piece!r}")
        try:
            fraction = float(begin or 0.0)
        except ValueError:
            fraction = -1.0
        if not 0.0 <= fraction < 1.0 or (stages and fraction <= stages[-1].begin) or (not stages and fraction > 0):
            raise BadInput(f"--negatives {text}: stages begin at rising fractions below 1, the first at 0; found @{begin}")
        stages.append(Stage(fraction, tuple(parts)))
    return stages


def arm_sources(text):
    """The explicit sources that an arm names, in order of first use."""
    return list(dict.fromkeys(name for stage in parse_arm(text) for name, _ in stage.parts))


# ------------------------------------------------------------------------------------------------ candidates

@dataclasses.dataclass
class Candidates:
    """Candidate docs of n queries from one source, best first, -1 where a list ends early."""
    source: str
    queries: np.ndarray   # (n,) query rows
    docs: np.ndarray      # (n, C) int32 doc rows
    scores: np.ndarray    # (n, C) float32, on the source's own scale
    positive: np.ndarray  # (n,) float32: the best score of a known positive among what was fetched, nan where none was
    dropped: dict         # reason -> how many fetched docs it removed


def from_search(collection, query_rows, found, *, source, depth):
    """Candidates from the (scores, rows) of a search that fetched `depth` + overfetch() docs or the whole corpus."""
    scores, rows = found
    is_positive = collection.known_positive(query_rows, rows)
    copies = _repeats(np.where(rows >= 0, collection.docs.groups[rows], -1 - np.arange(rows.shape[1])))
    positive = np.where(is_positive, scores, -np.inf).max(1)
    keep = (rows >= 0) & ~is_positive & ~copies
    front = np.argsort(~keep, axis=1, kind="stable")[:, :depth]                              # kept ones first, in order
    kept = np.take_along_axis(keep, front, 1)
    docs = np.where(kept, np.take_along_axis(rows, front, 1), -1).astype(np.int32)
    dropped = {"positive": int(is_positive.sum()), "copy": int((copies & ~is_positive).sum()),
               "below the depth": int(keep.sum() - kept.sum())}
    candidates = Candidates(source, query_rows, docs, np.where(kept, np.take_along_axis(scores, front, 1), np.nan),
                            np.where(np.isfinite(positive), positive, np.nan), dropped)
    assert not collection.known_positive(query_rows, docs).any(), "a positive was mined as a negative"
    return candidates


def overfetch(collection):
    """How many docs a search must fetch beyond the depth so that dropping positives leaves enough."""
    return int(np.diff(collection.known[0]).max())


def _repeats(values):
    """(n, C) bool: whether a value stood further left in its row already."""
    by_value = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, by_value, 1)
    again = np.zeros_like(values, dtype=bool)
    np.put_along_axis(again, by_value[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return again


def random_docs(collection, query_rows, count, *, seed, epoch):
    """(n, count) doc rows drawn uniformly, no positive and no doc twice in a row; -1 where the corpus is too small."""
    spare = 8 + overfetch(collection)
    draws = uniform("random", seed, epoch, query_rows[:, None], np.arange(count + spare))
    rows = (draws * len(collection.docs)).astype(np.int32)
    drop = collection.known_positive(query_rows, rows) | _repeats(collection.docs.groups[rows])
    front = np.argsort(drop, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(drop, front, 1), -1, np.take_along_axis(rows, front, 1))


def random_candidates(collection, query_rows, depth, *, seed):
    """random_docs() as Candidates, without scores; -1 where the corpus is too small."""
    docs = random_docs(collection, query_rows, depth, seed=seed, epoch=0)
    return Candidates("random", query_rows, docs, np.full(docs.shape, np.nan, dtype=np.float32),
                      np.full(len(docs), np.nan, dtype=np.float32), {})


def draw(candidates, picks, count, *, seed, epoch):
    """(B, count) doc rows: for each of `picks` (positions in the candidate lists) uniformly, without replacement."""
    docs = candidates.docs[picks]                                                            # (B, C)
    keys = uniform(candidates.source, seed, epoch, candidates.queries[picks][:, None], np.arange(docs.shape[1]))
    keys[docs < 0] = 2.0                                                                     # behind every real candidate
    chosen = np.argsort(keys, axis=1, kind="stable")[:, :count]
    out = np.full((len(picks), count), -1, dtype=np.int32)
    out[:, :chosen.shape[1]] = np.take_along_axis(docs, chosen, 1)
    return out


def describe(candidates):
    """What came of a mining, as plain numbers for logs and headers."""
    lengths = (candidates.docs >= 0).sum(1)
    return {"queries": len(lengths), "candidates": int(lengths.sum()), "shortest_list": int(lengths.min()),
            "mean_score": _mean(candidates.scores), "mean_positive_score": _mean(candidates.positive),
            "outscore_positive": _mean((candidates.scores > candidates.positive[:, None])[
                (candidates.docs >= 0) & ~np.isnan(candidates.positive)[:, None]]),
            "dropped": candidates.dropped}


def _mean(values):
    values = np.asarray(values, dtype=np.float64)
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 6)


# ---------------------------------------------------------------------------------------------------- supply

class Supply:
    """The negatives of one arm, step by step: which sources are active, when they are mined, what each query gets.

    `mine(source, picks, depth)` is the caller's: it returns Candidates of the train queries at positions `picks`, found
    with BM25 or with the encoder as it stands. `upcoming(step)` gives the positions that the next steps visit: a refresh
    mines only for those, so that refreshing often costs little more than refreshing once.
    """

    def __init__(self, arm, *, steps, refresh_every, depth, seed, collection, qrels, mine, upcoming):
        self.stages = parse_arm(arm)
        self.starts = [round(stage.begin * steps) for stage in self.stages]
        self.sources = arm_sources(arm)
        self.refresh_every, self.depth, self.seed = refresh_every, depth, seed
        self.collection, self.qrels = collection, qrels
        self._mine, self._upcoming = mine, upcoming
        self._lists = {}  # source -> (Candidates, (n_train,) position of each train query in them, -1 if not there)

    def stage_at(self, step):
        """The stage that `step` belongs to."""
        return self.stages[max(i for i, start in enumerate(self.starts) if step >= start)]

    def prepare(self, step):
        """Mine what is due at `step`; returns the sources that were mined."""
        mined = []
        for source, _ in self.stage_at(step).parts:
            due = source in MINED and source not in self._lists
            if source == "refresh":
                due = due or (step - self._refreshed) >= self.refresh_every
            if due:
                picks = self._upcoming(step, self.refresh_every) if source == "refresh" else np.arange(len(self.qrels))
                position = np.full(len(self.qrels), -1)
                position[picks] = np.arange(len(picks))
                self._lists[source] = self._mine(source, picks, self.depth), position
                mined.append(source)
            if due and source == "refresh":
                self._refreshed = step
        return mined

    def describe(self, source):
        """Numbers of the last mining of a source: list lengths, scores, and what was dropped and why."""
        return describe(self._lists[source][0])

    def draw(self, picks, *, step, epoch):
        """One (B, K) array of doc rows for each source of the arm, in the order of `sources`; (B, 0) while it rests."""
        active = dict(self.stage_at(step).parts)
        drawn = []
        for source in self.sources:
            count = active.get(source, 0)
            if not count:
                drawn.append(np.empty((len(picks), 0), dtype=np.int32))
            elif source == "random":
                drawn.append(random_docs(self.collection, self.qrels.queries[picks], count, seed=self.seed, epoch=epoch))
            else:
                candidates, position = self._lists[source]
                drawn.append(draw(candidates, position[picks], count, seed=self.seed, epoch=epoch))
        return drawn


# ----------------------------------------------------------------------------------------------------- files

def records(candidates, collection, *, round=0):
    """The records of a negatives file, one per candidate, in order of query and rank."""
    for i, row in enumerate(candidates.queries):
        positive = candidates.positive[i]
        for rank, (doc, score) in enumerate(zip(candidates.docs[i], candidates.scores[i]), 1):
            if doc >= 0:
                yield {"qid": collection.queries.ids[row], "doc_id": collection.docs.ids[doc], "source": candidates.source,
                       "rank": rank, "score": round_score(score), "positive_score": round_score(positive), "round": round}


def round_score(score):
    """A score for JSON: 6 significant digits, null for nan."""
    return None if np.isnan(score) else float(f"{score:.6g}")


def load_candidates(path, collection, qrels):
    """Candidates from a negatives file, with one list for each train query; BadInput if it was made for other data."""
    header, rows = formats.read_negatives(path)
    if header.get("collection_fingerprint") != collection.fingerprint:
        raise BadInput(f"{path}: mined on collection {header.get('collection_fingerprint')}, --data is "
                       f"{collection.fingerprint}; mine again on this collection")
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    lists = [{} for _ in position]  # doc row -> score, in the order of the file
    for number, record in rows:
        query, doc = collection.queries.row_of.get(record["qid"]), collection.docs.row_of.get(record["doc_id"])
        if query is None or doc is None:
            missing = record["qid"] if query is None else record["doc_id"]
            raise BadInput(f"{path}:{number}: {formats.shorten(missing)} is not in the collection")
        if query in position and doc not in lists[position[query]]:  # two sources may propose one doc: the first counts
            lists[position[query]][doc] = record["score"]
    if not any(lists):
        raise BadInput(f"{path}: no negatives for the queries of this split")
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    scores = np.full(docs.shape, np.nan, dtype=np.float32)
    for i, found in enumerate(lists):
        for j, (doc, score) in enumerate(found.items()):
            docs[i, j], scores[i, j] = doc, np.nan if score is None else score
    known = collection.known_positive(qrels.queries, docs)
    if known.any():
        i, j = np.argwhere(known)[0]
        raise BadInput(f"{path}: {collection.docs.ids[docs[i, j]]} is a positive of "
                       f"{collection.queries.ids[qrels.queries[i]]}; {known.sum()} such lines: mine again")
    return Candidates("file", qrels.queries, docs, scores, np.full(len(lists), np.nan, dtype=np.float32), {})

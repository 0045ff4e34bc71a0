"""Negatives: the grammar of arms, candidate lists and their records in files, and the draw for each step."""
import dataclasses
import re

import numpy as np
import torch

from lib import formats
from lib.run import BadInput, uniform

SOURCES = ("in_batch", "random", "bm25", "dense", "refresh", "adore", "queue", "file")
MINED = ("bm25", "dense", "refresh", "adore", "file")  # sources that draw from lists of candidates


@dataclasses.dataclass(frozen=True)
class Stage:
    """From fraction `begin` of training on, draw `parts` = ((source, negatives per query), ...)."""
    begin: float
    parts: tuple


def parse_arm(text):
    """The stages of an arm, as in `bm25:2+refresh:2` or `random:4,refresh:4@0.3`; `in_batch` has no parts."""
    stages = []
    for piece in text.split(","):
        body, _, begin = piece.partition("@")
        parts = []
        for part in body.split("+"):
            match = re.fullmatch(r"(\w+)(?::(\d+))?", part)
            if not match or match[1] not in SOURCES:
                raise BadInput(f"--negatives {text}: {part!r} is no source; "
                               f"write source:K with one of {', '.join(SOURCES)}")
            count = int(match[2] or 0)
            if (match[1] == "in_batch") != (match[2] is None) or (match[2] and not count):
                raise BadInput(f"--negatives {text}: {part!r}; "
                               "in_batch takes no number, every other source at least 1")
            if match[1] != "in_batch":
                parts.append((match[1], count))
        if len({name for name, _ in parts}) < len(parts):
            raise BadInput(f"--negatives {text}: a source stands twice in {piece!r}")
        try:
            fraction = float(begin or 0.0)
        except ValueError:
            fraction = -1.0
        rises = fraction > stages[-1].begin if stages else fraction == 0
        if not 0.0 <= fraction < 1.0 or not rises:
            raise BadInput(f"--negatives {text}: stages begin at rising fractions below 1, the first at 0; "
                           f"found @{begin}")
        stages.append(Stage(fraction, tuple(parts)))
    return stages


def count_by_stage(text):
    """Explicit negatives per query of an arm, as "4" or, where stages differ, as "4 then 8"."""
    return " then ".join(str(sum(count for _, count in stage.parts)) for stage in parse_arm(text))


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
    positive: np.ndarray  # (n,) float32: best score of a known positive that was fetched, nan where none was
    dropped: dict         # reason -> how many fetched docs it removed
    teacher: np.ndarray | None = None           # (n, C) float32: scores of a teacher, nan where it gave none
    teacher_positive: np.ndarray | None = None  # (n,) float32: its score of the query's positive


def from_search(collection, query_rows, found, *, source, depth):
    """Candidates from the (scores, rows) of a search that fetched `depth` + overfetch() docs, or all docs."""
    scores, rows = found
    is_positive = collection.known_positive(query_rows, rows)
    copies = _repeats(np.where(rows >= 0, collection.docs.groups[rows], -1 - np.arange(rows.shape[1])))
    positive = np.where(is_positive, scores, -np.inf).max(1)
    keep = (rows >= 0) & ~is_positive & ~copies
    front = np.argsort(~keep, axis=1, kind="stable")[:, :depth]                        # kept ones, in order
    kept = np.take_along_axis(keep, front, 1)
    docs = np.where(kept, np.take_along_axis(rows, front, 1), -1).astype(np.int32)
    dropped = {"positive": int(is_positive.sum()), "copy": int((copies & ~is_positive).sum()),
               "below the depth": int(keep.sum() - kept.sum())}
    scores = np.where(kept, np.take_along_axis(scores, front, 1), np.nan)
    positive = np.where(np.isfinite(positive), positive, np.nan)
    candidates = Candidates(source, query_rows, docs, scores, positive, dropped)
    assert not collection.known_positive(query_rows, docs).any(), "a positive was mined as a negative"
    return candidates


def overfetch(collection):
    """How many docs a search must fetch beyond the depth so that dropping positives leaves enough."""
    indptr, groups = collection.known
    copies = np.bincount(collection.docs.groups, minlength=len(collection.docs))  # docs that share each text
    return int(np.add.reduceat(copies[groups], indptr[:-1][np.diff(indptr) > 0]).max())


def _repeats(values):
    """(n, C) bool: whether a value stood further left in its row already."""
    by_value = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, by_value, 1)
    again = np.zeros_like(values, dtype=bool)
    np.put_along_axis(again, by_value[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return again


def random_docs(collection, query_rows, count, *, seed, epoch):
    """(n, count) doc rows drawn uniformly, no positive, no doc twice; -1 where the corpus is too small."""
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
    """(B, count) doc rows of the lists at positions `picks`, drawn uniformly, without replacement."""
    assert (picks >= 0).all(), "a query that was not mined for"
    docs = candidates.docs[picks]                                                  # (B, C)
    query_rows = candidates.queries[picks][:, None]
    keys = uniform(candidates.source, seed, epoch, query_rows, np.arange(docs.shape[1]))
    keys[docs < 0] = 2.0                                                           # behind all real ones
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
    """The negatives of one arm, step by step: which sources are active, when they are mined, who gets what.

    `mine(source, picks, depth)` is the caller's: it returns Candidates of the train queries at positions
    `picks`, found with BM25 or with the encoder as it stands. `upcoming(step, count)` gives the positions
    that `count` steps visit: refresh mines only for those, so that refreshing often costs little more than
    refreshing once, and adore, which mines anew at each step, only for that step's.
    """

    def __init__(self, arm, *, steps, refresh_every, depth, seed, collection, mine, upcoming):
        self.stages = parse_arm(arm)
        self.starts = [round(stage.begin * steps) for stage in self.stages]
        self.sources = arm_sources(arm)
        self.steps, self.refresh_every, self.depth, self.seed = steps, refresh_every, depth, seed
        self.collection, self.qrels = collection, collection.split("train")
        self._mine, self._upcoming = mine, upcoming
        self._lists = {}     # source -> (Candidates, (n_train,) position of each train query in them or -1)
        self._mined_at = {}  # source -> step

    def active(self, step):
        """{source: K} of the stage that `step` belongs to."""
        return dict(self.stages[max(i for i, start in enumerate(self.starts) if step >= start)].parts)

    @property
    def queue_size(self):
        """The largest N of queue:N, 0 without one."""
        return max(dict(stage.parts).get("queue", 0) for stage in self.stages)

    def queued(self, queue, step):
        """What make_batch() wants of the queue: (number of its source, its docs), or None while it rests."""
        count = self.active(step).get("queue")
        return (1 + self.sources.index("queue"), queue.docs[-count:]) if count and len(queue.docs) else None

    def prepare(self, step):
        """Mine what is due at `step`; returns the sources that were mined."""
        due = []
        for source, count in self.active(step).items():
            period = {"refresh": self.refresh_every, "adore": 1}.get(source)  # others are mined once
            if source not in MINED or not (
                    source not in self._lists or period and step >= self._mined_at[source] + period):
                continue
            if period:
                picks = self._upcoming(step, min(period, self.steps - step))
            else:
                picks = np.arange(len(self.qrels))
            position = np.full(len(self.qrels), -1)
            position[picks] = np.arange(len(picks))
            depth = count if source == "adore" else max(count, self.depth)
            self._lists[source] = self._mine(source, picks, depth), position
            self._mined_at[source] = step
            due.append(source)
        return due

    def describe(self, source):
        """Numbers of the last mining of a source: list lengths, scores, and what was dropped and why."""
        return describe(self._lists[source][0])

    def draw(self, picks, *, step, epoch):
        """One (B, K) array of doc rows for each source, in the order of `sources`; (B, 0) while it rests."""
        active = self.active(step)
        query_rows = self.qrels.queries[picks]
        drawn = []
        for source in self.sources:
            count = active.get(source, 0)
            if not count or source == "queue":
                drawn.append(np.empty((len(picks), 0), dtype=np.int32))
            elif source == "random":
                drawn.append(random_docs(self.collection, query_rows, count, seed=self.seed, epoch=epoch))
            else:
                candidates, position = self._lists[source]
                drawn.append(draw(candidates, position[picks], count, seed=self.seed, epoch=epoch))
        return drawn

    def teacher(self, batch, picks):
        """(B, N) teacher scores of the batch's docs from the file's records, nan where it has none."""
        candidates, position = self._lists["file"]
        at = position[picks]
        scores = np.full(batch.invalid.shape, np.nan, dtype=np.float32)
        groups = self.collection.docs.groups[candidates.docs[at]]                       # (B, C)
        columns = np.minimum(np.searchsorted(batch.docs, groups), len(batch.docs) - 1)
        rows, slots = np.nonzero((batch.docs[columns] == groups) & (candidates.docs[at] >= 0))
        scores[rows, columns[rows, slots]] = candidates.teacher[at][rows, slots]
        scores[np.arange(len(at)), batch.labels] = candidates.teacher_positive[at]
        return scores

    def state_dict(self):
        """What a resumed run needs: the lists and when they were mined, as tensors and plain values."""
        lists = {}
        for source, (candidates, position) in self._lists.items():
            fields = {f.name: getattr(candidates, f.name) for f in dataclasses.fields(candidates)}
            fields = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in fields.items()}
            lists[source] = fields, torch.from_numpy(position)
        return {"lists": lists, "mined_at": dict(self._mined_at)}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        for source, (fields, position) in state["lists"].items():
            fields = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in fields.items()}
            self._lists[source] = Candidates(**fields), position.numpy()
        self._mined_at = dict(state["mined_at"])


class Queue:
    """The last N docs that a momentum encoder embedded: negatives for later steps (MoCo, He et al. 2020)."""

    def __init__(self, size, dim, *, device):
        self.size = size
        self.docs = np.empty(0, dtype=np.int32)                                         # (n,) oldest first
        self.vectors = torch.empty(0, dim, device=device)                               # (n, D)

    def push(self, docs, vectors):
        """Add a step's docs (n,) and vectors (n, D); a doc that is there is replaced, the oldest leave."""
        keep = ~np.isin(self.docs, docs)
        vectors = torch.from_numpy(vectors).to(self.vectors.device)
        self.vectors = torch.cat([self.vectors[torch.from_numpy(keep)], vectors])[-self.size:]
        self.docs = np.concatenate([self.docs[keep], docs])[-self.size:]

    def state_dict(self):
        """The queue as tensors."""
        return {"docs": torch.from_numpy(self.docs), "vectors": self.vectors}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.docs, self.vectors = state["docs"].numpy(), state["vectors"].to(self.vectors.device)


# ----------------------------------------------------------------------------------------------------- files

def records(candidates, collection, *, round=0):
    """The records of a negatives file, one per candidate, in order of query and rank."""
    for i, row in enumerate(candidates.queries):
        positive = candidates.positive[i]
        for rank, (doc, score) in enumerate(zip(candidates.docs[i], candidates.scores[i]), 1):
            if doc >= 0:
                yield {"qid": collection.queries.ids[row], "doc_id": collection.docs.ids[doc],
                       "source": candidates.source, "rank": rank, "score": round_score(score),
                       "positive_score": round_score(positive), "round": round}


def round_score(score):
    """A score for JSON: 6 significant digits, null for nan."""
    return None if np.isnan(score) else float(f"{score:.6g}")


def load_candidates(path, collection, qrels):
    """Candidates from a negatives file, a list per train query; BadInput if it was made for other data."""
    header, rows = formats.read_negatives(path)
    if header.get("collection_fingerprint") != collection.fingerprint:
        raise BadInput(f"{path}: mined on collection {header.get('collection_fingerprint')}, --data is "
                       f"{collection.fingerprint}; mine again on this collection")
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    lists = [{} for _ in position]  # doc row -> (score, teacher's score), in the order of the file
    teacher_positive = np.full(len(lists), np.nan, dtype=np.float32)
    for number, record in rows:
        query = collection.queries.row_of.get(record["qid"])
        doc = collection.docs.row_of.get(record["doc_id"])
        if query is None or doc is None:
            missing = record["qid"] if query is None else record["doc_id"]
            raise BadInput(f"{path}:{number}: {formats.shorten(missing)} is not in the collection")
        if query in position:
            # two sources may propose one doc: the first counts
            lists[position[query]].setdefault(doc, (record["score"], record.get("teacher_score")))
            if record.get("teacher_positive_score") is not None:
                teacher_positive[position[query]] = record["teacher_positive_score"]
    if not any(lists):
        raise BadInput(f"{path}: no negatives for the queries of this split")
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    scores, teacher = (np.full(docs.shape, np.nan, dtype=np.float32) for _ in range(2))
    for i, found in enumerate(lists):
        for j, (doc, values) in enumerate(found.items()):
            docs[i, j] = doc
            scores[i, j], teacher[i, j] = (np.nan if value is None else value for value in values)
    known = collection.known_positive(qrels.queries, docs)
    if known.any():
        i, j = np.argwhere(known)[0]
        raise BadInput(f"{path}: {collection.docs.ids[docs[i, j]]} is a positive of "
                       f"{collection.queries.ids[qrels.queries[i]]}; {known.sum()} such lines: mine again")
    return Candidates("file", qrels.queries, docs, scores, np.full(len(lists), np.nan, dtype=np.float32), {},
                      teacher=teacher, teacher_positive=teacher_positive)

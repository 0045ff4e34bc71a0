"""Candidates: docs that a source proposes as negatives, list by list, and all that is done with such lists."""

import dataclasses
import functools

import numpy as np
import torch

from lib import dist, rng
from lib.data.collection import count_docs
from lib.files import BadInput
from lib.negatives.pool import EVERYTHING, held_out

BANDS = (10, 30, 100)  # ranks at which the bands of the ledger end; the last has no end
NARROW = 16  # positives up to which queries are searched together
COLUMNS = {"docs": -1, "ranks": 0, "scores": np.nan, "teacher": np.nan, "origin": 0}  # what stands for none


@dataclasses.dataclass
class Candidates:
    """Candidate docs of n queries from one source, best first, -1 where a list ends early.

    The first three fields are enough for a list as a source proposes it: admit() drops what may not be a negative.
    """

    source: str
    queries: np.ndarray  # (n,) query rows
    docs: np.ndarray  # (n, C) int32 doc rows
    scores: np.ndarray | None = None  # (n, C) float32, on the source's own scale; without any, nan
    positive: np.ndarray | None = None  # (n,) float32: score of the query's best positive by the same source
    dropped: dict = dataclasses.field(default_factory=dict)  # reason -> how many fetched docs it removed
    ranks: np.ndarray | None = None  # (n, C) int32: rank in the source's list, from 1; 0 for none; admit() counts them
    origin: np.ndarray | None = None  # (n, C) int16: which of `origins` proposed it
    origins: tuple = ()
    notes: dict = dataclasses.field(default_factory=dict)  # further numbers about the mining
    teacher: np.ndarray | None = None  # (n, C) float32: scores of a teacher, nan where it gave none
    teacher_positive: np.ndarray | None = None  # (n,) float32: its score of the query's positive

    def __post_init__(self):
        self.docs = self.docs.astype(np.int32, copy=False)
        for name, shape in (("scores", self.docs.shape), ("positive", len(self.docs))):
            if getattr(self, name) is None:
                setattr(self, name, np.full(shape, np.nan, dtype=np.float32))

    @classmethod
    def from_hits(cls, collection, query_rows, hits, *, source, count):
        """The first `count` candidates of Hits that fetched `count` + overfetch() docs, or all docs.

        Of hits.known, the scores of Collection.known_docs(), the best is kept.
        """
        known = collection.known_docs(query_rows) >= 0  # (n, P)
        best = np.fmax.reduce(np.where(known, hits.known, np.nan), axis=1).astype(np.float32)
        return cls(source, query_rows, hits.rows, hits.scores, best).admit(collection, count=count)

    def admit(self, collection, pool=EVERYTHING, *, count=None):
        """The first `count` candidates of each list that may be negatives: the gate that every list passes.

        Known positives and their copies, docs that are the query itself and docs outside the pool are dropped and
        counted. A list without ranks, as a source proposed it, is numbered, and a text stands in it once.
        """
        never = collection.no_negative(self.queries, self.docs)
        positive = collection.known_positive(self.queries, self.docs) if never.any() else never
        allowed = (self.docs >= 0) & ~never
        inside = allowed & pool.holds(self.docs)
        counts = {"positive": positive.sum(), "the query itself": never.sum() - positive.sum()}
        counts["outside the pool"] = allowed.sum() - inside.sum()
        before, found = self.dropped, self
        if self.ranks is None:
            texts = np.where(inside, collection.docs.groups[self.docs], -1 - np.arange(self.docs.shape[1]))
            copies = inside & _repeats(texts)
            inside &= ~copies
            found = dataclasses.replace(self, ranks=np.cumsum(inside, axis=1, dtype=np.int32))
            cut = inside & (found.ranks > (count or len(collection.docs)))
            before = {"positive": 0, "the query itself": 0, "copy": int(copies.sum()), "overfetched": int(cut.sum())}
        counts = {reason: before.get(reason, 0) + int(number) for reason, number in counts.items() if number}
        return dataclasses.replace(found.keep(inside, depth=count), dropped=before | counts)

    def _move(self, slots, there):
        """The columns at slots (n, K) of each list, with what stands for none where `there` does not hold."""
        moved = {}
        for name, missing in COLUMNS.items():
            values = getattr(self, name)
            if values is not None:
                values, missing = np.take_along_axis(values, slots, 1), np.asarray(missing, dtype=values.dtype)
                moved[name] = np.where(there, values, missing)
        return dataclasses.replace(self, **moved)

    def keep(self, mask, *, depth=None):
        """Candidates where `mask` (n, C) holds, closed up to the left, the first `depth` of each list."""
        front = np.argsort(~mask, axis=1, kind="stable")[:, :depth]
        return self._move(front, np.take_along_axis(mask, front, 1))

    def trim(self, depth):
        """The first `depth` candidates of each list; what is cut off is counted."""
        kept = self.keep(self.docs >= 0, depth=depth)
        cut = self.dropped.get("below the depth", 0) + self.count - kept.count
        return dataclasses.replace(kept, dropped=self.dropped | {"below the depth": cut})

    def take(self, slots):
        """Candidates at slots (n, K) of their lists, -1 for none, which come last; the rest is counted."""
        front = np.sort(np.where(slots < 0, self.docs.shape[1], slots), axis=1)
        inside = front < self.docs.shape[1]
        taken = self._move(np.where(inside, front, 0), inside)
        return dataclasses.replace(taken, dropped=self.dropped | {"not chosen": self.count - taken.count})

    def select(self, positions):
        """The Candidates of the queries at these positions."""
        assert (positions >= 0).all(), "a query that was not mined for"
        arrays = {
            f.name: getattr(self, f.name)[positions]
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), np.ndarray)
        }
        return dataclasses.replace(self, **arrays)

    @classmethod
    def concatenate(cls, parts):
        """Candidates of one source for the queries of all parts, one part behind the other."""
        depth = max(part.docs.shape[1] for part in parts)
        dropped = {}
        for part in parts:
            for reason, count in part.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count
        arrays = {}
        for field in dataclasses.fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], np.ndarray):
                missing = COLUMNS.get(field.name)
                if missing is not None:
                    values = [
                        np.pad(v, ((0, 0), (0, depth - v.shape[1])), constant_values=np.asarray(missing, dtype=v.dtype))
                        for v in values
                    ]
                arrays[field.name] = np.concatenate(values)
        return dataclasses.replace(parts[0], dropped=dropped, **arrays)

    @property
    def count(self):
        """How many candidates there are in all lists."""
        return int((self.docs >= 0).sum())

    def describe(self):
        """What came of a mining, as plain numbers for logs and headers."""
        lengths = (self.docs >= 0).sum(1)
        scored = (self.docs >= 0) & ~np.isnan(self.positive)[:, None]
        return {
            "queries": len(lengths),
            "candidates": int(lengths.sum()),
            "shortest_list": int(lengths.min()),
            "empty_lists": int((lengths == 0).sum()),
            "mean_score": _mean(self.scores),
            "mean_positive_score": _mean(self.positive),
            "outscore_positive": _mean((self.scores > self.positive[:, None])[scored]),
            "dropped": self.dropped,
        } | self.notes

    def state_dict(self):
        """All fields, arrays as tensors: what torch.save() writes without pickling classes."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            name: torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value
            for name, value in fields.items()
        }

    @classmethod
    def from_state_dict(cls, state):
        """The Candidates that state_dict() described."""
        return cls(
            **{name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
        )


def reasons(candidates):
    """Why candidates were dropped, and how many, in words."""
    return ", ".join(f"{reason} {count:,}" for reason, count in candidates.dropped.items() if count) or "-"


def table(mined, *, filled=False):
    """A line for each source: yield, scores, and what was dropped and why. filled: whether the last fills others."""
    lines = [f"{'source':8}{'queries':>9}{'candidates':>12}{'shortest':>10}{'mean score':>12}{'positive':>10}"
             f"{'above pos.':>12}   dropped"]  # fmt: skip
    for candidates in mined:
        found = candidates.describe()
        mean, positive = (found[key] for key in ("mean_score", "mean_positive_score"))
        above = "-" if found["outscore_positive"] is None else f"{found['outscore_positive']:.1%}"
        lines.append(
            f"{candidates.source:8}{found['queries']:>9,}{found['candidates']:>12,}{found['shortest_list']:>10}"
            + "".join(f"{'-' if x is None else f'{x:.3f}':>{width}}" for x, width in ((mean, 12), (positive, 10)))
            + f"{above:>12}   {reasons(candidates)}"
        )
    short = 0 if filled else sum(int(((c.docs >= 0).sum(1) < c.docs.shape[1]).sum()) for c in mined)
    said = "positive = mean score of the known positive; above pos. = share of candidates that outscore it"
    return "\n".join([*lines, said + (f"; {short:,} lists end short" if short else "")])


def how_many(depth, asked, *, thinned):
    """Candidates to mine for each query: as asked or, where some will be left out, 100; at least `depth`."""
    return max(depth, asked or (100 if thinned else 0))


def overfetch(collection, query_rows=None):
    """Docs that a search for these queries (all by default) must fetch beyond those wanted.

    Then dropping positives, the query itself and copies leaves enough.
    """
    counts = _to_drop(collection)
    return int((counts if query_rows is None else counts[query_rows]).max(initial=0))


@functools.lru_cache(maxsize=4)
def _to_drop(collection):
    """(n,) for each query row, how many docs may not be its negatives, copies included: asked for at every step."""
    return count_docs(collection, collection.no_negatives)


def search_candidates(collection, query_rows, count, search, *, source):
    """Candidates by search(positions among query_rows, k, known docs of these (n, P)) -> Hits.

    Queries are searched in groups of about as many positives: a single one with thousands would widen the rows of all.
    """
    indptr, _ = collection.no_negatives
    widths = np.maximum(np.diff(indptr)[query_rows], NARROW)
    groups = np.ceil(np.log2(widths)).astype(np.int64)
    order = np.argsort(groups, kind="stable")
    parts = []
    for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        rows = query_rows[part]
        hits = search(part, count + overfetch(collection, rows), collection.known_docs(rows))
        parts.append(Candidates.from_hits(collection, rows, hits, source=source, count=count))
    if len(parts) == 1:
        return parts[0]
    return Candidates.concatenate(parts).select(np.argsort(order, kind="stable"))


def _repeats(values):
    """(n, C) bool: whether a value stood further left in its row already."""
    by_value = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, by_value, 1)
    again = np.zeros_like(values, dtype=bool)
    np.put_along_axis(again, by_value[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return again


def random_docs(collection, query_rows, count, *, seed, epoch, pool=EVERYTHING):
    """(n, count) doc rows drawn uniformly from the pool."""
    return pool.draw(rng.uniform("random", seed, epoch, query_rows[:, None], np.arange(count)), collection)


def drawn_candidates(source, draw, collection, query_rows, count, *, seed, epoch=0, pool=EVERYTHING):
    """What a source draws, as Candidates without scores and ranks; -1 where the pool is too small.

    More docs are drawn than wanted, because those that may not be negatives are dropped. BadInput if some are
    outside the pool: a source that draws is given the pool, and what it draws elsewhere is a mistake.
    """
    rows = draw(collection, query_rows, count + 8 + overfetch(collection), pool=pool, seed=seed, epoch=epoch)
    if len(outside := rows[(rows >= 0) & ~pool.holds(rows)]):
        raise BadInput(
            f"the source {source} drew {len(outside):,} docs outside the pool {pool.name}, "
            f"{held_out(collection)[outside].sum():,} of which only dev or test queries are labelled with: pool.draw() "
            "gives docs of the pool"
        )
    found = Candidates(source, query_rows, rows).admit(collection, count=count)
    return dataclasses.replace(found, ranks=np.zeros_like(found.docs), dropped={})


def band_names():
    """The bands of ranks, as in 1-10."""
    starts = (1, *(end + 1 for end in BANDS))
    return [*(f"{a}-{b}" for a, b in zip(starts, BANDS)), f">{BANDS[-1]}"]


def _mean(values):
    values = np.asarray(values, dtype=np.float64)
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 6)


def taught(candidates, collection, score):
    """The Candidates with `teacher` and `teacher_positive` (the best of the known positives) set.

    score(queries, docs), lists of as many texts -> (n,) a teacher's scores.
    """
    docs = np.concatenate([candidates.docs, collection.known_docs(candidates.queries)], axis=1)
    owner, column = np.nonzero(docs >= 0)
    text_of = {row: collection.docs.text(row) for row in np.unique(docs[docs >= 0]).tolist()}
    queries = collection.queries.texts(candidates.queries)
    values = np.full(docs.shape, np.nan, dtype=np.float32)
    texts = [text_of[row] for row in docs[owner, column].tolist()]
    values[owner, column] = dist.map_rows(
        lambda own: score([queries[owner[i]] for i in own], [texts[i] for i in own]), np.arange(len(owner))
    )
    depth = candidates.docs.shape[1]
    return dataclasses.replace(
        candidates, teacher=values[:, :depth], teacher_positive=np.nanmax(values[:, depth:], axis=1)
    )

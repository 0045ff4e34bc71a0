"""The negative sampler: what is mined when, and which negatives each query of a step gets."""

import concurrent.futures
import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from lib.data.batches import draw_positives, make_batch
from lib.files import BadInput
from lib.negatives import filters
from lib.negatives.candidates import BANDS, Candidates, band_names
from lib.negatives.near_copies import near_copies_of_positives
from lib.negatives.pool import EVERYTHING, Pool
from lib.negatives.sampling import Sampling
from lib.negatives.sources import SOURCES

IN_BATCH = {
    "on": "count, but for known positives and their copies",
    "masked": "count, but for near-copies of a positive too",
    "off": "do not count: only the negatives that the arm names",
}
# what is said where no filter has dropped anything
NO_CANDIDATE = (
    "it proposes nothing but positives, copies of them and the queries themselves: take another source, or let more "
    "docs be negatives (--negative_docs)"
)
NEAR_COPY = 0.5  # Jaccard similarity of 3-word shingles, for masked


@dataclasses.dataclass(frozen=True)
class MiningConfig:
    """How lists are made and drawn from, alike for every source of an arm."""

    depth: int = 30  # candidates that a list keeps
    candidates: int = 30  # candidates that are mined, before the filters
    filters: tuple = ()  # of filters.Filter
    sampling: Sampling = Sampling("uniform", "uniform")  # how each step draws from a list
    pool: Pool = EVERYTHING  # docs that may be negatives
    refresh_every: int = 1  # steps from one mining of refresh to the next, or from probe to probe
    refresh_overlap: float | None = None  # refresh only when a probe's overlap has fallen below this
    refresh_lag: int = 0  # steps between the start of a mining in the background and its use


class Label(NamedTuple):
    """What a code in a batch stands for: a source, the source named by a file's record, a band of ranks."""

    source: str
    origin: str
    ranks: str

    @property
    def name(self):
        """The source in logs: bm25, or bm25 (file)."""
        return f"{self.origin} ({self.source})" if self.origin else self.source


@dataclasses.dataclass
class MinedList:
    """What a source mined last, and for whom."""

    candidates: Candidates
    position: np.ndarray  # (n_train,) where each train query stands in the candidates, -1: not mined
    mined_at: int  # step whose weights mined it
    until: int  # first step that it was not mined for
    probe: np.ndarray | None = None  # the probe's best docs when it was mined

    def state_dict(self):
        """All fields, arrays as tensors."""
        return {
            "candidates": self.candidates.state_dict(),
            "position": torch.from_numpy(self.position),
            "mined_at": self.mined_at,
            "until": self.until,
            "probe": _tensor(self.probe),
        }

    @classmethod
    def from_state_dict(cls, state):
        """The MinedList that state_dict() described."""
        return cls(
            Candidates.from_state_dict(state["candidates"]),
            state["position"].numpy(),
            state["mined_at"],
            state["until"],
            _array(state["probe"]),
        )


@dataclasses.dataclass
class Order:
    """A mining that is under way: the source, when its list is used, and what it is made with."""

    source: str
    use_at: int
    mined_at: int
    positions: np.ndarray
    until: int
    probe: np.ndarray | None
    future: concurrent.futures.Future


class NegativeSampler:
    """The negatives of one arm, step by step: which sources are active, when they are mined, who gets what.

    `miner` is the caller's. miner.mine(source, positions, count, last) returns Candidates of the train queries
    at those positions (last: the docs of their last lists, for notes about them); miner.mine_later() returns a
    future of that, from the encoder as it stands now; miner.probe() returns the best docs of a fixed sample.
    `upcoming(step, count)` gives the positions that `count` steps visit: refresh mines only for those, so that
    refreshing often costs little more than refreshing once, and adore, which mines at each step, only for that
    step's. `only`, if given, are all positions that will ever be asked for.
    """

    def __init__(self, arm, *, steps, config, seed, collection, miner, upcoming, only=None, in_batch="on"):
        self.starts = [round(stage.begin * steps) for stage in arm.stages]
        self.stages, self.steps, self.config, self.seed = arm.stages, steps, config, seed
        self.collection, self.qrels = collection, collection.split("train")
        self.in_batch = in_batch  # of IN_BATCH
        self.labels = []  # the Label of each code that batches carry, from 1
        self.lists = {}  # source -> MinedList
        self.miner, self._upcoming, self._only = miner, upcoming, only
        self._checked_at = {}  # source -> step at which it was last decided whether to mine
        self._last = {}  # source that refreshes -> (n_train, C) each query's last list, -1 before its first
        self._order = None  # the mining in the background
        widest = max([config.depth, *(count for stage in self.stages for count in stage.counts.values())])
        self._width = min(widest, len(collection.docs))  # of a list, which names no doc twice

    # ------------------------------------------------------------------------------------- questions

    def active(self, step):
        """{source: K} of the stage that `step` belongs to."""
        return self.stages[max(i for i, start in enumerate(self.starts) if step >= start)].counts

    @property
    def queue_size(self):
        """The largest N of a queue, 0 without one."""
        return max(
            (count for stage in self.stages for name, count in stage.counts.items() if SOURCES[name].queue), default=0
        )

    def age(self, source, step):
        """Steps since the weights that mined a source's list; None where none mined it."""
        return step - self.lists[source].mined_at if source in self.lists else None

    def overlap(self, source="refresh"):
        """Share of the probe's best docs that are the same as when the source was last mined."""
        return overlap(self.miner.probe(), self.lists[source].probe)

    # ---------------------------------------------------------------------------------------- mining

    def refresh(self, step):
        """Mine what is due at `step`; returns {source: numbers about its new list}."""
        reports = {}
        if self._order and step >= self._order.use_at:
            order, self._order = self._order, None
            reports[order.source] = self._take(order, step)
        for source in self.active(step):
            if SOURCES[source].mine is None:
                continue
            if source not in self.lists or step >= self.lists[source].until:  # the latter: a stage without it
                reports[source] = self._take(self._mine(source, step, lag=0), step)
            elif self._is_time(source, step):
                self._checked_at[source] = step
                threshold = self.config.refresh_overlap
                if threshold is not None and self.overlap(source) >= threshold:
                    continue
                order = self._mine(source, step, lag=self.config.refresh_lag)
                if self.config.refresh_lag:
                    self._order = order
                else:
                    reports[source] = self._take(order, step)
        return reports

    def _is_time(self, source, step):
        """Whether a source that has a list may want another one at `step`."""
        period = {"refresh": self.config.refresh_every, "step": 1}.get(SOURCES[source].every)
        return (
            bool(period)
            and not self._order
            and step >= self._checked_at[source] + period
            and step + self.config.refresh_lag < self.steps
        )

    def _mine(self, source, step, *, lag):
        """An Order of the candidates of a source, for use `lag` steps later."""
        self._checked_at[source] = step
        positions, until = self._positions(source, step, lag)
        by_overlap = SOURCES[source].every == "refresh" and self.config.refresh_overlap is not None
        probe = self.miner.probe() if by_overlap else None
        count = max(self.active(step)[source], self.config.candidates)
        last = self._last[source][positions] if source in self._last else None
        if lag:
            future = self.miner.mine_later(source, positions, count, last)
        else:
            future = concurrent.futures.Future()
            future.set_result(self.miner.mine(source, positions, count, last))
        return Order(source, step + lag, step, positions, until, probe, future)

    def _positions(self, source, step, lag):
        """(positions of the train queries to mine for, first step that they do not cover)."""
        every = SOURCES[source].every
        if every == "stage" or every == "refresh" and self.config.refresh_overlap is not None:
            fixed = SOURCES[source].fixed or self._only is None
            return np.arange(len(self.qrels)) if fixed else self._only, self.steps
        period = self.config.refresh_every if every == "refresh" else 1
        # a list is in use until the next one is: mined `period` later, or when this one's lag has passed
        most = max(period, lag) if lag else period + (self.config.refresh_lag if every == "refresh" else 0)
        count = min(most, self.steps - step - lag)
        positions = self._upcoming(step + lag, count) if self._only is None else self._only
        return positions, step + lag + count

    def _take(self, order, step):
        """Filter candidates, keep the best of them as the source's list; returns numbers about it."""
        source, positions = order.source, order.positions
        found = filters.apply(order.future.result(), self.config.filters, self.collection)
        found = found.trim(max(self.active(step).get(source, 0), self.config.depth))
        if not found.count:
            dropped = any(found.dropped.get(each.text) for each in self.config.filters)
            advice = "loosen --filters" if dropped else NO_CANDIDATE
            raise BadInput(f"the source {source} has no candidate left: {found.dropped}; {advice}")
        report = found.describe() | {"age": self.age(source, step)}
        if SOURCES[source].every == "refresh":
            last = self._last.setdefault(source, np.full((len(self.qrels), self._width), -1, dtype=np.int32))
            seen = (last[positions] >= 0).any(1)
            report["overlap"] = overlap(found.docs[seen], last[positions][seen])
            last[positions] = -1
            last[positions, : found.docs.shape[1]] = found.docs
        position = np.full(len(self.qrels), -1)
        position[positions] = np.arange(len(positions))
        self.lists[source] = MinedList(found, position, order.mined_at, order.until, order.probe)
        return report

    # -------------------------------------------------------------------------------------- sampling

    def batch(self, positions, *, step, epoch, queue=None):
        """The Batch of the train queries at `positions`: a positive each, the arm's negatives, the queue's."""
        positives = draw_positives(self.qrels, positions, seed=self.seed, epoch=epoch)
        batch = make_batch(
            self.collection,
            self.qrels.queries[positions],
            positives,
            self.sample(positions, step=step, epoch=epoch),
            queue=queue and self.queued(queue, step),
        )
        if self.in_batch == "on":
            return batch
        drop = batch.source == 0  # docs of other queries
        if self.in_batch == "masked":
            docs = np.where(drop, batch.columns, -1)
            drop = near_copies_of_positives(self.collection, batch.queries, docs, similarity=NEAR_COPY)
        drop[np.arange(len(drop)), batch.labels] = False
        return dataclasses.replace(batch, invalid=batch.invalid | drop)

    def sample(self, positions, *, step, epoch):
        """{code: (B, K) doc rows, -1 for none}; labels[code - 1] says what a code stands for."""
        drawn = {}
        for source, count in self.active(step).items():
            if SOURCES[source].draw:
                drawn[self._code(Label(source, "", ""))] = SOURCES[source].draw(
                    self.collection,
                    self.qrels.queries[positions],
                    count,
                    pool=self.config.pool,
                    seed=self.seed,
                    epoch=epoch,
                )
            elif SOURCES[source].mine:
                mined = self.lists[source]
                own = mined.candidates.select(mined.position[positions])
                slots = self.config.sampling.slots(own, count, seed=self.seed, epoch=epoch)
                drawn |= {self._code(label): docs for label, docs in by_label(own, slots).items()}
        return drawn

    def queued(self, queue, step):
        """What make_batch() wants of the queue: (its code, its docs), or None while it rests."""
        for source, count in self.active(step).items():
            if SOURCES[source].queue and len(queue.docs):
                return self._code(Label(source, "", "")), queue.docs[-count:]

    def _code(self, label):
        if label not in self.labels:
            self.labels.append(label)
        return 1 + self.labels.index(label)

    def teacher(self, batch, positions):
        """(B, N) teacher scores of the batch's docs from the file's records, nan where it has none."""
        mined = next(self.lists[name] for name in self.lists if SOURCES[name].needs_file)
        own = mined.candidates.select(mined.position[positions])
        scores = np.full(batch.invalid.shape, np.nan, dtype=np.float32)
        groups = self.collection.docs.groups[own.docs]  # (B, C)
        columns = np.minimum(np.searchsorted(batch.docs, groups), len(batch.docs) - 1)
        rows, slots = np.nonzero((batch.docs[columns] == groups) & (own.docs >= 0))
        scores[rows, columns[rows, slots]] = own.teacher[rows, slots]
        scores[np.arange(len(positions)), batch.labels] = own.teacher_positive
        return scores

    # ----------------------------------------------------------------------------------------- state

    def state_dict(self):
        """What a resumed run needs, as tensors and plain values; a mining in the background is awaited."""
        order = self._order and vars(self._order) | {
            "positions": torch.from_numpy(self._order.positions),
            "probe": _tensor(self._order.probe),
            "future": self._order.future.result().state_dict(),
        }
        return {
            "lists": {source: mined.state_dict() for source, mined in self.lists.items()},
            "checked_at": dict(self._checked_at),
            "order": order,
            "last": {source: torch.from_numpy(docs) for source, docs in self._last.items()},
            "labels": [tuple(label) for label in self.labels],
        }

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.lists = {source: MinedList.from_state_dict(mined) for source, mined in state["lists"].items()}
        self._checked_at = dict(state["checked_at"])
        self._last = {source: docs.numpy() for source, docs in state["last"].items()}
        self.labels = [Label(*label) for label in state["labels"]]
        if state["order"]:
            future = concurrent.futures.Future()
            future.set_result(Candidates.from_state_dict(state["order"]["future"]))
            self._order = Order(
                **state["order"]
                | {
                    "positions": state["order"]["positions"].numpy(),
                    "probe": _array(state["order"]["probe"]),
                    "future": future,
                }
            )


def by_label(candidates, slots):
    """{Label: (B, K) doc rows, -1 for none} of the candidates at slots (B, K), -1 for none.

    A source without ranks has the band ""; where a file holds several sources each has labels of its own.
    """

    def at(values):
        return np.take_along_axis(values, np.maximum(slots, 0), 1)

    docs, ranks = np.where(slots >= 0, at(candidates.docs), -1), np.where(slots >= 0, at(candidates.ranks), 0)
    origin = np.zeros_like(docs) if candidates.origin is None else at(candidates.origin)
    bands = np.where(ranks > 0, np.searchsorted(BANDS, ranks), -1)
    found = {}
    for number, name in enumerate(candidates.origins or ("",)):
        for band, ranks_of in [*enumerate(band_names()), (-1, "")]:
            inside = (origin == number) & (bands == band) & (docs >= 0)
            if inside.any():
                label = Label(candidates.source, name, ranks_of)
                found[label] = np.where(inside, docs, -1).astype(np.int32)
    return found


def overlap(a, b):
    """Mean share of the docs of each row of a (n, C) that stand in the same row of b; None without rows.

    -1 stands for no doc.
    """
    there = a >= 0
    counts = there.sum(1)
    rows = counts > 0
    if not rows.any():
        return None
    key = np.arange(len(a))[:, None] * (max(a.max(), b.max(initial=0)) + 1)  # a doc of another row is another number
    shared = (np.isin(key + a, (key + b)[b >= 0]) & there).sum(1)
    return float((shared[rows] / counts[rows]).mean())


def _tensor(array):
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


def _array(tensor):
    return None if tensor is None else tensor.numpy()

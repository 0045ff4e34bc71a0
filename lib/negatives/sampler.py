"""The negative sampler: what is mined when, and which negatives each query of a step gets."""

import dataclasses
from typing import NamedTuple

import numpy as np
import torch

from lib.cli import Choice
from lib.data.batches import draw_positives, make_batch
from lib.files import BadInput
from lib.negatives import filters
from lib.negatives.candidates import BANDS, Candidates, band_names, drawn_candidates
from lib.negatives.injection import Injection
from lib.negatives.near_copies import NEAR_COPY, near_copies_of_positives
from lib.negatives.pool import EVERYTHING, Pool
from lib.negatives.sampling import parse_sampling
from lib.negatives.sampling import slots as draw_slots
from lib.negatives.sources import SOURCES

# what is said where no filter has dropped anything
NO_CANDIDATE = (
    "it proposes nothing but positives, copies of them and the queries themselves (python -m lib.data.check says "
    "whether every doc is a positive of every query): take another source, or let more docs be negatives "
    "(--negative_docs)"
)


def none_of_them(collection, batch):
    """They count, but for known positives and their copies."""
    return np.zeros(batch.invalid.shape, dtype=bool)


def near_copies(collection, batch):
    """They count, but for near-copies of a positive too."""
    docs = np.where(batch.source == 0, batch.columns, -1)
    return near_copies_of_positives(collection, batch.queries, docs, similarity=NEAR_COPY)


def all_of_them(collection, batch):
    """They do not count: only the negatives that the arm names."""
    return batch.source == 0


# which docs of other queries do not count, by what they are and not by a score: a function of Batch -> (B, N) bool
IN_BATCH = {"on": none_of_them, "masked": near_copies, "off": all_of_them}


@dataclasses.dataclass(frozen=True)
class MiningConfig:
    """How lists are made and drawn from, alike for every source of an arm."""

    depth: int  # candidates that a list keeps
    candidates: int  # candidates that are mined, before the filters
    filters: tuple = ()  # Choices of FILTERS
    sampling: Choice = parse_sampling("uniform")  # how each step draws from a list
    pool: Pool = EVERYTHING  # docs that may be negatives
    refresh_every: int = 1  # steps from one mining of refresh to the next
    injection: Injection | None = None  # what takes the place of negatives, in experiments


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

    def state_dict(self):
        """All fields, arrays as tensors."""
        return {
            "candidates": self.candidates.state_dict(),
            "position": torch.from_numpy(self.position),
            "mined_at": self.mined_at,
            "until": self.until,
        }

    @classmethod
    def from_state_dict(cls, state):
        """The MinedList that state_dict() described."""
        return cls(
            Candidates.from_state_dict(state["candidates"]),
            state["position"].numpy(),
            state["mined_at"],
            state["until"],
        )


class NegativeSampler:
    """The negatives of one arm, step by step: which sources are active, when they are mined, who gets what.

    `miner` is the caller's: miner.mine(source, positions, count, last) returns Candidates of the train queries at
    those positions (last: the docs of their last lists, for notes about them). `upcoming(step, count)` gives the
    positions that `count` steps visit: refresh mines only for those, so that refreshing often costs little more than
    refreshing once, and adore, which mines at each step, only for that step's.
    """

    def __init__(self, arm, *, steps, config, seed, collection, miner, upcoming, in_batch="on"):
        self.starts = [round(stage.begin * steps) for stage in arm.stages]
        self.stages, self.steps, self.config, self.seed = arm.stages, steps, config, seed
        self.collection, self.qrels = collection, collection.split("train")
        self.in_batch = in_batch  # of IN_BATCH
        self.labels = []  # the Label of each code that batches carry, from 1
        self.lists = {}  # source -> MinedList
        self.miner, self._upcoming = miner, upcoming
        self._last = {}  # source that refreshes -> (n_train, C) each query's last list, -1 before its first
        widest = max([config.depth, *(count for stage in self.stages for count in stage.counts.values())])
        self._width = min(widest, len(collection.docs))  # of a list, which names no doc twice

    # ------------------------------------------------------------------------------------- questions

    def active(self, step):
        """{source: K} of the stage that `step` belongs to."""
        return self.stages[max(i for i, start in enumerate(self.starts) if step >= start)].counts

    def age(self, source, step):
        """Steps since the weights that mined a source's list; None where none mined it."""
        return step - self.lists[source].mined_at if source in self.lists else None

    # ---------------------------------------------------------------------------------------- mining

    def refresh(self, step):
        """Mine what is due at `step`; returns {source: numbers about its new list}."""
        return {source: self._mine(source, step) for source in self.active(step) if self._is_due(source, step)}

    def _is_due(self, source, step):
        """Whether a source mines at `step`: it has no list, or a stage ran without it, or its period is over."""
        row, mined = SOURCES[source], self.lists.get(source)
        if row.mine is None:
            return False
        period = {"refresh": self.config.refresh_every, "step": 1}.get(row.every)
        return mined is None or step >= mined.until or bool(period) and step >= mined.mined_at + period

    def _mine(self, source, step):
        """Mine, filter, and keep the best of the candidates as the source's list; returns numbers about it."""
        positions, until = self._positions(source, step)
        count = max(self.active(step)[source], self.config.candidates)
        last = self._last[source][positions] if source in self._last else None
        found = filters.apply(self.miner.mine(source, positions, count, last), self.config.filters, self.collection)
        found = found.trim(max(self.active(step)[source], self.config.depth))
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
        self.lists[source] = MinedList(found, position, step, until)
        return report

    def _positions(self, source, step):
        """(positions of the train queries to mine for, first step that they do not cover)."""
        row = SOURCES[source]
        if row.every == "stage":
            return np.arange(len(self.qrels)), self.steps
        count = min(self.config.refresh_every if row.every == "refresh" else 1, self.steps - step)
        return self._upcoming(step, count), step + count

    # -------------------------------------------------------------------------------------- sampling

    def batch(self, positions, *, step, epoch, queue=None):
        """The Batch of the train queries at `positions`: a positive each, the arm's negatives, the queue's."""
        positives, rows = (
            draw_positives(self.qrels, positions, seed=self.seed, epoch=epoch),
            self.qrels.queries[positions],
        )
        drawn, code = self.sample(positions, step=step, epoch=epoch), None
        if self.config.injection:
            code = self._code(Label("injected", "", ""))
            how = {"pool": self.config.pool, "seed": self.seed, "epoch": epoch}
            drawn, injected = self.config.injection.replace(drawn, positions, rows, self.collection, **how)
            drawn |= {code: injected}
        batch = make_batch(self.collection, rows, positives, drawn, queue=queue and self.queued(queue, step))
        drop = IN_BATCH[self.in_batch](self.collection, batch)  # the positive counts whatever it says
        drop[np.arange(len(drop)), batch.labels] = False
        invalid = batch.invalid | drop
        if code is not None:  # what is injected counts as a negative: that is the experiment
            invalid &= batch.source != code
        return dataclasses.replace(batch, invalid=invalid)

    def sample(self, positions, *, step, epoch):
        """{code: (B, K) doc rows, -1 for none}; labels[code - 1] says what a code stands for."""
        drawn, rows = {}, self.qrels.queries[positions]
        how = {"pool": self.config.pool, "seed": self.seed, "epoch": epoch}
        for source, count in self.active(step).items():
            if draw := SOURCES[source].draw:
                found = drawn_candidates(source, draw, self.collection, rows, count, **how)
                drawn[self._code(Label(source, "", ""))] = found.docs
            elif SOURCES[source].mine:
                mined = self.lists[source]
                own = mined.candidates.select(mined.position[positions])
                slots = draw_slots(
                    self.config.sampling, own, count, seed=self.seed, epoch=epoch, progress=step / self.steps
                )
                if self.config.injection:  # which goes by the order of the list
                    slots = np.sort(np.where(slots < 0, own.docs.shape[1], slots), axis=1)
                    slots[slots == own.docs.shape[1]] = -1
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

    def teacher(self, batch, positions, step):
        """(B, N) teacher scores of the batch's docs, from lists that have them; nan for none.

        Lists have one score for all positives of a query: of several it is the best one's, and nobody knows which.
        """
        alone = np.flatnonzero((self.collection.known_docs(batch.queries) >= 0).sum(1) == 1)
        scores = np.full(batch.invalid.shape, np.nan, dtype=np.float32)
        for source in self.active(step):
            mined = self.lists.get(source)
            if mined is None or mined.candidates.teacher is None:
                continue
            own = mined.candidates.select(mined.position[positions])
            groups = self.collection.docs.groups[own.docs]  # (B, C)
            columns = np.minimum(np.searchsorted(batch.docs, groups), len(batch.docs) - 1)
            rows, slots = np.nonzero((batch.docs[columns] == groups) & (own.docs >= 0))
            scores[rows, columns[rows, slots]] = own.teacher[rows, slots]
            scores[alone, batch.labels[alone]] = own.teacher_positive[alone]
        return scores

    # ----------------------------------------------------------------------------------------- state

    def state_dict(self):
        """What a resumed run needs, as tensors and plain values."""
        return {
            "lists": {source: mined.state_dict() for source, mined in self.lists.items()},
            "last": {source: torch.from_numpy(docs) for source, docs in self._last.items()},
            "labels": [tuple(label) for label in self.labels],
        }

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.lists = {source: MinedList.from_state_dict(mined) for source, mined in state["lists"].items()}
        self._last = {source: docs.numpy() for source, docs in state["last"].items()}
        self.labels = [Label(*label) for label in state["labels"]]


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

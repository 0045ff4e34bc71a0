"""The supply of negatives during training: what is mined when, and what each query of a step gets."""
import concurrent.futures
import dataclasses

import numpy as np
import torch

from lib import filters, negatives, run
from lib.run import BadInput


@dataclasses.dataclass(frozen=True)
class Mining:
    """How lists are made and drawn from, alike for every source of an arm."""
    depth: int = 30                    # candidates that a list keeps
    pool: int = 30                     # candidates that are mined, before the filters
    filters: tuple = ()                # of filters.parse_filter()
    choice: tuple = ("uniform", ())    # of filters.parse_choice(): how each step draws from a list
    refresh_every: int = 1             # steps from one mining of refresh to the next, or from probe to probe
    refresh_overlap: float | None = None  # refresh only when a probe's overlap has fallen below this
    refresh_lag: int = 0               # steps between the start of a mining in the background and its use


class Supply:
    """The negatives of one arm, step by step: which sources are active, when they are mined, who gets what.

    `miner` is the caller's. miner.mine(source, picks, pool, last) returns Candidates of the train queries at
    positions `picks`, found with BM25 or with the encoder as it stands (last: the docs of their last lists,
    for notes about them); miner.mine_later() returns a future of that, from the encoder as it stands now;
    miner.probe() returns the best docs of a fixed sample. `upcoming(step, count)` gives the positions that
    `count` steps visit: refresh mines only for those, so that refreshing often costs little more than
    refreshing once, and adore, which mines anew at each step, only for that step's.
    """

    def __init__(self, arm, *, steps, mining, seed, collection, miner, upcoming):
        self.stages = negatives.parse_arm(arm)
        self.starts = [round(stage.begin * steps) for stage in self.stages]
        self.steps, self.mining, self.seed = steps, mining, seed
        self.collection, self.qrels = collection, collection.split("train")
        self.labels = []      # (source, band of ranks) of each code that batches carry, from 1
        self._miner, self._upcoming = miner, upcoming
        self._lists = {}      # source -> (Candidates, (n_train,) position of each train query in them or -1)
        self._mined_at = {}   # source -> step whose weights mined its list
        self._checked_at = {}  # source -> step at which it was last decided whether to mine
        self._until = {}      # source -> first step that its list was not mined for
        self._last = {}       # source -> (n_train, C) docs of each query's last list, -1 before its first
        self._probed = None   # what miner.probe() gave when refresh was last mined
        self._later = None    # (step of its use, step whose weights mine it, picks, until, probe, future)
        self._width = max([mining.depth] + [count for stage in self.stages for _, count in stage.parts])

    def active(self, step):
        """{source: K} of the stage that `step` belongs to."""
        return dict(self.stages[max(i for i, start in enumerate(self.starts) if step >= start)].parts)

    @property
    def queue_size(self):
        """The largest N of queue:N, 0 without one."""
        return max(dict(stage.parts).get("queue", 0) for stage in self.stages)

    def queued(self, queue, step):
        """What make_batch() wants of the queue: (its code, its docs), or None while it rests."""
        count = self.active(step).get("queue")
        return (self._code("queue", ""), queue.docs[-count:]) if count and len(queue.docs) else None

    def age(self, source, step):
        """Steps since the weights that mined a source's list; None where none mined it."""
        return step - self._mined_at[source] if source in self._mined_at else None

    def prepare(self, step):
        """Mine what is due at `step`; returns {source: numbers about its new list}."""
        reports = {}
        if self._later and step >= self._later[0]:
            _, mined_at, picks, until, probe, future = self._later
            self._later = None
            reports["refresh"] = self._take("refresh", mined_at, picks, until, probe, future.result(), step)
        for source in self.active(step):
            if source in negatives.MINED and (due := self._due(source, step)):
                picks, until = self._picks(source, step, due)
                probe = None
                if source == "refresh" and self.mining.refresh_overlap is not None:
                    probe = self._miner.probe()
                pool = max(self.active(step)[source], self.mining.pool)
                last = self._last[source][picks] if source in self._last else None
                if due == "later":
                    future = self._miner.mine_later(source, picks, pool, last)
                    self._later = step + self.mining.refresh_lag, step, picks, until, probe, future
                else:
                    self._checked_at[source] = step
                    found = self._miner.mine(source, picks, pool, last)
                    reports[source] = self._take(source, step, picks, until, probe, found, step)
        return reports

    def _due(self, source, step):
        """False, "now" or "later": whether a source is to be mined at `step`, and when it is to be used."""
        if source not in self._lists or step >= self._until[source]:  # the latter after a stage without it
            return "now"
        period = {"refresh": self.mining.refresh_every, "adore": 1}.get(source)  # others are mined once
        if not period or self._later or step < self._checked_at[source] + period:
            return False
        if step + self.mining.refresh_lag >= self.steps:
            return False
        self._checked_at[source] = step
        if self.mining.refresh_overlap is not None and self.overlap() >= self.mining.refresh_overlap:
            return False
        return "later" if self.mining.refresh_lag else "now"

    def overlap(self):
        """Share of the probe's best docs that are the same as when refresh was last mined."""
        return overlap(self._miner.probe(), self._probed)

    def _picks(self, source, step, due):
        """(positions of the train queries to mine for, first step that they do not cover)."""
        if source not in ("refresh", "adore") or \
                source == "refresh" and self.mining.refresh_overlap is not None:  # until when is not known
            return np.arange(len(self.qrels)), self.steps
        period, lag = (1, 0) if source == "adore" else (self.mining.refresh_every, self.mining.refresh_lag)
        begin = step + lag * (due == "later")
        # a list is in use until the next one is: mined `period` later, or when this one's lag has passed
        count = min(period + lag if due == "now" else max(period, lag), self.steps - begin)
        return self._upcoming(begin, count), begin + count

    def _take(self, source, mined_at, picks, until, probe, found, step):
        """Filter candidates, keep the best of them as the source's list; returns numbers about it."""
        found = filters.apply(found, self.mining.filters, self.collection)
        depth = max(self.active(step).get(source, 0), self.mining.depth)
        found = negatives.trim(found, depth)
        if not (found.docs >= 0).any():
            raise BadInput(f"the source {source} has no candidate left: {found.dropped}; loosen --filters")
        report = negatives.describe(found) | {"age": self.age(source, step)}
        if source == "refresh":
            self._probed = probe
            last = self._last.setdefault(source, np.full((len(self.qrels), self._width), -1, dtype=np.int32))
            seen = (last[picks] >= 0).any(1)
            report["overlap"] = overlap(found.docs[seen], last[picks][seen])
            last[picks] = -1
            last[picks, :found.docs.shape[1]] = found.docs
        position = np.full(len(self.qrels), -1)
        position[picks] = np.arange(len(picks))
        self._lists[source], self._mined_at[source] = (found, position), mined_at
        self._until[source] = until
        return report

    def forecast(self, picks):
        """What draw() would give at step 0 to any queries, from lists mined for the purpose and not kept."""
        lists = {}
        for source, count in self.active(0).items():
            if source in negatives.MINED:
                everyone = source in ("bm25", "file")  # cached, for all or not at all
                mined_for = np.arange(len(self.qrels)) if everyone else picks
                found = self._miner.mine(source, mined_for, max(count, self.mining.pool), None)
                found = filters.apply(found, self.mining.filters, self.collection)
                position = np.full(len(self.qrels), -1)
                position[mined_for] = np.arange(len(mined_for))
                lists[source] = negatives.trim(found, max(count, self.mining.depth)), position
        return self._draw(lists, picks, step=0, epoch=0)

    def draw(self, picks, *, step, epoch):
        """{code: (B, K) doc rows, -1 for none}; labels[code - 1] says what a code stands for."""
        return self._draw(self._lists, picks, step=step, epoch=epoch)

    def _draw(self, lists, picks, *, step, epoch):
        drawn = {}
        for source, count in self.active(step).items():
            if source == "random":
                drawn[self._code("random", "")] = negatives.random_docs(
                    self.collection, self.qrels.queries[picks], count, seed=self.seed, epoch=epoch)
            elif source != "queue":
                candidates, position = lists[source]
                mine = negatives.select(candidates, position[picks])
                parts = negatives.draw(mine, count, self.mining.choice, seed=self.seed, epoch=epoch)
                drawn |= {self._code(*label): docs for label, docs in parts.items()}
        return drawn

    def _code(self, source, band):
        if (source, band) not in self.labels:
            self.labels.append((source, band))
        return 1 + self.labels.index((source, band))

    def near_copies(self, queries=64):
        """{source: share of near-copies of a positive in its lists}, from a sample of the queries."""
        shares = {}
        for source, (found, _) in self._lists.items():
            sample = run.permutation(len(found.docs), "near_copies", 0)[:queries]
            shares[source] = filters.near_copies(negatives.select(found, sample), self.collection)
        return shares

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
        """What a resumed run needs, as tensors and plain values; a mining in the background is awaited."""
        later = None
        if self._later:
            *plain, picks, until, probe, future = self._later
            later = (*plain, torch.from_numpy(picks), until, _tensor(probe), _pack(future.result()))
        return {"lists": {source: (_pack(found), torch.from_numpy(position))
                          for source, (found, position) in self._lists.items()},
                "mined_at": dict(self._mined_at), "checked_at": dict(self._checked_at),
                "until": dict(self._until), "later": later,
                "last": {source: torch.from_numpy(docs) for source, docs in self._last.items()},
                "probed": _tensor(self._probed),
                "labels": list(self.labels)}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self._lists = {source: (_unpack(fields), position.numpy())
                       for source, (fields, position) in state["lists"].items()}
        self._mined_at, self._checked_at = dict(state["mined_at"]), dict(state["checked_at"])
        self._until = dict(state["until"])
        self._last = {source: docs.numpy() for source, docs in state["last"].items()}
        self._probed = _array(state["probed"])
        self.labels = [tuple(label) for label in state["labels"]]
        if state["later"]:
            *plain, picks, until, probe, fields = state["later"]
            future = concurrent.futures.Future()
            future.set_result(_unpack(fields))
            self._later = (*plain, picks.numpy(), until, _array(probe), future)


def overlap(a, b):
    """Mean share of the docs of each row of a (n, C) that stand in the same row of b; None without rows.

    -1 stands for no doc.
    """
    counts = (a >= 0).sum(1)
    rows = counts > 0
    if not rows.any():
        return None
    shared = np.array([np.isin(x[x >= 0], y).sum() for x, y in zip(a, b)])
    return float((shared[rows] / counts[rows]).mean())


def _tensor(array):
    return None if array is None else torch.from_numpy(np.ascontiguousarray(array))


def _array(tensor):
    return None if tensor is None else tensor.numpy()


def _pack(candidates):
    """Candidates as a dict that torch.save() writes without pickling classes."""
    fields = {f.name: getattr(candidates, f.name) for f in dataclasses.fields(candidates)}
    return {k: torch.from_numpy(np.ascontiguousarray(v)) if isinstance(v, np.ndarray) else v
            for k, v in fields.items()}


def _unpack(fields):
    return negatives.Candidates(**{k: v.numpy() if isinstance(v, torch.Tensor) else v
                                   for k, v in fields.items()})


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

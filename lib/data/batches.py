"""Batches: which queries a step visits, and the queries and docs that are scored against each other.

Three kinds of integers meet here. A *row* is a line of corpus.jsonl or queries.jsonl. A *position* counts the
queries of one split. A *group* is the first row with a doc's text: copies share it, and where a batch names a
doc by its group, a text is one column however many copies it has.
"""

import dataclasses
import functools

import numpy as np

from lib import rng
from lib.data import beir
from lib.data.collection import ranges
from lib.files import BadInput, cache_dir, cached_array, fingerprint


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's B queries and the N different docs that they are scored against."""

    queries: np.ndarray  # (B,) query rows
    docs: np.ndarray  # (N,) doc rows, no text twice
    labels: np.ndarray  # (B,) column of each query's positive
    invalid: np.ndarray  # (B, N) bool: what may not be a negative of the query: known positives, itself
    source: np.ndarray  # (B, N) int16: 0 for docs of other queries, else the code of source and rank band
    # (n,) doc rows of the queue, whose vectors stand behind those of `docs`: the last n columns
    queued: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, dtype=np.int32))

    @property
    def columns(self):
        """(N,) doc rows of all columns."""
        return np.concatenate([self.docs, self.queued])


class QueryOrder:
    """Which training queries each step visits: a function of seed and step alone.

    An epoch is a new permutation of the n queries, cut into batches; what does not fill one waits for a later
    epoch. With clusters (n,), a number for each query, the queries of a batch are of one cluster or, where
    one ends, of two (topic-aware sampling; Hofstätter et al. 2021). With parts (n,), those of a batch are of one part,
    and an epoch has batches of each in proportion to its size. With lines (L, batch_size), positions, these are the
    batches of every epoch, in this order. pulled = (count, of each step): so many pseudo-queries stand behind the n
    queries of the split, and each step has some of them besides its own.
    """

    def __init__(self, n, *, batch_size, seed, clusters=None, pulled=(0, 0), parts=None, lines=None):
        self.n, self.seed, self.clusters, self.parts = n, seed, clusters, parts
        self._real = min(batch_size, n)
        self.pulled, self.pulled_per_step = pulled
        self.batch_size = self._real + self.pulled_per_step  # queries of a step
        sizes = [n] if parts is None else np.bincount(parts).tolist()
        full = [size // self._real for size in sizes]  # batches of each part
        self.batches_of_part, self.steps_per_epoch = full, sum(full) if lines is None else len(lines)
        self._again = functools.lru_cache(maxsize=4)(lambda time: rng.permutation(self.pulled, "pulled", seed, time))
        by = self._by_part if parts is not None else self._by_cluster if clusters is not None else self._by_chance
        if lines is not None:
            by = lambda epoch: lines.reshape(-1)  # noqa: E731
        self._permutation = functools.lru_cache(maxsize=4)(by)

    def _by_chance(self, epoch):
        return rng.permutation(self.n, "order", self.seed, epoch)

    def _by_part(self, epoch):
        batches = []
        for part, count in enumerate(self.batches_of_part):
            own, wanted = np.flatnonzero(self.parts == part), count * self._real
            first = epoch * wanted  # a part that gives more than it has begins again, in another order
            passes = range(first // len(own), -(-(first + wanted) // len(own)))
            order = np.concatenate([own[rng.permutation(len(own), "part", self.seed, part, i)] for i in passes])
            begin = first - passes[0] * len(own)
            batches.append(order[begin : begin + wanted].reshape(count, -1))
        batches = np.concatenate(batches)
        return batches[rng.permutation(len(batches), "batches", self.seed, epoch)].reshape(-1)

    def _by_cluster(self, epoch):
        within = rng.uniform("order", self.seed, epoch, np.arange(self.n))
        of_cluster = rng.uniform("topic", self.seed, epoch, self.clusters)
        start = int(rng.uniform("start", self.seed, epoch) * self.n)  # clusters are cut elsewhere each epoch
        ordered = np.roll(np.lexsort((within, of_cluster)), start)
        batches = ordered[: self.steps_per_epoch * self._real].reshape(self.steps_per_epoch, -1)
        return batches[rng.permutation(len(batches), "batches", self.seed, epoch)].reshape(-1)

    def epoch(self, step):
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def positions(self, step):
        """(B,) positions of a step's queries in the split."""
        begin = step % self.steps_per_epoch * self._real
        own = self._permutation(self.epoch(step))[begin : begin + self._real]
        if not self.pulled_per_step:
            return own
        visits = range(step * self.pulled_per_step, (step + 1) * self.pulled_per_step)
        return np.concatenate([own, [self.n + self._again(i // self.pulled)[i % self.pulled] for i in visits]])

    def upcoming(self, step, count):
        """Positions of all queries that the `count` steps from `step` on visit, sorted, each once."""
        return np.unique(np.concatenate([self.positions(s) for s in range(step, step + count)]))


def read_lines_of_ids(path, collection, *, batch_size):
    """(L, batch_size) positions in the train split of a file that names the queries of a batch a line."""
    position = {collection.queries.ids[row]: i for i, row in enumerate(collection.split("train").queries.tolist())}
    lines = []
    for number, line in beir.read_lines(path):
        names = line.split()
        if odd := [name for name in names if name not in position]:
            raise BadInput(f"{path}:{number}: {beir.shorten(odd[0])} is no train query of {collection.name}")
        if names and not len(names) == len(set(names)) == batch_size:
            found = f"{len(set(names))} different queries among {len(names)}"
            raise BadInput(f"{path}:{number}: {found}, and --batch_size is {batch_size}")
        lines += [[position[name] for name in names]] if names else []
    if not lines:
        raise BadInput(f"{path}: no batch in it; a line of query ids is one")
    return np.array(lines)


def cluster_queries(q_emb, count, *, key):
    """(n,) int32 cluster of each query vector by k-means; cached by `key`, so that all processes agree."""

    def make():
        from sklearn import cluster  # here, because it is heavy and few runs want it

        return cluster.MiniBatchKMeans(count, random_state=0, n_init=3).fit_predict(q_emb).astype(np.int32)

    return cached_array(cache_dir("clusters", fingerprint(key, count) + ".npy"), make)


def log_drawn(collection, order):
    """(M,) float32 logarithm of how often a batch holds each doc, or a copy, as a positive; 0 for once and more.

    Docs that no query draws, there as a negative that another query's arm names, have 0 too: nothing is known of them.
    """
    qrels = collection.split("train")
    per_query = np.full(len(qrels), (order.batch_size - order.pulled_per_step) / order.n)  # times in a batch
    per_query[order.n :] = order.pulled_per_step / max(1, order.pulled)
    positive = qrels.grades >= 1
    owner = np.repeat(np.arange(len(qrels)), np.diff(qrels.indptr))[positive]
    weights = per_query[owner] / np.bincount(owner, minlength=len(qrels))[owner]  # a query draws one of its positives
    groups = collection.docs.groups
    times = np.bincount(groups[qrels.docs[positive]], weights, minlength=len(groups))[groups]
    return np.log(np.where(times > 0, np.minimum(times, 1), 1)).astype(np.float32)


def by_chance(batch, of_docs):
    """(B, N) numbers of the batch's docs, 0 for the positive of each query and for negatives that its arm names."""
    found = np.where(batch.source == 0, of_docs[batch.columns], 0)
    found[np.arange(len(found)), batch.labels] = 0
    return found


def draw_positives(qrels, positions, *, seed, epoch):
    """(B,) doc rows: one positive of each of the split's queries at `positions`, drawn anew each epoch."""
    draws = rng.uniform("positive", seed, epoch, qrels.queries[positions])
    choices = [qrels.positives(i) for i in positions]
    return np.array([docs[int(u * len(docs))] for docs, u in zip(choices, draws)], dtype=np.int32)


def make_batch(collection, query_rows, positives, negatives, *, queue=None):
    """Assemble a Batch. positives (B,) doc rows; negatives: {code: (B, K) doc rows, -1 for none}.

    A doc that is named more than once becomes one column, so that it is encoded once and counts once per
    denominator. queue: (its code, (n,) doc rows whose vectors stand behind those of `docs`): they
    add n columns.
    """
    B = len(query_rows)
    groups = collection.docs.groups
    named = np.concatenate([positives[:, None], *negatives.values()], axis=1)  # (B, 1 + sum of K)
    named = np.where(named >= 0, groups[named], -1)
    docs, columns = np.unique(named, return_inverse=True)
    columns = columns.reshape(named.shape)
    if docs[0] == -1:
        docs, columns = docs[1:], columns - 1  # a missing negative has column -1
    labels = columns[:, 0]
    source = np.zeros((B, len(docs)), dtype=np.int16)
    begin = 1
    for code, part in negatives.items():
        own = columns[:, begin : begin + part.shape[1]]
        rows, slots = np.nonzero(own >= 0)
        source[rows, own[rows, slots]] = code
        begin += part.shape[1]
    invalid = never_columns(collection, query_rows, docs)
    invalid[np.arange(B), labels] = False
    code, queued = queue or (0, docs[:0])
    if len(queued):
        stale = never_columns(collection, query_rows, groups[queued]) | np.isin(groups[queued], docs)
        invalid = np.concatenate([invalid, stale], axis=1)
        source = np.concatenate([source, np.full(stale.shape, code, dtype=np.int16)], axis=1)
    return Batch(query_rows, docs, labels, invalid, source, queued)


def never_columns(collection, query_rows, docs):
    """(B, n) bool: which of `docs` (n,), text groups, each once, may not be negatives of each query."""
    indptr, never = collection.no_negatives
    flat = never[ranges(indptr[query_rows], indptr[query_rows + 1])]
    owner = np.repeat(np.arange(len(query_rows)), np.diff(indptr)[query_rows])
    columns = np.zeros((len(query_rows), len(docs)), dtype=bool)
    if len(docs):
        by_row = np.argsort(docs)
        at = by_row[np.minimum(np.searchsorted(docs, flat, sorter=by_row), len(docs) - 1)]
        there = docs[at] == flat
        columns[owner[there], at[there]] = True
    return columns

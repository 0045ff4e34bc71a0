"""Collections: a corpus, queries and judgements by split; cached tokens; training batches.

Text is read from memory-mapped JSONL files through offset tables, tokens from memory-mapped arrays: the
training loop gathers integers and never touches text.
"""
import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
import torch
from tqdm import tqdm

from lib import formats, pycode, run
from lib.run import BadInput, atomic_path, cache_dir, fingerprint, fingerprint_file, read_json, write_json

SPLITS = ("train", "dev", "test")


class Texts:
    """The records of one JSONL file, read where they lie. `ids[row]` is the string id of a row."""

    def __init__(self, path, *, ids, offsets, groups, fingerprint):
        self.path, self.ids, self.fingerprint = pathlib.Path(path), ids, fingerprint
        self.groups = groups      # (n,) int32: the first row with the same text: copies share a number
        self._offsets = offsets   # (n, 2) int64: first byte and end of each record
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __len__(self):
        return len(self.ids)

    def record(self, row):
        """The JSON object of one row."""
        begin, end = self._offsets[row]
        return json.loads(self._bytes[begin:end].tobytes())

    def text(self, row):
        """Title and text of one row."""
        return formats.check_text(self.record(row), path=self.path, number=row + 1)[1]

    def texts(self, rows=None):
        """The texts of `rows` (all of them by default), as a list."""
        return [self.text(row) for row in (range(len(self)) if rows is None else rows)]

    @functools.cached_property
    def row_of(self):
        """{id: row}."""
        return {ident: row for row, ident in enumerate(self.ids)}

    @classmethod
    def load(cls, path):
        """Open and check a JSONL file; the check runs once for each content, its offset table is cached."""
        if not path.is_file():
            raise BadInput(f"{path}: no such file; a collection is a folder with corpus.jsonl, queries.jsonl "
                           "and qrels/*.tsv")
        if path.stat().st_size == 0:
            raise BadInput(f"{path}: the file is empty")
        content = fingerprint_file(path)
        folder = cache_dir("offsets", content)
        if not folder.exists():
            ids, offsets, groups = cls._scan(path)
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                np.save(temporary / "offsets.npy", offsets)
                np.save(temporary / "groups.npy", groups)
                write_json(temporary / "ids.json", ids)
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        return cls(path, ids=read_json(folder / "ids.json"), offsets=offsets,
                   groups=np.load(folder / "groups.npy"), fingerprint=content)

    @staticmethod
    def _scan(path):
        ids, offsets, groups, seen, first_of = [], [], [], {}, {}
        position = 0
        with open(path, "rb") as file, tqdm(total=path.stat().st_size, unit="B", unit_scale=True, delay=2,
                                            desc=f"checking {path.name}") as bar:
            for number, line in enumerate(file, 1):
                begin, position = position, position + len(line)
                bar.update(len(line))
                if not line.strip():
                    continue
                text = formats.decode_line(line, path=path, number=number)
                ident, text = formats.check_text(formats.parse_object(text, path=path, number=number),
                                                 path=path, number=number)
                if ident in seen:
                    raise BadInput(f'{path}:{number}: "_id" "{ident}" was used on line {seen[ident]}; '
                                   "ids must differ")
                seen[ident] = number
                # 16 bytes of hash per text instead of the text: a collision needs 2**64 docs
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                groups.append(first_of.setdefault(digest, len(ids)))
                offsets.append((begin, position))
                ids.append(ident)
        return ids, np.array(offsets, dtype=np.int64).reshape(-1, 2), np.array(groups, dtype=np.int32)


@dataclasses.dataclass(frozen=True)
class Qrels:
    """Judgements of one split, by row: query i has entries indptr[i]:indptr[i+1] of `docs` and `grades`."""
    queries: np.ndarray  # (Q,) int32 query rows, each with at least one positive
    indptr: np.ndarray   # (Q + 1,) int64
    docs: np.ndarray     # (J,) int32 doc rows
    grades: np.ndarray   # (J,) int32; a positive has grade >= 1

    def __len__(self):
        return len(self.queries)

    def positives(self, i):
        """Doc rows of the positives of the split's i-th query."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.docs[span][self.grades[span] >= 1]


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """A corpus, queries, and judgements by split."""
    name: str
    docs: Texts
    queries: Texts
    qrels: dict  # split -> Qrels
    fingerprint: str

    def split(self, name):
        """The judgements of one split; BadInput if the collection has none."""
        if name not in self.qrels:
            raise BadInput(f"collection {self.name} has no split {name!r}; it has {', '.join(self.qrels)}")
        return self.qrels[name]

    def qrels_dict(self, split):
        """{qid: {doc_id: grade}}, as measures want it."""
        qrels = self.split(split)
        return {self.queries.ids[row]: {self.docs.ids[d]: int(g) for d, g in
                                        zip(qrels.docs[a:b], qrels.grades[a:b])}
                for row, a, b in zip(qrels.queries, qrels.indptr, qrels.indptr[1:])}

    @functools.cached_property
    def known(self):
        """(indptr, groups): for each query row, the text groups of all its known positives, in every split.

        Copies count: a copy of a positive is positive, and queries with equal text share their positives.
        """
        pairs = [np.stack([np.repeat(q.queries, np.diff(q.indptr)), q.docs])[:, q.grades >= 1]
                 for q in self.qrels.values()]
        rows, docs = np.concatenate(pairs, axis=1).astype(np.int64)
        pairs = np.stack([self.queries.groups[rows], self.docs.groups[docs]])
        pairs = np.unique(pairs, axis=1)  # sorted by query
        start = np.searchsorted(pairs[0], self.queries.groups)
        end = np.searchsorted(pairs[0], self.queries.groups, side="right")
        indptr = np.concatenate([[0], np.cumsum(end - start)])
        return indptr, pairs[1][_ranges(start, end)].astype(np.int32)

    def known_docs(self, query_rows):
        """(n, P) doc rows of each query's known positives, one row for each text, -1 where it has fewer."""
        indptr, groups = self.known
        counts = np.diff(indptr)[query_rows]
        docs = np.full((len(query_rows), max(1, counts.max(initial=0))), -1, dtype=np.int32)
        docs[np.arange(docs.shape[1]) < counts[:, None]] = groups[_ranges(indptr[query_rows],
                                                                          indptr[query_rows + 1])]
        return docs

    def known_positive(self, query_rows, doc_rows):
        """(n, C) bool: whether doc_rows[i, c] is known as relevant to query_rows[i]; False for rows of -1."""
        indptr, groups = self.known
        base = len(self.docs)
        counts = np.diff(indptr)[query_rows]
        flat = groups[_ranges(indptr[query_rows], indptr[query_rows + 1])]
        keys = np.repeat(np.arange(len(query_rows)), counts) * base + flat
        wanted = np.arange(len(query_rows))[:, None] * base + self.docs.groups[doc_rows]
        return np.isin(wanted, keys) & (doc_rows >= 0)


def _ranges(start, end):
    """The integers of the ranges start[i]:end[i], one range behind the other."""
    lengths = end - start
    shift = np.repeat(start - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum()) + shift


def load_collection(spec):
    """The collection that `--data` names: embedded (python, python:docs) or a folder in BEIR layout."""
    folder = pycode.build(spec) if spec in pycode.TASKS else pathlib.Path(spec)
    if not folder.is_dir():
        raise BadInput(f"--data {spec}: no such folder (give python, python:docs or a folder in BEIR layout)")
    docs, queries = Texts.load(folder / "corpus.jsonl"), Texts.load(folder / "queries.jsonl")
    files = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
    qrels = {split: _load_qrels(path, queries, docs) for split, path in files.items() if path.is_file()}
    if not qrels:
        raise BadInput(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv is there")
    parts = [docs.fingerprint, queries.fingerprint]
    parts += [part for split in qrels for part in (split, fingerprint_file(files[split]))]
    name = spec.replace(":", "-") if spec in pycode.TASKS else folder.resolve().name
    return Collection(name, docs, queries, qrels, fingerprint(parts))


def _load_qrels(path, queries, docs):
    by_query, first_line = {}, {}
    for qid, doc_id, grade, number in formats.read_qrels(path):
        if qid not in queries.row_of:
            raise BadInput(f"{path}:{number}: query {formats.shorten(qid)} is not in {queries.path.name}")
        if doc_id not in docs.row_of:
            raise BadInput(f"{path}:{number}: doc {formats.shorten(doc_id)} is not in {docs.path.name}")
        by_query.setdefault(queries.row_of[qid], []).append((docs.row_of[doc_id], grade))
        first_line.setdefault(queries.row_of[qid], number)
    for row, judged in by_query.items():
        if all(grade < 1 for _, grade in judged):
            raise BadInput(f"{path}:{first_line[row]}: query {queries.ids[row]} has no positive "
                           "(score 1 or more); add one or delete its lines")
    rows = sorted(by_query)
    judged = np.array([pair for row in rows for pair in by_query[row]], dtype=np.int32)
    indptr = np.cumsum([0] + [len(by_query[row]) for row in rows])
    return Qrels(np.array(rows, dtype=np.int32), indptr, judged[:, 0], judged[:, 1])


# -------------------------------------------------------------------------------------------------- tokens

class Tokens:
    """Token ids of n texts in one flat array. Static encoders keep each id once per text, with a count."""

    def __init__(self, ids, offsets, counts=None, *, kind="doc"):
        self.ids, self.offsets, self.counts = ids, offsets, counts  # (T,), (n + 1,), (T,) or None
        self.kind = kind                                            # query or doc

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def lengths(self):
        """(n,) tokens of each text."""
        return np.diff(self.offsets)

    def select(self, rows):
        """What an encoder's forward() takes: ids (T',), offsets (n' + 1,), counts (T',) or None, kind."""
        start, end = self.offsets[rows], self.offsets[np.asarray(rows) + 1]
        flat = _ranges(start, end)
        offsets = np.concatenate([[0], np.cumsum(end - start)]).astype(np.int32)
        counts = None if self.counts is None else torch.from_numpy(self.counts[flat].astype(np.float32))
        return torch.from_numpy(self.ids[flat]), torch.from_numpy(offsets), counts, self.kind


def tokenize(texts, encoder, kind, *, block=4096):
    """Tokens of all of `texts` as `kind` (query or doc); made once per (tokenizer, texts), then mapped."""
    folder = cache_dir("tokens", fingerprint(encoder.token_key(kind), texts.fingerprint))
    if not folder.exists():
        parts = []
        with tqdm(total=len(texts), unit="text", unit_scale=True, delay=1,
                  desc=f"tokenising {texts.path.name}") as bar:
            for begin in range(0, len(texts), block):
                rows = range(begin, min(begin + block, len(texts)))
                parts.append(encoder.tokenize(texts.texts(rows), kind))
                bar.update(len(rows))
        ids, offsets, counts = zip(*parts)
        lengths = np.concatenate([np.diff(o) for o in offsets])
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            np.save(temporary / "ids.npy", np.concatenate(ids))
            np.save(temporary / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
            if counts[0] is not None:
                np.save(temporary / "counts.npy", np.concatenate(counts))
    counts = folder / "counts.npy"
    return Tokens(np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "offsets.npy"),
                  np.load(counts, mmap_mode="r") if counts.exists() else None, kind=kind)


# ------------------------------------------------------------------------------------------------- batches

@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's B queries and the N different docs that they are scored against."""
    queries: np.ndarray  # (B,) query rows
    docs: np.ndarray     # (N,) doc rows, no text twice
    labels: np.ndarray   # (B,) column of each query's positive
    invalid: np.ndarray  # (B, N) bool: known positives of the query, which must not count as negatives
    source: np.ndarray   # (B, N) int8: 0 for docs of other queries, else the code of source and rank band


class QueryOrder:
    """Which training queries each step visits: a function of seed and step alone.

    An epoch is a new permutation of the n queries, cut into batches; what does not fill one waits for a later
    epoch. With topics (n,), a number for each query, the queries of a batch are of one topic or, where one
    ends, of two (topic-aware sampling; Hofstätter et al. 2021).
    """

    def __init__(self, n, *, batch_size, seed, topics=None):
        self.n, self.seed, self.topics = n, seed, topics
        self.batch_size = min(batch_size, n)
        self.steps_per_epoch = n // self.batch_size
        self._permutation = functools.lru_cache(maxsize=4)(
            lambda epoch: (run.permutation(n, "order", seed, epoch) if topics is None
                           else self._by_topic(epoch)))

    def _by_topic(self, epoch):
        within = run.uniform("order", self.seed, epoch, np.arange(self.n))
        of_topic = run.uniform("topic", self.seed, epoch, self.topics)
        start = int(run.uniform("start", self.seed, epoch) * self.n)  # topics are cut elsewhere each epoch
        ordered = np.roll(np.lexsort((within, of_topic)), start)
        batches = ordered[:self.steps_per_epoch * self.batch_size].reshape(self.steps_per_epoch, -1)
        return batches[run.permutation(len(batches), "batches", self.seed, epoch)].reshape(-1)

    def epoch(self, step):
        """The epoch that a step belongs to."""
        return step // self.steps_per_epoch

    def picks(self, step):
        """(B,) positions of a step's queries in the split."""
        begin = step % self.steps_per_epoch * self.batch_size
        return self._permutation(self.epoch(step))[begin:begin + self.batch_size]

    def upcoming(self, step, count):
        """Positions of all queries that the `count` steps from `step` on visit, sorted, each once."""
        return np.unique(np.concatenate([self.picks(s) for s in range(step, step + count)]))


def topics_of(q_emb, count, *, key):
    """(n,) int32 topic of each query vector: k-means; cached by `key`, so that all processes agree."""
    path = cache_dir("topics", fingerprint(key, count) + ".npy")
    if not path.exists():
        from sklearn import cluster  # here, because it is heavy and few runs want it
        found = cluster.MiniBatchKMeans(count, random_state=0, n_init=3).fit_predict(q_emb)
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            np.save(file, found.astype(np.int32))
    return np.load(path)


def draw_positives(qrels, picks, *, seed, epoch):
    """(B,) doc rows: one positive of each of the split's queries `picks`, drawn anew each epoch."""
    draws = run.uniform("positive", seed, epoch, qrels.queries[picks])
    choices = [qrels.positives(i) for i in picks]
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
        docs, columns = docs[1:], columns - 1                               # a missing negative has column -1
    labels = columns[:, 0]
    source = np.zeros((B, len(docs)), dtype=np.int8)
    begin = 1
    for code, part in negatives.items():
        own = columns[:, begin:begin + part.shape[1]]
        rows, slots = np.nonzero(own >= 0)
        source[rows, own[rows, slots]] = code
        begin += part.shape[1]
    invalid = known_columns(collection, query_rows, docs)
    invalid[np.arange(B), labels] = False
    if queue:
        code, queued = queue
        stale = known_columns(collection, query_rows, groups[queued]) | np.isin(groups[queued], docs)
        invalid = np.concatenate([invalid, stale], axis=1)
        source = np.concatenate([source, np.full(stale.shape, code, dtype=np.int8)], axis=1)
    return Batch(query_rows, docs, labels, invalid, source)


def known_columns(collection, query_rows, docs):
    """(B, n) bool: which of `docs` (n,), text groups, each once, are known positives of each query."""
    indptr, known = collection.known
    flat = known[_ranges(indptr[query_rows], indptr[query_rows + 1])]
    owner = np.repeat(np.arange(len(query_rows)), np.diff(indptr)[query_rows])
    columns = np.zeros((len(query_rows), len(docs)), dtype=bool)
    if len(docs):
        by_row = np.argsort(docs)
        at = by_row[np.minimum(np.searchsorted(docs, flat, sorter=by_row), len(docs) - 1)]
        there = docs[at] == flat
        columns[owner[there], at[there]] = True
    return columns

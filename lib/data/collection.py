"""Collections: a corpus, queries and judgements by split.

Text is read from memory-mapped JSONL files through offset tables: the training loop gathers integers and
never touches text.
"""

import dataclasses
import functools
import hashlib
import json
import pathlib

import numpy as np
from tqdm import tqdm

from lib import run
from lib.data import beir, readers
from lib.files import BadInput, atomic_path, cache_dir, fingerprint, fingerprint_file, read_json, write_json

SPLITS = ("train", "dev", "test")


class Texts:
    """The records of one JSONL file, read where they lie. `ids[row]` is the string id of a row."""

    def __init__(self, path, *, ids, offsets, groups, digests, fingerprint):
        self.path, self.ids, self.fingerprint = pathlib.Path(path), ids, fingerprint
        self.groups = groups  # (n,) int32: the first row with the same text: copies share a number
        self.digests = digests  # (n,) 16 bytes: a hash of each text
        self._offsets = offsets  # (n, 2) int64: first byte and end of each record
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")

    def __len__(self):
        return len(self.ids)

    def record(self, row):
        """The JSON object of one row."""
        begin, end = self._offsets[row]
        return json.loads(self._bytes[begin:end].tobytes())

    def text(self, row):
        """Title and text of one row."""
        return beir.check_text(self.record(row), path=self.path, number=row + 1)[1]

    def texts(self, rows=None):
        """The texts of `rows` (all of them by default), as a list."""
        return [self.text(row) for row in (range(len(self)) if rows is None else rows)]

    def view(self, rows):
        """The texts of `rows` as a sequence that reads them when they are asked for."""
        return TextView(self, np.asarray(rows))

    @functools.cached_property
    def row_of(self):
        """{id: row}."""
        return {ident: row for row, ident in enumerate(self.ids)}

    @classmethod
    def load(cls, path):
        """Open and check a JSONL file; the check runs once for each content, its offset table is cached."""
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file; a collection is a folder with corpus.jsonl, queries.jsonl and qrels/*.tsv"
            )
        if path.stat().st_size == 0:
            raise BadInput(f"{path}: the file is empty")
        content = fingerprint_file(path)
        folder = cache_dir("texts", content)
        if not folder.exists():
            ids, offsets, groups, digests = cls._scan(path)
            with atomic_path(folder) as temporary:
                temporary.mkdir()
                np.save(temporary / "offsets.npy", offsets)
                np.save(temporary / "groups.npy", groups)
                np.save(temporary / "digests.npy", digests)
                write_json(temporary / "ids.json", ids)
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        return cls(
            path,
            ids=read_json(folder / "ids.json"),
            offsets=offsets,
            groups=np.load(folder / "groups.npy"),
            digests=np.load(folder / "digests.npy", mmap_mode="r"),
            fingerprint=content,
        )

    @staticmethod
    def _scan(path):
        ids, offsets, groups, digests, seen, first_of = [], [], [], [], {}, {}
        position = 0
        with (
            open(path, "rb") as file,
            tqdm(total=path.stat().st_size, unit="B", unit_scale=True, delay=2, desc=f"checking {path.name}") as bar,
        ):
            for number, line in enumerate(file, 1):
                begin, position = position, position + len(line)
                bar.update(len(line))
                if not line.strip():
                    continue
                text = beir.decode_line(line, path=path, number=number)
                ident, text = beir.check_text(
                    beir.parse_object(text, path=path, number=number), path=path, number=number
                )
                if ident in seen:
                    raise BadInput(f'{path}:{number}: "_id" "{ident}" was used on line {seen[ident]}; ids must differ')
                seen[ident] = number
                # 16 bytes of hash per text instead of the text: a collision needs 2**64 docs
                digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
                groups.append(first_of.setdefault(digest, len(ids)))
                digests.append(digest)
                offsets.append((begin, position))
                ids.append(ident)
        offsets = np.array(offsets, dtype=np.int64).reshape(-1, 2)
        return ids, offsets, np.array(groups, dtype=np.int32), np.array(digests, dtype="V16")


class TextView:
    """Some rows of Texts as a sequence of str that holds none of them: what retrievers search with."""

    def __init__(self, texts, rows):
        self._texts, self._rows = texts, rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, part):
        """A text or, for a slice, a view of some of the texts."""
        if isinstance(part, slice):
            return TextView(self._texts, self._rows[part])
        return self._texts.text(self._rows[part])

    @property
    def fingerprint(self):
        """Identifies the texts and their order."""
        return fingerprint(self._texts.fingerprint, self._rows.astype(np.int64))


@dataclasses.dataclass(frozen=True)
class Qrels:
    """Judgements of one split, by row: query i has entries indptr[i]:indptr[i+1] of `docs` and `grades`."""

    queries: np.ndarray  # (Q,) int32 query rows, each with at least one positive
    indptr: np.ndarray  # (Q + 1,) int64
    docs: np.ndarray  # (J,) int32 doc rows
    grades: np.ndarray  # (J,) int32; a positive has grade >= 1

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
        return {
            self.queries.ids[row]: {self.docs.ids[d]: int(g) for d, g in zip(qrels.docs[a:b], qrels.grades[a:b])}
            for row, a, b in zip(qrels.queries, qrels.indptr, qrels.indptr[1:])
        }

    def judgements(self, split):
        """Identifies what an evaluation on a split depends on: the corpus, the split's queries and their labels."""
        qrels = self.split(split)
        queries = [(self.queries.ids[row], self.queries.digests[row].tobytes()) for row in qrels.queries]
        return fingerprint(self.docs.fingerprint, repr(queries), qrels.indptr, qrels.docs, qrels.grades)

    @functools.cached_property
    def known(self):
        """(indptr, groups): for each query row, the text groups of all its known positives, in every split.

        Copies count: a copy of a positive is positive, and queries with equal text share their positives.
        """
        pairs = [
            np.stack([np.repeat(q.queries, np.diff(q.indptr)), q.docs])[:, q.grades >= 1] for q in self.qrels.values()
        ]
        rows, docs = np.concatenate(pairs, axis=1).astype(np.int64)
        pairs = np.unique(np.stack([self.queries.groups[rows], self.docs.groups[docs]]), axis=1)  # sorted by query
        start, end = (np.searchsorted(pairs[0], self.queries.groups, side=side) for side in ("left", "right"))
        return np.concatenate([[0], np.cumsum(end - start)]), pairs[1][ranges(start, end)].astype(np.int32)

    @functools.cached_property
    def itself(self):
        """(indptr, groups): for each query row, the text groups of docs that are the query itself.

        That is a doc with the query's id or its very text, unless it is a known positive.
        """
        row_of = self.docs.row_of
        with_id = [(row, row_of[ident]) for row, ident in enumerate(self.queries.ids) if ident in row_of]
        of_query, of_doc = (np.asarray(texts.digests).view("<u8").reshape(-1, 2) for texts in (self.queries, self.docs))
        order = np.argsort(of_doc[:, 0], kind="stable")
        at = np.minimum(np.searchsorted(of_doc[order, 0], of_query[:, 0]), len(order) - 1)
        same = np.flatnonzero((of_doc[order[at]] == of_query).all(1))
        with_text = np.stack([same, order[at[same]]], axis=1)
        rows, docs = np.concatenate([np.array(with_id, dtype=np.int64).reshape(-1, 2), with_text]).T
        rows, groups = np.unique(np.stack([rows, self.docs.groups[docs]]), axis=1)
        positive = self._among(self.known, rows, groups[:, None])[:, 0]
        rows, groups = rows[~positive], groups[~positive]
        return np.searchsorted(rows, np.arange(len(self.queries) + 1)), groups.astype(np.int32)

    @functools.cached_property
    def no_negatives(self):
        """(indptr, groups): for each query row, the text groups that may not be its negatives: known and itself."""
        parts = [
            np.stack([np.repeat(np.arange(len(self.queries)), np.diff(indptr)), groups])
            for indptr, groups in (self.known, self.itself)
        ]
        rows, groups = np.unique(np.concatenate(parts, axis=1), axis=1)
        return np.searchsorted(rows, np.arange(len(self.queries) + 1)), groups.astype(np.int32)

    def _among(self, relation, query_rows, doc_rows):
        """(n, C) bool: whether the group of doc_rows[i, c] is one of query_rows[i] in (indptr, groups); -1: False."""
        indptr, groups = relation
        base = len(self.docs)
        flat = groups[ranges(indptr[query_rows], indptr[query_rows + 1])]
        keys = np.repeat(np.arange(len(query_rows)), np.diff(indptr)[query_rows]) * base + flat
        wanted = np.arange(len(query_rows))[:, None] * base + self.docs.groups[doc_rows]
        return np.isin(wanted, keys) & (doc_rows >= 0)

    def known_positive(self, query_rows, doc_rows):
        """(n, C) bool: whether doc_rows[i, c] is known as relevant to query_rows[i]; False for rows of -1."""
        return self._among(self.known, query_rows, doc_rows)

    def is_itself(self, query_rows, doc_rows):
        """(n, C) bool: whether doc_rows[i, c] is query_rows[i] itself; False for rows of -1."""
        return self._among(self.itself, query_rows, doc_rows)

    def no_negative(self, query_rows, doc_rows):
        """(n, C) bool: whether doc_rows[i, c] may not be a negative of query_rows[i]; False for rows of -1."""
        return self._among(self.no_negatives, query_rows, doc_rows)

    def known_docs(self, query_rows):
        """(n, P) doc rows of each query's known positives, one row for each text, -1 where it has fewer."""
        indptr, groups = self.known
        counts = np.diff(indptr)[query_rows]
        docs = np.full((len(query_rows), max(1, counts.max(initial=0))), -1, dtype=np.int32)
        docs[np.arange(docs.shape[1]) < counts[:, None]] = groups[ranges(indptr[query_rows], indptr[query_rows + 1])]
        return docs


def ranges(start, end):
    """The integers of the ranges start[i]:end[i], one range behind the other."""
    lengths = end - start
    shift = np.repeat(start - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum()) + shift


def load_collection(spec):
    """The collection that `--data` names: a name of readers.READERS or a folder in BEIR layout."""
    name, folder = readers.find(spec)
    docs, queries = Texts.load(folder / "corpus.jsonl"), Texts.load(folder / "queries.jsonl")
    files = {split: folder / "qrels" / f"{split}.tsv" for split in SPLITS}
    qrels = {split: _load_qrels(path, queries, docs) for split, path in files.items() if path.is_file()}
    if not qrels:
        raise BadInput(f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv is there")
    parts = [docs.fingerprint, queries.fingerprint]
    parts += [part for split in qrels for part in (split, fingerprint_file(files[split]))]
    return Collection(name, docs, queries, qrels, fingerprint(parts))


def collection_of(data, folder):
    """(--data, its collection) where `data` may be None: then that of a run's folder, or python without one."""
    spec = data or (run.recorded(folder)["args"]["data"] if folder else "python")
    return spec, load_collection(spec)


def _load_qrels(path, queries, docs):
    by_query, first_line = {}, {}
    for qid, doc_id, grade, number in beir.read_qrels(path):
        if qid not in queries.row_of:
            raise BadInput(f"{path}:{number}: query {beir.shorten(qid)} is not in {queries.path.name}")
        if doc_id not in docs.row_of:
            raise BadInput(f"{path}:{number}: doc {beir.shorten(doc_id)} is not in {docs.path.name}")
        by_query.setdefault(queries.row_of[qid], []).append((docs.row_of[doc_id], grade))
        first_line.setdefault(queries.row_of[qid], number)
    for row, judged in by_query.items():
        if all(grade < 1 for _, grade in judged):
            raise BadInput(
                f"{path}:{first_line[row]}: query {queries.ids[row]} has no positive "
                "(score 1 or more); add one or delete its lines"
            )
    rows = sorted(by_query)
    judged = np.array([pair for row in rows for pair in by_query[row]], dtype=np.int32)
    indptr = np.cumsum([0] + [len(by_query[row]) for row in rows])
    return Qrels(np.array(rows, dtype=np.int32), indptr, judged[:, 0], judged[:, 1])

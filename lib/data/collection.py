"""Collections: a corpus, queries and judgements by split.

Text is read from memory-mapped JSONL files through offset tables: the training loop gathers integers and
never touches text.
"""

import dataclasses
import functools
import pathlib
import re
import sys

import numpy as np

from lib import dist, run
from lib.data import beir, readers
from lib.data.beir import SPLITS
from lib.data.qrels import judged_files, load_qrels
from lib.data.texts import Texts
from lib.files import BadInput, check_keys, fingerprint, fingerprinted


@dataclasses.dataclass(frozen=True, eq=False)
class Collection:
    """A corpus, queries, and judgements by split."""

    name: str
    docs: Texts
    queries: Texts
    qrels: dict  # split -> Qrels
    fingerprint: str
    faults: dict = dataclasses.field(default_factory=dict)  # split -> what makes it unusable
    notes: tuple = ()  # what was kept or skipped although it is odd
    parts: dict = dataclasses.field(default_factory=dict)  # of several joined: name -> its first query row
    left_out: tuple = ()  # Qrels of train queries that are not trained on; their positives stay known
    negatives: pathlib.Path | None = None  # a file of candidates that came with it

    def split(self, name):
        """The judgements of one split; BadInput if the collection has none."""
        if name in self.faults:
            raise BadInput(self.faults[name])
        if name not in self.qrels:
            how = "; --data made:FOLDER trains on queries that are made from its docs" if name == "train" else ""
            raise BadInput(f"collection {self.name} has no split {name!r}; it has {', '.join(self.qrels)}{how}")
        return self.qrels[name]

    def qrels_dict(self, split):
        """{qid: {doc_id: grade}}, as measures want it."""
        qrels = self.split(split)
        return {
            self.queries.ids[row]: {self.docs.ids[d]: int(g) for d, g in zip(qrels.docs[a:b], qrels.grades[a:b])}
            | qrels.missing.get(int(row), {})
            for row, a, b in zip(qrels.queries, qrels.indptr, qrels.indptr[1:])
        }

    def part_of(self, query_rows):
        """(n,) which of the joined collections each query is of; 0 where none are joined."""
        return np.searchsorted(list(self.parts.values()), query_rows, side="right") - bool(self.parts)

    def judgements(self, split):
        """Identifies what an evaluation on a split depends on: the corpus, the split's queries and their labels."""
        qrels = self.split(split)
        queries = [(self.queries.ids[row], self.queries.digests[row].tobytes()) for row in qrels.queries]
        missing = [sorted((self.queries.ids[row], sorted(docs.items())) for row, docs in qrels.missing.items())]
        found = self.docs.fingerprint, repr(queries), qrels.indptr, qrels.docs, qrels.grades
        return fingerprint(*found, *(missing if qrels.missing else []))

    @functools.cached_property
    def known(self):
        """(indptr, groups): for each query row, the text groups of all its known positives, in every split.

        Copies count: a copy of a positive is positive, and queries with equal text share their positives.
        """
        pairs = [
            np.stack([np.repeat(q.queries, np.diff(q.indptr)), q.docs])[:, q.grades >= 1]
            for q in (*self.qrels.values(), *self.left_out)
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


def without(collection, drop):
    """The collection whose train split lacks the queries where `drop` (Q,) holds, whose positives stay known."""
    train = collection.split("train")
    qrels = collection.qrels | {"train": train.select(~drop)}
    return dataclasses.replace(collection, qrels=qrels, left_out=(*collection.left_out, train.select(drop)))


def count_docs(collection, relation):
    """(n,) for each query row, how many docs its groups in a relation (indptr, groups) stand for, copies included."""
    indptr, groups = relation
    copies = np.bincount(collection.docs.groups, minlength=len(collection.docs))  # docs that share each text
    sums = np.concatenate([[0], np.cumsum(copies[groups])])
    return sums[indptr[1:]] - sums[indptr[:-1]]


def ranges(start, end):
    """The integers of the ranges start[i]:end[i], one range behind the other."""
    lengths = end - start
    shift = np.repeat(start - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return np.arange(lengths.sum()) + shift


def load_collection(spec, *, cut=(), strict=False, quiet=False):
    """The collection that `--data` names (readers.HELP), or several of them, joined by readers.JOIN.

    What is odd and can be used is kept or skipped by trec_eval's rules, and said once, unless `quiet`; strict
    refuses it. Splits of `cut` that are missing are cut off the train split; a faulty one is refused when asked for.
    """
    if len(specs := readers.split(spec)) > 1:
        return _joined(specs, strict=strict, quiet=quiet)
    name, folder = readers.find(spec)
    _, least = readers.graded(spec)
    docs, queries = Texts.load(folder / "corpus.jsonl"), Texts.load(folder / "queries.jsonl")
    files = judged_files(folder)
    qrels, faults, notes, contents = {}, {}, [], []
    for texts, what in ((docs, "docs"), (queries, "queries")):
        if len(texts.blank):
            notes += beir.notes(texts.path, {f"{what} have neither title nor text: kept": texts.blank})
    for split, path in files.items():
        with fingerprinted(path) as content:
            contents += [split, content] if least == 1 else [split, content, least]
            try:
                qrels[split], odd = load_qrels(path, queries, docs, train=split == "train", least=least)
                notes += beir.notes(path, odd)
            except BadInput as error:
                if len(files) == 1:
                    raise
                faults[split] = str(error)
    if not qrels:
        raise BadInput(next(iter(faults.values()), f"{folder}/qrels: none of train.tsv, dev.tsv, test.tsv is there"))
    for split in cut:
        if split not in files and "train" in qrels:
            qrels["train"], qrels[split] = _cut(qrels["train"], queries, split, spec)
            notes.append(
                f"{folder}: no {split}.tsv: {len(qrels[split]):,} of the train queries, chosen by a hash of their ids, "
                f"are the {split} split"
            )
    if strict and (notes or faults):
        raise BadInput("; ".join([*notes, *faults.values()]) + "; --strict refuses that")
    if not quiet and dist.is_main():
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
    whole = fingerprint([docs.fingerprint, queries.fingerprint, *contents])
    given = folder / beir.NEGATIVES
    given = given if given.is_file() else None
    return Collection(name, docs, queries, qrels, whole, faults, tuple(notes), negatives=given)


def _joined(specs, **how):
    """One collection of several: their docs, queries and splits behind one another, ids as NAME/ID."""
    # dev and test are always cut where they are missing: the parts are written, and have to be the same for all
    if how["strict"]:
        for spec in specs:
            load_collection(spec, strict=True, quiet=True)  # without cutting, which is nothing odd
    found = [load_collection(spec, cut=SPLITS[1:], strict=False, quiet=how["quiet"]) for spec in specs]
    found = [dataclasses.replace(each, name=re.sub(r"\s+", "_", each.name)) for each in found]  # ids hold no space
    names = [collection.name for collection in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"--data {readers.JOIN.join(specs)}: two collections are called {twice[0]}; rename a folder")

    def records(side):
        for collection in found:
            for row in range(len(getattr(collection, side))):
                record = getattr(collection, side).record(row)
                record["_id"] = f"{collection.name}/{record['_id']}"
                if side == "queries":
                    record["metadata"] = beir.metadata_of(record) | {"collection": collection.name}
                yield record

    def judged():
        for collection in found:
            for split in collection.qrels:
                for qid, grades in collection.qrels_dict(split).items():
                    own = {f"{collection.name}/{doc}": grade for doc, grade in grades.items()}
                    yield f"{collection.name}/{qid}", split, own

    def given():
        for collection in found:
            for record in beir.candidates_in(collection.negatives):
                yield record | {key: f"{collection.name}/{record[key]}" for key in ("qid", "doc_id")}

    key = [[c.name, c.fingerprint, sorted(c.qrels), bool(c.negatives)] for c in found]
    read = lambda: (records("docs"), records("queries"), list(judged()), {}, list(given()))  # noqa: E731
    _, folder = beir.build("joined", "-and-".join(names), key, read)
    whole = load_collection(folder, strict=how["strict"], quiet=True)
    begins = np.cumsum([0] + [len(collection.queries) for collection in found[:-1]]).tolist()
    faults = {split: fault for collection in found for split, fault in collection.faults.items()}
    return dataclasses.replace(whole, parts=dict(zip(names, begins)), faults=faults)


def spec_of(data, folder):
    """--data, which may be None: then that of a run's folder, or python without one."""
    args = run.recorded(folder)["args"] if folder and not data else {"data": data or "python"}
    check_keys(args, f"{folder}/config.json", data=str)
    return args["data"]


def collection_of(data, folder, *, cut=(), strict=False):
    """(spec_of(), its collection)."""
    spec = spec_of(data, folder)
    return spec, load_collection(spec, cut=cut, strict=strict)


def _cut(qrels, queries, split, spec):
    """(the rest, a tenth of the split's queries, by a hash of their ids: another tenth for another split)."""
    chosen = np.array([beir.split_by_hash(queries.ids[row], dev=1) == split for row in qrels.queries])
    if chosen.all() or not chosen.any():
        raise BadInput(f"{spec}: no {split} queries, and too few for training to take some as {split}: more are needed")
    return qrels.select(~chosen), qrels.select(chosen)

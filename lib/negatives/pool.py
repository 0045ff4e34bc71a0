"""The pool: which docs may be negatives at all.

A doc that no training query is labelled with is only ever pushed away, never pulled; the docs that dev and test
queries look for are among them. Leaving those out by their labels would be a leak: the pool would know the answers.
"""

import numpy as np

from lib.data.beir import read_lines, shorten
from lib.files import BadInput, fingerprint

LEAK = 1e-3  # p of Fisher's exact test below which a file's choice of held-out docs is no chance
FEW = 0.15  # share of labelled docs below which the whole corpus may be the better pool


class Pool:
    """Docs that may be negatives: `rows`, sorted, or None for the whole corpus."""

    def __init__(self, name, rows, *, leaks=False):
        self.name, self.rows, self.leaks = name, rows, leaks

    @property
    def fingerprint(self):
        """Identifies the docs of the pool; None for the whole corpus."""
        return None if self.rows is None else fingerprint(self.rows)

    def holds(self, doc_rows):
        """Whether each of the docs is in the pool; False for rows of -1."""
        doc_rows = np.asarray(doc_rows)
        if self.rows is None:
            return doc_rows >= 0
        at = np.minimum(np.searchsorted(self.rows, doc_rows), len(self.rows) - 1)
        return self.rows[at] == doc_rows

    def draw(self, uniform, collection):
        """Doc rows for uniform numbers in [0, 1)."""
        rows = (uniform * (len(collection.docs) if self.rows is None else len(self.rows))).astype(np.int32)
        return rows if self.rows is None else self.rows[rows]


EVERYTHING = Pool("all", None)


def labelled(collection):
    """(M,) bool: docs that are, themselves or as a copy, a positive of some training query, or of one left out."""
    return _positives(collection, ["train"])


def unlabelled_docs(collection):
    """(U,) rows of the docs without a label in training, one for each text."""
    groups = collection.docs.groups
    return np.flatnonzero(~labelled(collection) & (groups == np.arange(len(groups))))


def held_out(collection):
    """(M,) bool: docs that are a positive of a dev or test query and of no training query."""
    return _positives(collection, [split for split in collection.qrels if split != "train"]) & ~labelled(collection)


def doc_states(collection):
    """{name: (M,) bool}: docs that no training query pulls, and those of them that dev or test queries look for."""
    return {"unlabelled": ~labelled(collection), "held_out": held_out(collection)}


def _positives(collection, splits):
    groups = collection.docs.groups
    wanted = [collection.qrels[split] for split in splits if split in collection.qrels]
    wanted += collection.left_out if "train" in splits else ()
    docs = np.concatenate([qrels.docs[qrels.grades >= 1] for qrels in wanted] or [np.empty(0, dtype=np.int32)])
    return np.isin(groups, groups[docs])


def open_pool(spec, collection, *, allow_leak=False):
    """The Pool of --negative_docs: all, labelled, or a file with a doc id on each line.

    BadInput if a file seems to be made with the labels of dev or test, unless `allow_leak`: if it holds the docs
    that only their queries are labelled with more often, or more rarely, than the other docs without a label.
    """
    if spec == "all":
        return EVERYTHING
    if spec == "labelled":
        rows = np.flatnonzero(labelled(collection)).astype(np.int32)
        if not len(rows):
            raise BadInput("--negative_docs labelled: no doc is a positive of a training query; take all")
        return Pool(spec, rows)
    rows = set()
    for number, line in read_lines(spec):
        row = collection.docs.row_of.get(line.strip())
        if row is None:
            raise BadInput(f"{spec}:{number}: doc {shorten(line.strip())} is not in the collection")
        rows.add(row)
    if not rows:
        raise BadInput(f"{spec}: no doc ids; one a line is wanted")
    pool = Pool(str(spec), np.array(sorted(rows), dtype=np.int32))
    if leak := find_leak(pool, collection):
        if not allow_leak:
            raise BadInput(f"--negative_docs {spec}: {leak}; --allow_leak uses it all the same and marks the results")
        pool.leaks = True
    return pool


def find_leak(pool, collection):
    """What in a pool cannot be but for the labels of dev or test, in words; None if there is nothing."""
    inside = pool.holds(np.arange(len(collection.docs)))
    known, hidden = labelled(collection), held_out(collection)
    others = ~known & ~hidden
    if others.sum() < 20:  # nothing to compare with but the labelled docs, which a fair pool may prefer
        if not inside[hidden].any():
            return None
        others = known
    table = [[int((inside & which).sum()), int((~inside & which).sum())] for which in (hidden, others)]
    from scipy import stats  # here: it takes a second to import

    if stats.fisher_exact(table).pvalue >= LEAK:
        return None
    (held, not_held), (other, not_other) = table
    return (
        f"it holds {held:,} of {held + not_held:,} docs that only dev or test queries are labelled with and "
        f"{other:,} of {other + not_other:,} others: it seems to know those labels"
    )


def describe_pool(pool, collection):
    """What a pool is, as plain numbers for logs and records: docs, share of the corpus, what of it has a label."""
    inside = pool.holds(np.arange(len(collection.docs)))
    share = {
        name: round(float(which[inside].mean()), 4)
        for name, which in (("labelled", labelled(collection)), ("held_out", held_out(collection)))
    }
    return {
        "name": pool.name,
        "docs": int(inside.sum()),
        "share_of_corpus": round(float(inside.mean()), 4),
        "leaks": pool.leaks,
        "labelled_docs": round(float(labelled(collection).mean()), 4),
    } | share


def advise(pool):
    """What a run does about its pool, as describe_pool() has it, and what docs/pools.md advises: a line for people."""
    said = (
        f"{pool['labelled_docs']:.0%} of the docs have a label in training; negatives come from {pool['docs']:,} docs "
        f"({pool['name']})"
    )
    if pool["name"] == "all" and pool["labelled_docs"] < 1:
        return f"{said}; --negative_docs labelled was better or level where 24 % or more had a label (docs/pools.md)"
    if pool["name"] == "labelled" and pool["labelled_docs"] < FEW:
        return f"{said}; where 8 % had a label, refresh:4 of --negative_docs all had more MRR@10 (docs/pools.md)"
    return said

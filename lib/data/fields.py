"""A field of the metadata as numbers: which docs and queries have the same value in it."""

import collections
import functools
import json

import numpy as np
from tqdm import tqdm

from lib.data.beir import metadata_of
from lib.files import BadInput


@functools.lru_cache(maxsize=4)
def _codes(collection, field):
    """(codes of the queries (Q,), of the docs (M,), whether docs have the field themselves); -1 stands for none."""
    known, seen = {}, set()

    def read(texts, rows):
        found = np.full(len(texts), -1)
        for row in rows:
            own = metadata_of(texts.record(row))
            seen.update(own)
            if own.get(field) not in (None, "", []):
                found[row] = known.setdefault(json.dumps(own[field], sort_keys=True), len(known))
        return found

    queries, docs = read(collection.queries, range(len(collection.queries))), collection.docs
    of_docs = read(docs, range(len(docs)))
    own = bool((of_docs >= 0).any())
    if not own:  # by train queries alone: labels of dev and test would say which docs are theirs
        train = collection.split("train")
        positive = train.grades >= 1
        by, of = (x[positive] for x in (np.repeat(queries[train.queries], np.diff(train.indptr)), train.docs))
        of_docs[docs.groups[of[::-1]]] = by[::-1]  # of several queries the first counts
        of_docs = of_docs[docs.groups]
    if (of_docs < 0).all():
        fields = ", ".join(sorted(seen)) or "none"
        raise BadInput(f"no doc has the field {field} in its metadata, nor has a train query; there are: {fields}")
    return queries, of_docs, own


def rows_where(docs, wanted):
    """The doc rows, in order, whose metadata have all the fields of {field: [values, any of them]}; BadInput if none.

    Values are compared as texts, those of a list each by itself.
    """
    rows, seen = [], {field: collections.Counter() for field in wanted}
    for row in tqdm(range(len(docs)), desc="--where", unit="doc", delay=2, leave=False, disable=None):
        meta = metadata_of(docs.record(row))
        own = {field: _texts(meta.get(field)) for field in wanted}
        if all(own[field] & set(values) for field, values in wanted.items()):
            rows.append(row)
        for field, values in own.items():
            seen[field].update(values)
    if not rows:
        field, values = next(((f, v) for f, v in wanted.items() if not seen[f].keys() & set(v)), (None, None))
        if field is None:
            raise BadInput(f"--where {' '.join(f'{f}={v[0]}' for f, v in wanted.items())}: no doc has all of these")
        often = ", ".join(value for value, _ in seen[field].most_common(8))
        there = f"most often it is {often}" if often else "no doc has this field"
        raise BadInput(f"--where {field}={values[0]}: no doc has this value; {there}")
    return np.array(rows)


def _texts(value):
    """The set of texts of a value of metadata."""
    return {str(each) for each in (value if isinstance(value, list) else [value]) if each not in (None, "")}


def values(collection, field, query_rows):
    """(codes of queries (n, P), of all docs (M,)): equal numbers for equal values of a field, -1 for none.

    A query has those of its positives, where the docs of corpus.jsonl have the field. Where none has it, a query has
    the value of its own metadata, and a doc that of the first train query for which it is a positive.
    """
    of_queries, of_docs, own = _codes(collection, field)
    if not own:
        return of_queries[query_rows][:, None], of_docs
    known = collection.known_docs(query_rows)
    return np.where(known >= 0, of_docs[known], -1), of_docs

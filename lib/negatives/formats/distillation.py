"""Files for distillation by ids, as sentence-transformers 6 (resolve_ids) and PyLate (KDProcessing) read them.

A line is {"query_id": ..., "document_ids": [...], "scores": [...]}, a positive first; the texts of the ids lie in two
files beside it. The scores are a teacher's where all docs of a query have one, else those of what mined them.
"""

import json

import numpy as np

from lib.data import beir
from lib.data.formats import tables
from lib.files import BadInput, atomic_path

FORMATS = {
    "distillation": "JSONL with ids: query_id, document_ids, scores; queries and documents in files beside it",
    "distillation-parquet": "the same as Parquet",
}


def write(path, format, records, collection, split):
    """Write records of a negatives file; returns how many lines. Each positive of a query has a line of its own."""
    lines = list(_lines(records, collection.qrels_dict(split), collection.docs.row_of))
    with atomic_path(path) as temporary:
        if format == "distillation":
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        else:
            pyarrow = tables.parquet_package(path)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), temporary)
    for name, key, texts in (
        ("queries", "query_id", collection.queries),
        ("documents", "document_id", collection.docs),
    ):
        beside = path.with_name(f"{path.name}.{name}.jsonl")
        with atomic_path(beside) as temporary, open(temporary, "w", encoding="utf-8") as out:
            for row, ident in enumerate(texts.ids):
                out.write(json.dumps({key: ident, "text": texts.text(row)}, ensure_ascii=False) + "\n")
    return len(lines)


def _lines(records, judged, docs):
    by_query = {}
    for record in records:
        by_query.setdefault(record["qid"], []).append(record)
    for qid, own in by_query.items():
        for keys in (("teacher_score", "teacher_positive_score"), ("score", "positive_score")):
            scores, best = ([record.get(key) for record in own] for key in keys)
            if None not in scores and len(set(best)) == 1 and best[0] is not None:
                break
        else:
            raise BadInput(f"query {qid} has docs without a score, or of several sources: this format is for scores")
        for positive in (doc for doc, grade in judged[qid].items() if grade >= 1 and doc in docs):
            ids = [positive, *(record["doc_id"] for record in own)]
            yield {"query_id": qid, "document_ids": ids, "scores": [best[0], *scores]}


def read(path, format, collection):
    """Yield (line, record) of the docs of each line that are no known positives; the scores are a teacher's."""
    docs, queries, listed = collection.docs.row_of, collection.queries.row_of, {}
    for number, qid, ids, scores in _lists(path, format):
        if unknown := [i for i in ids if i not in docs] + ([] if qid in queries else [qid]):
            raise BadInput(f"{path}:{number}: {beir.shorten(unknown[0])} is not in the collection")
        rows = np.array([docs[ident] for ident in ids], dtype=np.int64)
        positive = collection.no_negative(np.array([queries[qid]]), rows[None])[0]
        best = max((score for score, holds in zip(scores, positive) if holds), default=None)
        seen = listed.setdefault(qid, set())
        for ident, score, holds in zip(ids, scores, positive):
            if not holds and ident not in seen:
                seen.add(ident)
                yield (
                    number,
                    {
                        "qid": qid,
                        "doc_id": ident,
                        "source": format,
                        "rank": len(seen),
                        "score": None,
                        "positive_score": None,
                        "teacher_score": score,
                        "teacher_positive_score": best,
                    },
                )


def read_as_it_stands(path, format, collection):
    """Yield (line, query row, doc row, score, best score of a positive) of each doc that is no known positive.

    -1 for what the collection lacks, nan without a positive: for those who look at what a file holds.
    """
    docs, queries, named = collection.docs.row_of, collection.queries.row_of, {}
    for number, qid, ids, scores in _lists(path, format):
        query, rows = queries.get(qid, -1), np.array([docs.get(ident, -1) for ident in ids], dtype=np.int64)
        positive = collection.no_negative(np.array([query]), rows[None])[0] & (query >= 0)
        best = max((score for score, holds in zip(scores, positive) if holds), default=None)
        for row, score, holds in zip(rows.tolist(), scores, positive):
            # a list is repeated for each positive of a query
            if not holds and named.setdefault((qid, row), number) == number:
                yield number, query, row, score, best


def _lists(path, format):
    """(line, query id, doc ids, as many scores) of each line; BadInput for one of another shape."""
    for number, item in _objects(path, format):
        qid, ids, scores = (item.get(key) for key in ("query_id", "document_ids", "scores"))
        if not isinstance(qid, str) or not _are(ids, str) or not _are(scores, (int, float)) or len(ids) != len(scores):
            place = f"{path}:{number}"
            raise BadInput(f"{place}: query_id, document_ids and as many scores are wanted: {beir.shorten(item)}")
        yield number, qid, ids, scores


def _objects(path, format):
    if format == "distillation-parquet":
        yield from tables.parquet_rows(path)
    else:
        for number, line in beir.read_lines(path):
            yield number, beir.parse_object(line, path=path, number=number)


def _are(values, kind):
    there = isinstance(values, list) and bool(values) and all(isinstance(value, kind) for value in values)
    return there and (kind is str or all(abs(value) < 1e38 for value in values))  # nan is not below it either

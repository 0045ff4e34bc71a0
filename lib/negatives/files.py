"""Negatives files: a header that says how the file was made, then a record for each candidate."""

import json

import numpy as np

from lib.data.beir import parse_object, read_lines, shorten
from lib.files import BadInput, atomic_path
from lib.negatives.candidates import Candidates


def write_negatives(path, header, records):
    """A JSONL file: the header on the first line, then a record per candidate. Returns how many of them."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(json.dumps({"header": header}, ensure_ascii=False) + "\n")
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_negatives(path):
    """(header, iterator of (line number, record)) of a negatives file."""
    lines = read_lines(path)
    number, first = next(lines, (1, ""))
    header = parse_object(first, path=path, number=number).get("header") if first else None
    if not isinstance(header, dict):
        raise BadInput(
            f"{path}:{number}: no header line, so none of ours; one of another format becomes one by "
            f"mine_negatives.py --sources file --negatives_file {path} --negatives_format FORMAT"
        )

    def checked():
        wanted, count = ("qid", "doc_id", "source", "score"), 0
        for number, line in lines:
            count += 1
            record = parse_object(line, path=path, number=number)
            if missing := [key for key in wanted if key not in record]:
                raise BadInput(f"{path}:{number}: no {missing[0]!r} in {shorten(line)}")
            for key in ("qid", "doc_id", "source"):
                if not isinstance(record[key], str):
                    raise BadInput(f"{path}:{number}: {key} is {shorten(record[key])}; ids and names are strings")
            rank = record.get("rank")
            if not isinstance(rank, (int, type(None))) or rank is not None and not 0 <= rank < 1 << 31:
                raise BadInput(f"{path}:{number}: rank {shorten(record['rank'])} is not a whole number")
            for key in ("score", "positive_score", "teacher_score", "teacher_positive_score"):
                score = record.get(key)
                if not isinstance(score, (int, float, type(None))) or score is not None and not abs(score) < 1e38:
                    raise BadInput(f"{path}:{number}: {key} {shorten(record[key])} is not a number")
            yield number, record
        if count != header.get("records", count):
            raise BadInput(
                f"{path}: {count:,} records, and {header['records']} by its header: the file was cut or changed; "
                "mine again, or correct the number in its first line"
            )

    return header, checked()


def records_of(candidates, collection):
    """The records of a negatives file, one per candidate, in order of query and rank."""
    names = candidates.origins or (candidates.source,)
    for i, row in enumerate(candidates.queries):
        positive = round_score(candidates.positive[i])
        for j in np.flatnonzero(candidates.docs[i] >= 0):
            doc_id = collection.docs.ids[candidates.docs[i, j]]
            record = {
                "qid": collection.queries.ids[row],
                "doc_id": doc_id,
                "source": names[0 if candidates.origin is None else candidates.origin[i, j]],
                "rank": int(candidates.ranks[i, j]),
                "score": round_score(candidates.scores[i, j]),
                "positive_score": positive,
            }
            if candidates.teacher is not None:
                record["teacher_score"] = round_score(candidates.teacher[i, j])
                record["teacher_positive_score"] = round_score(candidates.teacher_positive[i])
            yield record


def round_score(score):
    """A score for JSON: 6 significant digits, null for nan."""
    return None if np.isnan(score) else float(f"{score:.6g}")


def load_candidates(path, collection, qrels, *, rows=None):
    """Candidates from a negatives file, a list per train query; BadInput if it was made for other data.

    rows: (line number, record) pairs of a file that is not in our format, as exchange.read() gives them. Of the file
    that came with the collection, what may not be a negative is dropped and not refused.
    """
    own = path == collection.negatives
    if rows is None:
        header, rows = read_negatives(path)
        if header.get("collection_fingerprint", own and collection.fingerprint) != collection.fingerprint:
            raise BadInput(
                f"{path}: mined on collection {header.get('collection_fingerprint')}, --data is "
                f"{collection.fingerprint}; mine again on this collection"
            )
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    lists = [{} for _ in position]  # doc row -> (score, rank, source's number, teacher's score)
    origins = {}
    positive, teacher_positive = (np.full(len(lists), np.nan, dtype=np.float32) for _ in range(2))
    for number, record in rows:
        query = collection.queries.row_of.get(record["qid"])
        doc = collection.docs.row_of.get(record["doc_id"])
        if query is None or doc is None:
            missing = record["qid"] if query is None else record["doc_id"]
            raise BadInput(f"{path}:{number}: {shorten(missing)} is not in the collection")
        if query in position:
            i = position[query]
            # two sources may propose one doc: the first counts
            lists[i].setdefault(
                doc,
                (
                    record["score"],
                    record.get("rank") or 0,
                    origins.setdefault(record["source"], len(origins)),
                    record.get("teacher_score"),
                ),
            )
            for array, key in ((positive, "positive_score"), (teacher_positive, "teacher_positive_score")):
                if record.get(key) is not None:
                    array[i] = np.fmax(array[i], record[key])  # of several positives the best
    if not any(lists):
        raise BadInput(f"{path}: no negatives for the queries of this split")
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    scores, teacher = (np.full(docs.shape, np.nan, dtype=np.float32) for _ in range(2))
    ranks, origin = np.zeros(docs.shape, dtype=np.int32), np.zeros(docs.shape, dtype=np.int16)
    for i, found in enumerate(lists):
        for j, (doc, (score, rank, source, taught)) in enumerate(found.items()):
            docs[i, j], ranks[i, j], origin[i, j] = doc, rank, source
            scores[i, j], teacher[i, j] = (np.nan if x is None else x for x in (score, taught))
    wrong = collection.no_negative(qrels.queries, docs)
    if wrong.any() and not own:
        i, j = np.argwhere(wrong)[0]
        raise BadInput(
            f"{path}: {collection.docs.ids[docs[i, j]]} is a positive of {collection.queries.ids[qrels.queries[i]]}, "
            f"or that query itself; {wrong.sum()} such lines: mine again"
        )
    return Candidates(
        "file",
        qrels.queries,
        docs,
        scores,
        positive,
        {},
        ranks,
        origin,
        tuple(origins),
        teacher=teacher,
        teacher_positive=teacher_positive,
    )

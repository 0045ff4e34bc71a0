"""Retrieval measures, exactly trec_eval's (through ir_measures), and the files that hold what was measured."""

import contextlib
import gzip
import io
import json

import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

from lib.data.beir import parse_object, read_lines
from lib.data.collection import count_docs
from lib.files import NUMBER, atomic_path, check_keys

RANKED = 100  # docs ranked for a query when evaluating: the deepest cut-off of MEASURES
MEASURES = ("mrr@10", "ndcg@10", "recall@10", "recall@100")
_TREC = {"ndcg@10": nDCG @ 10, "recall@10": R @ 10, "recall@100": R @ 100}


def to_rankings(qids, doc_ids, rows, scores):
    """{qid: {doc_id: score}} from arrays rows (Q, k), -1 where a list ends early, and scores (Q, k)."""
    return {
        qid: {doc_ids[row]: score for row, score in zip(r, s) if row >= 0}
        for qid, r, s in zip(qids, rows.tolist(), scores.tolist())
    }


def per_query(rankings, qrels):
    """{qid: {measure: value}} for every judged query with a positive; one that is not ranked scores 0.

    rankings {qid: {doc_id: score}}, qrels {qid: {doc_id: grade}}. As in trec_eval, order is by score
    (float32) and then by doc_id, both descending; relevant is grade >= 1; nDCG's gain is the grade, its
    discount log2(rank + 1).
    """
    judged = {qid: grades for qid, grades in qrels.items() if max(grades.values()) >= 1}
    values = {qid: dict.fromkeys(MEASURES, 0.0) for qid in judged}
    if not any(qid in judged and docs for qid, docs in rankings.items()):
        return values
    names = {str(measure): name for name, measure in _TREC.items()} | {str(RR): "rr"}
    evaluator = ir_measures.pytrec_eval.evaluator([RR, *_TREC.values()], judged)
    for qid, measure, value in evaluator.iter_calc(rankings):
        if qid in values:
            values[qid][names[str(measure)]] = value
    for found in values.values():
        rank_inverse = found.pop("rr", 0.0)
        found["mrr@10"] = rank_inverse if rank_inverse >= 0.1 else 0.0  # trec_eval's has no cut-off
    return values


SELF_MATCH = ("drop", "keep")
SELF_MATCH_HELP = "whether a doc that is the query itself, by id or text and no known positive, is a result"


def spare(collection, split):
    """Docs to fetch beyond those wanted, so that leaving out the queries themselves leaves enough."""
    return int(count_docs(collection, collection.itself)[collection.split(split).queries].max(initial=0))


def without_itself(collection, split, hits, k):
    """(Hits of the k best docs that are not the query itself, how many were)."""
    itself = collection.is_itself(collection.split(split).queries, hits.rows)
    return hits.without(itself, k), int(itself.sum())


def results(search, collection, split, k, *, self_match):
    """(the k best Hits of search(count) that are results for a split, how many docs were the query itself)."""
    dropping = self_match == "drop"
    hits = search(k + spare(collection, split) if dropping else k)
    left, itself = without_itself(collection, split, hits, k)
    return left if dropping else hits, itself


VOID = 0.1  # share of queries without any result from which on a baseline says nothing


def nothing_found(hits):
    """Share of the queries for which nothing was found."""
    return float((hits.rows < 0).all(1).mean())


def score(collection, split, hits):
    """per_query() of the Hits of a split's queries."""
    return per_query(rankings_of(collection, split, hits), collection.qrels_dict(split))


def rankings_of(collection, split, hits):
    """to_rankings() of the Hits of a split's queries."""
    qids = [collection.queries.ids[row] for row in collection.split(split).queries]
    return to_rankings(qids, collection.docs.ids, hits.rows, hits.scores)


def mean(values):
    """{measure: mean over queries} of what per_query() returned."""
    return {name: float(np.mean([v[name] for v in values.values()])) for name in MEASURES}


def first_relevant(rows, qrels):
    """(Q,) rank of the first positive among doc rows (Q, k), inf where there is none."""
    ranks = np.full(len(rows), np.inf)
    for i, found in enumerate(rows):
        hits = np.flatnonzero(np.isin(found, qrels.positives(i)))
        if len(hits):
            ranks[i] = hits[0] + 1
    return ranks


def in_order(docs):
    """The doc ids of {doc_id: score} as trec_eval ranks them: by score (float32), then by id, both descending."""
    return sorted(docs, key=lambda doc: (np.float32(docs[doc]), doc), reverse=True)


def write_rankings(path, rankings, *, tag):
    """Write {qid: {doc_id: score}} as TREC's six columns, best first; FILE.gz is compressed."""
    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        out = stack.enter_context(open(temporary, "wb"))
        if path.suffix == ".gz":  # without name and time, for the same bytes each time
            out = stack.enter_context(gzip.GzipFile("", "wb", 1, out, mtime=0))
        out = stack.enter_context(io.TextIOWrapper(out, encoding="utf-8"))
        for qid, docs in rankings.items():
            order = sorted(docs.items(), key=lambda item: -np.float32(item[1]))  # equal scores as they came
            out.writelines(f"{qid} Q0 {doc} {rank} {score:.9g} {tag}\n" for rank, (doc, score) in enumerate(order, 1))


def write_per_query(path, values):
    """Write {qid: {measure: value}}, one line a query."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for qid, measured in values.items():
            out.write(json.dumps({"qid": qid} | measured) + "\n")


def read_per_query(path):
    """{qid: {measure: value}} of a file that write_per_query() wrote; BadInput if a value is missing or none."""
    found = {}
    for number, line in read_lines(path):
        record = parse_object(line, path=path, number=number)
        check_keys(record, f"{path}:{number}", **(dict.fromkeys(record, NUMBER) | {"qid": str}))
        found[record.pop("qid")] = record
    return found

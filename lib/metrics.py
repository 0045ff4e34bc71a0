"""Retrieval measures, exactly trec_eval's (through ir_measures), and paired tests on their per-query values."""
import ir_measures
import numpy as np
from ir_measures import RR, R, nDCG

MEASURES = ("mrr@10", "ndcg@10", "recall@10", "recall@100")
_TREC = {"ndcg@10": nDCG @ 10, "recall@10": R @ 10, "recall@100": R @ 100}


def to_rankings(qids, doc_ids, rows, scores):
    """{qid: {doc_id: score}} from arrays rows (Q, k), -1 where a list ends early, and scores (Q, k)."""
    return {qid: {doc_ids[row]: score for row, score in zip(r, s) if row >= 0}
            for qid, r, s in zip(qids, rows.tolist(), scores.tolist())}


def per_query(rankings, qrels):
    """{qid: {measure: value}} for every judged query with a positive; one that is not ranked scores 0.

    rankings {qid: {doc_id: score}}, qrels {qid: {doc_id: grade}}. As in trec_eval, order is by score (float32) and then
    by doc_id, both descending; relevant is grade >= 1; nDCG's gain is the grade, its discount log2(rank + 1).
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
        found["mrr@10"] = rank_inverse if rank_inverse >= 0.1 else 0.0  # trec_eval's reciprocal rank has no cut-off
    return values


def score(collection, split, scores, rows):
    """per_query() of a search for the queries of a split: scores (Q, k) and doc rows (Q, k), as searches return them."""
    qids = [collection.queries.ids[row] for row in collection.split(split).queries]
    return per_query(to_rankings(qids, collection.docs.ids, rows, scores), collection.qrels_dict(split))


def mean(values):
    """{measure: mean over queries} of what per_query() returned."""
    return {name: float(np.mean([v[name] for v in values.values()])) for name in MEASURES}


def paired_test(a, b, *, seed, rounds=10_000):
    """Compare two arrays (Q,) of per-query values, query by query.

    Returns the mean difference a - b, a 95 % bootstrap interval, the two-sided p of a paired randomisation test (signs of
    the differences flipped at random; Smucker, Allan & Carterette, CIKM 2007), and how many queries a wins, ties, loses.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    generator = np.random.Generator(np.random.Philox(seed))
    observed = difference.mean()
    moved = difference[difference != 0]  # a flipped zero stays zero
    extreme, means = 0, []
    for _ in range(rounds // 100):      # blocks of 100 keep memory at 100 * Q numbers
        signs = generator.integers(0, 2, size=(100, len(moved)), dtype=np.int8) * 2 - 1
        extreme += (np.abs(signs @ moved) >= np.abs(moved.sum()) - 1e-12).sum()
        picks = generator.integers(0, len(difference), size=(100, len(difference)))
        means.append(difference[picks].mean(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return {"difference": float(observed), "low": float(low), "high": float(high), "p": float((extreme + 1) / (rounds + 1)),
            "wins": int((difference > 0).sum()), "ties": int((difference == 0).sum()),
            "losses": int((difference < 0).sum()), "queries": len(difference)}

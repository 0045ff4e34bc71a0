"""Retrieval measures, exactly trec_eval's (through ir_measures), and paired tests on per-query values."""
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


def score(collection, split, scores, rows):
    """per_query() of a search for the queries of a split: scores (Q, k) and doc rows (Q, k), as found."""
    qids = [collection.queries.ids[row] for row in collection.split(split).queries]
    return per_query(to_rankings(qids, collection.docs.ids, rows, scores), collection.qrels_dict(split))


def mean(values):
    """{measure: mean over queries} of what per_query() returned."""
    return {name: float(np.mean([v[name] for v in values.values()])) for name in MEASURES}


def cosines(a, b):
    """(n,) cosine of each row of a (n, D) with the same row of b (n, D)."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def paired_test(a, b, *, seed, rounds=10_000):
    """Compare two arrays (Q,) of per-query values, query by query.

    Returns the mean difference a - b, a 95 % bootstrap interval, the two-sided p of a paired randomisation
    test (signs of the differences flipped at random; Smucker, Allan & Carterette, CIKM 2007), and how many
    queries a wins, ties, loses.
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
    return {"difference": float(observed), "low": float(low), "high": float(high),
            "p": float((extreme + 1) / (rounds + 1)),
            "wins": int((difference > 0).sum()), "ties": int((difference == 0).sum()),
            "losses": int((difference < 0).sum()), "queries": len(difference)}


def compare_arms(runs, *, measure):
    """One row per arm from (summary, per-query values) of every run: its values by seed, its paired test.

    The test is against the first arm; it compares queries, each averaged over the arm's seeds.
    """
    arms = {}
    for summary, values in runs:
        arms.setdefault(summary["negatives"], []).append((summary, values))
    rows, first = [], None
    for arm, of_arm in arms.items():
        summaries, values = zip(*of_arm)
        by_query = np.mean([[v[qid][measure] for qid in values[0]] for v in values], axis=0)    # (Q,)
        row = {"arm": arm, "seeds": [s["seed"] for s in summaries],
               "test": {name: [s["test"][name] for s in summaries] for name in MEASURES}}
        row |= {key: float(np.mean([s[key] for s in summaries])) for key in ("train_s", "mine_s")}
        if first is None:
            first = by_query
        else:
            row["against_first"] = paired_test(by_query, first, seed=0)
        rows.append(row)
    return rows


def arms_table(result, *, measure):
    """compare_arms() as a Markdown table: means over seeds, for `measure` also deviation and paired test."""
    first = result["arms"][0]
    head = ["negatives", *(f"test {name}" for name in MEASURES),
            f"{measure} against {first['arm']} (95 % interval, p)", "training s", "mining s"]
    lines = [head, ["---"] * len(head)]
    for name in ("bm25", "untrained"):
        lines.append([f"*{name}*", *(f"{result[name][m]:.4f}" for m in MEASURES), "", "", ""])
    for row in result["arms"]:
        cells = {name: f"{np.mean(values):.4f}" for name, values in row["test"].items()}
        if len(row["seeds"]) > 1:
            cells[measure] += f" ± {np.std(row['test'][measure], ddof=1):.4f}"
        against = ""
        if test := row.get("against_first"):
            against = (f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}], "
                       f"p = {test['p']:.4f}")
        lines.append([row["arm"], *cells.values(), against, f"{row['train_s']:.0f}", f"{row['mine_s']:.0f}"])
    seeds = len(first["seeds"])
    note = (f"{result['collection']}, {result['steps']} steps, {seeds} seed{'s' * (seeds > 1)}; "
            "± is the standard deviation over seeds; "
            "the paired randomisation test compares queries, each averaged over the seeds.")
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + f"\n{note}\n"

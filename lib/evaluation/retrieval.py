"""Retrievers for the scripts that search: their flags, what they open, and what is measured of what they find."""

import collections
import math
import sys

import numpy as np

from lib import cli
from lib.data.beir import metadata_of
from lib.evaluation import checks, diagnostics, measures, significance
from lib.files import BadInput
from lib.model.encoder import PRECISION_FLAG, PRECISION_HELP
from lib.search import fusion
from lib.search.retriever import HELP, open_mixed

VALUES = 25  # rows that a table by a field may have
APART = 0.05  # dev that lies so far outside of the interval of test, in how far a run is ahead of BM25, is said to
FEW = 20  # queries below which nothing is said of which retriever is ahead
WEIGHED = 20  # docs of a mix that a weight is chosen by: beyond the ten that nDCG@10 sees, for ties
WEIGHTS = np.linspace(0, 1, 21)  # that are tried for the first of two retrievers


def add_flags(add, **of_retriever):
    """The flags that say what searches, with the same words in every script; of_retriever: how many there may be."""
    add("--retriever", metavar="bm25|RUN|MODEL|A+B", help=HELP, **of_retriever)
    add("--fusion", choices=fusion.FUSIONS, help="how A+B mixes: convex, a weighted sum of normalised "
        "scores (default), or rrf, reciprocal ranks")  # fmt: skip
    add("--normalise", choices=tuple(fusion.NORMALISE), help="of scores before they are mixed; default: min_max")
    add("--weight", type=cli.SHARE, metavar="W", help="of A's scores in A+B; default: what is best on dev, by nDCG@10")
    add("--precision", choices=PRECISION_FLAG, default="auto", help=f"of encoding without an index; {PRECISION_HELP}")
    add("--dim", type=cli.COUNT, metavar="D", help="search exactly by the first D numbers of each vector, for a model "
        "that was trained with --dims")  # fmt: skip
    add("--rerank", metavar="NAME|FOLDER", help="a cross-encoder that puts the best docs into an order of its own")
    add("--rerank_depth", type=cli.DEPTH, metavar="N", help="docs that it reads for each query; default: 100")


def open_with(args, spec, collection, *, device):
    """(retriever, {what was decided on the way}) for the flags of add_flags()."""
    how = {name: getattr(args, name) for name in ("dim", "fusion", "normalise", "weight", "rerank", "rerank_depth")}
    return open_mixed(spec, collection, device=device, precision=args.precision, tuned_weight=tuned_weight, **how)


def tuned_weight(mixed, collection, among=None):
    """The weight of WEIGHTS with the best nDCG@10 on dev, among some doc rows or all; BadInput without a dev split."""
    if "dev" not in collection.qrels:
        raise BadInput(f"{collection.name} has no dev split to choose the weight on: give --weight, or --fusion rrf")
    both = mixed.both(collection.queries.view(collection.split("dev").queries), fusion.DEPTH, among)
    found = [
        measures.mean(measures.score(collection, "dev", mixed.mix(both, WEIGHED, weight=weight)))["ndcg@10"]
        for weight in WEIGHTS
    ]
    return float(WEIGHTS[int(np.argmax(found))])


def search_split(retriever, collection, split, depth, *, self_match):
    """({qid: {doc_id: score}}, how many docs were the query itself) of `depth` docs for each query of a split."""
    queries, how = collection.queries.view(collection.split(split).queries), {"self_match": self_match}
    hits, itself = measures.results(lambda k: retriever.search(queries, k), collection, split, depth, **how)
    return measures.rankings_of(collection, split, hits), itself


def of_run_file(path, collection, split, *, self_match):
    """The rankings of a TREC run file for the queries of a split, and how many docs were the query itself.

    Docs that the corpus lacks stay where they are, as in trec_eval; they are counted, and BadInput says if all are.
    """
    found = checks.read_run_file(path)
    rows, docs, itself = collection.split(split).queries, collection.docs, 0
    if not any(collection.queries.ids[row] in found for row in rows):
        raise BadInput(f"{path}: none of its {len(found)} queries is a {split} query of {collection.name}")
    named = {doc_id for row in rows for doc_id in found.get(collection.queries.ids[row], ())}
    if unknown := named - docs.row_of.keys():
        said = f"{len(unknown):,} of its {len(named):,} docs are not in {collection.name}: ids such as {min(unknown)}"
        if unknown == named:
            raise BadInput(f"{path}: {said}, and there such as {docs.ids[0]}")
        print(f"note: {path}: {said}; they keep their ranks, as in trec_eval", file=sys.stderr)
    rankings = {}
    for row in rows:
        ranking = found.get(collection.queries.ids[row], {})
        known = np.array([docs.row_of.get(doc_id, -1) for doc_id in ranking], dtype=np.int64)
        same = collection.is_itself(np.array([row]), known[None])[0] if len(known) else known.astype(bool)
        itself += int(same.sum())
        if self_match == "drop":
            ranking = {doc_id: score for (doc_id, score), drop in zip(ranking.items(), same) if not drop}
        rankings[collection.queries.ids[row]] = ranking
    return rankings, itself


def measured(rankings, collection, split, *, more=()):
    """(per-query values, {what metrics.json says of them}), with what ties and missing judgements leave open.

    more: measures of ir_measures, besides those that are always there.
    """
    qrels = collection.qrels_dict(split)
    checks.check_rankings(rankings)
    values = measures.per_query(rankings, qrels)
    extra = checks.per_query(more, rankings, qrels)
    for qid, found in extra.items():
        values[qid] |= {name: value for name, value in found.items() if name not in values[qid]}
    names = list(next(iter(values.values())))
    tops = [(measures.in_order(rankings.get(qid, {}))[:10], grades) for qid, grades in qrels.items() if qid in values]
    listed = sum(len(top) for top, _ in tops)
    return values, {
        "mean": {name: float(np.mean([found[name] for found in values.values()])) for name in names},
        "queries": len(values),
        "ties": {name: list(ends) for name, ends in checks.tie_interval(rankings, qrels).items()},
        "holes": {name: list(ends) for name, ends in checks.hole_bounds(rankings, qrels).items()},
        "unjudged@10": sum(doc not in grades for top, grades in tops for doc in top) / max(1, listed),
        "nothing_found": float(np.mean([not rankings.get(qid) for qid in values])),
    }


def first_ranks(rankings, qrels):
    """(Q,) rank of the first relevant doc of each query with one, inf where none was found."""
    found = []
    for qid, grades in qrels.items():
        if max(grades.values()) >= 1:
            order = measures.in_order(rankings.get(qid, {}))
            found.append(next((rank for rank, doc in enumerate(order, 1) if grades.get(doc, 0) >= 1), np.inf))
    return np.array(found)


def against_bm25(values, collection, split, *, measure, self_match):
    """significance.by_query() of per-query values against BM25's, and BM25's mean."""
    hits = diagnostics.bm25_hits(collection, split, self_match=self_match)
    baseline = measures.score(collection, split, hits)
    found = significance.by_query(values, baseline, measure)
    return {name: found[name] for name in ("difference", "low", "high", "p", "queries")} | {
        "mean": measures.mean(baseline)[measure]
    }


def ahead(test):
    """1 or -1 where a significance.by_query() says that the first or the second is ahead, else 0."""
    sure = test["p"] < significance.LEVEL
    return int(sure and test["low"] > 0) - int(sure and test["high"] < 0)


def mixing(mixed, spec, measure):
    """(whether mixing with BM25 gains, a sentence on it). mixed: of summary.json, None if it was not measured."""
    if mixed is None:
        return False, f"mixing both often gains more: --retriever {spec}"
    shown = "{difference:+.4f} [{low:+.4f}, {high:+.4f}] ".format(**mixed["against_better"]) + measure
    if ahead(mixed["against_better"]) > 0:
        return True, f"mixed with BM25 it gains {shown} over the better of the two: search with --retriever {spec}"
    if not 0 < mixed["weight"] < 1:
        return False, f"mixed, dev chooses {'the encoder' if mixed['weight'] else 'BM25'} alone"
    return False, f"mixing it with BM25 was not shown to gain ({shown}, p {mixed['against_better']['p']:.2g})"


def too_few(queries):
    """What a verdict says of so few queries."""
    return (
        f"{queries} queries are too few to say what to search with: {FEW} at least are wanted (--questions adds yours, "
        "of which half are dev); until then BM25 needs no training: --retriever bm25"
    )


def verdict(test, measure, *, spec, name=None, mixed=None):
    """(a sentence that says what to search with by against_bm25(), the spec of it).

    name: what it is called, if not by its spec; mixed: of mixing(), with the spec of both, None where there is none.
    """
    if test["queries"] < FEW:
        return too_few(test["queries"]), spec
    shown = f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}] {measure}, BM25 {test['mean']:.4f}"
    name = name or spec
    said, use, best = {
        1: (f"{name} is ahead of BM25 ({shown})", "use it", spec),
        0: (f"{name} and BM25 are not told apart by these queries ({shown})", "", spec),
        -1: (f"BM25 is ahead of {name} ({shown})", "search with --retriever bm25", "bm25"),
    }[ahead(test)]
    gains, mix, both = mixed or (False, "", None)
    use, best = ("", both) if gains else (use, best)
    return f"{said}: {'; '.join(filter(None, (use, mix)))}".removesuffix(": "), best


def metadata_values(collection, split, field):
    """{qid: value of a field of its metadata, as text}; BadInput if no query has it.

    `labelled`, where no metadata has it: whether a doc that answers is a positive in training. Of more than VALUES
    values all but the most frequent are one, "others".
    """
    found, fields = {}, set()
    for row in collection.split(split).queries:
        own = metadata_of(collection.queries.record(row))
        fields |= own.keys()
        if field in own:
            found[collection.queries.ids[row]] = own[field]
    if not found and field == "labelled" and "train" in collection.qrels:
        answers = {True: "its doc is a positive in training", False: "none of its docs is"}
        found = {qid: answers[known] for qid, known in diagnostics.labelled_queries(collection, split).items()}
    if not found:
        raise BadInput(
            f"--by {field}: no {split} query has it in its metadata; there are: {', '.join(sorted(fields)) or 'none'}"
        )
    counts = collections.Counter(map(str, found.values()))
    kept = {value for value, _ in counts.most_common(len(counts) if len(counts) <= VALUES else VALUES - 1)}
    others = f"others ({len(counts) - len(kept):,} values)"
    return {qid: str(value) if str(value) in kept else others for qid, value in found.items()}


# ------------------------------------------------------------------------------ what a run says at its end


def of_run(summary, measure):
    """A run's summary for people: the trained encoder beside what it must beat, and what it cost."""
    mixed = summary.get("mixed")
    rows = [
        ("BM25", summary["bm25_dev"], summary["bm25"]),
        *([("untrained", summary["untrained_dev"], summary["untrained"])] if "untrained" in summary else []),
        (f"trained, {summary['negatives']}", summary["dev"], summary["test"]),
        *([(f"trained + BM25, weight {mixed['weight']:.2f}", mixed["dev"], mixed["test"])] if mixed else []),
    ]
    wide = max(24, 2 + max(len(label) for label, _, _ in rows))
    lines = [f"\n{'':{wide}}{f'dev {measure}':>15}" + "".join(f"{f'test {name}':>17}" for name in measures.MEASURES)]
    lines += [
        f"{label:{wide}}{dev[measure]:>15.4f}" + "".join(f"{test[name]:>17.4f}" for name in measures.MEASURES)
        for label, dev, test in rows
    ]
    return "\n".join(
        [
            *lines,
            f"checkpoint of step {summary['best_step']} of {summary['steps']}, chosen on dev; "
            f"training {summary['train_s']:.1f} s ({summary['queries_per_s']:,.0f} queries/s), "
            f"mining {summary['mine_s']:.1f} s, evaluation {summary['evaluate_s']:.1f} s, "
            f"peak memory {summary['peak_rss_mb']:,.0f} MB",
        ]
    )


def verdict_of_run(summary, measure, *, run, lr):
    """(a sentence that says which retriever to use after a run, the next command).

    run: its folder, for a shell; lr: its peak learning rate. Who is ahead is what ahead() says.
    """
    against, start, mixed = summary["against_bm25"], summary.get("against_untrained"), summary.get("mixed")
    both, shown = f"{run}+bm25", "{difference:+.4f} [{low:+.4f}, {high:+.4f}] " + measure
    first, said = ahead(against), _odd(summary, measure)
    lost = start is not None and ahead(start) < 0
    if lost:
        said = f"; training lost against its start ({shown.format(**start)}){said}"
    index, ask = f"python build_index.py --run {run}", f"python rag_demo.py --run {run} --retriever bm25"
    ask += "     # your questions, to both beside each other"
    if against["queries"] < FEW:
        return f"{too_few(against['queries'])}{said}", index
    gains, mix = mixing(mixed, both, measure)
    if mixed is None:
        index = f"python evaluate.py --retriever {both}"
        ask = f"{index}     # by a weight that dev chooses"
    elif gains:
        ask = index
    if first < 0:
        began = summary.get("encoder", "static") != "static" or summary.get("init")
        other = "" if began else ", or start from a pretrained model (--encoder MODEL, --init MODEL)"
        alone = f"{mix}{other}" if gains else f"search with --retriever bm25{other}; {mix}"
        return f"BM25 is ahead of this encoder ({shown.format(**against)}){said}: {alone}", ask
    if lost:
        return (
            f"{said.removeprefix('; ')}: use that, or a lower --lr",
            f"python train.py --config {run}/config.json --lr {lr / 3:.2g} --name {summary['name']}-lower-lr",
        )
    if first > 0:
        alone = mix if gains else f"use it; {mix}"
        return (
            f"this encoder is ahead of BM25 ({shown.format(**against)}){said}: {alone}",
            f"python build_index.py --run {run}",
        )
    alone = mix if gains or mixed is None else f"BM25, which needs no training, will do: --retriever bm25; {mix}"
    return (
        f"this encoder and BM25 are not told apart by these test queries ({shown.format(**against)}){said}: {alone}",
        index if gains or mixed is None else ask,
    )


def _odd(summary, measure):
    """What of dev a verdict adds, each with a semicolon before it."""
    said, (low, high) = "", (summary["against_bm25"][end] for end in ("low", "high"))
    untrained = summary.get("untrained_dev", {}).get(measure, -math.inf)
    if untrained >= summary["dev"][measure]:
        said += "; on dev no step was above the start"
    elif summary["best_step"] < summary["steps"] / 2:
        best = f"dev was best at step {summary['best_step']} of {summary['steps']} and fell after that"
        began = summary.get("encoder", "static") != "static" or summary.get("init")
        said += f"; {best} (fewer --epochs{'' if began else ', or --init MODEL'})"
    on_dev = summary["dev"][measure] - summary["bm25_dev"][measure]
    if not low - APART <= on_dev <= high + APART:
        said += f"; on dev it is {on_dev:+.4f}, so that what dev chooses may not suit test"
    return said

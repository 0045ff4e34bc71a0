"""Measure a retriever on a split, or compare two that were measured.

    python evaluate.py --run runs/R                         # the index that build_index.py made
    python evaluate.py --retriever bm25 --data FOLDER       # the baseline
    python evaluate.py --compare runs/A runs/B              # paired test on what both were measured on
    python evaluate.py --compare runs/ABLATION              # tables and figures of arms x seeds, drawn again

Writes run.trec, metrics.json, per_query.jsonl and ranks.png to runs/R/eval/COLLECTION-SPLIT/.
"""
import pathlib
import shlex

import numpy as np

from lib import data, formats, index, metrics, model, plots, report, run
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument
    add("--run", help="run folder whose encoder and index are measured")
    add("--retriever", choices=("dense", "bm25"), default="dense", help="dense needs --run; bm25 needs none")
    add("--data", help="collection: python (embedded) or a folder in BEIR layout; default: that of --run, "
        "else python")
    add("--split", default="test", help="train, dev or test")
    add("--depth", type=int, default=100, help="docs ranked for each query; recall@100 needs 100")
    add("--self_match", choices=("keep", "drop"), default="keep",
        help="drop: a doc whose id is the query's own is no result")
    add("--compare", nargs="+", metavar="RUN",
        help="two run folders, both measured on the same collection and split; or one of several arms")
    add("--measure", default="mrr@10", choices=metrics.MEASURES, help="what --compare tests and draws")
    add("--against", metavar="ARM", help="the arm of --compare FOLDER that the others are tested against; "
        "default: the first")
    add("--seed", type=int, default=0, help="decides the resampling of --compare")
    add("--name", help="run folder below runs/ for --retriever bm25; default: COLLECTION-bm25")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace an evaluation that exists")
    args = parser.parse_args()
    if args.compare and len(args.compare) > 2:
        raise BadInput("--compare takes two runs, or one of several arms; train more as arms of one command")
    if args.against and len(args.compare or ()) != 1:
        raise BadInput("--against chooses among the arms of one folder: --compare runs/ABLATION")
    if not args.compare and args.retriever == "dense" and not args.run:
        raise BadInput("say what to measure: --run R, --retriever bm25, or --compare A B")
    if args.depth < 100:
        raise BadInput(f"--depth {args.depth}: at least 100, since recall@100 is among the measures")
    return args, parser


def main():
    args, parser = parse_args()
    if args.compare and len(args.compare) == 1:
        print(report.compare(args.compare[0], measure=args.measure, against=args.against))
        return print(f"wrote   {args.compare[0]}/ablation.json, ablation.md, plots/")
    if args.compare:
        return compare(args)
    folder = pathlib.Path(args.run) if args.run else None
    spec = args.data or (run.recorded(folder)["args"]["data"] if folder else "python")
    collection = data.load_collection(spec)
    qrels = collection.split(args.split)
    if args.retriever == "bm25":
        folder = run.run_path(args.name or f"{collection.name}-bm25")
    target = folder / "eval" / f"{collection.name}-{args.split}"
    if (target / "metrics.json").exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    run.print_header(f"{args.retriever} on {collection.name}, {args.split}", args, parser,
                     {"queries": len(qrels), "docs": len(collection.docs)})
    clock = run.Clock()
    dropping = args.self_match == "drop"
    scores, rows = search(args, folder, collection, qrels, args.depth + dropping)
    own = np.array([[collection.docs.row_of.get(collection.queries.ids[row], -2)] for row in qrels.queries])
    self_matches = int((rows == own).sum())
    if dropping:  # one doc more was fetched, so that what is left is as deep
        front = np.argsort(rows == own, axis=1, kind="stable")[:, :args.depth]
        scores, rows = np.take_along_axis(scores, front, 1), np.take_along_axis(rows, front, 1)
        rows = np.where(rows == own, -1, rows)
    values = metrics.score(collection, args.split, scores, rows)
    mean = metrics.mean(values)
    judged = np.array([np.isin(found[:10], qrels.docs[a:b]).sum()
                       for found, a, b in zip(rows, qrels.indptr, qrels.indptr[1:])])
    qids = [collection.queries.ids[row] for row in qrels.queries]
    result = {"mean": mean, "queries": len(values),
              "self_match": {"policy": args.self_match, "found": self_matches},
              "unjudged@10": float(1 - judged.mean() / np.maximum((rows[:, :10] >= 0).sum(1), 1).mean()),
              "collection": collection.name, "collection_fingerprint": collection.fingerprint,
              "split": args.split, "retriever": args.retriever, "depth": args.depth}
    (target / "metrics.json").unlink(missing_ok=True)  # written last: a half-replaced evaluation has none
    formats.write_run(target / "run.trec", qids, collection.docs.ids, rows, scores, tag=args.retriever)
    formats.write_per_query(target / "per_query.jsonl", values)
    run.write_json(target / "metrics.json", result)
    plots.ranks(target / "ranks.png", first_relevant(rows, qrels), depth=args.depth,
                title=f"{args.retriever} on {target.name}")
    print("  ".join(f"{name} {value:.4f}" for name, value in mean.items()) +
          f"  | {len(values)} queries, self matches {self_matches} ({args.self_match}), "
          f"unjudged@10 {result['unjudged@10']:.1%}")
    print(f"\nwrote   {target}/: run.trec, metrics.json, per_query.jsonl, ranks.png ({clock.total():.1f} s)")
    data_flag = f" --data {args.data}" if args.data else ""
    if args.retriever == "bm25":
        print(f"next    python evaluate.py --compare runs/R {folder}     "
              f"# R: a run that was measured on {target.name}")
    else:
        question = shlex.quote(collection.queries.text(qrels.queries[0]))
        bm25_flag = data_flag or ("" if spec == "python" else f" --data {spec}")
        print(f'next    python rag_demo.py --run {folder}{data_flag} {question}\n'
              f"        python evaluate.py --retriever bm25{bm25_flag} && "
              f"python evaluate.py --compare {folder} runs/{collection.name}-bm25")


def search(args, folder, collection, qrels, k):
    """(scores, rows) of the split's queries, from BM25 or from the run's index."""
    if args.retriever == "bm25":
        return index.BM25.load(collection.docs).search(collection.queries.texts(qrels.queries), k)
    encoder = model.load_encoder(folder / "encoder").set_device(model.pick_device(args.device))
    found = index.load_index(folder / "index" / collection.name, encoder_fingerprint=encoder.fingerprint,
                             collection=collection)
    tokens = data.tokenize(collection.queries, encoder, "query")
    q_emb = model.embed(encoder, tokens, qrels.queries, desc="embedding queries")
    return found.search(q_emb, min(k, len(collection.docs)))


def first_relevant(rows, qrels):
    """(Q,) rank of the first positive, inf where there is none."""
    ranks = np.full(len(rows), np.inf)
    for i, found in enumerate(rows):
        hits = np.flatnonzero(np.isin(found, qrels.positives(i)))
        if len(hits):
            ranks[i] = hits[0] + 1
    return ranks


def compare(args):
    """Paired tests between two measured runs, on every evaluation that both have."""
    a, b = map(pathlib.Path, args.compare)
    measured = [{path.parent.name for path in folder.glob("eval/*/per_query.jsonl")} for folder in (a, b)]
    evaluations = sorted(measured[0] & measured[1])
    if not evaluations:
        raise BadInput(f"{a} and {b} have no evaluation in common; run evaluate.py on both, "
                       "with the same --data and --split")
    for evaluation in evaluations:
        files = [folder / "eval" / evaluation / "per_query.jsonl" for folder in (a, b)]
        values = [formats.read_per_query(file) for file in files]
        if values[0].keys() != values[1].keys():
            raise BadInput(f"{evaluation}: {a} and {b} were measured on different queries; "
                           "run evaluate.py --overwrite on both")
        qids = list(values[0])
        print(f"\n{evaluation}, {len(qids)} queries: A = {a}, B = {b}\n{'':12}{'A':>9}{'B':>9}{'A - B':>10}"
              f"{'95 % interval':>22}{'p':>9}{'wins':>7}{'ties':>7}{'losses':>8}")
        for measure in metrics.MEASURES:
            x, y = (np.array([v[qid][measure] for qid in qids]) for v in values)
            t = metrics.paired_test(x, y, seed=args.seed)
            interval = f"[{t['low']:+.4f}, {t['high']:+.4f}]"
            print(f"{measure:12}{x.mean():>9.4f}{y.mean():>9.4f}{t['difference']:>+10.4f}{interval:>22}"
                  f"{t['p']:>9.4f}{t['wins']:>7}{t['ties']:>7}{t['losses']:>8}")
            if measure == args.measure:
                path = a / "eval" / evaluation / f"against-{b.name}.png"
                plots.differences(path, x - y, names=(a.name, b.name), measure=measure)
        print("p: paired randomisation test, 10,000 rounds; interval: bootstrap over queries\n\n"
              f"wrote   {path}")


if __name__ == "__main__":
    run.cli(main)

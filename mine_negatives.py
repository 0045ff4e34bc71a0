"""Mine hard negatives: for every query of a split, docs that look relevant and are not known to be.

    python mine_negatives.py                                # BM25, on the embedded collection
    python mine_negatives.py --run runs/R --sources dense   # with a run's encoder, on the run's own data
    python mine_negatives.py --data FOLDER --sources bm25 random --depth 50

Writes a JSONL file: a header that says how it was made, then a record for each candidate (qid, doc_id,
source, rank, score, positive_score, round). `train.py --negatives file:4 --negatives_file F` trains on it.
"""
import pathlib

import numpy as np

from lib import data, formats, index, model, negatives, plots, run
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument
    add("--data", help="collection: python (embedded) or a folder in BEIR layout; default: that of --run, "
        "else python")
    add("--split", default="train", help="the queries to mine for: train, dev or test")
    add("--run", help="run folder whose encoder mines; needed for the source dense")
    add("--sources", nargs="+", choices=("bm25", "random", "dense"), metavar="SOURCE",
        help="any of bm25, random, dense; default: dense with --run, else bm25")
    add("--depth", type=int, default=30, help="candidates to keep for each query and source")
    add("--seed", type=int, default=0, help="decides what the source random draws")
    add("--name", help="folder below runs/ to write to; default: the folder of --run, else COLLECTION-mined")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args()
    if args.depth <= 0:
        raise BadInput(f"--depth {args.depth}: must be above 0")
    return args, parser


def main():
    args, parser = parse_args()
    sources = args.sources or (["dense"] if args.run else ["bm25"])
    if "dense" in sources and not args.run:
        raise BadInput("the source dense needs --run R: the run whose encoder mines")
    trained = pathlib.Path(args.run) if args.run else None
    spec = args.data or (run.recorded(trained)["args"]["data"] if trained else "python")
    collection = data.load_collection(spec)
    encoder = None
    if trained:
        encoder = model.load_encoder(trained / "encoder").set_device(model.pick_device(args.device))
    if args.name or not trained:
        folder = run.run_path(args.name or f"{collection.name}-mined")
    else:
        folder = trained
    path = folder / "negatives" / f"{collection.name}-{args.split}-{'+'.join(sources)}.jsonl"
    if path.exists() and not args.overwrite:
        raise BadInput(f"{path} exists: choose another --name, or --overwrite it")
    qrels = collection.split(args.split)
    clock = run.Clock()
    run.print_header(f"mining {', '.join(sources)} for {len(qrels)} {args.split} queries of "
                     f"{collection.name} ({len(collection.docs)} docs)", args, parser,
                     {"overfetch": negatives.overfetch(collection)})
    mined = [mine(source, collection, qrels, encoder, depth=args.depth, seed=args.seed) for source in sources]
    header = {"collection": collection.name, "collection_fingerprint": collection.fingerprint,
              "split": args.split, "sources": {c.source: negatives.describe(c) for c in mined},
              "encoder_fingerprint": encoder.fingerprint if encoder else None, "depth": args.depth,
              "seed": args.seed, "versions": run.versions()}
    records = (record for c in mined for record in negatives.records(c, collection))
    count = formats.write_negatives(path, header, records)
    figure = path.with_suffix(".png")
    scored = {c.source: (c.scores.ravel(), c.positive) for c in mined if np.isfinite(c.scores).any()}
    if scored:
        plots.score_histogram(figure, scored, title=f"{collection.name}, {args.split}")
    print_table(mined)
    data_flag = "" if spec == "python" else f" --data {spec}"
    drawn = f" and {figure.name}" if scored else ""
    print(f"\nwrote   {path} ({count:,} candidates, {clock.total():.1f} s){drawn}"
          f"\nnext    python train.py{data_flag} --negatives file:4 --negatives_file {path} "
          f"--name {collection.name}-mined-negatives")


def mine(source, collection, qrels, encoder, *, depth, seed):
    """Candidates of one source for every query of a split."""
    rows, fetch = qrels.queries, depth + negatives.overfetch(collection)
    if source == "random":
        return negatives.random_candidates(collection, rows, depth, seed=seed)
    if source == "bm25":
        texts = collection.queries.texts(rows)
        found = index.BM25.load(collection.docs).search(texts, fetch, desc="mining bm25")
    else:
        queries = data.tokenize(collection.queries, encoder, "query")
        docs = data.tokenize(collection.docs, encoder, "doc")
        q_emb = model.embed(encoder, queries, rows, desc="embedding queries")
        d_emb = model.embed(encoder, docs, desc="embedding docs")
        found = index.exact_search(q_emb, d_emb, fetch)
    return negatives.from_search(collection, rows, found, source=source, depth=depth)


def print_table(mined):
    """One line a source: yield, scores, and what was dropped and why."""
    print(f"\n{'source':8}{'queries':>9}{'candidates':>12}{'shortest':>10}{'mean score':>12}{'positive':>10}"
          f"{'above pos.':>12}   dropped")
    for candidates in mined:
        d = negatives.describe(candidates)
        cells = ["-" if d[key] is None else f"{d[key]:.3f}" for key in ("mean_score", "mean_positive_score")]
        above = "-" if d["outscore_positive"] is None else f"{d['outscore_positive']:.1%}"
        dropped = ", ".join(f"{reason} {count:,}" for reason, count in d["dropped"].items()) or "-"
        print(f"{candidates.source:8}{d['queries']:>9,}{d['candidates']:>12,}{d['shortest_list']:>10}"
              f"{cells[0]:>12}{cells[1]:>10}{above:>12}   {dropped}")
    print("positive = mean score of the best known positive, where it was among the docs fetched; "
          "above pos. = share of candidates that outscore it")


if __name__ == "__main__":
    run.cli(main)

"""Mine hard negatives: for every query of a split, docs that look relevant and are not known to be.

    python mine_negatives.py                                # BM25, on the embedded collection
    python mine_negatives.py --run runs/R --sources dense   # with a run's encoder, on the run's own data
    python mine_negatives.py --run runs/R --sources bm25 dense --filters percpos:0.95 near_copy:0.8
    python mine_negatives.py --run runs/R --audit 0.3       # how many of the negatives are really positives?
    python mine_negatives.py --sources file --negatives_file F --negatives_format flagembedding   # convert
    torchrun --nproc_per_node 4 -- mine_negatives.py --run runs/R                # the same file, sooner

Each source proposes --pool candidates a query, known positives and copies of them left out; --filters drop
some, --choice takes --depth of the rest. Writes a JSONL file: a header that says how it was made, then a
record for each candidate (qid, doc_id, source, rank, score, positive_score, round), or another system's
--format. `train.py --negatives file:4 --negatives_file F` trains on it. What was embedded and searched is
kept in the cache: a killed command continues, and other filters cost seconds.
"""
import dataclasses
import os
import pathlib

import numpy as np

from lib import audit, data, dist, exchange, filters, formats, index, model, negatives, plots, run, shards
from lib.rerank import CrossEncoder
from lib.run import BadInput


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument
    add("--data", help="collection: python, python:docs (embedded) or a folder in BEIR layout; default: "
        "that of --run, else python")
    add("--split", default="train", help="the queries to mine for: train, dev or test")
    add("--run", help="run folder whose encoder mines; needed for the source dense")
    add("--sources", nargs="+", choices=("bm25", "random", "dense", "file"), metavar="SOURCE",
        help="any of bm25, random, dense, file; default: dense with --run, else bm25")
    add("--negatives_file", metavar="F", help="what the source file proposes: a file to filter or convert")
    add("--negatives_format", choices=("own", *exchange.FORMATS), default="own", help="of --negatives_file")
    add("--shares", nargs="+", type=float, help="share of --depth for each source; default: --depth of each")
    add("--depth", type=int, default=30, help="candidates to keep for each query")
    add("--pool", type=int, help="candidates to mine before filtering; default: 100 with filters or a "
        "choice, else --depth")
    add("--filters", nargs="+", default=[], metavar="F", help="candidates to drop, as in window:11:100 "
        f"percpos:0.95 quantile:0.5 near_copy:0.8: {', '.join(filters.FILTERS)} (lib/filters.py)")
    add("--choice", default="top", help="of those that pass: top, uniform, simans:A:B or softmax:T")
    add("--positive", choices=negatives.POSITIVE, default="max",
        help="which of several positives' scores the filters compare with")
    add("--cross_encoder", metavar="NAME|FOLDER", help="scores the pool: for the filter denoise, for "
        "--relabel, and as teacher scores in the file")
    add("--relabel", type=float, metavar="X", help="candidates that --cross_encoder gives more than this "
        "become positives, in a collection written beside the file")
    add("--audit", type=float, metavar="SHARE", help="hide a positive of this share of the queries and "
        "see how many come back as negatives, by source, rank and filter; writes the audit, no negatives")
    add("--format", choices=("own", *exchange.FORMATS), default="own", help="of the file; own keeps it all")
    add("--max_ram", type=float, default=1.0, metavar="GB", help="memory for the search, beside its result")
    add("--encode_dtype", choices=(*model.PRECISIONS, "int8"), default="fp32",
        help="precision in which a transformer encodes")
    add("--seed", type=int, default=0, help="decides what is drawn and hidden")
    add("--name", help="folder below runs/ to write to; default: the folder of --run, else COLLECTION-mined")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args()
    for name in ("depth", "pool", "max_ram"):
        value = getattr(args, name)
        if value is not None and not 0 < value < 1e9:
            raise BadInput(f"--{name} {value}: must be above 0")
    args.sources = args.sources or (["dense"] if args.run else ["bm25"])
    if "dense" in args.sources and not args.run:
        raise BadInput("the source dense needs --run R: the run whose encoder mines")
    if ("file" in args.sources) != bool(args.negatives_file):
        raise BadInput("the source file and --negatives_file F come together")
    if len(set(args.sources)) < len(args.sources):
        raise BadInput(f"--sources {' '.join(args.sources)}: one stands twice")
    if args.shares and not (len(args.shares) == len(args.sources) and min(args.shares) > 0
                            and abs(sum(args.shares) - 1) < 1e-6):
        raise BadInput(f"--shares {args.shares}: one above 0 for each of {', '.join(args.sources)}, in all 1")
    if "file" in args.sources and args.audit is not None:
        raise BadInput("--audit plants docs that a file mined before cannot hold: leave the source file out")
    if any(text.startswith("denoise") for text in args.filters) and not args.cross_encoder:
        raise BadInput("the filter denoise needs --cross_encoder")
    if args.relabel is not None and not args.cross_encoder:
        raise BadInput("--relabel needs --cross_encoder: it decides what is a positive")
    return args, parser


def main():
    args, parser = parse_args()
    chosen = filters.parse_choice(args.choice)
    wanted = [filters.parse_filter(text) for text in args.filters]
    device = dist.start(model.pick_device(args.device))
    trained = pathlib.Path(args.run) if args.run else None
    spec = args.data or (run.recorded(trained)["args"]["data"] if trained else "python")
    with dist.main_first():
        collection = data.load_collection(spec)
        name, hidden = collection.name, None
        if args.audit is not None:
            collection, hidden = audit.hide(collection, args.split, args.audit, seed=args.seed)
    encoder = trained and model.load_to_encode(trained / "encoder", device, args.encode_dtype)
    folder = trained if trained and not args.name else run.run_path(args.name or f"{name}-mined")
    stem = f"{name}-{args.split}-{'+'.join(args.sources)}"
    if args.audit is not None:
        path = folder / "audit" / f"{stem}.md"
    else:
        path = folder / "negatives" / f"{stem}.{'jsonl' if args.format == 'own' else args.format}"
    if path.exists() and not args.overwrite:
        raise BadInput(f"{path} exists: choose another --name, or --overwrite it")
    dist.barrier()  # all have looked before one writes
    qrels = collection.split(args.split)
    clock = run.Clock()
    pool = max(args.depth, args.pool or (100 if wanted or args.choice != "top" else 0))
    run.print_header(
        f"{'auditing' if hidden is not None else 'mining'} {', '.join(args.sources)} for {len(qrels)} "
        f"{args.split} queries of {collection.name} ({len(collection.docs)} docs)", args, parser,
        {"pool": pool, "overfetch": negatives.overfetch(collection)}
        | ({} if hidden is None else {"hidden": len(hidden)}))
    judge = CrossEncoder(args.cross_encoder, device=device) if args.cross_encoder else None
    mined = []
    for source in args.sources:
        found = mine(args, source, collection, qrels, encoder, pool)
        mined.append(judge.judge(found, collection) if judge else found)
    if dist.is_main():
        if hidden is not None:
            write_audit(path, args, collection, mined, hidden, wanted)
        else:
            write_negatives(path, args, collection, mined, wanted, chosen, encoder, clock, spec, pool)
    dist.stop()


def mine(args, source, collection, qrels, encoder, pool):
    """Candidates of one source for every query of a split."""
    rows, fetch = qrels.queries, pool + negatives.overfetch(collection)
    known = collection.known_docs(rows)
    if source == "random":
        return negatives.random_candidates(collection, rows, pool, seed=args.seed)
    if source == "file":
        records = None
        if args.negatives_format != "own":
            records = exchange.read(args.negatives_file, args.negatives_format, collection)
        return negatives.load_candidates(args.negatives_file, collection, qrels, rows=records)
    if source == "bm25":
        with dist.main_first():
            bm25 = index.BM25.load(collection.docs)
        key = run.fingerprint("bm25", index.BM25.key(collection.docs), collection.fingerprint, args.split,
                              fetch)

        def search(number):
            part = slice(number * shards.ROWS, (number + 1) * shards.ROWS)
            texts = collection.queries.texts(rows[part])
            found = bm25.search(texts, fetch, also=known[part], desc="mining bm25")
            return dict(zip(("scores", "rows", "known"), found))
        paths = shards.make(run.cache_dir("mined", key), -(-len(rows) // shards.ROWS), search, desc="mining")
        found = tuple(shards.read(paths, name) for name in ("scores", "rows", "known"))
    else:
        found = dense_search(args, collection, rows, known, encoder, fetch)
    return negatives.from_search(collection, rows, found, source=source, depth=pool, positive=args.positive)


def dense_search(args, collection, rows, known, encoder, fetch):
    """(scores, rows, scores of the known positives), from vectors cached by all that decides them."""
    vectors = {}
    for kind, texts, wanted in (("query", collection.queries, rows),
                                ("doc", collection.docs, np.arange(len(collection.docs)))):
        with dist.main_first():
            tokens = data.tokenize(texts, encoder, kind)
        key = run.fingerprint(encoder.fingerprint, args.encode_dtype, encoder.token_key(kind),
                              texts.fingerprint, wanted)

        def embed(own, tokens=tokens, wanted=wanted):
            return model.embed(encoder, tokens, wanted[own])
        vectors[kind] = shards.Vectors(run.cache_dir("vectors", key), len(wanted), encoder.dim, embed,
                                       desc=f"embedding {'queries' if kind == 'query' else 'docs'}")
        vectors[kind].key = key
    key = run.fingerprint(vectors["query"].key, vectors["doc"].key, known, fetch)
    return shards.search(run.cache_dir("mined", key), vectors["query"], vectors["doc"], known, fetch,
                         max_ram=args.max_ram * 1e9, desc="searching")


def write_negatives(path, args, collection, mined, wanted, chosen, encoder, clock, spec, pool):
    """Relabel, filter, choose, write the file and its figure, print the table and what comes next."""
    if args.relabel is not None:
        spec, collection, mined = relabel(path, args, collection, mined)
    kept = []
    for candidates, share in zip(mined, args.shares or [1.0] * len(mined)):
        candidates = filters.apply(candidates, wanted, collection)
        slots = filters.choose(candidates, max(1, round(share * args.depth)), chosen, seed=args.seed, epoch=0)
        kept.append(negatives.take(candidates, np.sort(np.where(slots < 0, 1 << 30, slots), axis=1)))
    header = {"collection": collection.name, "collection_fingerprint": collection.fingerprint,
              "split": args.split, "sources": {c.source: negatives.describe(c) for c in kept},
              "encoder_fingerprint": encoder.fingerprint if encoder else None, "depth": args.depth,
              "pool": pool, "filters": args.filters, "choice": args.choice, "shares": args.shares,
              "positive": args.positive, "cross_encoder": args.cross_encoder, "seed": args.seed,
              "versions": run.versions()}
    records = (record for c in kept for record in negatives.records(c, collection))
    if args.format == "own":
        count = formats.write_negatives(path, header, records)
    else:
        count = exchange.write(path, args.format, records, collection, args.split)
        print(f"{args.format} has no place for {', '.join(exchange.lost(args.format)) or 'nothing less'}")
    figure = path.with_suffix(".png")
    scored = {c.source: (c.scores.ravel(), c.positive) for c in kept if np.isfinite(c.scores).any()}
    if scored:
        plots.score_histogram(figure, scored, title=f"{collection.name}, {args.split}")
    print_table(kept)
    data_flag = "" if spec == "python" else f" --data {spec}"
    drawn = f" and {figure.name}" if scored else ""
    print(f"\nwrote   {path} ({count:,} {'candidates' if args.format == 'own' else 'lines'}, "
          f"{clock.total():.1f} s){drawn}")
    if args.format == "own":
        print(f"next    python train.py{data_flag} --negatives file:4 --negatives_file {path} "
              f"--name {collection.name}-mined-negatives")


def relabel(path, args, collection, mined):
    """Write a collection in which candidates above --relabel are positives of their queries.

    Returns its folder, the collection, and the candidates without them.
    """
    folder = path.parent / f"{collection.name}-relabelled"
    grades = {split: collection.qrels_dict(split) for split in collection.qrels}
    count = 0
    for candidates in mined:
        i, j = np.nonzero((candidates.teacher > args.relabel) & (candidates.docs >= 0))
        for row, doc in zip(candidates.queries[i], candidates.docs[i, j]):
            of_query = grades[args.split][collection.queries.ids[row]]
            count += of_query.get(collection.docs.ids[doc], 0) < 1
            of_query[collection.docs.ids[doc]] = 1
    with run.atomic_path(folder) as temporary:
        (temporary / "qrels").mkdir(parents=True)
        for texts, name in ((collection.docs, "corpus.jsonl"), (collection.queries, "queries.jsonl")):
            os.symlink(texts.path.resolve(), temporary / name)
        for split, judged in grades.items():
            formats.write_qrels(temporary / "qrels" / f"{split}.tsv", judged)
    relabelled = data.load_collection(str(folder))
    print(f"{count:,} candidates became positives: train with --data {folder}")
    left = []
    for candidates in mined:
        positive = relabelled.known_positive(candidates.queries, candidates.docs)
        kept = filters.keep(candidates, (candidates.docs >= 0) & ~positive)
        left.append(dataclasses.replace(kept, dropped=kept.dropped | {"relabelled": int(positive.sum())}))
    return str(folder), relabelled, left


def write_audit(path, args, collection, mined, hidden, wanted):
    """The audit of each source before, between and behind the filters, printed and as .md, .json, .png."""
    rows, pages = [], []
    for candidates in mined:
        first = None
        for done in range(len(wanted) + 1):
            if done:
                candidates = filters.apply(candidates, wanted[done - 1:done], collection)
            found = audit.is_hidden(candidates, hidden, collection.docs.groups)
            after = args.filters[done - 1] if done else "none"
            row = audit.estimate(candidates, found, share=args.audit, before=first)
            first = first or row
            rows.append((candidates.source, after, "all", row))
        rows += [(candidates.source, after, band, row)
                 for band, row in audit.bands(candidates, found, share=args.audit)]
        pages.append(audit.page(candidates, found, collection))
    table = audit.table(rows)
    title = f"{collection.name}, {args.split}: {len(hidden)} hidden positives"
    run.write_text(path, f"# Audit of false negatives: {title}\n\n{table}\n{audit.NOTE}" + "".join(pages))
    run.write_json(path.with_suffix(".json"), {
        "collection_fingerprint": collection.fingerprint, "share": args.audit, "hidden": len(hidden),
        "rows": [{"source": source, "after": after, "ranks": ranks} | row
                 for source, after, ranks, row in rows]})
    plots.audit(path.with_suffix(".png"), rows, title=title)
    print(f"\n{table}\n{audit.NOTE}\nwrote   {path}, .json and .png: read the examples in the .md")


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
    short = sum(int(((c.docs >= 0).sum(1) < c.docs.shape[1]).sum()) for c in mined)
    print("positive = mean score of the known positive; above pos. = share of candidates that outscore it"
          + (f"; {short:,} lists end short" if short else ""))


if __name__ == "__main__":
    run.cli(main)

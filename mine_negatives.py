"""Mine hard negatives: for every query of a split, docs that look relevant and are not known to be.

    python mine_negatives.py                                # BM25, on the embedded collection
    python mine_negatives.py --run runs/R --sources dense   # with a run's encoder, on the run's own data
    python mine_negatives.py --run runs/R --sources bm25 dense --filters percpos:0.95 near_copy:0.8
    python mine_negatives.py --run runs/R --audit 0.3       # how many of the negatives are really positives?
    python mine_negatives.py --miner MODEL                  # any model, run, or vectors from files
    python mine_negatives.py --check F --data D             # what is wrong with a file of ours, or of another system
    python mine_negatives.py --sources file --negatives_file F --negatives_format flagembedding   # convert
    torchrun --nproc_per_node 4 -- mine_negatives.py --run runs/R                # the same file, sooner

For each query every source proposes --candidates docs, known positives and copies of them left out; --filters
drop some, --sampling takes --depth of the rest. Writes a JSONL file: a header that says how it was made, then a
record for each candidate (qid, doc_id, source, rank, score, positive_score), or another system's --format.
`train.py --negatives file:4 --negatives_file F` trains on it. What was embedded and searched is kept in the
cache: a killed command continues, and other filters cost seconds.
"""

import dataclasses
import os
import pathlib
import sys

import numpy as np

from lib import dist, run
from lib.data import beir, readers
from lib.data.beir import SPLITS
from lib.data.collection import collection_of, load_collection
from lib.evaluation import diagnostics, plots
from lib.files import BadInput, atomic_path, write_json, write_text
from lib.model.encoder import PRECISION_FLAG, PRECISION_HELP, pick_device
from lib.negatives import audit, check, filters, sampling
from lib.negatives.candidates import POSITIVE, drawn_candidates, how_many, overfetch, search_candidates
from lib.negatives.files import load_candidates, records_of, write_negatives
from lib.negatives.formats import distillation, exchange
from lib.negatives.pool import describe_pool, open_pool
from lib.negatives.sources import SOURCES
from lib.search.retriever import fingerprint_of, open_retriever, parts
from lib.search.sharded import cached_search

OFFERED = [name for name, row in SOURCES.items() if row.draw or row.retriever or row.needs_file]

FORMATS = ("own", *exchange.FORMATS, *distillation.FORMATS)


# fmt: off
def parse_args():
    parser = run.Parser(__doc__)
    add = parser.group("what")
    add("--data", help=f"{readers.HELP}; default: that of --run, else python")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--split", default="train", help="the queries to mine for: train, dev or test")
    add("--run", help="run folder whose encoder mines; needed for the source dense")
    add("--miner", metavar="bm25|RUN|MODEL|VECTORS", help="what the source miner asks: any retriever, as in "
        "evaluate.py --retriever, but no two of them joined")
    add("--sources", nargs="+", choices=OFFERED, metavar="SOURCE",
        help=f"any of {', '.join(OFFERED)}; default: dense with --run, miner with --miner, else bm25")
    add("--negatives_file", metavar="F", help="what the source file proposes: a file to filter or convert")
    add("--negatives_format", choices=FORMATS, default="own", help="of --negatives_file")
    add("--shares", nargs="+", type=run.ABOVE_0, help="share of --depth for each source; default: --depth of each")
    add("--depth", type=run.DEPTH, default=30, help="candidates to keep for each query")
    add("--candidates", type=run.DEPTH, help="candidates to mine before filtering; default: --depth, with filters or a "
        "--sampling other than top 100")
    add("--filters", nargs="+", type=filters.parse_filter, default=[], metavar="F",
        help="candidates to drop, as in window:11:100 percpos:0.95 quantile:0.5 near_copy:0.8: "
        f"{run.usage(filters.FILTERS)} (lib/negatives/filters.py)")
    add("--sampling", type=sampling.parse_sampling, default=sampling.parse_sampling("top"),
        help=f"which --depth of those that pass are kept: {run.usage(sampling.SAMPLING)}; default: top")
    add("--negative_docs", metavar="labelled|all|FILE", help="docs that may be negatives: those that are a positive of "
        "some training query; the whole corpus; or docs whose ids stand in a file, one a line; default: labelled, but "
        "all for another split than train and for --audit, which hides labels")
    add("--allow_leak", action="store_true", help="use a file that seems to know the labels of dev or test queries "
        "all the same; the file of negatives is marked")
    add("--positive_score", choices=POSITIVE, default="max", help="which of several positives' scores the filters "
        "compare with")
    add("--cross_encoder", metavar="NAME|FOLDER", help="scores all candidates: for the filter denoise, for "
        "--relabel, and as teacher scores in the file")
    add("--own_teacher", action="store_true", help="the sources' own scores are the teacher scores in the file: "
        "to distil the model that mines")
    add("--relabel", type=run.SHARE, metavar="X", help="candidates that --cross_encoder scores above this become "
        "positives in a new copy of the collection, written beside the file")
    add("--audit", type=run.number(float, above=0, most=1), metavar="SHARE", help="hide a positive of this share of "
        "the queries and see how many come back as negatives, by source, rank and filter; writes the audit, no "
        "negatives")
    add("--format", choices=FORMATS, default="own", help="of the file; own keeps it all")
    add("--mine_index", metavar="STRING", help="search by this index of FAISS instead of exactly, as in HNSW32 or "
        "IVF64,Flat:nprobe=4; prints how much of the exact lists it finds")
    add("--check", metavar="F", help="look at a negatives file of ours or, with --negatives_format, of another system "
        "instead of mining: known positives and copies of them, duplicates, docs of dev and test, and more")
    add("--limits", nargs="+", type=check.parse_limit, default=[], metavar="FINDING=SHARE", help="of --check: exit "
        f"code 1 if more is found; FINDING is one of {', '.join(check.FINDINGS)}")
    add("--max_ram", type=run.ABOVE_0, default=1.0, metavar="GB", help="memory limit of the search (the result comes "
        "on top)")
    add("--precision", choices=PRECISION_FLAG, default="auto", help=f"of encoding; {PRECISION_HELP}")
    add("--seed", type=run.SEED, default=0, help="decides what is drawn and hidden")
    add("--name", help="folder below runs/ to write to; default: the folder of --run, else COLLECTION-mined")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    args = parser.parse_args()
    if args.check:
        given = run.non_default(args, parser)
        if unused := given.keys() - {"check", "limits", "negatives_format", "data", "strict", "split", "run", "name"}:
            raise BadInput(f"--{min(unused)} plays no part with --check")
        return args, parser
    if args.limits:
        raise BadInput("--limits needs --check F")
    args.sources = args.sources or (["miner"] if args.miner else ["dense"] if args.run else ["bm25"])
    if ("miner" in args.sources) != bool(args.miner) or args.miner and parts(args.miner):
        raise BadInput("the source miner and --miner M come together, and M is one retriever")
    if not args.run and (unfit := [name for name in args.sources if SOURCES[name].retriever == "run"]):
        raise BadInput(f"the source {unfit[0]} needs --run R: the run whose encoder mines")
    if args.mine_index and not any(SOURCES[name].retriever == "run" for name in args.sources):
        raise BadInput("--mine_index changes nothing without the source dense: it searches vectors")
    from_file = any(SOURCES[name].needs_file for name in args.sources)
    if from_file != bool(args.negatives_file):
        raise BadInput("the source file and --negatives_file F come together")
    if len(set(args.sources)) < len(args.sources):
        raise BadInput(f"--sources {' '.join(args.sources)}: one stands twice")
    if args.shares and not (len(args.shares) == len(args.sources) and abs(sum(args.shares) - 1) < 1e-6):
        raise BadInput(f"--shares {args.shares}: one above 0 for each of {', '.join(args.sources)}, in all 1")
    if from_file and args.audit is not None:
        raise BadInput("--audit plants docs that a file mined before cannot hold: leave the source file out")
    judged = args.cross_encoder or from_file  # by a file's teacher scores, once they are there
    if any(each.name == "denoise" for each in args.filters) and not judged:
        raise BadInput("the filter denoise needs --cross_encoder, or a --negatives_file with teacher scores")
    if args.own_teacher and (args.cross_encoder or len(args.sources) > 1 or not SOURCES[args.sources[0]].retriever):
        raise BadInput("--own_teacher is for one source that searches, without --cross_encoder")
    if args.relabel is not None and not judged:
        raise BadInput("--relabel needs --cross_encoder, or a --negatives_file with teacher scores: they decide")
    return args, parser


# fmt: on


def main():
    args, parser = parse_args()
    if args.check:
        return check_file(args)
    device = dist.start(pick_device(args.device))
    trained = pathlib.Path(args.run) if args.run else None
    with dist.main_first():
        # a relabelled copy has the splits that train.py would cut off, or test would be of what was relabelled
        cut = SPLITS[1:] if args.relabel is not None else ()
        spec, collection = collection_of(args.data, trained, cut=cut, strict=args.strict)
        name, hidden = collection.name, None
        if args.audit is not None:
            collection, hidden = audit.hide(collection, args.split, args.audit, seed=args.seed)
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
    default = "labelled" if args.split == "train" and args.audit is None else "all"
    pool = open_pool(args.negative_docs or default, collection, allow_leak=args.allow_leak)
    clock = run.Clock()
    count = how_many(args.depth, args.candidates, thinned=bool(args.filters) or args.sampling.name != "top")
    run.print_header(
        f"{'auditing' if hidden is not None else 'mining'} {', '.join(args.sources)} for {len(qrels)} "
        f"{args.split} queries of {collection.name} ({len(collection.docs)} docs)",
        args,
        parser,
        {"candidates": count, "overfetch": overfetch(collection), "pool": describe_pool(pool, collection)}
        | ({} if hidden is None else {"hidden": len(hidden)}),
    )
    mined, made_by = [], {"encoder_fingerprint": None}
    for source in args.sources:
        found, retriever = mine(args, source, collection, qrels, pool, count, device)
        mined.append(found.admit(collection, pool))
        if SOURCES[source].retriever == "run":
            made_by["encoder_fingerprint"] = retriever.encoder.fingerprint
            made_by["precision"] = retriever.encoder.precision
        elif SOURCES[source].retriever == "miner":
            made_by["miner_fingerprint"] = fingerprint_of(args.miner)
    if args.cross_encoder:
        from lib.model.cross_encoder import CrossEncoder  # here: its library takes seconds to import

        judge = CrossEncoder(args.cross_encoder, device=device)
        mined = [judge.score_candidates(found, collection) for found in mined]
    elif args.own_teacher:
        mined = [dataclasses.replace(found, teacher=found.scores, teacher_positive=found.positive) for found in mined]
    by_teacher = args.relabel is not None or any(each.name == "denoise" for each in args.filters)
    for found in mined if by_teacher else ():
        place = args.negatives_file if SOURCES[found.source].needs_file else f"the source {found.source}"
        if found.teacher is None or np.isnan(found.teacher).all():
            raise BadInput(f"{place}: has no teacher scores, which denoise and --relabel go by")
        if np.nanmin(found.teacher) < 0 or np.nanmax(found.teacher) > 1:
            raise BadInput(
                f"{place}: teacher scores from {np.nanmin(found.teacher):.3g} to {np.nanmax(found.teacher):.3g}, and "
                "denoise and --relabel want those of a cross-encoder, from 0 to 1"
            )
    if dist.is_main() and hidden is not None:
        write_audit(path, args, collection, mined, hidden)
    elif dist.is_main():
        if args.relabel is not None:
            copy = path.parent / f"{collection.name}-{args.split}-relabelled"
            if copy.exists() and not args.overwrite:
                raise BadInput(f"{copy} exists: choose another --name, or --overwrite it")
            spec, collection, mined = relabel(copy, args, collection, mined)
        kept = choose(args, collection, mined)
        if not any(c.count for c in kept) and args.relabel is None:
            raise BadInput(f"no candidate is left: {'; '.join(f'{c.source}: {reasons(c)}' for c in kept)}")
        header = {
            "collection": collection.name,
            "collection_fingerprint": collection.fingerprint,
            "split": args.split,
            "sources": {c.source: c.describe() for c in kept},
            **made_by,
            "candidates": count,
            "records": sum(c.count for c in kept),
            "pool": describe_pool(pool, collection),
            "versions": run.versions(),
        }
        header |= {
            key: run.plain(getattr(args, key))
            for key in ("depth", "filters", "sampling", "shares", "positive_score", "cross_encoder", "seed")
        }
        write(path, args, collection, kept, header, clock, spec)
    dist.stop()


def check_file(args):
    """Look at a negatives file: a table, a figure, and exit code 1 if a limit is passed."""
    _, collection = collection_of(args.data, pathlib.Path(args.run) if args.run else None, strict=args.strict)
    found, drawn = check.look(check.read_any(args.check, args.negatives_format, collection), collection, args.split)
    folder = run.run_path(args.name or f"{collection.name}-check") / pathlib.Path(args.check).name
    text = check.to_table(found, args.check)
    write_text(folder / "check.md", text)
    write_json(folder / "check.json", {name: one._asdict() | {"share": one.share} for name, one in found.items()})
    with plots.optional(folder):
        plots.negatives_file(folder / "check.png", drawn, title=f"{args.check} on {collection.name}")
    print(f"{text}\nwrote   {folder}/: check.md, check.json, check.png")
    if wrong := [name for name in check.WRONG if found[name].count]:
        print(f"warning: {', '.join(wrong)}: no list of negatives should have any")
    if passed := [(name, most) for name, most in args.limits if found[name].share > most]:
        name, most = passed[0]
        print(f"--limits {name}={most:g}: found {found[name].share:.4f}")
        sys.exit(1)


def mine(args, source, collection, qrels, pool, count, device):
    """(candidates of one source for every query of a split, the retriever that found them or None)."""
    rows, row = qrels.queries, SOURCES[source]
    if row.draw:
        return drawn_candidates(source, row.draw, collection, rows, count, pool=pool, seed=args.seed), None
    if row.needs_file:
        records = None
        if args.negatives_format != "own":
            theirs = distillation if args.negatives_format in distillation.FORMATS else exchange
            records = theirs.read(args.negatives_file, args.negatives_format, collection)
        return load_candidates(args.negatives_file, collection, qrels, rows=records), None
    spec = {"run": args.run, "miner": args.miner}.get(row.retriever, row.retriever)

    def by(mine_index):
        retriever = open_retriever(
            spec,
            collection,
            device=device,
            precision=args.precision,
            exact_in=args.max_ram * 1e9,
            mine_index=mine_index,
        )

        def search(part, k, known):
            return cached_search(
                retriever, collection.queries.view(rows[part]), k, known, pool.rows, desc=f"mining {source}"
            )

        return search_candidates(
            collection, rows, count, search, source=source, positive=args.positive_score
        ), retriever

    found, retriever = by(args.mine_index)
    if args.mine_index and row.retriever == "run":
        same = overlap(found.docs, by(None)[0].docs)
        print(f"--mine_index {args.mine_index} finds {same:.1%} of the {count} docs that exact search lists")
    return found, retriever


def overlap(docs, exact_docs):
    """Mean share of each query's exact list (n, C) that its other list (n, C') has as well."""
    both = [len(np.intersect1d(a[a >= 0], b[b >= 0])) / max(1, (b >= 0).sum()) for a, b in zip(docs, exact_docs)]
    return float(np.mean(both))


def choose(args, collection, mined):
    """Of each source's candidates those that pass the filters and are sampled."""
    kept = []
    for candidates, share in zip(mined, args.shares or [1.0] * len(mined)):
        candidates = filters.apply(candidates, args.filters, collection)
        kept.append(
            candidates.take(
                sampling.slots(args.sampling, candidates, max(1, round(share * args.depth)), seed=args.seed, epoch=0)
            )
        )
    return kept


def write(path, args, collection, kept, header, clock, spec):
    """Write the file and its figure; print the table and what comes next."""
    records = (record for c in kept for record in records_of(c, collection))
    if args.format == "own":
        count = write_negatives(path, header, records)
    elif args.format in distillation.FORMATS:
        count = distillation.write(path, args.format, records, collection, args.split)
        print(f"the texts that the ids stand for: {path.name}.queries.jsonl, {path.name}.documents.jsonl")
    else:
        count = exchange.write(path, args.format, records, collection, args.split)
        print(f"{args.format} has no place for {', '.join(exchange.lost(args.format)) or 'nothing less'}")
    figure = path.with_suffix(".png")
    scored = {c.source: (c.scores.ravel(), c.positive) for c in kept if (c.scores == c.scores).any()}
    if scored:
        with plots.optional(figure):
            plots.score_histogram(figure, scored, title=f"{collection.name}, {args.split}")
    print_table(kept, collection)
    data_flag = "" if spec == "python" else f" --data {run.quoted(spec)}"
    drawn = f" and {figure.name}" if scored else ""
    print(
        f"\nwrote   {path} ({count:,} {'candidates' if args.format == 'own' else 'lines'}, "
        f"{clock.total():.1f} s){drawn}"
    )
    if args.format == "own" and count:
        print(
            f"next    python train.py{data_flag} --negatives file:4 --negatives_file {run.quoted(path)} "
            f"--name {run.quoted(f'{collection.name}-mined-negatives')}"
        )


def relabel(folder, args, collection, mined):
    """Write a collection in which candidates above --relabel are positives of their queries.

    Returns its folder, the collection, and the candidates without them.
    """
    grades = {split: collection.qrels_dict(split) for split in collection.qrels}
    count = 0
    for candidates in mined:
        i, j = ((candidates.teacher > args.relabel) & (candidates.docs >= 0)).nonzero()
        for row, doc in zip(candidates.queries[i], candidates.docs[i, j]):
            of_query = grades[args.split][collection.queries.ids[row]]
            count += of_query.get(collection.docs.ids[doc], 0) < 1
            of_query[collection.docs.ids[doc]] = 1
    with atomic_path(folder) as temporary:
        (temporary / "qrels").mkdir(parents=True)
        for texts, name in ((collection.docs, "corpus.jsonl"), (collection.queries, "queries.jsonl")):
            os.symlink(texts.path.resolve(), temporary / name)
        for split, judged in grades.items():
            beir.write_qrels(temporary / "qrels" / f"{split}.tsv", judged)
    relabelled = load_collection(str(folder), quiet=True)
    print(f"{count:,} candidates became positives: train with --data {folder}")
    left = []
    for candidates in mined:
        positive = relabelled.known_positive(candidates.queries, candidates.docs)
        kept = candidates.keep((candidates.docs >= 0) & ~positive)
        left.append(dataclasses.replace(kept, dropped=kept.dropped | {"relabelled": int(positive.sum())}))
    return str(folder), relabelled, left


def write_audit(path, args, collection, mined, hidden):
    """The audit of each source before, between and behind the filters, printed and as .md, .json, .png."""
    rows, pages = [], []
    for candidates in mined:
        first = None
        for done in range(len(args.filters) + 1):
            if done:
                candidates = filters.apply(candidates, args.filters[done - 1 : done], collection)
            found = audit.is_hidden(candidates, hidden, collection.docs.groups)
            after = args.filters[done - 1].text if done else "none"
            row = audit.estimate(candidates, found, share=args.audit, before=first)
            first = first or row
            rows.append((candidates.source, after, "all", row))
        rows += [
            (candidates.source, after, band, row) for band, row in audit.bands(candidates, found, share=args.audit)
        ]
        pages.append(audit.page(candidates, found, collection))
    table = audit.table(rows)
    title = f"{collection.name}, {args.split}: {len(hidden)} hidden positives"
    write_text(path, f"# Audit of false negatives: {title}\n\n{table}\n{audit.NOTE}" + "".join(pages))
    write_json(
        path.with_suffix(".json"),
        {
            "collection_fingerprint": collection.fingerprint,
            "share": args.audit,
            "hidden": len(hidden),
            "rows": [{"source": source, "after": after, "ranks": ranks} | row for source, after, ranks, row in rows],
        },
    )
    with plots.optional(path.with_suffix(".png")):
        plots.audit(path.with_suffix(".png"), rows, title=title)
    print(f"\n{table}\n{audit.NOTE}\nwrote   {path}, .json and .png: read the examples in the .md")


def reasons(candidates):
    """Why candidates were dropped, and how many."""
    return ", ".join(f"{reason} {count:,}" for reason, count in candidates.dropped.items() if count) or "-"


def print_table(mined, collection):
    """One line a source: yield, scores, and what was dropped and why."""
    print(
        f"\n{'source':8}{'queries':>9}{'candidates':>12}{'shortest':>10}{'mean score':>12}{'positive':>10}"
        f"{'above pos.':>12}   dropped"
    )
    copies = [diagnostics.near_copies(candidates, collection) for candidates in mined]
    for candidates in mined:
        d = candidates.describe()
        cells = ["-" if d[key] is None else f"{d[key]:.3f}" for key in ("mean_score", "mean_positive_score")]
        above = "-" if d["outscore_positive"] is None else f"{d['outscore_positive']:.1%}"
        dropped = reasons(candidates)
        print(
            f"{candidates.source:8}{d['queries']:>9,}{d['candidates']:>12,}{d['shortest_list']:>10}"
            f"{cells[0]:>12}{cells[1]:>10}{above:>12}   {dropped}"
        )
    short = sum(int(((c.docs >= 0).sum(1) < c.docs.shape[1]).sum()) for c in mined)
    print(
        "positive = mean score of the known positive; above pos. = share of candidates that outscore it"
        + (f"; {short:,} lists end short" if short else "")
    )
    for candidates, shares in zip(mined, copies):
        found = [f"{share:.1%} of a {name}" for name, share in shares.items() if share]
        if found:
            print(f"near-copies among {candidates.source}'s: {', '.join(found)} (--filters near_copy:0.5)")


if __name__ == "__main__":
    run.cli(main)

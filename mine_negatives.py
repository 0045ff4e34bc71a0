"""Mine hard negatives: for every query of a split, docs that look relevant and are not known to be.

    python mine_negatives.py                                # BM25, on the embedded collection
    python mine_negatives.py --run runs/R --sources dense   # with a run's encoder, on the run's own data
    python mine_negatives.py --run runs/R --sources bm25 dense --filters percpos:0.95 near_copy:0.8
    python mine_negatives.py --run runs/R --audit 0.3       # how many of the negatives are really positives?
    python mine_negatives.py --miner MODEL                  # any model, run, or vectors from files
    python mine_negatives.py --reader qa:FOLDER --sampling teacher --filters answer --depth 4   # docs that mislead it
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
import functools
import pathlib
import sys

import numpy as np

from lib import cli, dist, process, run
from lib.data import readers
from lib.data.beir import SPLITS
from lib.data.collection import collection_of
from lib.evaluation import diagnostics, plots
from lib.files import BadInput
from lib.model.encoder import PRECISION_FLAG, PRECISION_HELP, pick_device, pick_precision
from lib.negatives import audit, check, filters, prices, sampling
from lib.negatives.candidates import drawn_candidates, how_many, overfetch, reasons, table, taught
from lib.negatives.files import records_of, write_negatives
from lib.negatives.formats import exchange
from lib.negatives.pool import describe_pool, open_pool
from lib.negatives.sampler import overlap
from lib.negatives.sources import SOURCES, Miner
from lib.search.retriever import fingerprint_of, parts

FORMATS = ("own", *exchange.FORMATS)

FIRST = (
    "data run sources depth filters sampling negative_docs format name audit check negatives_file"  # flags of --help
)


# fmt: off
def parse_args():
    parser, offered = cli.Parser(__doc__, first=FIRST), [name for name, row in SOURCES.items() if row.draw or row.mine]
    add = parser.group("what")
    add("--data", help=f"{readers.HELP}; default: that of --run, else python")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--split", default="train", help="the queries to mine for: train, dev or test")
    add("--run", help="run folder whose encoder mines; needed for the source dense")
    add("--miner", metavar="bm25|RUN|MODEL|VECTORS", help="what the source miner asks: any retriever, as in "
        "evaluate.py --retriever, but no two of them joined")
    add("--by", metavar="FIELD", help="the metadata field that the docs of the source sibling share with the positive: "
        "of the docs or, where none has it, of the train queries that they answer")
    add("--sources", nargs="+", choices=offered, metavar="SOURCE",
        help=f"any of {', '.join(offered)}; default: dense with --run, miner with --miner, else bm25")
    add("--negatives_file", metavar="F", help="what the source file proposes: a file to filter or convert")
    add("--negatives_format", choices=FORMATS, default="own", help="of --negatives_file")
    add("--shares", nargs="+", type=cli.ABOVE_0, help="share of --depth for each source; default: --depth of each")
    add("--depth", type=cli.DEPTH, default=30, help="candidates to keep for each query")
    add("--candidates", type=cli.DEPTH, help="candidates to mine before filtering; default: --depth, with filters or a "
        "--sampling other than top 100")
    add("--filters", nargs="+", type=filters.parse_filter, default=[], metavar="F",
        help="candidates to drop, as in window:11:100 percpos:0.95 quantile:0.5 near_copy:0.8: "
        f"{cli.usage(filters.FILTERS)} (lib/negatives/filters.py)")
    add("--sampling", type=sampling.parse_sampling, default=sampling.parse_sampling("top"),
        help=f"which --depth of those that pass are kept: {cli.usage(sampling.SAMPLING)}; default: top")
    add("--negative_docs", metavar="labelled|all|FILE", help="docs that may be negatives: those that are a positive of "
        "some training query; the whole corpus; or docs whose ids stand in a file, one a line; default: labelled, but "
        "all for another split than train and for --audit, which hides labels")
    add("--allow_leak", action="store_true", help="use a file that seems to know the labels of dev or test queries "
        "all the same; the file of negatives is marked")
    add("--cross_encoder", metavar="NAME|FOLDER", excludes="reader", help="scores all candidates: for the filter "
        "denoise, for --relabel, and as teacher scores in the file")
    add("--reader", metavar="G", excludes="own_teacher", help="qa:FOLDER or hf:FOLDER, as --generator of rag_demo.py: "
        "the teacher scores in the file say how far a doc misleads it, 1 - P(no answer); with --sampling teacher the "
        "worst are kept, and --filters answer leaves out docs that hold a gold answer")
    add("--own_teacher", action="store_true", excludes="cross_encoder", help="the sources' own scores are "
        "the teacher scores in the file: to distil the model that mines")
    add("--relabel", type=cli.SHARE, metavar="X", help="candidates that --cross_encoder scores above this become "
        "positives in a new copy of the collection, written beside the file")
    add("--audit", type=cli.number(float, above=0, most=1), metavar="SHARE", help="hide a positive of this share of "
        "the queries and see how many come back as negatives, by source, rank and filter; writes the audit, no "
        "negatives")
    add("--fill", action="store_true", excludes="audit", help="fill lists that stay shorter than --depth with random "
        "docs of the pool, so that no query goes without")
    add("--format", choices=FORMATS, default="own", help="of the file; own keeps it all")
    add("--mine_index", metavar="STRING", help="search by this index of FAISS instead of exactly, as in HNSW32 or "
        "IVF64,Flat:nprobe=4; prints how much of the exact lists it finds")
    add("--check", metavar="F", help="look at a negatives file of ours or, with --negatives_format, of another system "
        "instead of mining: known positives and copies of them, duplicates, docs of dev and test, and more")
    add("--limits", nargs="+", type=check.parse_limit, default=[], needs="check", metavar="FINDING=SHARE", help="exit "
        f"code 1 if more is found; FINDING is one of {', '.join(check.FINDINGS)}")
    add("--max_ram", type=cli.GIGABYTES, default=1.0, metavar="GB", help="memory limit of the search (the result comes "
        "on top)")
    add("--precision", choices=PRECISION_FLAG, default="auto", help=f"of encoding; {PRECISION_HELP}")
    add("--seed", type=cli.SEED, default=0, help="decides what is drawn and hidden")
    add("--name", help="folder below runs/ to write to; default: the folder of --run, else COLLECTION-mined")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    parser.mode("check", "limits negatives_format data strict split run name")
    args = parser.parse_args()
    parser.check(args)
    args.sources = args.sources or (["miner"] if args.miner else ["dense"] if args.run else ["bm25"])
    if not args.check:
        check_sources(args)
    return args, parser


# fmt: on


def check_sources(args):
    """BadInput if what is asked of the sources does not fit them."""
    rows = [SOURCES[name] for name in args.sources]
    if ("miner" in args.sources) != bool(args.miner) or args.miner and parts(args.miner):
        raise BadInput("the source miner and --miner M come together, and M is one retriever")
    if any(row.by_field for row in rows) != bool(args.by):
        raise BadInput("the source sibling and --by FIELD come together")
    if not args.run and (unfit := [name for name, row in zip(args.sources, rows) if row.encodes_corpus]):
        raise BadInput(f"the source {unfit[0]} needs --run R: the run whose encoder mines")
    if args.mine_index and not any(row.encodes_corpus for row in rows):
        raise BadInput("--mine_index changes nothing without the source dense: it searches vectors")
    from_file = any(row.needs_file for row in rows)
    if args.negatives_file and not from_file:
        raise BadInput("the source file and --negatives_file F come together")
    if args.fill and "random" in args.sources:
        raise BadInput("--fill adds random docs where they are missing: leave the source random out")
    if len(set(args.sources)) < len(args.sources):
        raise BadInput(f"--sources {' '.join(args.sources)}: one stands twice")
    if args.shares and not (len(args.shares) == len(args.sources) and abs(sum(args.shares) - 1) < 1e-6):
        raise BadInput(f"--shares {args.shares}: one above 0 for each of {', '.join(args.sources)}, in all 1")
    if from_file and args.audit is not None:
        raise BadInput("--audit plants docs that a file mined before cannot hold: leave the source file out")
    if judged_by(args) and not (args.cross_encoder or from_file):  # by a file's teacher scores, once they are there
        raise BadInput(
            f"{judged_by(args)} needs --cross_encoder, or a --negatives_file with teacher scores: they decide"
        )
    if args.sampling.name == "teacher" and not (args.cross_encoder or args.reader or args.own_teacher or from_file):
        raise BadInput(
            "--sampling teacher needs a teacher: --cross_encoder, --reader, --own_teacher, or a file's scores"
        )
    if args.own_teacher and (len(rows) > 1 or rows[0].draw or from_file):
        raise BadInput("--own_teacher is for one source that searches")


def judged_by(args):
    """What goes by the scores of a cross-encoder, in words; None if nothing does."""
    if any(each.name == "denoise" for each in args.filters):
        return "the filter denoise"
    return "--relabel" if args.relabel is not None else None


def main():
    args, parser = parse_args()
    if args.check:
        return check_file(args)
    device = dist.start(pick_device(args.device))
    clock, trained, hidden = run.Clock(), args.run and pathlib.Path(args.run), None
    with dist.main_first():
        # a relabelled copy has the splits that train.py would cut off, or test would be of what was relabelled
        cut = SPLITS[1:] if args.relabel is not None else ()
        spec, collection = collection_of(args.data, trained, cut=cut, strict=args.strict)
        name = collection.name
        if args.audit:
            collection, hidden = audit.hide(collection, args.split, args.audit, seed=args.seed)
    folder = trained if trained and not args.name else run.run_path(args.name or f"{name}-mined")
    stem = f"{name}-{args.split}-{'+'.join(args.sources)}"
    path = folder / "negatives" / f"{stem}.{exchange.ENDINGS[args.format]}"
    path = path if hidden is None else folder / "audit" / f"{stem}.md"
    refuse_to_replace(path, args.overwrite)
    dist.barrier()  # all have looked before one writes
    default = "labelled" if args.split == "train" and hidden is None else "all"
    pool = open_pool(args.negative_docs or default, collection, allow_leak=args.allow_leak)
    count = how_many(args.depth, args.candidates, thinned=bool(args.filters) or args.sampling.name != "top")
    title = f"{'mining' if hidden is None else 'auditing'} {', '.join(args.sources)} for"
    title += (
        f" {len(collection.split(args.split))} {args.split} queries of {collection.name} ({len(collection.docs)} docs)"
    )
    docs = f"{pool.name}, {describe_pool(pool, collection)['docs']:,} docs"
    derived = {"candidates": count, "docs_fetched_besides": overfetch(collection), "pool": docs}
    cli.print_header(title, args, parser, derived | ({} if hidden is None else {"hidden": len(hidden)}))
    args.precision = pick_precision(device, args.precision)  # the file's header says which
    mined = teach(args, mine(args, collection, pool, count, device), collection, device)
    if dist.is_main() and hidden is not None:
        title = f"{collection.name}, {args.split}: {len(hidden)} hidden positives"
        rows, text = audit.report(path, collection, mined, hidden, args.filters, share=args.audit, title=title,
                                  measured=prices.nearest(collection, args.split))  # fmt: skip
        with plots.optional(path.with_suffix(".png")):
            plots.audit(path.with_suffix(".png"), rows, title=title)
        print(f"\n{text}\nwrote   {path}, .json and .png: read the examples in the .md")
    elif dist.is_main():
        if args.relabel is not None:
            spec = str(path.parent / f"{name}-{args.split}-relabelled")
            refuse_to_replace(pathlib.Path(spec), args.overwrite)
            collection, mined, number = audit.relabel(pathlib.Path(spec), collection, args.split, mined, args.relabel)
            print(f"{number:,} candidates became positives: train with --data {spec}")
        write(path, args, collection, choose(args, collection, mined, pool), pool, count, clock, spec)
    dist.stop()


def refuse_to_replace(path, overwrite):
    """BadInput if there is something already that nobody has said may go."""
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists: choose another --name, or --overwrite it")


def check_file(args):
    """Look at a negatives file: a table, a figure, and exit code 1 if a limit is passed."""
    _, collection = collection_of(args.data, pathlib.Path(args.run) if args.run else None, strict=args.strict)
    rows = check.read_any(args.check, args.negatives_format, collection)
    found, drawn = check.look(rows, collection, args.split)
    blind = check.blind(rows, collection, args.split)
    folder = run.run_path(args.name or f"{collection.name}-check") / pathlib.Path(args.check).name
    priced = prices.nearest(collection, args.split)
    text = check.report(folder, found, args.check, blind, priced)
    with plots.optional(folder):
        plots.negatives_file(folder / "check.png", drawn, title=f"{args.check} on {collection.name}")
    print(f"{text}\nwrote   {folder}/: check.md, check.json, check.png")
    if wrong := [name for name in check.WRONG if found[name].count]:
        print(f"warning: {', '.join(wrong)}: no list of negatives should have any")
    for name, most in args.limits:
        if found[name].share > most:
            print(f"--limits {name}={most:g}: found {found[name].share:.4f}")
            sys.exit(1)


def mine(args, collection, pool, count, device):
    """[Candidates] of each source for every query of the split."""
    miner_of = functools.partial(
        Miner, collection=collection, split=args.split, run=args.run, pool=pool, negatives_file=args.negatives_file,
        negatives_format=args.negatives_format, miner=args.miner, device=device, precision=args.precision,
        max_ram=args.max_ram * 1e9, by=args.by, seed=args.seed,
    )  # fmt: skip
    miner, mined = miner_of(mine_index=args.mine_index), []
    everybody = np.arange(len(miner.queries))
    for name in args.sources:
        row = SOURCES[name]
        if row.draw:
            mined.append(drawn_candidates(name, row.draw, collection, miner.queries, count, pool=pool, seed=args.seed))
        else:
            mined.append(miner.mine(name, everybody, None if row.needs_file else count))
        if args.mine_index and row.encodes_corpus:
            same = overlap(miner_of().mine(name, everybody, count).docs, mined[-1].docs) or 0.0
            print(f"--mine_index {args.mine_index} finds {same:.1%} of the {count} docs that exact search lists")
    return mined


def teach(args, mined, collection, device):
    """The Candidates with a teacher's scores, where there is one; BadInput if they are not what is asked for."""
    if args.cross_encoder:
        from lib.model.cross_encoder import CrossEncoder  # here: its library takes seconds to import

        judge = CrossEncoder(args.cross_encoder, device=device)
        mined = [taught(found, collection, judge.score) for found in mined]
    elif args.reader:
        from lib.rag import distraction

        misleads = distraction.by(args.reader, device=device)
        mined = [taught(found, collection, misleads) for found in mined]
    elif args.own_teacher:
        mined = [dataclasses.replace(found, teacher=found.scores, teacher_positive=found.positive) for found in mined]
    for found in mined if judged_by(args) else ():
        place = (
            args.negatives_file or collection.negatives
            if SOURCES[found.source].needs_file
            else f"the source {found.source}"
        )
        filters.check_teacher(found, place)
    return mined


def choose(args, collection, mined, pool):
    """Of each source's candidates those that pass the filters and are sampled, with --fill random ones besides."""
    kept = []
    for candidates, share in zip(mined, args.shares or [1.0] * len(mined)):
        candidates = filters.apply(candidates, args.filters, collection)
        wanted = max(1, round(share * args.depth))
        kept.append(candidates.take(sampling.slots(args.sampling, candidates, wanted, seed=args.seed, epoch=0)))
    if not any(c.count for c in kept) and args.relabel is None:
        raise BadInput(f"no candidate is left: {'; '.join(f'{c.source}: {reasons(c)}' for c in kept)}")
    if not args.fill:
        return kept
    draw, queries = SOURCES["random"].draw, kept[0].queries
    drawn = drawn_candidates("random", draw, collection, queries, 2 * args.depth, pool=pool, seed=args.seed)
    new, missing = drawn.docs >= 0, args.depth
    for candidates in kept:
        missing = missing - (candidates.docs >= 0).sum(1)
        for listed in candidates.docs.T:
            new &= drawn.docs != listed[:, None]
    return [*kept, drawn.keep(new & (np.cumsum(new, axis=1) <= missing[:, None]))]


def write(path, args, collection, kept, pool, count, clock, spec):
    """Write the file, its header where it has one, and its figure; print the table and what comes next."""
    records = (record for c in kept for record in records_of(c, collection))
    if args.format == "own":
        by_run = any(SOURCES[c.source].encodes_corpus for c in kept)
        header = {
            "collection": collection.name,
            "collection_fingerprint": collection.fingerprint,
            "split": args.split,
            "sources": {c.source: c.describe() for c in kept},
            "encoder_fingerprint": fingerprint_of(args.run) if by_run else None,
            **({"miner_fingerprint": fingerprint_of(args.miner)} if args.miner else {}),
            "candidates": count,
            "records": sum(c.count for c in kept),
            "pool": describe_pool(pool, collection),
            "versions": run.versions(),
        }
        names = ("depth", "filters", "sampling", "shares", "cross_encoder", "reader", "precision", "seed")
        number = write_negatives(path, header | {name: cli.plain(getattr(args, name)) for name in names}, records)
    else:
        number = exchange.write(path, args.format, records, collection, args.split, even=True)
        print(f"{args.format} has no place for {', '.join(exchange.lost(args.format))}")
        if args.format.startswith("distillation"):
            print(f"the texts that the ids stand for: {path.name}.queries.jsonl, {path.name}.documents.jsonl")
    scored = {c.source: (c.scores.ravel(), c.positive) for c in kept if (c.scores == c.scores).any()}
    if scored:
        with plots.optional(path.with_suffix(".png")):
            plots.score_histogram(path.with_suffix(".png"), scored, title=f"{collection.name}, {args.split}")
    print(f"\n{table(kept, filled=args.fill)}")
    some = {int(row) for c in kept for row in c.queries[(c.docs >= 0).any(1)]}
    if none := len(collection.split(args.split)) - len(some):
        loosen = "loosen --filters, raise --candidates" if args.filters else "raise --candidates, widen --negative_docs"
        print(f"note: {none:,} of {none + len(some):,} queries have no negative and are not in the file: {loosen}, "
              "or fill up with random ones (--fill)")  # fmt: skip
    for candidates in kept:
        shares = diagnostics.near_copies(candidates, collection)
        if found := [f"{share:.1%} of a {name}" for name, share in shares.items() if share]:
            print(f"near-copies among {candidates.source}'s, in a sample: {', '.join(found)} (--filters near_copy:0.5)")
    drawn, what = f" and {path.stem}.png" if scored else "", "candidates" if args.format == "own" else "lines"
    print(f"\nwrote   {path} ({number:,} {what}, {clock.total():.1f} s){drawn}")
    if args.format in exchange.LOADS:
        print(f"next    {args.format} is read by {exchange.LOADS[args.format].format(path=path)}")
    if args.format == "own" and number:
        data_flag = "" if spec == "python" else f" --data {cli.quoted(spec)}"
        given = {"judged", "file"} & set(args.sources)  # which no pool has narrowed, and none should in training
        docs = args.negative_docs or ("all" if given else None)
        pool_flag = f" --negative_docs {cli.quoted(docs)}" if docs else ""
        print(
            f"next    python train.py{data_flag} --negatives file:4 --negatives_file {cli.quoted(path)}{pool_flag} "
            f"--name {cli.quoted(f'{collection.name}-mined-negatives')}"
        )


if __name__ == "__main__":
    process.cli(main)

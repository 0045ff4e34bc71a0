"""Measure a retriever on a split, or compare runs that were measured.

    python evaluate.py --run runs/R                         # the index that build_index.py made
    python evaluate.py --retriever bm25 --data FOLDER       # the baseline
    python evaluate.py --compare runs/A runs/B runs/C       # paired tests on what all of them were measured on
    python evaluate.py --compare runs/ABLATION              # tables and figures of arms x seeds, written again

Writes run.trec, metrics.json, per_query.jsonl and ranks.png to runs/R/eval/COLLECTION-SPLIT/; a comparison
writes ablation.json, ablation.md and plots/ to its folder, or to runs/A-vs-B/EVALUATION/.
"""

import pathlib

from lib import run
from lib.data import readers
from lib.data.collection import SPLITS, collection_of
from lib.evaluation import comparison, measures, plots, report
from lib.files import BadInput, write_json
from lib.model.encoder import pick_device
from lib.search.retriever import open_retriever


def parse_args():
    parser = run.Parser(__doc__)
    add = parser.group("measuring")
    add("--run", help="run folder whose encoder and index are measured: short for --retriever runs/R")
    add("--retriever", metavar="bm25|RUN", help="what searches: bm25, or a run folder with an index")
    add("--data", help=f"{readers.HELP}; default: that of --run, else python")
    add("--strict", action="store_true", help=readers.STRICT)
    add("--split", default="test", help="train, dev or test")
    add(
        "--depth", type=run.number(int, least=100), default=100, help="docs ranked for each query; recall@100 needs 100"
    )
    add(
        "--self_match",
        choices=measures.SELF_MATCH,
        help=f"{measures.SELF_MATCH_HELP}; default: that of the run, else drop",
    )
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace an evaluation that exists")
    add = parser.group("comparing")
    add(
        "--compare",
        nargs="+",
        metavar="RUN",
        help="run folders that were measured on the same collection and "
        "split, or the folder of one comparison by train.py",
    )
    add("--measure", default="mrr@10", choices=measures.MEASURES, help="what is tested and drawn")
    add(
        "--against",
        metavar="ARM",
        help="the arm of --compare FOLDER that the others are tested against; default: the first",
    )
    add = parser.group("both")
    add("--name", help="folder below runs/ to write to; default: the run's own, COLLECTION-bm25, or A-vs-B")
    args = parser.parse_args()
    if args.compare:
        given = run.non_default(args, parser).keys() - {"compare", "measure", "against", "name"}
        if given:
            raise BadInput(f"--{min(given)} plays no part with --compare")
        if args.against and len(args.compare) != 1:
            raise BadInput("--against chooses among the arms of one folder: --compare runs/ABLATION")
    elif bool(args.run) == bool(args.retriever):
        raise BadInput("say what to measure: either --run R or --retriever bm25, or --compare A B")
    return args, parser


def main():
    args, parser = parse_args()
    if args.compare:
        return compare(args)
    retrieves = args.run or args.retriever
    folder = None if retrieves == "bm25" else pathlib.Path(retrieves)
    spec, collection = collection_of(
        args.data, folder, cut=[split for split in SPLITS[1:] if split == args.split], strict=args.strict
    )
    qrels = collection.split(args.split)
    home = folder if folder and not args.name else run.run_path(args.name or f"{collection.name}-bm25")
    target = home / "eval" / f"{collection.name}-{args.split}"
    if (target / "metrics.json").exists() and not args.overwrite:
        raise BadInput(f"{target} exists: --overwrite it")
    run.print_header(
        f"{retrieves} on {collection.name}, {args.split}",
        args,
        parser,
        {"queries": len(qrels), "docs": len(collection.docs)},
    )
    clock = run.Clock()
    retriever = open_retriever(retrieves, collection, device=pick_device(args.device))
    if args.self_match is None:
        trained = folder and (folder / "config.json").exists() and run.recorded(folder)["args"].get("self_match")
        args.self_match = trained or "drop"
    dropping = args.self_match == "drop"
    fetched = args.depth + (measures.spare(collection, args.split) if dropping else 0)
    hits = retriever.search(collection.queries.view(qrels.queries), fetched)
    left, self_matches = measures.without_itself(collection, args.split, hits, args.depth)
    hits = left if dropping else hits
    values, nothing = measures.score(collection, args.split, hits), measures.nothing_found(hits)
    mean = measures.mean(values)
    tag = folder.name if folder else retrieves
    result = {
        "mean": mean,
        "queries": len(values),
        "self_match": {"policy": args.self_match, "found": self_matches},
        "unjudged@10": measures.unjudged(hits.rows, qrels),
        "nothing_found": nothing,
        "collection": collection.name,
        "collection_fingerprint": collection.fingerprint,
        "judgements": collection.judgements(args.split),
        "split": args.split,
        "retriever": retrieves,
        "depth": args.depth,
    }
    (target / "metrics.json").unlink(missing_ok=True)  # written last: a half-replaced evaluation has none
    qids = [collection.queries.ids[row] for row in qrels.queries]
    measures.write_run(
        target / "run.trec", qids, collection.docs.ids, hits.rows, hits.scores, tag="dense" if folder else retrieves
    )
    measures.write_per_query(target / "per_query.jsonl", values)
    write_json(target / "metrics.json", result)
    plots.ranks(
        target / "ranks.png",
        measures.first_relevant(hits.rows, qrels),
        depth=args.depth,
        title=f"{tag} on {target.name}",
    )
    print(
        "  ".join(f"{name} {value:.4f}" for name, value in mean.items())
        + f"  | {len(values)} queries, self matches {self_matches} ({args.self_match}), "
        f"unjudged@10 {result['unjudged@10']:.1%}"
    )
    if nothing > measures.VOID:
        print(f"warning: {retrieves} finds nothing for {nothing:.0%} of the queries: as a baseline this is void")
    print(f"\nwrote   {target}/: run.trec, metrics.json, per_query.jsonl, ranks.png ({clock.total():.1f} s)")
    data_flag = f" --data {run.quoted(args.data)}" if args.data else ""
    if not folder:
        print(
            f"next    python evaluate.py --compare runs/R {run.quoted(home)}     # R: a run that was measured on "
            f"{target.name}"
        )
    else:
        question = run.quoted(run.one_line(collection.queries.text(qrels.queries[0]), 200))
        bm25_flag = data_flag or ("" if spec == "python" else f" --data {run.quoted(spec)}")
        print(
            f"next    python rag_demo.py --run {run.quoted(folder)}{data_flag} {question}\n"
            f"        python evaluate.py --retriever bm25{bm25_flag} && "
            f"python evaluate.py --compare {run.quoted(folder)} runs/{collection.name}-bm25"
        )


def compare(args):
    """Statistics, tables and figures of a comparison by train.py, or of runs that were measured alike."""
    if len(args.compare) == 1:
        (folder,) = args.compare
        print(report.of_comparison(pathlib.Path(folder), measure=args.measure, against=args.against))
        return print(f"wrote   {folder}/ablation.json, ablation.md, plots/")
    names = [pathlib.Path(path).name for path in args.compare]
    folder = run.run_path(args.name or "-vs-".join(names))
    for evaluation, runs in comparison.read_evaluations(args.compare).items():
        print(f"\n{report.write(folder / evaluation, runs, measure=args.measure, name=evaluation)}")
    print(f"wrote   {folder}/: ablation.json, ablation.md and plots/ for each evaluation in common")


if __name__ == "__main__":
    run.cli(main)

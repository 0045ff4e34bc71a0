"""Measure retrievers on a split, or compare runs that were measured.

    python evaluate.py --run runs/R                             # its index, or exact search where it has none
    python evaluate.py --retriever bm25 --data FOLDER           # the baseline
    python evaluate.py --retriever runs/R+bm25                  # two of them, mixed by a weight that dev chooses
    python evaluate.py --run runs/R --rerank CROSS_ENCODER      # its 100 best docs, read again
    python evaluate.py --run_file F --data FOLDER               # anybody's run, as TREC, MS MARCO or JSON
    python evaluate.py --run runs/R --data A B C --forgetting   # several collections, and what training cost there
    python evaluate.py --compare runs/A runs/B runs/C           # paired tests on what all of them were measured on
    python evaluate.py --compare runs/ABLATION                  # tables and figures of arms x seeds, written again
    python evaluate.py --compare runs/ABL_A runs/ABL_B          # the same arms on several collections, pooled

Writes run.trec, metrics.json, per_query.jsonl and ranks.png to runs/R/eval/COLLECTION-SPLIT/; a comparison
writes ablation.json, .md, .tex and .csv and plots/ to its folder (by another --measure or --against, to one inside), or
to runs/A-vs-B/EVALUATION/. Every evaluation says what ties and missing judgements leave open, and whether a
baseline is void.
"""

import pathlib
import re

import numpy as np

from lib import cli, process, run
from lib.data import readers
from lib.data.beir import SPLITS
from lib.data.collection import collection_of, spec_of
from lib.data.tokens import cut_note
from lib.evaluation import analysis, checks, comparison, measures, plots, report, retrieval, significance
from lib.files import BadInput, read_json, write_json
from lib.model import mteb_bridge
from lib.model.encoder import embed_texts, pick_device
from lib.search import exact, faiss_index, tune
from lib.search.retriever import fingerprint_of, run_of
from lib.search.sharded import Sharded

# flags of train.py by which a model is read otherwise than its own files say, so that --forgetting cannot open it
READ_OTHERWISE = ("pooling", "dim", "query_prefix", "doc_prefix", "query_length", "doc_length", "normalize")

FIRST = "run retriever run_file data questions split rerank compare measure against by name"  # flags of --help


# fmt: off
def parse_args():
    parser = cli.Parser(__doc__, first=FIRST)
    add = parser.group("what is measured")
    add("--run", help="run folder whose encoder and index are measured: short for --retriever runs/R")
    retrieval.add_flags(add)
    add("--run_file", metavar="FILE", help="a run by whatever system: TREC's six columns, MS MARCO's three, or "
        "FILE.json; also .gz")
    add("--data", nargs="+", default=[], help=f"one or several: {readers.HELP}; default: that of --run, else python")
    add("--questions", metavar="FILE", help=readers.QUESTIONS)
    add("--strict", action="store_true", help=readers.STRICT)
    add("--split", default="test", help="train, dev or test")
    add("--ranked", type=cli.number(int, least=100, most=1_000_000), default=100, help="docs ranked for each query; "
        "recall@100 needs 100")
    add("--self_match", choices=measures.SELF_MATCH, help=f"{measures.SELF_MATCH_HELP}; default: that of the run, "
        "else drop")
    add("--device", help="cpu, cuda, mps; default: cuda where there is one")
    add("--overwrite", action="store_true", help="replace an evaluation that exists")
    add = parser.group("what is reported")
    add("--measures", type=checks.parse_measures, default=[], metavar="NAMES", help="more measures of ir_measures, as "
        'in "AP P@5 Success@1"')
    add("--by", metavar="FIELD", help="a table by the values of a field of the queries' metadata, or by "
        "labelled: whether a doc that answers is a positive in training")
    add("--error_split", action="store_true", needs="run", excludes="rerank",
        help="with an index: what of nDCG@10 is lost by the model, by "
        "compressed vectors and by approximate search")
    add("--forgetting", action="store_true", needs="run",
        help="beside each number that of the encoder which the run started from, "
        "and a test of the difference")
    add("--mteb", nargs="+", metavar="TASK", needs="run",
        help="measure the encoder of --run by the package mteb instead, on "
        "tasks of mteb's, by name, or on the collection (own)")
    add = parser.group("comparing")
    add("--compare", nargs="+", metavar="RUN", help="run folders that were measured on the same collection and "
        "split; the folder of one comparison by train.py; or comparisons of the same arms on several collections")
    add("--measure", default="mrr@10", help=f"what is tested and drawn: {', '.join(measures.MEASURES)}; with --compare "
        "any of ir_measures, as in AP or P@5, of what the runs ranked")
    add("--against", metavar="ARM", needs="compare",
        help="the arm of a comparison that the others are tested against; default: the "
        "first")
    add = parser.group("both")
    add("--name", help="folder below runs/ to write to; default: the run's own, COLLECTION-RETRIEVER, or A-vs-B")
    parser.mode("compare", "measure against name data by")
    parser.mode("mteb", "run data split strict device")
    own = "data questions strict split self_match overwrite measures measure by name"
    parser.mode("run_file", own)  # it has searched
    args = parser.parse_args()
    parser.check(args)
    if args.measure not in measures.MEASURES:
        if not args.compare:
            raise BadInput(f"--measure {args.measure}: one of {', '.join(measures.MEASURES)}; --measures adds others")
        if len(found := checks.parse_measures(args.measure, flag="--measure")) != 1:
            raise BadInput(f"--measure {args.measure!r}: one measure is tested")
        args.measure = str(found[0])
    if not args.compare and sum(map(bool, (args.run, args.retriever, args.run_file))) != 1:
        raise BadInput("say what to measure: one of --run R, --retriever bm25, --run_file F, or --compare A B")
    if args.questions:
        data = args.data or [spec_of(None, args.run or args.retriever and run_of(args.retriever))]
        args.data, args.questions = [readers.asked(each, args.questions) for each in data], None
    return args, parser


# fmt: on


def main():
    args, parser = parse_args()
    if args.compare:
        return compare(args)
    spec = args.run or args.retriever or args.run_file
    if args.mteb:
        return by_mteb(args)
    rows, header = [], True
    names = [readers.JOIN.join(readers.find(spec)[0] for spec in readers.split(data)) for data in args.data]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"--data: two collections are called {twice[0]}, and their results would be; rename a folder")
    for data in args.data or [None]:
        rows.append(evaluate(args, parser, spec, data, header=header))
        header = False
    if len(rows) > 1:
        print(f"\n{collections_table(rows)}")
    next_step(rows[-1])


def evaluate(args, parser, spec, data, *, header):
    """Measure one retriever on one collection; returns what metrics.json holds, with the home of it."""
    trained_on = None if args.run_file else pathlib.Path(args.run) if args.run else run_of(spec)
    folder = trained_on if trained_on == pathlib.Path(spec) else None  # of a run that is searched by itself
    spec_of_data, collection = collection_of(
        data, trained_on, cut=[split for split in SPLITS[1:] if split == args.split], strict=args.strict
    )
    qrels = collection.split(args.split)
    plain = folder and not (args.rerank or args.name or args.dim)
    home = folder if plain else run.run_path(args.name or f"{collection.name}-{label(args, spec)}")
    target = home / "eval" / f"{collection.name}-{args.split}"
    if (target / "metrics.json").exists() and not args.overwrite:
        of_other = read_json(target / "metrics.json").get("collection_fingerprint") != collection.fingerprint
        raise BadInput(f"{target} exists: --overwrite it" + ", or --name: it is of another collection" * of_other)
    if header:
        counts = {"queries": len(qrels), "docs": len(collection.docs)}
        cli.print_header(f"{spec} on {collection.name}, {args.split}", args, parser, counts)
    if spec_of_data.startswith("asked:") and args.split == "test" and "dev" in collection.qrels:
        print(f"   {len(collection.split('dev')):,} more of these questions are the dev split (--split dev)")
    was = recorded_of(trained_on).get("inputs", {})
    if was.get("collection") == collection.name and was.get("collection_fingerprint") != collection.fingerprint:
        print(f"note: {collection.name} has changed since {trained_on} was trained: these queries may be among its own")
    clock = run.Clock()
    self_match = args.self_match or recorded_of(folder).get("args", {}).get("self_match") or "drop"
    notes = {}
    if args.run_file:
        rankings, itself = retrieval.of_run_file(args.run_file, collection, args.split, self_match=self_match)
    else:
        retriever, notes = retrieval.open_with(args, spec, collection, device=pick_device(args.device))
        notes |= getattr(retriever, "about", {})
        for name, value in notes.items():
            print(f"   {name} = {value}")
        if said := cut_note(getattr(retriever, "encoder", None), collection.docs):
            print(said)
        rankings, itself = retrieval.search_split(retriever, collection, args.split, args.ranked, self_match=self_match)
    values, result = retrieval.measured(rankings, collection, args.split, more=args.measures)
    result |= {
        "self_match": {"policy": self_match, "found": itself},
        "collection": collection.name,
        "collection_fingerprint": collection.fingerprint,
        "judgements": collection.judgements(args.split),
        "split": args.split,
        "retriever": spec,
        "depth": args.ranked,
    } | notes
    if (spec != "bm25" or args.rerank) and args.measure in measures.MEASURES:
        how = {"measure": args.measure, "self_match": self_match}
        result["against_bm25"] = retrieval.against_bm25(values, collection, args.split, **how)
        result["verdict"], result["use"] = verdict_of(args, spec, result)
    if args.by:
        fields = retrieval.metadata_values(collection, args.split, args.by)
        result["by"] = {"field": args.by, "rows": checks.by_slice(values, fields, measure=args.measure)}
    if args.forgetting:
        result["start"] = start_of(args, collection, values, self_match)
    parts = split_errors(args, collection, retriever, self_match) if args.error_split else None
    if parts:
        result["error_split"] = {name: float(np.mean([own[name] for own in parts.values()])) for name in checks.LOST_BY}
        for qid, own in parts.items():
            values[qid] |= {f"lost by {name}": value for name, value in own.items()}
    (target / "metrics.json").unlink(missing_ok=True)  # written last: a half-replaced evaluation has none
    (target / f"{comparison.RANKINGS}.gz").unlink(missing_ok=True)  # of train.py
    measures.write_rankings(target / comparison.RANKINGS, rankings, tag=label(args, spec) if not plain else "dense")
    measures.write_per_query(target / "per_query.jsonl", values)
    write_json(target / "metrics.json", result)
    with plots.optional(target):
        ranks = retrieval.first_ranks(rankings, collection.qrels_dict(args.split))
        plots.ranks(target / "ranks.png", ranks, depth=args.ranked, title=f"{spec} on {target.name}")
        if args.by:
            plots.slices(target / "slices.png", result["by"], measure=args.measure, title=f"{spec} on {target.name}")
        if parts:
            plots.error_split(target / "error_split.png", result["error_split"], title=f"{spec} on {target.name}")
    print_result(args, spec, result)
    print(f"\nwrote   {target}/: run.trec, metrics.json, per_query.jsonl, figures ({clock.total():.1f} s)")
    return result | {"home": home, "data": data, "qid": collection.queries.text(qrels.queries[0]), "trained": folder}


def recorded_of(folder):
    """config.json of a run; {} of a folder with an encoder alone, or of none."""
    return run.recorded(folder) if folder and (pathlib.Path(folder) / "config.json").exists() else {}


def by_mteb(args):
    """What mteb says of a run's encoder, printed and written beside the run's evaluations."""
    folder = pathlib.Path(args.run)
    tasks = [task for task in args.mteb if task != "own"]
    if "own" in args.mteb:
        for data in args.data or [None]:
            _, collection = collection_of(data, folder, cut=SPLITS[1:], strict=args.strict)
            tasks.append(mteb_bridge.as_task(collection, args.split))
    found = dict(mteb_bridge.evaluate(folder / "encoder", tasks, device=pick_device(args.device)))
    for task, values in found.items():
        print(f"{task}: " + "  ".join(f"{name} {values[name]:.5f}" for name in mteb_bridge.SHOWN if name in values))
    path = folder / "eval" / "mteb.json"
    write_json(path, {"revision": fingerprint_of(folder), "tasks": found})
    print(f"\nwrote   {path}")


def label(args, spec):
    """What searched, as part of a folder's name."""
    name = pathlib.Path(spec).stem if args.run_file else spec.replace("runs/", "")
    name += f"-dim{args.dim}" if args.dim else ""
    name += f"-reranked-by-{pathlib.Path(args.rerank).name}" if args.rerank else ""
    return re.sub(r"[^\w.+=-]+", "_", name)


def print_result(args, spec, result):
    """The means, what ties and holes leave open, and the tables that were asked for."""
    mean, ties, holes = result["mean"], result["ties"], result["holes"]
    match = result["self_match"]
    print(
        f"{result['collection']}: "
        + "  ".join(f"{name} {value:.4f}" for name, value in mean.items())
        + f"  | {result['queries']} queries, self matches {match['found']} ({match['policy']}), "
        f"unjudged@10 {result['unjudged@10']:.1%}"
    )
    print(
        "   ties leave open    "
        + "  ".join(f"{name} {low:.4f} to {high:.4f}" for name, (low, high) in ties.items() if high - low > 5e-5)
        if any(high - low > 5e-5 for low, high in ties.values())
        else "   ties leave nothing open"
    )
    low, high = holes["ndcg@10"]
    if high < 1:  # where a query has one judged doc it is 1 whatever is found
        filled = f"ndcg@10 would be {high:.4f} instead of {low:.4f}"
        print(f"   if every unjudged doc among the ten best were relevant, {filled}")
    if result["nothing_found"]:
        print(f"   {result['nothing_found']:.1%} of the queries found nothing, and count as 0")
    if result["nothing_found"] > measures.VOID:
        print(
            f"warning: {spec} finds nothing for {result['nothing_found']:.0%} of the queries: as a baseline it is void"
        )
    if "by" in result:
        print(f"\n   {result['by']['field']:32}{'queries':>9}{args.measure:>10}   95 % interval")
        for row in result["by"]["rows"]:
            print(
                f"   {process.one_line(row['value'], 30):32}{row['queries']:>9,}{row['mean']:>10.4f}   "
                f"{row['low']:.4f} to {row['high']:.4f}"
            )
    if "error_split" in result:
        lost = "  ".join(f"{name} {value:+.4f}" for name, value in result["error_split"].items())
        print(f"   of the {1 - mean['ndcg@10']:.4f} that ndcg@10 lacks to 1, lost by: {lost}")
    if "start" in result:
        print(forgetting_line(result))
    if "verdict" in result:
        print(f"verdict: {result['verdict']}")


def verdict_of(args, spec, result):
    """retrieval.verdict() of what was measured, with what the run found of itself mixed with BM25."""
    mixed, both = None, f"{spec}+bm25"
    if not (args.run_file or args.rerank or args.dim) and pathlib.Path(spec).is_dir():
        found = mixed_of(spec, result, args.measure)
        mixed = (*retrieval.mixing(found, cli.quoted(both), args.measure), both)
    name = f"{spec}, reranked by {args.rerank}," if args.rerank else spec
    return retrieval.verdict(result["against_bm25"], args.measure, spec=spec, name=name, mixed=mixed)


def mixed_of(spec, result, measure):
    """What a run found of itself mixed with BM25, if that was on this split, by this measure; else None."""
    path = pathlib.Path(spec) / "summary.json"
    if not path.is_file():
        return None
    recorded = run.recorded(spec)
    judged = recorded.get("inputs", {}).get("judgements", {}).get(result["split"])
    same = judged == result["judgements"] and recorded["args"].get("select") == measure
    return read_json(path).get("mixed") if same else None


def start_of(args, collection, values, self_match):
    """The numbers of the encoder that a run started from, and a test against it; None for one from scratch.

    Of a model that was read otherwise than its files say, only the flags that did so.
    """
    recorded = run.recorded(args.run)["args"]
    source = recorded.get("encoder", "static")
    if source == "static" or recorded.get("from_config"):
        return None
    two = ["encoder"] * (readers.JOIN in source)
    if unlike := two + [name for name in READ_OTHERWISE if recorded.get(name) not in (None, False)]:
        return {"encoder": source, "unlike": unlike}
    retriever, _ = retrieval.open_with(args, source, collection, device=pick_device(args.device))
    rankings, _ = retrieval.search_split(retriever, collection, args.split, args.ranked, self_match=self_match)
    before, result = retrieval.measured(rankings, collection, args.split)
    test = significance.by_query(values, before, args.measure)
    return {"encoder": source, "mean": result["mean"], "test": test}


def forgetting_line(result):
    """What a run's start says of its training on one collection."""
    if result["start"] is None:
        return "   it started from random weights: there is nothing to forget"
    if unlike := result["start"].get("unlike"):
        flags = ", ".join(f"--{name}" for name in unlike)
        return f"   not measured before training: the model was read with {flags}, of which its own files know nothing"
    test, start = result["start"]["test"], result["start"]
    return (
        f"   before training ({start['encoder']}): "
        + "  ".join(f"{name} {value:.4f}" for name, value in start["mean"].items())
        + f"; training changed it by {test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}], "
        f"p {test['p']:.4f} over queries"
    )


def collections_table(rows):
    """A row for each collection, and the mean over them."""
    names = list(measures.MEASURES)
    lines = [f"{'collection':24}{'queries':>9}" + "".join(f"{name:>12}" for name in names)]
    for row in rows:
        lines.append(f"{row['collection']:24}{row['queries']:>9,}" + "".join(f"{row['mean'][n]:>12.4f}" for n in names))
    means = [float(np.mean([row["mean"][name] for row in rows])) for name in names]
    return "\n".join([*lines, f"{'mean':24}{'':>9}" + "".join(f"{mean:>12.4f}" for mean in means)])


def split_errors(args, collection, retriever, self_match):
    """{qid: what of nDCG@10 is lost by model, quantisation, search} of a run's index."""
    if not isinstance(retriever, faiss_index.FaissRetriever):
        raise BadInput(f"--error_split: {args.run} has no index of {collection.name}; make it with build_index.py")
    meta = faiss_index.read_meta(pathlib.Path(args.run) / "index" / collection.name)
    vectors = Sharded.open(collection.docs, retriever.encoder, precision=meta["precision"], max_ram=1e9).vectors
    rows = collection.split(args.split).queries
    q_emb = embed_texts(retriever.encoder, collection.queries.view(rows), "query")
    dropping = self_match == "drop"
    depth = 10 + exact.TIES + (measures.spare(collection, args.split) if dropping else 0)
    best = tune.exact_best(vectors, q_emb, depth)[:2]
    qids, rankings = [collection.queries.ids[row] for row in rows], []
    for hits in checks.hits_of(retriever.index, q_emb, best, depth):
        hits = measures.without_itself(collection, args.split, hits, depth)[0] if dropping else hits
        rankings.append(measures.to_rankings(qids, collection.docs.ids, hits.rows, hits.scores))
    return checks.error_split(rankings, collection.qrels_dict(args.split))


def next_step(row):
    """What one would do now: ask what the verdict says to search with, and set it beside BM25."""
    flag = f" --data {cli.quoted(row['data'])}" if row["data"] else ""
    home = row["home"]
    if not row["trained"]:
        return print(
            f"next    python evaluate.py --compare runs/R {cli.quoted(home)}     # R: a run that was measured on "
            f"{row['collection']}-{row['split']}"
        )
    question, trained = cli.quoted(process.one_line(row["qid"], 200)), cli.quoted(row["trained"])
    recorded = recorded_of(row["trained"]).get("args", {}).get("data", "python")
    bm25_flag = flag or ("" if recorded == "python" else f" --data {cli.quoted(recorded)}")
    use, ask = row.get("use"), f"--run {trained}{flag}"
    if use not in (None, row["retriever"]):  # BM25, or both mixed
        ask = f"--retriever {cli.quoted(use)}{bm25_flag if use == 'bm25' else flag}"
    bm25 = cli.quoted(f"runs/{row['collection']}-bm25")
    print(
        f"next    python rag_demo.py {ask} {question}\n"
        f"        python evaluate.py --retriever bm25{bm25_flag} && "
        f"python evaluate.py --compare {cli.quoted(home)} {bm25}"
    )


def compare(args):
    """Statistics, tables and figures of a comparison by train.py, or of runs that were measured alike."""
    names = [pathlib.Path(path).name for path in args.compare]
    if len(args.compare) == 1:
        out = folder = pathlib.Path(args.compare[0])
        more, gone = {}, analysis.runs_are_gone(folder)
        if gone:  # what was published stays as it is
            out = run.run_path(args.name or folder.name)
            only_values(args, f"{folder} without its runs")
        else:
            more = of_collection(args, [folder])
        asked = [args.measure, *(["against", args.against] if args.against else [])]
        if asked != [run.recorded(folder)["args"].get("select", args.measure)]:
            out /= comparison.slug(" ".join(asked))  # the table that train.py wrote stays
        print(report.of_comparison(folder, measure=args.measure, against=args.against, out=out, **more))
        wins = ", wins.md" if more and (out / "wins.md").exists() else ""
        return print(f"wrote   {out}/ablation.json, .md, .tex and .csv, plots/{wins}")
    if all((pathlib.Path(path) / "ablation.json").exists() for path in args.compare):
        only_values(args, "a comparison over collections")
        out = run.run_path(args.name or f"{names[0]}-and-{len(names) - 1}-more")
        print(report.over_collections(args.compare, out, measure=args.measure, against=args.against))
        return print(f"wrote   {out}/: collections.json, collections.md, forest.png")
    if args.against:
        raise BadInput("--against chooses among the arms of comparisons: --compare runs/ABLATION")
    folder = run.run_path(args.name or "-vs-".join(names))
    for evaluation, runs in comparison.read_evaluations(args.compare).items():
        more = of_collection(args, [pathlib.Path(path) for path in args.compare], evaluation)
        print(f"\n{report.write(folder / evaluation, runs, measure=args.measure, name=evaluation, **more)}")
    print(f"wrote   {folder}/: ablation.json, .md, .tex and .csv, plots/ and wins.md for each evaluation in common")


def only_values(args, what):
    """BadInput for flags that want a collection, of what is only values of the standard measures by query."""
    if args.by or args.data:
        raise BadInput(f"--{'by' if args.by else 'data'} plays no part with {what}: only values by query are read")
    if args.measure not in measures.MEASURES:
        raise BadInput(f"--measure {args.measure}: {what} has {', '.join(measures.MEASURES)} alone")


def of_collection(args, folders, evaluation=None):
    """{collection, split, by} of what was measured, for what per-query values alone do not say; {} if it is not there.

    evaluation: of run folders, as COLLECTION-SPLIT; of a comparison's folder it is the test split.
    """
    needed = bool(args.by) or args.measure not in measures.MEASURES
    trained = [folder for folder in folders if (folder / "config.json").exists()]
    split = evaluation.rpartition("-")[2] if evaluation else "test"
    try:
        if not (args.data or trained):
            raise BadInput("none of these runs says on which collection: --data")
        if args.data[1:]:
            raise BadInput("--compare takes one collection: what the runs were measured on")
        cut = [each for each in SPLITS[1:] if each == split]
        _, collection = collection_of(args.data[0] if args.data else None, trained and trained[0], cut=cut)
        if evaluation and collection.name != evaluation.rpartition("-")[0]:
            raise BadInput(f"{evaluation} is not of {collection.name}")
        judged = comparison.judgements_of(folders[0], evaluation or f"{collection.name}-{split}")
        if judged != collection.judgements(split):
            raise BadInput(f"{collection.name} is another than {folders[0]} was measured on")
    except BadInput as error:
        if needed:
            raise
        print(f"note: no wins.md, which shows docs: {error}")
        return {}
    return {"collection": collection, "split": split, "by": args.by}


if __name__ == "__main__":
    process.cli(main)

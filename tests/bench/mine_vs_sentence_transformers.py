"""Time mining from ready vectors against sentence-transformers' mine_hard_negatives; compare what both find.

    pip install "sentence-transformers[train]"                        # the peer; nothing else here needs it
    python tests/bench/mine_vs_sentence_transformers.py               # synthetic clusters
    python tests/bench/mine_vs_sentence_transformers.py --data FOLDER --encoder runs/R/encoder
    python tests/bench/mine_vs_sentence_transformers.py --peers faiss --out bench.json
    python tests/bench/mine_vs_sentence_transformers.py --ours_only   # without the peer

Both sides get the same vectors, texts and options, embed nothing, and mine for the train queries: 10
negatives of the best 100, compared with the least of several positives' scores as the peer has it. Each
runs in a process of its own, in turn; the medians count. The peer is measured with both of its searches, its
results as n-tuples: of its formats the fastest.

ours     vectors in memory -> rows of docs; "+ file" writes them as JSONL besides
peer     texts and dataset in memory before the clock starts -> a dataset of texts
memory   the peak of a process minus that of one that only imports and loads the vectors. The peer wants all
         texts in memory: they count as its own. Not measured with --ours_only, which stays in one process

Then, for each option, in how many queries both sides have the same set of negatives, copies of a text being
one, and why the others differ. A query counts once, for the first of the reasons that holds; what the peer
has is taken from its labelled lists, for n-tuples leave out each query with fewer negatives than wanted.
"""

import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import faiss
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process, run  # noqa: E402
from lib.cli import (
    COUNT,
    SEED,  # noqa: E402
)
from lib.data.beir import write_qrels  # noqa: E402
from lib.data.collection import load_collection  # noqa: E402
from lib.data.tokens import tokenize  # noqa: E402
from lib.files import BadInput, read_json, write_json  # noqa: E402
from lib.model.encoder import embed, load_encoder  # noqa: E402
from lib.negatives import filters  # noqa: E402
from lib.negatives.candidates import Candidates, overfetch  # noqa: E402
from lib.negatives.files import records_of, write_negatives  # noqa: E402
from lib.negatives.sampling import parse_sampling  # noqa: E402
from lib.negatives.sampling import slots as slots_of_sampling  # noqa: E402
from lib.search import exact  # noqa: E402

DEPTH, CANDIDATES = 10, 100  # negatives of a query, and the best docs from which they are taken
CLOSE = 2e-6  # scores that may change places by rounding
PEERS = ("torch", "faiss")  # the peer's searches
OPTIONS = ("top 10", "relative_margin", "absolute_margin", "max_score", "range_min", "range_min+margin")
WORDS = 60  # of a synthetic doc


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--data", help="collection, as in train.py; default: a synthetic one")
    add("--encoder", metavar="FOLDER", help="whose vectors: a run's encoder or a sentence-transformers model")
    add("--docs", type=COUNT, default=20_000, help="size of the synthetic corpus; a query for every 10")
    add("--dim", type=COUNT, default=128, help="of the synthetic vectors")
    add("--seed", type=SEED, default=0, help="of the synthetic collection")
    add("--max_score", type=cli.number(float), default=0.5, help="limit of that option")
    add("--range_min", type=COUNT, default=10, help="best candidates to skip")
    add("--options", nargs="+", choices=OPTIONS, default=OPTIONS, metavar="OPTION", help=f"any of {', '.join(OPTIONS)}")
    add("--peers", nargs="+", choices=PEERS, default=PEERS, help="searches of the peer")
    add("--ours_only", action="store_true", help="our side alone, in this process: needs no peer")
    add("--times_only", action="store_true", help="do not compare what both sides find")
    add("--repeats", type=COUNT, default=3, help="times that each side runs, in turn")
    add("--threads", type=COUNT, help="of each process; default: what the libraries choose")
    add("--out", metavar="F", help="JSON file for all numbers, settings and versions")
    add("--side", choices=("prepare", "base", "ours", *PEERS, "lists", "explain"), help="set by the first process")
    add("--case", default="", help="an option, or whose base; of one process, set by the first")
    add("--work", help="of one process; set by the first")
    args = parser.parse_args()
    if bool(args.data) != bool(args.encoder):
        raise BadInput("--data and --encoder come together")
    return args


def options_of(args):
    """{option: (our filters, the peer's arguments)} of --options."""
    window, skip = f"window:{args.range_min + 1}:{CANDIDATES}", {"range_min": args.range_min}
    known = {
        "top 10": ([], {}),
        "relative_margin": (["percpos:0.95"], {"relative_margin": 0.05}),
        "absolute_margin": (["margin:0.05"], {"absolute_margin": 0.05}),
        "max_score": ([f"max_score:{args.max_score}"], {"max_score": args.max_score}),
        "range_min": ([window], skip),
        "range_min+margin": ([window, "percpos:0.95"], skip | {"relative_margin": 0.05}),
    }
    return {option: known[option] for option in args.options}


def main():
    args = parse_args()
    if args.side:
        return print(json.dumps(take(args.side, args.case, args, pathlib.Path(args.work))))
    sides = ("ours", *(() if args.ours_only else args.peers))
    versions = run.versions() | ({} if args.ours_only else peer_versions())
    if args.threads:
        os.environ |= {"OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
        faiss.omp_set_num_threads(args.threads)  # the variables are for the processes to come
    found = None
    with tempfile.TemporaryDirectory() as work:
        if not args.data:
            os.environ["HARDNEG_CACHE"] = str(pathlib.Path(work) / "cache")  # nobody needs it later
        facts = measure(args, work, "prepare")
        for part in (facts, versions):
            print(", ".join(f"{name} {value}" for name, value in part.items()), flush=True)
        bases = (
            {} if args.ours_only else {side: measure(args, work, "base", side)["peak_mb"] for side in ("ours", "peer")}
        )
        print_heading()
        rows = [race(args, work, option, sides, bases) for option in args.options]
        if not args.ours_only and not args.times_only:
            measure(args, work, "lists")
            found = measure(args, work, "explain")
            print_agreement(found)
    if args.out:
        numbers = {"base_mb": bases, "rows": rows, "agreement": found}
        write_json(args.out, {"settings": vars(args) | facts, "versions": versions} | numbers)
        print(f"\nwrote   {args.out}")


def take(side, case, args, work):
    """What one side returns, in the process that it is measured in."""
    if side in ("prepare", "explain"):
        return {"prepare": prepare, "explain": explain}[side](args, work)
    return {"base": base, "ours": ours}.get(side, functools.partial(peer, side))(case, args, work)


def peer_versions():
    """{package: version} of the peer; BadInput where it is missing.

    It is not imported: on Linux a process's peak counts for those that it starts.
    """
    try:
        return {name: importlib.metadata.version(name) for name in ("sentence-transformers", "datasets")}
    except importlib.metadata.PackageNotFoundError as error:
        raise BadInput(
            f'the peer is missing ({error}): pip install "sentence-transformers[train]", or measure '
            "our side alone with --ours_only"
        ) from None


class DidNotFinish(Exception):
    """A side of the peer ended with an error, as where memory is too small for its search."""


def measure(args, work, side, case=""):
    """What take() returns in a process of its own or, if our side is alone, in this one."""
    if args.ours_only:
        return take(side, case, args, pathlib.Path(work))
    command = [sys.executable, *sys.argv, "--side", side, "--case", case, "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and side in PEERS:
        raise DidNotFinish((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    if done.returncode:
        sys.exit(f"{side} {case} ended with code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def print_heading():
    """The first line of the table."""
    print(
        f"\n{'option':18}{'side':8}{'s':>9}{'+ file s':>10}{'ratio':>8}{'base MB':>10}{'inputs':>8}"
        f"{'peak':>8}{'own':>8}{'ratio':>8}"
    )


def race(args, work, option, sides, bases):
    """Race the sides over one option, print a line for each, return the numbers."""
    results = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in list(results):
            try:
                results[side].append(measure(args, work, side, option))
            except DidNotFinish as error:
                print(f"{option:18}{side:8} did not finish: {error}", flush=True)
                del results[side]
    row = {"option": option}
    for side in results:
        r = {key: statistics.median(result[key] for result in results[side]) for key in results[side][0]}
        row[side], first = r, row.get("ours", r)
        written, memory = f"{r['file_seconds']:.2f}" if side == "ours" else "", ""
        if bases:
            r["base_mb"] = bases["ours" if side == "ours" else "peer"]
            r["own_mb"] = r["peak_mb"] - r["base_mb"]
            memory = (
                f"{r['base_mb']:>10,.0f}{r['inputs_mb']:>8,.0f}{r['peak_mb']:>8,.0f}{r['own_mb']:>8,.0f}"
                f"{r['own_mb'] / max(1, first['own_mb']):>8.1f}"
            )
        ratio = r["seconds"] / first["seconds"]
        print(f"{option:18}{side:8}{r['seconds']:>9.2f}{written:>10}{ratio:>8.1f}{memory}", flush=True)
    return row


# ----------------------------------------------------------------------------------------------- inputs


def prepare(args, work):
    """Write the vectors of the train queries and the docs, and the collection if it is synthetic."""
    if not args.data:
        write_synthetic(args, work)
    collection = load(args, work)
    if args.data:
        encoder = load_encoder(args.encoder)
        for kind, texts, rows in (
            ("query", collection.queries, collection.split("train").queries),
            ("doc", collection.docs, None),
        ):
            np.save(work / f"{kind}.npy", embed(encoder, tokenize(texts, encoder, kind), rows))
    groups, (q_emb, d_emb) = collection.docs.groups, load_vectors(work)
    qrels = collection.split("train")
    per_query = np.bincount(np.repeat(np.arange(len(qrels)), np.diff(qrels.indptr))[qrels.grades >= 1])
    return {
        "data": args.data or "synthetic",
        "docs": len(d_emb),
        "dim": d_emb.shape[1],
        "copies": int((groups != np.arange(len(groups))).sum()),
        "train_queries": len(q_emb),
        "several_positives": int((per_query > 1).sum()),
        "most_positives": int(per_query.max()),
        "cores": os.cpu_count(),
        "threads": faiss.omp_get_max_threads(),
    }


def write_synthetic(args, work):
    """Clusters of docs with copies among them, queries near 1 to 3 docs of a cluster, some of equal text.

    A query's positives beyond the first are drawn from its cluster. Each 50th doc is a copy of the one
    before. Each 40th query has its text and vector, but another positive, in the split test.
    """
    generator = np.random.default_rng(args.seed)
    n, count = args.docs, args.docs // 10
    centres = generator.standard_normal((max(1, n // 50), args.dim), dtype=np.float32)
    cluster = generator.integers(len(centres), size=n)

    def noisy(vectors, share):
        noise = generator.standard_normal(vectors.shape, dtype=np.float32)
        mixed = vectors + share * noise
        return mixed / np.linalg.norm(mixed, axis=1, keepdims=True)

    docs = noisy(centres[cluster], 0.8)
    copies = np.arange(50, n, 50)
    docs[copies], cluster[copies] = docs[copies - 1], cluster[copies - 1]
    texts = [" ".join(f"w{word}" for word in generator.integers(5000, size=WORDS)) for _ in range(n)]
    for row in copies:
        texts[row] = texts[row - 1]
    first = generator.integers(n, size=count)
    queries = noisy(docs[first] * np.float32(args.dim**0.5), 0.8)
    members = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[members], np.arange(len(centres) + 1))
    judged = {"train": {}, "test": {}}
    for i, doc in enumerate(first):
        own = members[starts[cluster[doc]] : starts[cluster[doc] + 1]]
        more = generator.choice(own, size=min(len(own), generator.integers(3)), replace=False)
        judged["train"][f"q{i}"] = {f"d{d}": 1 for d in (doc, *more)}
        if i % 40 == 0:
            judged["test"][f"t{i}"] = {f"d{generator.choice(own)}": 1}
    folder = work / "collection"
    folder.mkdir(parents=True)
    records = {
        "corpus": [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)],
        "queries": [{"_id": f"q{i}", "text": f"question {i}"} for i in range(count)]
        + [{"_id": qid, "text": f"question {qid[1:]}"} for qid in judged["test"]],
    }
    for name, rows in records.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for split, grades in judged.items():
        write_qrels(folder / "qrels" / f"{split}.tsv", grades)
    np.save(work / "doc.npy", docs)
    np.save(work / "query.npy", queries)


def load(args, work):
    """The collection of --data, or the synthetic one."""
    return load_collection(args.data or str(work / "collection"))


def load_vectors(work):
    """(vectors of the train queries, of the docs)."""
    return np.load(work / "query.npy"), np.load(work / "doc.npy")


def base(case, args, work):
    """Peak memory of a process that imports what a side needs and loads the vectors."""
    if case == "peer":
        import datasets  # noqa: F401
        from sentence_transformers import SentenceTransformer  # noqa: F401
        from sentence_transformers.util import mine_hard_negatives  # noqa: F401
    vectors = load_vectors(work)
    return {"peak_mb": run.peak_rss_mb(), "vectors": [len(part) for part in vectors]}


# ------------------------------------------------------------------------------------------------ sides


def ours(case, args, work):
    """Seconds and memory of our side; its negatives go to ours-OPTION.npy."""
    q_emb, d_emb = load_vectors(work)
    collection = load(args, work)
    inputs = run.peak_rss_mb()
    wanted = [filters.parse_filter(text) for text in options_of(args)[case][0]]
    begin = time.perf_counter()
    found = mine(collection, q_emb, d_emb, least=True)
    found = choose(filters.apply(found, wanted, collection))
    seconds, peak = time.perf_counter() - begin, run.peak_rss_mb()
    write_negatives(work / "ours.jsonl", {}, records_of(found, collection))
    file_seconds = time.perf_counter() - begin
    np.save(work / f"ours-{case}.npy", found.docs)
    return {"seconds": seconds, "file_seconds": file_seconds, "inputs_mb": inputs, "peak_mb": peak}


def mine(collection, q_emb, d_emb, *, least=False, count=CANDIDATES, spare=0):
    """`count` Candidates of each train query, out of a search that fetches `spare` docs more than that wants.

    least: the least of several positives' scores is kept, not the best.
    """
    rows = collection.split("train").queries
    hits = exact.search(q_emb, d_emb, count + overfetch(collection) + spare, collection.known_docs(rows))
    found = Candidates.from_hits(collection, rows, hits, source="dense", count=count)
    of_positives = np.where(collection.known_docs(rows) >= 0, hits.known, np.nan)
    return dataclasses.replace(found, positive=np.fmin.reduce(of_positives, axis=1)) if least else found


def choose(candidates):
    """The best DEPTH of each list, as mine_negatives.py takes them."""
    return candidates.take(slots_of_sampling(parse_sampling("top"), candidates, DEPTH, seed=0, epoch=0))


def peer(search, case, args, work):
    """Seconds and memory of the peer's search; `lists` writes what it finds to peer-OPTION.json instead."""
    import datasets
    import sentence_transformers as st
    import torch
    from sentence_transformers.util import mine_hard_negatives

    class Ready(st.SentenceTransformer):
        """A model whose vectors are there already: those of the different texts, in order."""

        def encode_document(self, texts, **others):
            assert len(texts) == len(d_emb)
            return d_emb

        def encode_query(self, texts, **others):
            assert len(texts) == len(q_emb)
            return q_emb

        def get_embedding_dimension(self):
            return d_emb.shape[1]

    q_emb, d_emb = load_vectors(work)
    collection = load(args, work)
    qrels, groups = collection.split("train"), collection.docs.groups
    d_emb = only(d_emb, np.flatnonzero(groups == np.arange(len(groups))))
    q_emb = only(q_emb, np.unique(collection.queries.groups[qrels.queries], return_index=True)[1])
    texts, q_texts = collection.docs.texts(), collection.queries.texts(qrels.queries)
    pairs = [(i, doc) for i in range(len(qrels)) for doc in qrels.positives(i)]
    dataset = datasets.Dataset.from_dict(
        {"query": [q_texts[i] for i, _ in pairs], "doc": [texts[doc] for _, doc in pairs]}
    )
    model = Ready(modules=[torch.nn.Identity()], device="cpu")
    inputs = run.peak_rss_mb()

    def find(option, search, output_format):
        return mine_hard_negatives(
            dataset,
            model,
            corpus=texts,
            num_negatives=DEPTH,
            range_max=CANDIDATES,
            use_faiss=search == "faiss",
            verbose=False,
            output_format=output_format,
            **options_of(args)[option][1],
        )

    if search != "lists":
        begin = time.perf_counter()
        find(case, search, "n-tuple")
        return {"seconds": time.perf_counter() - begin, "inputs_mb": inputs, "peak_mb": run.peak_rss_mb()}
    row_of = {text: row for row, text in enumerate(texts)}
    for option in options_of(args):
        found, by_text = find(option, args.peers[0], "labeled-list"), {}
        for query, docs in zip(found["query"], found["doc"]):
            by_text[query] = [row_of[text] for text in docs[1:]]
        write_json(work / f"peer-{option}.json", [by_text.get(text, []) for text in q_texts])


def only(vectors, rows):
    """The vectors of some rows; as they are where that is all of them, in order."""
    whole = len(rows) == len(vectors) and (rows == np.arange(len(rows))).all()
    return vectors if whole else vectors[np.sort(rows)]


# -------------------------------------------------------------------------------------------- agreement

REASONS = ("other positives", "range_min", "beyond range_max", "copies", "ties", "unexplained")
MEANING = {
    "other positives": "we exclude, and take the least score of, positives of all splits and of queries with "
    "equal text; the peer knows the pairs that it is given",
    "range_min": "the peer skips the best that pass the filters; our window skips ranks of the mined list",
    "beyond range_max": "the peer filters range_max + most positives less those found, so a query with fewer "
    "positives has candidates of lower ranks; ours end there",
    "copies": "copies of a text take places in what we fetch; the peer searches each text once",
    "ties": f"scores within {CLOSE:g} of each other or of the limit: rounding, order, and we drop what "
    "equals positive minus margin",
}


def explain(args, work):
    """Per option: how many queries have the same set on both sides, and why the others differ."""
    collection, (q_emb, d_emb) = load(args, work), load_vectors(work)
    groups, qrels = collection.docs.groups, collection.split("train")
    most = int(max(np.bincount(np.repeat(np.arange(len(qrels)), np.diff(qrels.indptr))[qrels.grades >= 1])))
    candidates = mine(collection, q_emb, d_emb, least=True)
    by_max = mine(collection, q_emb, d_emb)
    # ranks far enough down, with room for the copies among them
    extent = CANDIDATES + most
    deep = mine(collection, q_emb, d_emb, least=True, count=extent, spare=extent)
    known = [set(docs[docs >= 0].tolist()) for docs in collection.known_docs(qrels.queries)]
    given = [set(groups[qrels.positives(i)].tolist()) for i in range(len(qrels))]
    scores = exact.pair_scores(q_emb, d_emb, pad(given))  # (n, P)
    least = np.nanmin(scores, axis=1)
    # the peer fetches CANDIDATES + most docs, its positives among them
    above = (deep.scores[:, None] > scores[..., None]).sum(2) + (scores[:, None] > scores[..., None]).sum(2)
    last = extent - ((above < extent) & ~np.isnan(scores)).sum(1)
    deep = deep.keep((deep.docs >= 0) & (deep.ranks <= last[:, None]))
    result = {}
    for option, (texts, peers) in options_of(args).items():
        wanted = [filters.parse_filter(text) for text in texts]
        docs = np.load(work / f"ours-{option}.npy")
        own, lists = sets(docs, groups), read_json(work / f"peer-{option}.json")
        theirs = [set(groups[found].tolist()) if found else set() for found in lists]
        again = sets(choose(filters.apply(candidates, wanted, collection)).docs, groups)
        assert again == own, "what was timed is not what is explained"
        under_max = sets(choose(filters.apply(by_max, wanted, collection)).docs, groups)
        later = None
        if len(wanted) > 1:  # the filters first, then the window, which counts what they left
            left = filters.apply(deep, wanted[1:], collection)
            skipped = left.keep((left.docs >= 0) & (np.arange(left.docs.shape[1]) >= args.range_min))
            later = sets(choose(skipped).docs, groups)
        reasons = dict.fromkeys(REASONS, 0)
        for i in np.flatnonzero([a != b for a, b in zip(own, theirs)]):
            why = reason(
                collection,
                i,
                own[i],
                theirs[i],
                later and later[i],
                known[i] - given[i],
                abs(least[i] - candidates.positive[i]) > CLOSE,
                limit(candidates.positive[i], peers),
                candidates,
                deep,
                q_emb,
                d_emb,
            )
            reasons[why] += 1
        result[option] = {
            "queries": len(qrels),
            "same": sum(a == b for a, b in zip(own, theirs)),
            "reasons": reasons,
            "short_ours": sum(len(a) < DEPTH for a in own),
            "short_peer": sum(len(b) < DEPTH for b in theirs),
            "empty_peer": sum(not b for b in theirs),
            "max_is_min": sum(a == b for a, b in zip(own, under_max)),
            "same_by_max": sum(a == b for a, b in zip(under_max, theirs)),
        }
    return result


def reason(collection, i, own, theirs, later, others, other_least, limit, candidates, deep, q_emb, d_emb):
    """The first of REASONS that holds for query i, whose sets differ. others: positives that only we know."""
    groups = collection.docs.groups
    scores = {doc: float(q_emb[i] @ d_emb[doc]) for doc in own ^ theirs | theirs | others}
    lowest = min((scores[doc] for doc in theirs), default=-np.inf)
    if any(scores[doc] >= lowest for doc in others) or other_least and limit is not None:
        return "other positives"
    gone, come = (sorted(scores[doc] for doc in part) for part in (own - theirs, theirs - own))
    swapped = len(gone) == len(come) and np.allclose(gone, come, rtol=0, atol=CLOSE)
    if swapped or limit is not None and any(abs(scores[doc] - limit) < CLOSE for doc in own ^ theirs):
        return "ties"
    if later is not None and later == theirs:
        return "range_min"
    rank = dict(zip(groups[deep.docs[i]].tolist(), deep.ranks[i].tolist()))
    there = set(groups[candidates.docs[i][candidates.docs[i] >= 0]].tolist())
    if any(rank.get(doc, CANDIDATES + 1) > CANDIDATES for doc in theirs):
        return "beyond range_max" if later is None else "range_min"
    return "copies" if theirs - there else "unexplained"


def limit(positive, options):
    """The score that an option allows at most, None for no limit."""
    if "relative_margin" in options:
        return positive - abs(positive) * options["relative_margin"]
    if "absolute_margin" in options:
        return positive - options["absolute_margin"]
    return options.get("max_score")


def sets(docs, groups):
    """Of each row the set of text groups; -1 is none."""
    return [set(groups[row[row >= 0]].tolist()) for row in docs]


def pad(lists):
    """(n, longest) doc rows, -1 behind the end of a list."""
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    for i, found in enumerate(lists):
        docs[i, : len(found)] = sorted(found)
    return docs


def print_agreement(found):
    """The share of equal sets, the reasons, and what ends short."""
    print(
        f"\n{'option':18}{'queries':>9}{'same':>9}"
        + "".join(f"{name:>18}" for name in REASONS)
        + f"{'short: ours':>13}{'peer':>8}{'of those empty':>16}{'max = min':>11}{'same, max':>11}"
    )
    for option, r in found.items():
        print(
            f"{option:18}{r['queries']:>9,}{r['same'] / r['queries']:>9.2%}"
            + "".join(f"{r['reasons'][name]:>18,}" for name in REASONS)
            + f"{r['short_ours']:>13,}{r['short_peer']:>8,}{r['empty_peer']:>16,}"
            + f"{r['max_is_min'] / r['queries']:>11.2%}{r['same_by_max'] / r['queries']:>11.2%}"
        )
    held = {name for r in found.values() for name, count in r["reasons"].items() if count}
    for name, text in MEANING.items():
        if name in held:
            print(f"{name}: {text}")
    print(
        "short: fewer than wanted; the peer's n-tuples leave those queries out. max = min: the share of "
        "queries with the same set compared with the best positive, as we do; same, max: that agrees with the peer"
    )


if __name__ == "__main__":
    process.cli(main)

"""Time mining from ready vectors against sentence-transformers' mine_hard_negatives; compare what both find.

    pip install "sentence-transformers[train]"                        # the peer; nothing else here needs it
    python tests/bench/mine_vs_sentence_transformers.py               # synthetic clusters
    python tests/bench/mine_vs_sentence_transformers.py --data FOLDER --encoder runs/R/encoder
    python tests/bench/mine_vs_sentence_transformers.py --peers faiss --out bench.json

Both sides get the same vectors, texts and options, embed nothing, and mine for the train queries: 10
negatives of the best 100, --positive min as the peer has it. Each runs in a process of its own, in turn; the
medians count. The peer is measured with both of its searches, its results as n-tuples: of its formats the
fastest.

ours     vectors in memory -> rows of docs; "+ file" writes them as JSONL besides
peer     texts and dataset in memory before the clock starts -> a dataset of texts
memory   the peak of a process minus that of one that only imports and loads the vectors. The peer wants all
         texts in memory: they count as its own

Then, for each option, in how many queries both sides have the same set of negatives, copies of a text being
one, and why the others differ. A query counts once, for the first of the reasons that holds; what the peer
has is taken from its labelled lists, for n-tuples leave out each query with fewer negatives than wanted.
"""
import importlib.metadata
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import data, filters, formats, index, negatives, run  # noqa: E402
from lib.run import BadInput  # noqa: E402

DEPTH, POOL = 10, 100  # negatives of a query, and the candidates from which they are taken
CLOSE = 2e-6           # scores that may change places by rounding
ROUNDS = ("ours", "torch", "faiss")
WORDS = 60             # of a synthetic doc


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument
    add("--data", help="collection, as in train.py; default: a synthetic one")
    add("--encoder", metavar="FOLDER", help="whose vectors: a run's encoder or a sentence-transformers model")
    add("--docs", type=int, default=20_000, help="size of the synthetic corpus; a query for every 10")
    add("--dim", type=int, default=128, help="of the synthetic vectors")
    add("--seed", type=int, default=0, help="of the synthetic collection")
    add("--max_score", type=float, default=0.5, help="limit of that option")
    add("--range_min", type=int, default=10, help="best candidates to skip")
    add("--peers", nargs="+", choices=ROUNDS[1:], default=ROUNDS[1:], help="searches of the peer")
    add("--repeats", type=int, default=3, help="times that each side runs, in turn")
    add("--threads", type=int, help="of each process; default: what the libraries choose")
    add("--out", metavar="F", help="JSON file for all numbers, settings and versions")
    add("--side", choices=("prepare", "base", "lists", "explain", *ROUNDS), help="set by the first process")
    add("--option", help="of one process; set by the first")
    add("--work", help="of one process; set by the first")
    args = parser.parse_args()
    if bool(args.data) != bool(args.encoder):
        raise BadInput("--data and --encoder come together")
    return args


def options_of(args):
    """{option: (our filters, the peer's arguments)}."""
    window, skip = f"window:{args.range_min + 1}:{POOL}", {"range_min": args.range_min}
    return {"top 10": ([], {}),
            "relative_margin": (["percpos:0.95"], {"relative_margin": 0.05}),
            "absolute_margin": (["margin:0.05"], {"absolute_margin": 0.05}),
            "max_score": ([f"max_score:{args.max_score}"], {"max_score": args.max_score}),
            "range_min": ([window], skip),
            "range_min+margin": ([window, "percpos:0.95"], skip | {"relative_margin": 0.05})}


def main():
    args = parse_args()
    if args.side:
        work = pathlib.Path(args.work)
        side = {"prepare": prepare, "base": base, "explain": explain, "ours": ours}.get(args.side, peer)
        return print(json.dumps(side(args, work)))
    try:  # not imported: on Linux a process's peak counts for those that it starts
        peers = {name: importlib.metadata.version(name) for name in ("sentence-transformers", "datasets")}
    except importlib.metadata.PackageNotFoundError as error:
        sys.exit(f'error: the peer is missing ({error}): pip install "sentence-transformers[train]"')
    versions = run.versions() | peers
    with tempfile.TemporaryDirectory() as work:
        facts = in_a_process(args, work, "prepare")
        for part in (facts, versions):
            print(", ".join(f"{name} {value}" for name, value in part.items()), flush=True)
        bases = {side: in_a_process(args, work, "base", side)["peak_mb"] for side in ("ours", "peer")}
        rows = [measure(args, work, option, bases) for option in options_of(args)]
        in_a_process(args, work, "lists")
        found = in_a_process(args, work, "explain")
    print_agreement(found)
    if args.out:
        run.write_json(args.out, {"settings": facts | vars(args), "versions": versions, "base_mb": bases,
                                  "rows": rows, "agreement": found})
        print(f"\nwrote   {args.out}")


def in_a_process(args, work, side, option=None):
    """What a side returned in a process of its own."""
    command = [sys.executable, *sys.argv, "--side", side, "--work", str(work)]
    environ = dict(os.environ)
    if args.threads:
        environ |= {"OMP_NUM_THREADS": str(args.threads), "RAYON_NUM_THREADS": str(args.threads)}
    if not args.data:
        environ["HARDNEG_CACHE"] = str(pathlib.Path(work) / "cache")  # nobody needs it later
    done = subprocess.run([*command, *(["--option", option] if option else [])], capture_output=True,
                          text=True, env=environ)
    if done.returncode:
        sys.exit(f"{side} {option or ''} ended with code {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(args, work, option, bases):
    """Race the sides over one option, print a line for each, return the numbers."""
    if option == next(iter(options_of(args))):
        print(f"\n{'option':18}{'side':8}{'s':>9}{'+ file s':>10}{'ratio':>8}{'base MB':>10}{'inputs':>8}"
              f"{'peak':>8}{'own':>8}{'ratio':>8}")
    sides = ("ours", *args.peers)
    results = {side: [] for side in sides}
    for _ in range(args.repeats):
        for side in sides:
            results[side].append(in_a_process(args, work, side, option))
    row = {"option": option}
    for side in sides:
        r = {key: statistics.median(result[key] for result in results[side]) for key in results[side][0]}
        r["base_mb"] = bases["ours" if side == "ours" else "peer"]
        r["own_mb"] = r["peak_mb"] - r["base_mb"]
        row[side] = r
        first = row["ours"]
        written = f"{r['file_seconds']:.2f}" if side == "ours" else ""
        print(f"{option:18}{side:8}{r['seconds']:>9.2f}{written:>10}{r['seconds'] / first['seconds']:>8.1f}"
              f"{r['base_mb']:>10,.0f}{r['inputs_mb']:>8,.0f}{r['peak_mb']:>8,.0f}{r['own_mb']:>8,.0f}"
              f"{r['own_mb'] / max(1, first['own_mb']):>8.1f}", flush=True)
    return row


# ----------------------------------------------------------------------------------------------- inputs

def prepare(args, work):
    """Write the vectors of the train queries and the docs, and the collection if it is synthetic."""
    if not args.data:
        write_synthetic(args, work)
    collection = load(args, work)
    if args.data:
        from lib import model
        encoder = model.load_encoder(args.encoder)
        for kind, texts, rows in (("query", collection.queries, collection.split("train").queries),
                                  ("doc", collection.docs, None)):
            vectors = model.embed(encoder, data.tokenize(texts, encoder, kind), rows)
            np.save(work / f"{kind}.npy", vectors)
    groups, (q_emb, d_emb) = collection.docs.groups, load_vectors(work)
    qrels = collection.split("train")
    per_query = np.bincount(np.repeat(np.arange(len(qrels)), np.diff(qrels.indptr))[qrels.grades >= 1])
    import faiss
    return {"data": args.data or "synthetic", "docs": len(d_emb), "dim": d_emb.shape[1],
            "copies": int((groups != np.arange(len(groups))).sum()), "train_queries": len(q_emb),
            "several_positives": int((per_query > 1).sum()), "most_positives": int(per_query.max()),
            "cores": os.cpu_count(), "threads": faiss.omp_get_max_threads()}


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
    queries = noisy(docs[first] * np.float32(args.dim ** 0.5), 0.8)
    members = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[members], np.arange(len(centres) + 1))
    lines = {"train": [], "test": []}
    for i, doc in enumerate(first):
        own = members[starts[cluster[doc]]:starts[cluster[doc] + 1]]
        more = generator.choice(own, size=min(len(own), generator.integers(3)), replace=False)
        lines["train"] += [(f"q{i}", f"d{d}") for d in dict.fromkeys((doc, *more))]
        if i % 40 == 0:
            lines["test"].append((f"t{i}", f"d{generator.choice(own)}"))
    lines["test"] = lines["test"] or [("t0", "d0")]
    folder = work / "collection"
    (folder / "qrels").mkdir(parents=True)
    records = {"corpus": [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)],
               "queries": [{"_id": f"q{i}", "text": f"question {i}"} for i in range(count)]
               + [{"_id": qid, "text": f"question {qid[1:]}"} for qid, _ in lines["test"]]}
    for name, rows in records.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    for split, pairs in lines.items():
        text = "".join(f"{qid}\t{doc_id}\t1\n" for qid, doc_id in pairs)
        (folder / "qrels" / f"{split}.tsv").write_text("\t".join(formats.QRELS_HEADER) + "\n" + text)
    np.save(work / "doc.npy", docs)
    np.save(work / "query.npy", queries)


def load(args, work):
    """The collection of --data, or the synthetic one."""
    return data.load_collection(args.data or str(work / "collection"))


def load_vectors(work):
    """(vectors of the train queries, of the docs)."""
    return np.load(work / "query.npy"), np.load(work / "doc.npy")


def base(args, work):
    """Peak memory of a process that imports what a side needs and loads the vectors."""
    if args.option == "peer":
        import datasets  # noqa: F401
        from sentence_transformers import SentenceTransformer  # noqa: F401
        from sentence_transformers.util import mine_hard_negatives  # noqa: F401
    vectors = load_vectors(work)
    return {"peak_mb": run.peak_rss_mb(), "vectors": [len(part) for part in vectors]}


# ------------------------------------------------------------------------------------------------ sides

def ours(args, work):
    """Seconds and memory of our side; its negatives go to ours-OPTION.npy."""
    q_emb, d_emb = load_vectors(work)
    collection = load(args, work)
    rows, inputs = collection.split("train").queries, run.peak_rss_mb()
    wanted = [filters.parse_filter(text) for text in options_of(args)[args.option][0]]
    begin = time.perf_counter()
    found = negatives.from_vectors(collection, rows, q_emb, d_emb, source="dense", depth=POOL, positive="min",
                                   search=index.exact_search)
    found = choose(filters.apply(found, wanted, collection))
    seconds, peak = time.perf_counter() - begin, run.peak_rss_mb()
    formats.write_negatives(work / "ours.jsonl", {}, negatives.records(found, collection))
    file_seconds = time.perf_counter() - begin
    np.save(work / f"ours-{args.option}.npy", found.docs)
    return {"seconds": seconds, "file_seconds": file_seconds, "inputs_mb": inputs, "peak_mb": peak}


def choose(candidates):
    """The best DEPTH of each list, as mine_negatives.py takes them."""
    slots = filters.choose(candidates, DEPTH, filters.parse_choice("top"), seed=0, epoch=0)
    return negatives.take(candidates, np.sort(np.where(slots < 0, 1 << 30, slots), axis=1))


def peer(args, work):
    """Seconds and memory of the peer; the side `lists` writes what it finds to peer-OPTION.json instead."""
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
    dataset = datasets.Dataset.from_dict({"query": [q_texts[i] for i, _ in pairs],
                                          "doc": [texts[doc] for _, doc in pairs]})
    model = Ready(modules=[torch.nn.Identity()], device="cpu")
    inputs = run.peak_rss_mb()

    def find(option, search, output_format):
        return mine_hard_negatives(dataset, model, corpus=texts, num_negatives=DEPTH, range_max=POOL,
                                   use_faiss=search == "faiss", verbose=False, output_format=output_format,
                                   **options_of(args)[option][1])
    if args.side != "lists":
        begin = time.perf_counter()
        find(args.option, args.side, "n-tuple")
        return {"seconds": time.perf_counter() - begin, "inputs_mb": inputs, "peak_mb": run.peak_rss_mb()}
    row_of = {text: row for row, text in enumerate(texts)}
    for option in options_of(args):
        found, by_text = find(option, args.peers[0], "labeled-list"), {}
        for query, docs in zip(found["query"], found["doc"]):
            by_text[query] = [row_of[text] for text in docs[1:]]
        run.write_json(work / f"peer-{option}.json", [by_text.get(text, []) for text in q_texts])


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
                        "positives has candidates of lower ranks; ours end at the pool",
    "copies": "copies of a text take places in what we fetch; the peer searches each text once",
    "ties": f"scores within {CLOSE:g} of each other or of the limit: rounding, order, and we drop what "
            "equals positive minus margin"}


def explain(args, work):
    """Per option: how many queries have the same set on both sides, and why the others differ."""
    collection, (q_emb, d_emb) = load(args, work), load_vectors(work)
    rows, groups, qrels = collection.split("train").queries, collection.docs.groups, collection.split("train")
    most = int(max(np.bincount(np.repeat(np.arange(len(qrels)), np.diff(qrels.indptr))[qrels.grades >= 1])))

    def mined(positive, depth, extra=0):
        def search(q, d, k):
            return index.exact_search(q, d, k + extra)
        return negatives.from_vectors(collection, rows, q_emb, d_emb, source="dense", depth=depth,
                                      positive=positive, search=search)
    pool, by_max = mined("min", POOL), mined("max", POOL)
    # ranks far enough down, with room for the copies among them
    deep = mined("min", POOL + most, extra=POOL + most)
    known = [set(docs[docs >= 0].tolist()) for docs in collection.known_docs(rows)]
    given = [set(groups[qrels.positives(i)].tolist()) for i in range(len(qrels))]
    scores = index.pair_scores(q_emb, d_emb, pad(given))                                # (n, P)
    least = np.nanmin(scores, axis=1)
    # the peer fetches POOL + most docs, its positives among them
    above = (deep.scores[:, None] > scores[..., None]).sum(2) + (scores[:, None] > scores[..., None]).sum(2)
    extent = POOL + most - ((above < POOL + most) & ~np.isnan(scores)).sum(1)
    deep = filters.keep(deep, (deep.docs >= 0) & (deep.ranks <= extent[:, None]))
    result = {}
    for option, (texts, peers) in options_of(args).items():
        wanted = [filters.parse_filter(text) for text in texts]
        docs = np.load(work / f"ours-{option}.npy")
        mine, theirs = sets(docs, groups), [set(groups[found].tolist()) if found else set() for found in
                                           run.read_json(work / f"peer-{option}.json")]
        again = sets(choose(filters.apply(pool, wanted, collection)).docs, groups)
        assert again == mine, "what was timed is not what is explained"
        under_max = sets(choose(filters.apply(by_max, wanted, collection)).docs, groups)
        later = None
        if len(wanted) > 1:  # the filters first, then the window, which counts what they left
            left = filters.apply(deep, wanted[1:], collection)
            skipped = filters.keep(left, (left.docs >= 0) & (np.arange(left.docs.shape[1]) >= args.range_min))
            later = sets(choose(skipped).docs, groups)
        reasons = dict.fromkeys(REASONS, 0)
        for i in np.flatnonzero([a != b for a, b in zip(mine, theirs)]):
            reasons[reason(collection, i, mine[i], theirs[i], later and later[i], known[i] - given[i],
                           abs(least[i] - pool.positive[i]) > CLOSE, limit(pool.positive[i], peers),
                           pool, deep, q_emb, d_emb)] += 1
        n = len(rows)
        result[option] = {
            "queries": n, "same": sum(a == b for a, b in zip(mine, theirs)),
            "reasons": reasons, "short_ours": sum(len(a) < DEPTH for a in mine),
            "short_peer": sum(len(b) < DEPTH for b in theirs), "empty_peer": sum(not b for b in theirs),
            "max_is_min": sum(a == b for a, b in zip(mine, under_max)),
            "same_by_max": sum(a == b for a, b in zip(under_max, theirs))}
    return result


def reason(collection, i, mine, theirs, later, others, other_least, limit, pool, deep, q_emb, d_emb):
    """The first of REASONS that holds for query i, whose sets differ. others: positives that only we know."""
    groups = collection.docs.groups
    scores = {doc: float(q_emb[i] @ d_emb[doc]) for doc in mine ^ theirs | theirs | others}
    lowest = min((scores[doc] for doc in theirs), default=-np.inf)
    if any(scores[doc] >= lowest for doc in others) or other_least and limit is not None:
        return "other positives"
    gone, come = (sorted(scores[doc] for doc in part) for part in (mine - theirs, theirs - mine))
    swapped = len(gone) == len(come) and np.allclose(gone, come, rtol=0, atol=CLOSE)
    if swapped or limit is not None and any(abs(scores[doc] - limit) < CLOSE for doc in mine ^ theirs):
        return "ties"
    if later is not None and later == theirs:
        return "range_min"
    rank = dict(zip(groups[deep.docs[i]].tolist(), deep.ranks[i].tolist()))
    there = set(groups[pool.docs[i][pool.docs[i] >= 0]].tolist())
    if any(rank.get(doc, POOL + 1) > POOL for doc in theirs):
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
        docs[i, :len(found)] = sorted(found)
    return docs


def print_agreement(found):
    """The share of equal sets, the reasons, and what ends short."""
    print(f"\n{'option':18}{'queries':>9}{'same':>9}" + "".join(f"{name:>18}" for name in REASONS)
          + f"{'short: ours':>13}{'peer':>8}{'of those empty':>16}{'max = min':>11}{'same, max':>11}")
    for option, r in found.items():
        print(f"{option:18}{r['queries']:>9,}{r['same'] / r['queries']:>9.2%}"
              + "".join(f"{r['reasons'][name]:>18,}" for name in REASONS)
              + f"{r['short_ours']:>13,}{r['short_peer']:>8,}{r['empty_peer']:>16,}"
              + f"{r['max_is_min'] / r['queries']:>11.2%}{r['same_by_max'] / r['queries']:>11.2%}")
    held = {name for r in found.values() for name, count in r["reasons"].items() if count}
    for name, text in MEANING.items():
        if name in held:
            print(f"{name}: {text}")
    print("short: fewer than wanted; the peer's n-tuples leave those queries out. max = min: the share of "
          "queries with the same set under our default --positive max; same, max: that agrees with the peer")


if __name__ == "__main__":
    run.cli(main)

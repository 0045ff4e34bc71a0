"""Mine synthetic collections of growing size in bounded memory: seconds and peak memory by size, and a kill.

    python tests/bench/mining_scale.py                                   # 10,000 to 1,000,000 docs
    python tests/bench/mining_scale.py --docs 10000 100000 --max_ram 0.25 --out scale.png
    python tests/bench/mining_scale.py --docs 100000 --kill 5 14 16      # SIGKILL there, continue, compare

Each size runs in a process of its own, so that peak memory is its own. Docs are random unit vectors; a
query is a doc, its positive, plus noise, and there is one for every 10 docs. What is timed is what
mine_negatives.py does with the source dense: vectors in files (lib/search/sharded.py), exact search of
--candidates + 1 docs a query in --max_ram, positives and copies dropped. The negatives go to npz files,
committed one by one like the rest; no JSON is written. Queries grow with the docs, so that the search grows
with their square.

--kill ends the process of the first size once that many npz files are committed, again for each number, and
then lets it finish. Its negatives and all other files must equal those of a run that was left alone, byte
for byte, and what was committed before a kill must not have been written again.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import faiss
import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process, rng, run  # noqa: E402
from lib.cli import (
    ABOVE_0,
    COUNT,
    SEED,  # noqa: E402
)
from lib.data.collection import Collection  # noqa: E402
from lib.data.qrels import Qrels  # noqa: E402
from lib.data.texts import TextView  # noqa: E402
from lib.files import BadInput, cache_dir, fingerprint  # noqa: E402
from lib.negatives.candidates import Candidates, overfetch  # noqa: E402
from lib.search.sharded import ROWS, Sharded, cached_search, make  # noqa: E402

STAGES = ("vectors", "hits", "negatives")  # folders of a size, in the order in which they are made
DOCS_A_QUERY = 10
NOISE = 0.5  # length of what is added to a positive's unit vector


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--docs", nargs="+", type=COUNT, default=[10_000, 100_000, 1_000_000], help="sizes of the corpus")
    add("--dim", type=COUNT, default=128, help="of the vectors")
    add("--candidates", type=COUNT, default=30, help="negatives of each query")
    add("--max_ram", type=ABOVE_0, default=0.5, metavar="GB", help="memory for the search, beside its result")
    add("--seed", type=SEED, default=0, help="of vectors and positives")
    add("--folder", help="where the files go, in a folder for each size, and stay; default: a temporary one")
    add("--kill", nargs="+", type=COUNT, metavar="FILES", help="SIGKILL once so many files are committed")
    add("--out", metavar="PNG", help="figure of seconds and peak memory by size")
    add("--into", help="of one process; set by the first")
    args = parser.parse_args()
    if min(args.docs) < DOCS_A_QUERY:
        raise BadInput(f"--docs {min(args.docs)}: at least {DOCS_A_QUERY}, for a query")
    return args


def main():
    args = parse_args()
    if args.into:
        os.environ["HARDNEG_CACHE"] = args.into  # where the library keeps its files
        return mine(args, args.docs[0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(args.folder or temporary)
        if args.kill:
            return kill_and_compare(args, args.docs[0], folder)
        rows = [finish(start(args, docs, folder / f"{docs}")) for docs in args.docs]
    print_table(args, rows)
    if args.out:
        draw(pathlib.Path(args.out), rows, args)
        print(f"\nwrote   {args.out}")


# -------------------------------------------------------------------------------------------- one process


def mine(args, n):
    """Make the vectors, search, drop the positives, write the negatives; print what it took as JSON."""
    clock, before = run.Clock(), run.peak_rss_mb()
    begun = len(committed(cache_dir()))
    collection = planted(n, seed=args.seed)
    qrels = collection.split("train")
    with clock("vectors"):
        encoder = RowEncoder(qrels.docs, dim=args.dim, seed=args.seed)
        retriever = Sharded.open(collection.docs, encoder, precision="fp32", max_ram=args.max_ram * 1e9)
        encoder.doc_vectors = retriever.vectors
    with clock("search"):
        hits = cached_search(
            retriever,
            collection.queries.view(qrels.queries),
            args.candidates + overfetch(collection),
            collection.known_docs(qrels.queries),
        )
    with clock("negatives"):
        mined = Candidates.from_hits(collection, qrels.queries, hits, source="dense", count=args.candidates)

        def write(number):
            part = slice(number * ROWS, (number + 1) * ROWS)
            return {"docs": mined.docs[part], "scores": mined.scores[part], "positive": mined.positive[part]}

        key = fingerprint(retriever.fingerprint, args.candidates)
        make(cache_dir("negatives", key), -(-len(qrels) // ROWS), write, desc="negatives")
    size = sum(path.stat().st_size for path in cache_dir().rglob("*.npz"))
    numbers = {
        "docs": n,
        "queries": len(qrels),
        "total_s": clock.total(),
        "peak_mb": run.peak_rss_mb(),
        "start_mb": before,
        "disk_mb": size / 1e6,
        "found_at_start": begun,
        "threads": faiss.omp_get_max_threads(),
        "positives": mined.dropped["positive"],
        "shortest": int((mined.docs >= 0).sum(1).min()),
    }
    print(json.dumps(numbers | {f"{name}_s": spent for name, spent in clock.spent.items()}))


class Numbers:
    """What mining asks of texts, without texts: row i reads "i", and none is a copy of another."""

    def __init__(self, n):
        self.groups, self.fingerprint = np.arange(n, dtype=np.int32), fingerprint("numbers", n)
        self.path = pathlib.Path("numbers")

    def __len__(self):
        return len(self.groups)

    def text(self, row):
        """The text of one row."""
        return str(row)

    def texts(self, rows):
        """The texts of rows."""
        return list(map(str, rows))

    def view(self, rows):
        """The texts of rows, made when they are asked for."""
        return TextView(self, rows)


class RowEncoder:
    """An encoder of Numbers: a doc is a random unit vector, a query its positive's plus noise, of length 1.

    What is random depends on seed, kind and the first row of a block: a block is a file of vectors.
    """

    kind = "static"

    block_tokens = ROWS  # embed() takes 8 times as many tokens at once, and a text is one token
    training = False

    def __init__(self, positives, *, dim, seed):
        self.positives, self.dim, self.seed = positives, dim, seed
        self.fingerprint = fingerprint("rows", positives, dim, seed)
        self.doc_vectors = None  # what embeds the queries reads those of their positives

    def eval(self):
        """Nothing to switch off."""

    def train(self, mode):
        """Nothing to switch on."""

    def token_key(self, kind):
        """Identifies how texts become tokens."""
        return fingerprint("rows", kind)

    def tokenize(self, texts, kind):
        """A text's number is its only token."""
        return np.array(texts, dtype=np.int32), np.arange(len(texts) + 1), None

    def __call__(self, batch):
        """A TokenBatch of n consecutive rows -> (n, dim)."""
        rows = batch.ids.numpy()
        generator = np.random.default_rng(rng.stream("mining_scale", batch.kind, self.seed, int(rows[0])))
        vectors = unit(generator.standard_normal((len(rows), self.dim), dtype=np.float32))
        if batch.kind == "query":
            vectors = unit(self.doc_vectors.take(self.positives[rows]) + NOISE * vectors)
        return torch.from_numpy(vectors)


def planted(n, *, seed):
    """A collection of n docs in which each query has one positive."""
    count = n // DOCS_A_QUERY
    positives = (rng.uniform("planted", seed, np.arange(count)) * n).astype(np.int32)
    ones = np.ones(count, dtype=np.int32)
    qrels = Qrels(np.arange(count, dtype=np.int32), np.arange(count + 1), positives, ones)
    made = Collection("synthetic", Numbers(n), Numbers(count), {"train": qrels}, "")
    made.__dict__["itself"] = np.zeros(count + 1, dtype=np.int64), np.empty(0, dtype=np.int32)  # no doc is a query
    return made


def unit(vectors):
    """Vectors of length 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


# ------------------------------------------------------------------------------------------ from outside


def start(args, docs, folder):
    """The process that mines one size."""
    options = [f"--{name}={getattr(args, name)}" for name in ("dim", "candidates", "max_ram", "seed")]
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--docs", str(docs), *options]
    return subprocess.Popen([*command, "--into", str(folder)], stdout=subprocess.PIPE, text=True)


def finish(process):
    """What mine() printed."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(output.splitlines()[-1])


def committed(folder):
    """{path in the folder: (when it was written, its inode)} of the npz files that are whole."""
    paths = [path for stage in STAGES for path in sorted((folder / stage).rglob("*.npz"))]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def kill_and_compare(args, docs, folder):
    """Kill the process at each number of files, let it finish, compare with a run that was left alone."""
    whole, cut = folder / f"{docs}-whole", folder / f"{docs}-cut"
    if cut.exists() or whole.exists():
        raise BadInput(f"--folder {folder} holds such a run already; choose another")
    alone = finish(start(args, docs, whole))
    wanted = committed(whole)
    print(f"left alone: {len(wanted)} files in {alone['total_s']:.1f} s")
    kept = {}
    for count in sorted(args.kill):
        process = start(args, docs, cut)
        while len(committed(cut)) < count and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            raise BadInput(f"--kill {count}: the process ended before that; there are {len(wanted)} files")
        now = committed(cut)
        check(all(now[name] == stamp for name, stamp in kept.items()), "a committed file was written again")
        kept = now
        counts = (f"{sum(name.startswith(stage + '/') for name in kept)} {stage}" for stage in STAGES)
        print(f"killed at {len(kept)} files: {', '.join(counts)}", flush=True)
    last = finish(start(args, docs, cut))
    now = committed(cut)
    check(last["found_at_start"] == len(kept), "the last start did not find what was committed")
    check(all(now[name] == stamp for name, stamp in kept.items()), "a committed file was written again")
    check(now.keys() == wanted.keys(), "other files than those of the run that was left alone")
    different = [name for name in wanted if (whole / name).read_bytes() != (cut / name).read_bytes()]
    check(not different, f"files differ: {', '.join(different)}")
    litter = [path for path in cut.rglob("*") if path.is_file() and path.name.startswith(".")]
    print(
        f"finished in {last['total_s']:.1f} s more: {len(kept)} files kept as they were, "
        f"{len(now) - len(kept)} made, all {len(now)} equal byte for byte"
    )
    print(f"beside them {len(litter)} half-written files, {sum(os.path.getsize(p) for p in litter):,} bytes")


def check(holds, message):
    """End with a message unless something holds."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def print_table(args, rows):
    """One line a size."""
    print(
        f"dim {args.dim}, candidates {args.candidates}, --max_ram {args.max_ram} GB, {rows[0]['threads']} threads, "
        f"{os.cpu_count()} cores\n"
    )
    columns = (
        "docs",
        "queries",
        "vectors s",
        "search s",
        "negatives s",
        "total s",
        "docs/s",
        "queries/s",
        "Mpairs/s",
        "start MB",
        "peak MB",
        "vectors MB",
        "disk MB",
    )
    print("".join(f"{name:>{max(11, len(name) + 2)}}" for name in columns))
    for r in rows:
        pairs = r["docs"] * r["queries"]
        values = (
            f"{r['docs']:,}",
            f"{r['queries']:,}",
            f"{r['vectors_s']:.1f}",
            f"{r['search_s']:.1f}",
            f"{r['negatives_s']:.1f}",
            f"{r['total_s']:.1f}",
            f"{r['docs'] / r['total_s']:,.0f}",
            f"{r['queries'] / r['total_s']:,.0f}",
            f"{pairs / r['search_s'] / 1e6:,.0f}",
            f"{r['start_mb']:,.0f}",
            f"{r['peak_mb']:,.0f}",
            f"{4e-6 * args.dim * (r['docs'] + r['queries']):,.0f}",
            f"{r['disk_mb']:,.0f}",
        )
        print("".join(f"{value:>{max(11, len(name) + 2)}}" for name, value in zip(columns, values)))
    for r in rows:
        print(
            f"{r['docs']:,} docs: {r['positives'] / r['queries']:.1%} of the positives were found and "
            f"dropped; the shortest list holds {r['shortest']} of {args.candidates}"
            + (f"; {r['found_at_start']} files were there already" if r["found_at_start"] else "")
        )
    print(
        "start = after the imports; vectors s = of the docs, those of the queries are made as they are searched; "
        "vectors MB = what all vectors at once would take; docs/s and queries/s of the total; Mpairs/s = scores of "
        "the search, in millions"
    )


def draw(path, rows, args):
    """Seconds and peak memory by size, both axes logarithmic."""
    from lib.evaluation import plots  # here, so that the processes that are measured stay free of it

    sizes = [r["docs"] for r in rows]
    series = (
        {"total": "total_s", "search": "search_s", "making the vectors": "vectors_s"},
        {"peak": "peak_mb", "after the imports": "start_mb"},
    )
    with plots.figure(path, 2, width=4.8) as axes:
        for ax, lines in zip(axes, series):
            for (label, key), (colour, mark, dash) in zip(lines.items(), plots.STYLES):
                ax.plot(sizes, [r[key] for r in rows], color=colour, marker=mark, linestyle=dash, label=label)
        colour, mark, dash = plots.STYLES[2]
        axes[1].plot(
            sizes,
            [4e-6 * args.dim * (r["docs"] + r["queries"]) for r in rows],
            color=colour,
            marker=mark,
            linestyle=dash,
            label="all vectors at once",
        )
        for ax, label in zip(axes, ("seconds", "MB")):
            ax.set(xscale="log", yscale="log", xlabel="docs", ylabel=label)
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ax.set_xticks([], minor=True)
            ax.legend(frameon=False)
        axes[0].set_title(f"mining {args.candidates} negatives, a query for {DOCS_A_QUERY} docs")
        axes[1].set_title(f"memory, --max_ram {args.max_ram} GB")


if __name__ == "__main__":
    process.cli(main)

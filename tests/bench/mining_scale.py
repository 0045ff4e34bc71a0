"""Mine synthetic collections of growing size in bounded memory: seconds and peak memory by size, and a kill.

    python tests/bench/mining_scale.py                                   # 10,000 to 1,000,000 docs
    python tests/bench/mining_scale.py --docs 10000 100000 --max_ram 0.25 --out scale.png
    python tests/bench/mining_scale.py --docs 100000 --kill 5 14 16      # SIGKILL there, continue, compare

Each size runs in a process of its own, so that peak memory is its own. Docs are random unit vectors; a
query is a doc, its positive, plus noise, and there is one for every 10 docs. What is timed is what
mine_negatives.py does with the source dense: vectors in files (lib/shards.py), exact search of --pool + 1
docs a query in --max_ram, positives and copies dropped. The negatives go to npz files, committed one by one
like the rest; no JSON is written. Queries grow with the docs, so that the search grows with their square.

--kill ends the process of the first size once that many files are committed, again for each number, and
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

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import data, negatives, run, shards  # noqa: E402
from lib.run import BadInput  # noqa: E402

STAGES = ("docs", "queries", "found", "negatives")  # folders of a size, in the order in which they are made
DOCS_A_QUERY = 10
NOISE = 0.5  # length of what is added to a positive's unit vector


def parse_args():
    parser = run.parser(__doc__)
    add = parser.add_argument
    add("--docs", nargs="+", type=int, default=[10_000, 100_000, 1_000_000], help="sizes of the corpus")
    add("--dim", type=int, default=128, help="of the vectors")
    add("--pool", type=int, default=30, help="negatives of each query")
    add("--max_ram", type=float, default=0.5, metavar="GB", help="memory for the search, beside its result")
    add("--seed", type=int, default=0, help="of vectors and positives")
    add("--folder", help="where the files go, in a folder for each size, and stay; default: a temporary one")
    add("--kill", nargs="+", type=int, metavar="FILES", help="SIGKILL once so many files are committed")
    add("--out", metavar="PNG", help="figure of seconds and peak memory by size")
    add("--into", help="of one process; set by the first")
    args = parser.parse_args()
    if min(args.docs) < DOCS_A_QUERY:
        raise BadInput(f"--docs {min(args.docs)}: at least {DOCS_A_QUERY}, for a query")
    return args


def main():
    args = parse_args()
    if args.into:
        return mine(args, args.docs[0], pathlib.Path(args.into))
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

def mine(args, n, folder):
    """Make the vectors, search, drop the positives, write the negatives; print what it took as JSON."""
    clock, before = run.Clock(), run.peak_rss_mb()
    begun = sum(len(list((folder / stage).glob("*.npz"))) for stage in STAGES)
    collection = planted(n, seed=args.seed)
    qrels = collection.split("train")
    with clock("vectors"):
        docs = shards.Vectors(folder / "docs", n, args.dim, lambda rows: unit(normal(args, "docs", rows)),
                              desc="docs")

        def query(rows):
            return unit(docs.take(qrels.docs[rows]) + NOISE * unit(normal(args, "queries", rows)))
        queries = shards.Vectors(folder / "queries", len(qrels), args.dim, query, desc="queries")
    with clock("search"):
        found = shards.search(folder / "found", queries, docs, collection.known_docs(qrels.queries),
                              args.pool + negatives.overfetch(collection), max_ram=args.max_ram * 1e9,
                              desc="searching")
    with clock("negatives"):
        mined = negatives.from_search(collection, qrels.queries, found, source="dense", depth=args.pool)

        def write(number):
            part = slice(number * shards.ROWS, (number + 1) * shards.ROWS)
            return {"docs": mined.docs[part], "scores": mined.scores[part], "positive": mined.positive[part]}
        shards.make(folder / "negatives", -(-len(qrels) // shards.ROWS), write, desc="negatives")
    lengths = (mined.docs >= 0).sum(1)
    size = sum(path.stat().st_size for stage in STAGES for path in (folder / stage).glob("*.npz"))
    print(json.dumps({
        "docs": n, "queries": len(qrels), "total_s": clock.total(), "peak_mb": run.peak_rss_mb(),
        "start_mb": before, "disk_mb": size / 1e6, "found_at_start": begun,
        "threads": faiss.omp_get_max_threads(), "positives": mined.dropped["positive"],
        "shortest": int(lengths.min())} | {f"{name}_s": spent for name, spent in clock.spent.items()}))


class Rows:
    """Texts without text: all that mining asks of them is how many there are and which are equal."""

    def __init__(self, n):
        self.groups = np.arange(n, dtype=np.int32)

    def __len__(self):
        return len(self.groups)


def planted(n, *, seed):
    """A collection of n docs in which each query has one positive."""
    count = n // DOCS_A_QUERY
    positives = (run.uniform("planted", seed, np.arange(count)) * n).astype(np.int32)
    qrels = data.Qrels(np.arange(count, dtype=np.int32), np.arange(count + 1), positives,
                       np.ones(count, dtype=np.int32))
    return data.Collection("synthetic", Rows(n), Rows(count), {"train": qrels}, "")


def normal(args, kind, rows):
    """(len(rows), dim) normal numbers of one file's rows, from seed, kind and the first row alone."""
    generator = np.random.default_rng(run.stream("mining_scale", kind, args.seed, int(rows[0])))
    return generator.standard_normal((len(rows), args.dim), dtype=np.float32)


def unit(vectors):
    """Vectors of length 1, in place."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


# ------------------------------------------------------------------------------------------ from outside

def start(args, docs, folder):
    """The process that mines one size."""
    options = [f"--{name}={getattr(args, name)}" for name in ("dim", "pool", "max_ram", "seed")]
    command = [sys.executable, str(pathlib.Path(__file__).resolve()), "--docs", str(docs), *options]
    return subprocess.Popen([*command, "--into", str(folder)], stdout=subprocess.PIPE, text=True)


def finish(process):
    """What mine() printed."""
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(output.splitlines()[-1])


def committed(folder):
    """{stage/file: (when it was written, its inode)} of the files that are whole."""
    paths = [path for stage in STAGES for path in sorted((folder / stage).glob("[0-9]*.npz"))]
    return {f"{path.parent.name}/{path.name}": (path.stat().st_mtime_ns, path.stat().st_ino)
            for path in paths}


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
    print(f"finished in {last['total_s']:.1f} s more: {len(kept)} files kept as they were, "
          f"{len(now) - len(kept)} made, all {len(now)} equal byte for byte")
    print(f"beside them {len(litter)} half-written files, {sum(os.path.getsize(p) for p in litter):,} bytes")


def check(holds, message):
    """End with a message unless something holds."""
    if not holds:
        sys.exit(f"FAILED: {message}")


def print_table(args, rows):
    """One line a size."""
    print(f"dim {args.dim}, pool {args.pool}, --max_ram {args.max_ram} GB, {rows[0]['threads']} threads, "
          f"{os.cpu_count()} cores\n")
    columns = ("docs", "queries", "vectors s", "search s", "negatives s", "total s", "docs/s", "queries/s",
               "Mpairs/s", "start MB", "peak MB", "vectors MB", "disk MB")
    print("".join(f"{name:>{max(11, len(name) + 2)}}" for name in columns))
    for r in rows:
        pairs = r["docs"] * r["queries"]
        values = (f"{r['docs']:,}", f"{r['queries']:,}", f"{r['vectors_s']:.1f}", f"{r['search_s']:.1f}",
                  f"{r['negatives_s']:.1f}", f"{r['total_s']:.1f}", f"{r['docs'] / r['total_s']:,.0f}",
                  f"{r['queries'] / r['total_s']:,.0f}", f"{pairs / r['search_s'] / 1e6:,.0f}",
                  f"{r['start_mb']:,.0f}", f"{r['peak_mb']:,.0f}",
                  f"{4e-6 * args.dim * (r['docs'] + r['queries']):,.0f}", f"{r['disk_mb']:,.0f}")
        print("".join(f"{value:>{max(11, len(name) + 2)}}" for name, value in zip(columns, values)))
    for r in rows:
        print(f"{r['docs']:,} docs: {r['positives'] / r['queries']:.1%} of the positives were found and "
              f"dropped; the shortest list holds {r['shortest']} of {args.pool}"
              + (f"; {r['found_at_start']} files were there already" if r["found_at_start"] else ""))
    print("start = after the imports; vectors MB = what all vectors at once would take; docs/s and queries/s "
          "of the total; Mpairs/s = scores of the search, in millions")


def draw(path, rows, args):
    """Seconds and peak memory by size, both axes logarithmic."""
    from lib import plots  # here, so that the processes that are measured stay free of it
    sizes = [r["docs"] for r in rows]
    series = ({"total": "total_s", "search": "search_s", "making the vectors": "vectors_s"},
              {"peak": "peak_mb", "after the imports": "start_mb"})
    with plots.figure(path, 2, width=4.8) as axes:
        for ax, lines in zip(axes, series):
            for (label, key), (colour, mark, dash) in zip(lines.items(), plots.STYLES):
                ax.plot(sizes, [r[key] for r in rows], color=colour, marker=mark, linestyle=dash, label=label)
        colour, mark, dash = plots.STYLES[2]
        axes[1].plot(sizes, [4e-6 * args.dim * (r["docs"] + r["queries"]) for r in rows], color=colour,
                     marker=mark, linestyle=dash, label="all vectors at once")
        for ax, label in zip(axes, ("seconds", "MB")):
            ax.set(xscale="log", yscale="log", xlabel="docs", ylabel=label)
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ax.set_xticks([], minor=True)
            ax.legend(frameon=False)
        axes[0].set_title(f"mining {args.pool} negatives, a query for {DOCS_A_QUERY} docs")
        axes[1].set_title(f"memory, --max_ram {args.max_ram} GB")


if __name__ == "__main__":
    run.cli(main)

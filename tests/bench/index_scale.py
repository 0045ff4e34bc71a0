"""An index of a million vectors: recall, queries per second, memory, against exact search on the same vectors.

    python tests/bench/index_scale.py --run runs/R --vectors 1000000 --index HNSW32_SQ8

Vectors are those of a run's collection, each again and again with Gaussian noise of --noise times its length, so that
they lie as an encoder's do; queries are the real ones of its test split, without noise. Building and searching is one
process, whose peak memory is reported; exact search, which needs all vectors in memory, is another. Recall counts a doc
that scores as well as the 10th best, one query at a time and batches are timed apart, as ann-benchmarks does.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import faiss
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lib import cli, process, run  # noqa: E402
from lib.data.collection import collection_of  # noqa: E402
from lib.model.encoder import embed_texts, load_to_encode, pick_device  # noqa: E402
from lib.search import faiss_index, tune  # noqa: E402
from lib.search.sharded import Sharded, ShardedVectors  # noqa: E402


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("what")
    add("--run", required=True, help="run folder of train.py")
    add("--data", help="its collection, where config.json names another place")
    add("--vectors", type=cli.COUNT, default=1_000_000, help="how many")
    add("--noise", type=cli.AT_LEAST_0, default=0.5, help="length of the noise in lengths of the vector")
    add("--index", default="HNSW32_SQ8", help="a string of faiss.index_factory()")
    add("--target_recall", type=cli.number(float, above=0, most=1), default=0.95, help="of the 10 best")
    add("--queries", type=cli.COUNT, default=1000, help="real queries, half of them kept aside")
    add("--folder", help="where the vectors and the index lie; default: a temporary folder")
    add("--part", choices=("index", "exact"), help="used by the script itself")
    add("--out", help="write the numbers to this JSON file")
    return parser.parse_args()


def inputs(args, folder):
    """(the vectors in files, made if need be; the query vectors)."""
    _, collection = collection_of(args.data, pathlib.Path(args.run))
    encoder = load_to_encode(pathlib.Path(args.run) / "encoder", pick_device("cpu"))
    real = Sharded.open(collection.docs, encoder, precision="fp32", max_ram=1e9).vectors

    def noisy(rows):
        base = real.take(rows % len(real))
        noise = np.random.Generator(np.random.Philox(int(rows[0]))).standard_normal(base.shape, dtype=np.float32)
        found = base + args.noise * noise / np.sqrt(base.shape[1]) * np.linalg.norm(base, axis=1, keepdims=True)
        return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)).astype(np.float32)

    vectors = ShardedVectors(folder / "vectors", args.vectors, encoder.dim, noisy, desc="making vectors")
    queries = collection.split("test").queries[: args.queries]
    return vectors, embed_texts(encoder, collection.queries.view(queries), "query")


def of_index(args, folder):
    """Build, tune, write, read and search: the numbers."""
    vectors, q_emb = inputs(args, folder)
    best = tune.exact_best(vectors, q_emb)
    begin = time.perf_counter()
    index = faiss_index.make_index(vectors, args.index, desc=f"building {args.index}")
    build_s = time.perf_counter() - begin
    faiss.write_index(index, str(folder / "index.faiss"))
    del index
    index = faiss.read_index(str(folder / "index.faiss"), faiss.IO_FLAG_MMAP_IFC | faiss.IO_FLAG_READ_ONLY)
    points = tune.curve(index, vectors, q_emb, best[:2])
    point, reached = tune.choose(points, args.target_recall)
    return {
        "chosen": dataclasses.asdict(point),
        "reached": reached,
        "points": [dataclasses.asdict(each) for each in points],
        "build_s": round(build_s, 1),
        "index_mb": round((folder / "index.faiss").stat().st_size / 1e6, 1),
        "peak_rss_mb": run.peak_rss_mb(),
    }


def of_exact(args, folder):
    """Exact search with all vectors in memory: seconds of one query, and of a batch."""
    vectors, q_emb = inputs(args, folder)
    index = faiss_index.make_index(vectors, "Flat")
    times = []
    for query in q_emb[:60]:
        begin = time.perf_counter()
        index.search(query[None], tune.K)
        times.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    index.search(q_emb, tune.K)
    batch = len(q_emb) / (time.perf_counter() - begin)
    return {"p50_ms": 1e3 * float(np.median(times)), "single": 1 / float(np.mean(times)), "batch": batch}


def line(name, found, exact, recall):
    """Recall, and queries per second beside exact search's."""
    one, batch = found["single"], found["batch"]
    return (
        f"{name:24} recall@10 {recall}   one at a time {one:>9.1f}/s ({one / exact['single']:.1f}x, "
        f"p50 {found['p50_ms']:.2f} ms)   in a batch {batch:>9.1f}/s ({batch / exact['batch']:.1f}x)"
    )


def main():
    args = parse_args()
    if args.part:
        numbers = {"index": of_index, "exact": of_exact}[args.part](args, pathlib.Path(args.folder))
        print(json.dumps(numbers))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder, found = pathlib.Path(args.folder or temporary), {}
        for part in ("exact", "index"):
            command = [sys.executable, __file__, *sys.argv[1:], "--part", part, "--folder", str(folder)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(done.returncode)
            found[part] = json.loads(done.stdout.splitlines()[-1])
    exact, index, point = found["exact"], found["index"], found["index"]["chosen"]
    print(f"{args.vectors:,} vectors, {args.index}, {faiss.omp_get_max_threads()} threads")
    print(line("exact", exact, exact, "1.0000"))
    for each in index["points"]:
        mark = " <- kept" if each == point else ""
        print(line(each["parameters"] or "as it is", each, exact, f"{each['recall']:.4f}") + mark)
    print(f"built in {index['build_s']:.0f} s, {index['index_mb']:.0f} MB, peak memory {index['peak_rss_mb']:.0f} MB")
    if args.out:
        run.write_json(pathlib.Path(args.out), found | {"vectors": args.vectors, "index_string": args.index})


if __name__ == "__main__":
    process.cli(main)

"""Exact search by inner product: which share of the machine's matrix product does it reach, and what do others?

    python tests/bench/exact_search.py                              # 100,000 docs, 4,096 queries, D = 128 and 384
    python tests/bench/exact_search.py --docs 1000000 --queries 8192 --dims 128 --k 30
    python tests/bench/exact_search.py --device cuda                # on a GPU, where there is one

Random unit vectors. Each contender searches the same vectors in turn, --repeats times; the median counts, and the
spread is printed.

product     the matrix product alone, in the blocks of the search: nothing that computes every score is faster
ours        lib/search/exact.py, which mining and evaluation use
faiss       faiss.knn with the block sizes that it comes with
torch       a product of 1,024 queries with all docs, then torch.topk: how sentence-transformers 6 mines without FAISS
usearch     usearch's exact search, with --usearch and where that package is installed: it takes minutes
"""

import importlib.util
import pathlib
import statistics
import sys
import time

import faiss
import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process  # noqa: E402
from lib.cli import (
    COUNT,
    SEED,  # noqa: E402
)
from lib.files import BadInput  # noqa: E402
from lib.model.encoder import pick_device  # noqa: E402
from lib.search import exact  # noqa: E402

FAISS_BLOCK = 4096, 1024  # queries and docs in a product of faiss as it comes
CHUNK = 1024  # queries in a product of the peer's
WIDTHS = 4, 6, 10, 9, 9, 9, 9, 12, 11
REST = 0.3  # seconds until the threads of the last library, which wait busily for more work, have gone to sleep


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--docs", type=COUNT, default=100_000, help="vectors to search")
    add("--queries", type=COUNT, default=4096, help="vectors to search for")
    add("--dims", nargs="+", type=COUNT, default=[128, 384], help="dimensions of the vectors")
    add("--k", nargs="+", type=COUNT, default=[30, 100], help="docs to find of each query")
    add("--repeats", type=COUNT, default=3, help="times that each searches, in turn")
    add("--device", default="cpu", help="cpu or cuda, for ours, the product and torch")
    add("--usearch", action="store_true", help="search by usearch as well")
    add("--seed", type=SEED, default=0, help="of the vectors")
    args = parser.parse_args()
    if max(args.k) > args.docs:
        raise BadInput(f"--k {max(args.k)}: there are {args.docs} docs")
    if args.usearch and not importlib.util.find_spec("usearch"):
        raise BadInput("--usearch needs the package: pip install usearch")
    return args


def unit(n, dim, seed):
    """(n, dim) random vectors of length 1."""
    vectors = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def product(q_emb, d_emb, k, device):
    """All scores, kept nowhere."""
    if (
        device.type == "cpu"
    ):  # numpy's OpenBLAS, as FAISS has it; torch's product was slower on AMD, and as fast on Intel
        out = np.empty((CHUNK, faiss.cvar.distance_compute_blas_database_bs), dtype=np.float32)
        for q in range(0, len(q_emb), CHUNK):
            for d in range(0, len(d_emb), out.shape[1]):
                docs, queries = d_emb[d : d + out.shape[1]], q_emb[q : q + CHUNK]
                np.matmul(queries, docs.T, out=out[: len(queries), : len(docs)])
    else:
        queries, docs = (torch.from_numpy(vectors).to(device) for vectors in (q_emb, d_emb))
        for part in queries.split(exact.ON_GPU[0]):
            for block in docs.split(exact.ON_GPU[1]):
                part @ block.T
        torch.cuda.synchronize()
    return None


def by_faiss(q_emb, d_emb, k, device):
    """Rows by FAISS with its own sizes of blocks."""
    own = faiss.cvar
    ours = own.distance_compute_blas_query_bs, own.distance_compute_blas_database_bs
    own.distance_compute_blas_query_bs, own.distance_compute_blas_database_bs = FAISS_BLOCK
    rows = faiss.knn(q_emb, d_emb, k, metric=faiss.METRIC_INNER_PRODUCT)[1]
    own.distance_compute_blas_query_bs, own.distance_compute_blas_database_bs = ours
    return rows


def by_torch(q_emb, d_emb, k, device):
    """Rows by whole rows of scores."""
    queries, docs = (torch.from_numpy(vectors).to(device) for vectors in (q_emb, d_emb))
    return torch.cat([(part @ docs.T).topk(k).indices.cpu() for part in queries.split(CHUNK)]).numpy()


def by_usearch(q_emb, d_emb, k, device):
    """Rows by usearch."""
    from usearch.index import search

    return np.asarray(search(d_emb, q_emb, k, "ip", exact=True).keys).astype(np.int64)


CONTENDERS = {  # name: function(q_emb, d_emb, k, device) -> rows
    "product": product,
    "ours": lambda q_emb, d_emb, k, device: exact.top_k(q_emb, d_emb, k, device=device)[1],
    "faiss": by_faiss,
    "torch": by_torch,
    "usearch": by_usearch,
}


def main():
    args = parse_args()
    device, sides = (
        pick_device(args.device),
        {name: function for name, function in CONTENDERS.items() if name != "usearch" or args.usearch},
    )
    print(f"{args.docs:,} docs, {args.queries:,} queries, {device}, {faiss.omp_get_max_threads()} threads")
    names = ("D", "k", "search", "seconds", "least", "most", "GFLOP/s", "of product", "same")
    print("\n" + "".join(f"{name:>{width}}" for name, width in zip(names, WIDTHS)))
    for dim in args.dims:
        q_emb, d_emb = unit(args.queries, dim, args.seed), unit(args.docs, dim, args.seed + 1)
        work = 2e-9 * args.queries * args.docs * dim
        for k in args.k:
            seconds, rows = {name: [] for name in sides}, {}
            for _ in range(args.repeats):
                for name, function in sides.items():
                    time.sleep(REST)
                    begin = time.perf_counter()
                    rows[name] = function(q_emb, d_emb, k, device)
                    seconds[name].append(time.perf_counter() - begin)
            least = statistics.median(seconds["product"])
            for name, spent in seconds.items():
                middle = statistics.median(spent)
                same = "" if rows[name] is None else f"{overlap(rows[name], rows['ours']):.4%}"
                numbers = (f"{middle:.2f}", f"{min(spent):.2f}", f"{max(spent):.2f}", f"{work / middle:.0f}")
                line = (dim, k, name, *numbers, f"{least / middle:.0%}", same)
                print("".join(f"{value:>{width}}" for value, width in zip(line, WIDTHS)), flush=True)


def overlap(a, b):
    """The share of docs that two searches have in common."""
    return float(np.mean([len(np.intersect1d(x, y)) / len(x) for x, y in zip(a, b)]))


if __name__ == "__main__":
    process.cli(main)

"""How long one question takes: from the start of the program to the first docs, and then one at a time.

python tests/bench/latency.py --run runs/R
"""

import pathlib
import sys
import time

BEGIN = time.perf_counter()
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from lib import cli, process  # noqa: E402
from lib.data.collection import collection_of  # noqa: E402
from lib.model.encoder import pick_device  # noqa: E402
from lib.search.retriever import open_retriever  # noqa: E402


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("what")
    add("--run", required=True, help="run folder of train.py, with an index or without")
    add("--data", help="its collection, where config.json names another place")
    add("--queries", type=cli.COUNT, default=500, help="test queries that are asked")
    return parser.parse_args()


def main():
    args = parse_args()
    _, collection = collection_of(args.data, pathlib.Path(args.run))
    retriever = open_retriever(args.run, collection, device=pick_device("cpu"))
    questions = collection.queries.texts(collection.split("test").queries[: args.queries])
    retriever.search(questions[:1], 10)
    print(f"start to first docs {time.perf_counter() - BEGIN:.2f} s, imports included")
    times = []
    for question in questions:
        begin = time.perf_counter()
        retriever.search([question], 10)
        times.append(1e3 * (time.perf_counter() - begin))
    p50, p99 = np.percentile(times, [50, 99])
    print(f"question to 10 of {len(collection.docs):,} docs, one at a time: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


if __name__ == "__main__":
    process.cli(main)

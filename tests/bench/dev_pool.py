"""Does a pool of docs rank the arms of a comparison as the whole corpus does? And what does it save?

    python tests/bench/dev_pool.py --comparison runs/ABLATION --pools 500 1000 3000

Every run's encoder is measured on dev, on all docs and among the pools that `train.py --dev_docs N --no_untrained`
would take; Kendall's tau compares the order of the arms' means, and of single runs.
"""

import pathlib
import sys
import time

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from lib import cli, process, run  # noqa: E402
from lib.data.collection import collection_of  # noqa: E402
from lib.evaluation import diagnostics, measures  # noqa: E402
from lib.files import write_json  # noqa: E402
from lib.model.embedder import Embedder  # noqa: E402
from lib.model.encoder import load_to_encode, pick_device  # noqa: E402


def parse_args():
    parser = cli.Parser(__doc__)
    add = parser.group("what")
    add("--comparison", required=True, help="folder of a comparison by train.py")
    add("--data", help="its collection, where config.json names another place")
    add("--pools", type=cli.COUNT, nargs="+", default=[500, 1000, 3000], help="docs of each pool")
    add("--measure", choices=measures.MEASURES, default="mrr@10", help="what is compared")
    add("--out", help="write the numbers to this JSON file")
    return parser.parse_args()


def main():
    args = parse_args()
    folder = pathlib.Path(args.comparison)
    _, collection = collection_of(args.data, folder, cut=("dev", "test"))
    found = [diagnostics.bm25_hits(collection, "dev")]
    pools = {"all": None} | {count: diagnostics.dev_pool(collection, count, found) for count in args.pools}
    scores, seconds = {name: {} for name in pools}, dict.fromkeys(pools, 0.0)
    for place in sorted(folder.glob("*-s*/encoder")):
        arm = run.recorded(place.parent)["derived"]["arm"]
        encoder = load_to_encode(place, pick_device("cpu"))
        embedder = Embedder(collection, encoder)
        for name, docs in pools.items():
            begin = time.perf_counter()
            values = measures.mean(diagnostics.evaluate(embedder, encoder, "dev", docs=docs))
            seconds[name] += time.perf_counter() - begin
            scores[name].setdefault(arm, []).append(values[args.measure])
    arms = list(scores["all"])
    print(f"{'arm':40}" + "".join(f"{str(name):>10}" for name in pools))
    for arm in arms:
        print(f"{arm:40}" + "".join(f"{np.mean(scores[name][arm]):>10.4f}" for name in pools))
    taus = {}
    for name in pools:
        means = [[np.mean(scores[each][arm]) for arm in arms] for each in ("all", name)]
        runs = [np.concatenate([scores[each][arm] for arm in arms]) for each in ("all", name)]
        taus[name] = [float(stats.kendalltau(*pair).statistic) for pair in (means, runs)]
    for row, label in enumerate(("Kendall's tau of the arms", "Kendall's tau of the runs")):
        print(f"{label:40}" + "".join(f"{taus[name][row]:>10.3f}" for name in pools))
    print(f"{'seconds of all evaluations':40}" + "".join(f"{seconds[name]:>10.1f}" for name in pools))
    if args.out:
        write_json(pathlib.Path(args.out), {"scores": scores, "tau": taus, "seconds": seconds})


if __name__ == "__main__":
    process.cli(main)

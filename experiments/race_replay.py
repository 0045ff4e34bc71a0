"""Race the arms of finished comparisons again and again: how often a race ends with a wrong winner, and what it costs.

    python train.py --data nl2bash --name curves-nl2bash --seeds 0 1 2 3 --steps 224 --eval_every 28 --negatives ...
    python experiments/race_replay.py runs/curves-nl2bash runs/curves-debian --races 1000 --keep
    python experiments/race_replay.py docs/results/curves/*.npz --races 10000       # what was kept, without the runs

Every race draws seeds and dev queries with replacement from what the runs kept of dev at each evaluation (dev/). A
winner is wrong whose mean over all queries and seeds, behind the last step, is more than MARGIN below the best arm's.
"Level" races six copies of the first arm, each with seeds drawn for itself: none is better. Prints a Markdown table.
"""

import pathlib
import sys

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from lib import cli, process  # noqa: E402
from lib.evaluation import comparison, race  # noqa: E402
from lib.evaluation.significance import MARGIN  # noqa: E402
from lib.files import BadInput, atomic_path, markdown, read_json, reading  # noqa: E402

KEPT = ROOT / "docs" / "results" / "curves"
HEAD = (
    "collection,dev queries,seeds,best arm (gain over the first),wrong,wrong and named alone,"
    "a best arm among those left,cost,several left,level: named,cost"
)


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument(
        "comparisons",
        nargs="+",
        type=pathlib.Path,
        metavar="FOLDER",
        help="a comparison of train.py, finished, or what --keep has kept of one",
    )
    parser.add_argument("--races", type=cli.COUNT, default=1000, help="of each comparison")
    parser.add_argument("--keep", action="store_true", help=f"keep what is raced in {KEPT.relative_to(ROOT)}/")
    parser.add_argument("--room", nargs="+", type=float, default=list(race.ROOM), help="as race.ROOM, to try others")
    return parser.parse_args()


def main():
    args = parse_args()
    rows = []
    for folder in args.comparisons:
        curves, arms = read_curves(folder)
        if args.keep:
            with atomic_path(KEPT / f"{folder.stem}.npz") as temporary, open(temporary, "wb") as file:
                np.savez_compressed(file, dev=curves.astype(np.float32), arms=np.array(arms))
        rows.append(row(folder, curves, arms, args))
        print(f"{folder.name}: done", file=sys.stderr)
    print(markdown(HEAD.split(","), rows))


def read_curves(folder):
    """((A, S, laps, Q) dev values of a comparison, its arms)."""
    if folder.suffix == ".npz":
        with reading(folder), np.load(folder, allow_pickle=False) as kept:
            return kept["dev"].astype(float), kept["arms"].tolist()
    config = read_json(folder / "config.json")["args"]
    found = []
    for arm in config["negatives"]:
        runs = [comparison.run_folder(folder, arm, seed) for seed in config["seeds"]]
        steps = sorted(int(path.stem) for path in (runs[0] / "dev").glob("*.npy"))
        wanted = [steps[-1] * lap / race.LAPS for lap in range(1, race.LAPS + 1)]
        near = [min(steps, key=lambda step: abs(step - at)) for at in wanted]
        found.append([[comparison.read_dev(run, step) for step in near] for run in runs])
    if any(values is None for arm in found for of_run in arm for values in of_run):
        raise BadInput(f"{folder}: some runs have not kept what they had on dev; train again")
    return np.array(found), config["negatives"]


def row(folder, curves, arms, args):
    """The cells of a comparison."""
    A, S, _, Q = curves.shape
    truth = curves[:, :, -1].mean((1, 2))
    rng, wrong, alone, among, costs, apart = np.random.default_rng(0), [], [], [], [], []
    for _ in range(args.races):
        seeds, queries = rng.integers(0, S, race.MOST_SEEDS), rng.integers(0, Q, Q)
        result = play(np.take(curves[..., queries], seeds, axis=1), args.room)
        wrong.append(truth.max() - truth[result.winner] > MARGIN)
        left = [result.winner, *result.left]
        alone.append(wrong[-1] and len(left) == 1)
        among.append(truth.max() - truth[left].max() <= MARGIN)
        costs.append(race.share(result.looks, A))
        apart.append(len(result.left) > 0)
    named, level_costs = [], []
    for _ in range(args.races):
        seeds, queries = rng.integers(0, S, (A, race.MOST_SEEDS)), rng.integers(0, Q, Q)
        result = play(curves[0][seeds][..., queries], args.room)
        named.append(any(place.high < 0 for look in result.looks[-1:] for place in look.places.values()))
        level_costs.append(race.share(result.looks, A))
    gain = f"{arms[truth.argmax()]} ({truth.max() - truth[0]:+.4f})"
    shares = [f"{np.mean(each):.1%}" for each in (wrong, alone, among, costs, apart, named, level_costs)]
    return [folder.stem, f"{Q:,}", str(S), gain, *shares]


def play(curves, room):
    """The Result of a race over (A, S, laps, Q) values."""

    def values_of(arms, seeds, lap):
        return {arm: curves[arm, :seeds, lap - 1] for arm in arms}

    return race.race(range(len(curves)), values_of, cost=lambda arm: 1, room=room)


if __name__ == "__main__":
    process.cli(main)

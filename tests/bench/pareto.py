"""Draw quality against time: what static_vs_sentence_transformers.py measured, runs of train.py, and single points.

python tests/bench/pareto.py 1.json 3.json 8.json --runs runs/A runs/B --point "a model" 2060 .839 --out pareto.png

Of each file the learning rate that is best on dev counts, for each side; ours has tokenising added. Of a run, training
and mining count. The line is the Pareto front: what nothing else is both faster and better than.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process
from lib.files import BadInput, atomic_path, read_json

COLOURS = {"ours": "#1b4965", "peer": "#c1666b", "run": "#5b8e7d", "point": "#7a7a7a"}


def points_of(path):
    """[(kind, label, seconds, score)] of a file of static_vs_sentence_transformers.py: one for each side."""
    found = read_json(path, settings=dict, rows=list, tried=list)
    trained, tokenised = found["rows"][:2]  # in this order, where training was measured
    extra = tokenised["ours_s"] - trained["ours_s"]
    points = []
    for side in ("ours", "peer"):
        if own := [each for each in found["tried"] if each["side"] == side]:
            best = max(own, key=lambda each: each["dev"])
            epochs = found["settings"]["epochs"]
            label = f"{epochs:g} epoch" + "s" * (epochs != 1)
            points.append((side, label, best["seconds"] + extra * (side == "ours"), best["test"]))
    return points


def front(points):
    """The points that no other is both faster and better than, by time."""
    best, kept = float("-inf"), []
    for point in sorted(points, key=lambda each: (each[2], -each[3])):
        if point[3] > best:
            best = point[3]
            kept.append(point)
    return kept


def draw(path, points, measure):
    """Write the figure."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(8, 4.5), layout="constrained")
    ax = fig.subplots()
    line = front(points)
    ax.step([p[2] for p in line], [p[3] for p in line], where="post", color="#cccccc", zorder=0)
    names = {"ours": "ours", "peer": "sentence-transformers", "run": "train.py", "point": "other"}
    for kind, colour in COLOURS.items():
        own = [p for p in points if p[0] == kind]
        ax.scatter([p[2] for p in own], [p[3] for p in own], color=colour, label=names[kind] if own else None)
        for _, label, seconds, score in own:
            below = {"xytext": (0, -14)} if kind == "peer" else {"xytext": (0, 7)}
            how = below | {"textcoords": "offset points", "ha": "center", "fontsize": 8, "color": colour}
            ax.annotate(label, (seconds, score), **how)
    ax.set(xscale="log", xlabel="seconds of training, mining included (log)", ylabel=f"test {measure}")
    ax.margins(x=0.18, y=0.12)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    with atomic_path(path) as temporary:
        fig.savefig(temporary, dpi=150, format="png")


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    parser.add_argument("files", nargs="*", help="JSON files of static_vs_sentence_transformers.py --out")
    add("--runs", nargs="+", default=[], metavar="RUN", help="run folders of train.py")
    add("--point", nargs=3, action="append", default=[], metavar=("NAME", "SECONDS", "SCORE"), help="one more")
    add("--out", required=True, help="the figure to write")
    args = parser.parse_args()
    points = [point for path in args.files for point in points_of(path)]
    for folder in args.runs:
        done = read_json(pathlib.Path(folder) / "summary.json", test=dict, train_s=(int, float), mine_s=(int, float))
        points.append(("run", done["negatives"], done["train_s"] + done["mine_s"], done["test"]["mrr@10"]))
    points += [("point", name, float(seconds), float(score)) for name, seconds, score in args.point]
    if not points:
        raise BadInput("nothing to draw: give files, --runs or --point")
    draw(args.out, points, "MRR@10")
    for kind, label, seconds, score in sorted(points, key=lambda each: each[2]):
        on_front = "  on the front" if (kind, label, seconds, score) in front(points) else ""
        print(f"{kind:6} {label:28} {seconds:9.1f} s  {score:.4f}{on_front}")
    print(f"wrote   {args.out}")


if __name__ == "__main__":
    process.cli(main)

"""What a false negative costs: the prices of lib/negatives/prices.json and the tables of docs/false-negatives.md.

    python train.py --data banking77 --name inject-banking77 --seeds 0 1 2 --negatives random:4 bm25:4 refresh:4 ... \\
        --grid inject=positives:0,positives:.1,positives:.25,easy:.25
    python experiments/publish.py runs/inject-banking77 inject-banking77 --data banking77
    python experiments/prices.py            # reads docs/results/inject-*, writes the prices, prints the table

Each arm is compared with the same arm that keeps the same positives aside and injects nothing. A price is the mean over
the arms of HARD at SHARE, divided by the share of all negatives that this is: queries with one positive keep theirs.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process  # noqa: E402
from lib.evaluation import significance  # noqa: E402
from lib.evaluation.analysis import KEPT  # noqa: E402
from lib.figure import STYLES, figure  # noqa: E402
from lib.files import markdown, read_json, write_text  # noqa: E402
from lib.negatives.prices import PATH  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "results"
FIGURE = RESULTS.parent / "false-negatives.png"
HARD, SHARE, MEASURE = ("bm25:4", "refresh:4"), ".25", "mrr@10"
# of each collection: positives of a train query, which says what kind it is, and train queries (see lib.data.check)
COLLECTIONS = {"banking77": (122.4, 8924), "debian-second": (2.0, 11720), "nl2bash-second": (1.4, 9756)}


def main():
    cli.Parser(__doc__).parse_args()
    rows, lines, drawn = [], [], {}
    for folder in sorted(RESULTS.glob("inject-*")):
        with np.load(folder / KEPT, allow_pickle=False) as kept:
            values = dict(zip(kept["arms"].tolist(), kept[MEASURE].astype(float)))
        result, name = read_json(folder / "ablation.json"), folder.name.removeprefix("inject-")
        pairs = [(arm, f"{base_of(arm)} inject=positives:0") for arm in values if not arm.endswith("positives:0")]
        for (arm, base), test in zip(pairs, significance.compare(values, pairs)):
            gain = f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
            what = arm.rpartition("inject=")[2]
            if result["encoder"] == "static":
                drawn.setdefault(name, {}).setdefault(base_of(arm), {})[what] = test
            lines.append([name, f"`{base_of(arm)}`", what, f"{values[base].mean():.4f}", gain,
                          significance.shown(test["p_holm"]), test["decision"]])  # fmt: skip
        if result["encoder"] == "static":
            positives, queries = COLLECTIONS[name]
            share = float(SHARE) * result["arms"][0]["pool"]["kept_aside"] / queries
            rows.append({"collection": name, "positives": positives} | prices(values, share))
    write_text(PATH, "[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    draw(FIGURE, drawn)
    head = f"collection,negatives,injected,{MEASURE} without,difference [95 %],p (Holm),decision"
    print(markdown(head.split(","), lines))
    print(f"wrote   {PATH}")


def draw(path, drawn):
    """What false negatives (filled marks) and lost hard ones (open) do by their share.

    drawn: {collection: {arm: {what: test}}}.
    """
    with figure(path, columns=len(drawn), width=3.6, height=3.4) as axes:
        for ax, (name, arms) in zip(axes, drawn.items()):
            for place, (arm, (colour, mark, dash)) in enumerate(zip(("random:4", *HARD), STYLES)):
                for kind, face in (("positives", colour), ("easy", "white")):
                    tests = {what: test for what, test in arms.get(arm, {}).items() if what.startswith(kind)}
                    x = [float(what.partition(":")[2]) + 0.006 * (place - 1) for what in tests]
                    y, half = ([test[key] for test in tests.values()] for key in ("difference", "high"))
                    x, y, half = ([0.0, *x], [0.0, *y], [0.0, *half]) if kind == "positives" else (x, y, half)
                    shape = {"color": colour, "marker": mark, "markerfacecolor": face, "capsize": 2}
                    shape |= {"linestyle": dash, "label": arm} if kind == "positives" else {"linestyle": "none"}
                    ax.errorbar(x, y, np.array(half) - y, **shape)
            ax.axhline(0, color="black", linewidth=0.6)
            ax.set(title=name, xlabel="share of the negatives", ylabel=f"change of {MEASURE}", ylim=(-0.047, 0.013))
        axes[0].legend(frameon=False, fontsize=8, loc="lower left", title="filled: false, open: lost", title_fontsize=8)


def base_of(arm):
    """The arm without what it injects."""
    return arm.rpartition(" inject=")[0]


def prices(values, share):
    """{"false": [mean, low, high], "lost": ...} of the mean of the arms of HARD."""
    joined = {what: np.mean([values[f"{arm} inject={what}"] for arm in HARD], axis=0)
              for what in ("positives:0", f"positives:{SHARE}", f"easy:{SHARE}")}  # fmt: skip
    pairs = [(f"{what}:{SHARE}", "positives:0") for what in ("positives", "easy")]
    found = {}
    for name, test in zip(("false", "lost"), significance.compare(joined, pairs)):
        found[name] = [round(-test[key] / share, 4) for key in ("difference", "high", "low")]
    return found


if __name__ == "__main__":
    process.cli(main)

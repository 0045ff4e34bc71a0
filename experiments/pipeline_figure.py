"""Draw docs/pipeline.png: the five scripts on the arrows between what they read and write.

python experiments/pipeline_figure.py
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import process
from lib.figure import figure

ROOT = pathlib.Path(__file__).resolve().parents[1]
BOXES = {  # name: (x, y), centre
    "collection\nqueries, docs, labels": (0, 1),
    "negatives\nlists, audit": (2.9, 2),
    "encoder\nstatic, transformer": (2.9, 0),
    "index\nFAISS": (6.2, 0),
    "measures\nrun, per query, tests": (8.9, 1),
    "answers\nwith citations": (8.9, -1),
}
HALF = [56, 34, 52, 22, 56, 40]  # points from the centre of each box to where an arrow from a side ends
ARROWS = [  # from, to, script, shift to a side where two arrows join the same boxes
    (0, 1, "mine_negatives.py", 0),
    (0, 2, "train.py", 0),
    (1, 2, "train.py, file:K", -0.45),
    (2, 1, "mined again as it changes", 0.55),
    (2, 3, "build_index.py", 0),
    (3, 4, "evaluate.py", 0),
    (3, 5, "rag_demo.py", 0),
]


def main():
    with figure(ROOT / "docs" / "pipeline.png", width=9.5, height=3.6) as ax:
        places = list(BOXES.values())
        for start, end, script, side in ARROWS:
            (x0, y0), (x1, y1) = places[start], places[end]
            style = {"arrowstyle": "-|>", "color": "#333333", "shrinkA": 26, "shrinkB": 18 if side else HALF[end]}
            style |= {"linewidth": 1.2, "linestyle": "--" if "again" in script else "-"}
            ax.annotate("", (x1 + side, y1), (x0 + side, y0), arrowprops=style)
            ax.text(
                (x0 + x1) / 2 + side, (y0 + y1) / 2, script.replace(", ", "\n").replace("again ", "again\n"),
                ha="center", va="center", fontsize=9, family="monospace" if ".py" in script else None,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
            )  # fmt: skip
        for text, (x, y) in BOXES.items():
            box = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": "#1b4965", "linewidth": 1.4}
            ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=box)
        ax.set(xlim=(-1.2, 10.1), ylim=(-1.7, 2.7))
        ax.axis("off")


if __name__ == "__main__":
    process.cli(main)

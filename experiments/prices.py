"""What a false negative costs: the prices of lib/negatives/prices.json and the tables of docs/false-negatives.md.

    python train.py --data banking77 --name inject-banking77 --seeds 0 1 2 --negatives random:4 bm25:4 refresh:4 ... \\
        --grid inject=positives:0,positives:.1,positives:.25,easy:.25
    python experiments/publish.py runs/inject-banking77 inject-banking77 --data banking77
    python experiments/prices.py            # reads docs/results/inject-*, writes the prices, prints the table

Each arm is compared with the same arm that keeps the same positives aside and injects nothing. A price is the mean over
the arms of HARD at SHARE, divided by SHARE.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import cli, process  # noqa: E402
from lib.evaluation import significance  # noqa: E402
from lib.evaluation.analysis import KEPT  # noqa: E402
from lib.files import markdown, read_json, write_text  # noqa: E402
from lib.negatives.prices import PATH  # noqa: E402

RESULTS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "results"
HARD, SHARE, MEASURE = ("bm25:4", "refresh:4"), ".25", "mrr@10"
# mean positives of a train query, which says what kind of collection it is
POSITIVES = {"banking77": 122.4, "debian-second": 2.0, "nl2bash-second": 1.4}


def main():
    cli.Parser(__doc__).parse_args()
    rows, lines = [], []
    for folder in sorted(RESULTS.glob("inject-*")):
        with np.load(folder / KEPT, allow_pickle=False) as kept:
            values = dict(zip(kept["arms"].tolist(), kept[MEASURE].astype(float)))
        name, encoder = folder.name.removeprefix("inject-"), read_json(folder / "ablation.json")["encoder"]
        pairs = [(arm, f"{base_of(arm)} inject=positives:0") for arm in values if not arm.endswith("positives:0")]
        for (arm, base), test in zip(pairs, significance.compare(values, pairs)):
            gain = f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]"
            what = arm.rpartition("inject=")[2]
            lines.append([name, f"`{base_of(arm)}`", what, f"{values[base].mean():.4f}", gain,
                          significance.shown(test["p_holm"]), test["decision"]])  # fmt: skip
        if encoder == "static" and all(f"{arm} inject=easy:{SHARE}" in values for arm in HARD):
            rows.append({"collection": name, "positives": POSITIVES[name]} | prices(values))
    write_text(PATH, "[\n" + ",\n".join(f" {json.dumps(row)}" for row in rows) + "\n]\n")
    head = f"collection,negatives,injected,{MEASURE} without,difference [95 %],p (Holm),decision"
    print(markdown(head.split(","), lines))
    print(f"wrote   {PATH.relative_to(RESULTS.parents[1])}")


def base_of(arm):
    """The arm without what it injects."""
    return arm.rpartition(" inject=")[0]


def prices(values):
    """{"false": [mean, low, high], "lost": ...} of the mean of the arms of HARD."""
    joined = {what: np.mean([values[f"{arm} inject={what}"] for arm in HARD], axis=0)
              for what in ("positives:0", f"positives:{SHARE}", f"easy:{SHARE}")}  # fmt: skip
    pairs = [(f"{what}:{SHARE}", "positives:0") for what in ("positives", "easy")]
    found = {}
    for name, test in zip(("false", "lost"), significance.compare(joined, pairs)):
        found[name] = [round(-test[key] / float(SHARE), 4) for key in ("difference", "high", "low")]
    return found


if __name__ == "__main__":
    process.cli(main)

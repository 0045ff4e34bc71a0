"""Draw docs/curves.png from docs/results: what negatives gain by the number of train queries, and by their own number.

    python experiments/curves.py

The collections of the left half: experiments/parts_of_the_pool.py --share S (docs/comparison.md).
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from lib import process  # noqa: E402
from lib.evaluation import analysis  # noqa: E402
from lib.figure import STYLES, figure  # noqa: E402

DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
# collection: {train queries: comparison}; the last has all of them, B = 128 and three epochs
QUERIES = {
    "debian": {211: "queries-debian-02", 1_144: "queries-debian-1", 4_080: "queries-debian-35", 11_720: "kinds-debian"},
    "nl2bash": {
        179: "queries-nl2bash-02",
        954: "queries-nl2bash-1",
        3_377: "queries-nl2bash-35",
        9_756: "kinds-nl2bash",
    },
    "jaquad": {221: "queries-jaquad-008", 831: "queries-jaquad-03", 3_323: "queries-jaquad-12", 28_643: "kinds-jaquad"},
}
NUMBER = {"debian": ["debian-k"], "nl2bash": ["k-nl2bash", "kinds-nl2bash"], "jaquad": ["k-jaquad", "kinds-jaquad"]}


def gains(name):
    """{arm: (gain in MRR@10 over in_batch, low, high)} of a comparison."""
    rows = analysis.read_kept(DOCS / "results" / name, measure="mrr@10")["arms"]
    return {row["arm"]: tuple(row["against_first"][key] for key in ("difference", "low", "high")) for row in rows[1:]}


def by_queries():
    """{collection: [(train queries, gain, low, high)]} of refresh:4."""
    return {name: [(count, *gains(found)["refresh:4"]) for count, found in of.items()] for name, of in QUERIES.items()}


def by_number(source):
    """{collection: [(K, gain, low, high)]} of a source."""
    found = {}
    for name, comparisons in NUMBER.items():
        arms = {arm: gain for each in comparisons for arm, gain in gains(each).items()}
        numbers = {arm.partition(":")[2]: arm for arm in arms if arm.partition(":")[0] == source}
        found[name] = sorted((int(number), *arms[arm]) for number, arm in numbers.items() if number.isdigit())
    return found


def main():
    with figure(DOCS / "curves.png", 2, height=3.9) as (left, right):
        for (name, points), (color, mark, dash) in zip(by_queries().items(), STYLES):
            count, gain, low, high = zip(*points)
            left.plot(count, gain, color=color, marker=mark, linestyle=dash, label=name)
            left.fill_between(count, low, high, color=color, alpha=0.12, linewidth=0)
        left.set(
            xscale="log",
            xlabel="train queries",
            ylabel="gain in MRR@10 over in_batch",
            title="refresh:4, by train queries",
        )
        for source, dash in (("random", ":"), ("refresh", "-")):
            for (name, points), (color, mark, _) in zip(by_number(source).items(), STYLES):
                count, gain, _, _ = zip(*points)
                right.plot(count, gain, color=color, marker=mark, linestyle=dash, label=f"{name}, {source}")
        right.set_xscale("log", base=2)
        right.set(xlabel="negatives a query (K)", title="by the number of negatives")
        right.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
        for ax in (left, right):
            ax.axhline(0, color="#555555", linewidth=0.8)
            ax.legend(frameon=False, fontsize=8, loc="upper left")
            ax.set_ylim(-0.005, 0.062)
        left.get_figure().suptitle("static encoder, three seeds (debian by K: two); bands: 95 %", fontsize=9)
    print(f"wrote   {DOCS / 'curves.png'}")


if __name__ == "__main__":
    process.cli(main)

"""How often a comparison finds a difference that is not there, and one that is: significance.py, simulated.

python tests/bench/level_of_the_tests.py --comparisons 2000

Per-query values are drawn as on MedQuAD (docs/comparison.md): what each arm does with a query (.15), each run's own
noise on it (.187), and what a seed does to the mean of a run (0 to .012). All arms are equal, so that 5 % is right; for
the power one arm is better by the difference that its test calls detectable.
"""

import itertools
import pathlib
import sys

import numpy as np
from scipy import special

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from lib import cli, process
from lib.evaluation import significance

OF_ARM, OF_RUN = 0.15, 0.187  # standard deviations of a query's value


def simulate(arms, seeds, *, queries=1500, of_seed=0.006, of_arm=OF_ARM, gain=0.0, rng):
    """{arm: (S, Q) values}: equal arms, but the second is better by `gain`."""
    values = OF_RUN * rng.standard_normal((arms, seeds, queries), dtype=np.float32)
    values += of_arm * rng.standard_normal((arms, 1, queries), dtype=np.float32)
    values = values + of_seed * rng.standard_normal((arms, seeds, 1))
    values[1] += gain
    return dict(enumerate(values))


def pairs_of(values):
    """Every arm against the first."""
    return [(arm, 0) for arm in values if arm]


def over_queries(values):
    """p of paired t tests of the means over seeds: what says nothing of other seeds."""
    found = [(values[arm] - values[0]).mean(0) for arm in values if arm]
    return [2 * special.ndtr(-abs(d.mean()) / (d.std(ddof=1) / len(d) ** 0.5)) for d in found]


def of_two_arms(values):
    """p of a t test with the variance between seeds of these two arms alone and Satterthwaite's degrees of freedom."""
    found = []
    for d in (values[arm] - values[0] for arm in values if arm):
        S, Q = d.shape
        rest = ((d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()) ** 2).sum() / ((S - 1) * (Q - 1))
        seeds, queries = Q * d.mean(1).var(ddof=1), S * d.mean(0).var(ddof=1)
        square, freedom = queries, Q - 1
        if seeds > rest:
            square = queries + seeds - rest
            freedom = square**2 / (queries**2 / (Q - 1) + seeds**2 / (S - 1) + rest**2 / ((S - 1) * (Q - 1)))
        found.append(2 * special.stdtr(freedom, -abs(d.mean()) / np.sqrt(square / (S * Q))))
    return found


def decides(values):
    """Whether there are seeds enough for significance.compare() to say anything of other seeds."""
    return (len(values) - 1) * (len(values[0]) - 1) >= 2


def ours(values):
    """p of significance.compare(); 1 where it decides nothing."""
    if not decides(values):
        return [1.0 for _ in pairs_of(values)]
    return [test["p"] for test in significance.compare(values, pairs_of(values))]


TESTS = {"over queries": over_queries, "two arms alone": of_two_arms, "ours": ours}


def level(arms, seeds, *, comparisons, rng, **how):
    """{test: (share of pairs with p < .05, share of comparisons with one after Holm's correction)}."""
    found = {name: [] for name in TESTS}
    for _ in range(comparisons):
        values = simulate(arms, seeds, rng=rng, **how)
        for name, test in TESTS.items():
            p = np.array(test(values))
            found[name].append(((p < 0.05).mean(), min(significance.holm(p)) < 0.05))
    return {name: np.mean(rows, axis=0) for name, rows in found.items()}


def power(arms, seeds, *, comparisons, rng, **how):
    """How often, after Holm's correction, an arm is found better that is so by what is called detectable."""
    drawn = [simulate(arms, seeds, rng=rng, **how) for _ in range(20)]
    if not decides(drawn[0]):
        return None
    tests = [significance.compare(values, pairs_of(values)) for values in drawn]
    gain = float(np.median([test[0]["detectable"] for test in tests]))
    found = 0
    for _ in range(comparisons):
        values = simulate(arms, seeds, gain=gain, rng=rng, **how)
        found += significance.compare(values, pairs_of(values))[0]["differs"]
    return found / comparisons


def main():
    parser = cli.Parser(__doc__)
    add = parser.group("flags")
    add("--comparisons", type=cli.COUNT, default=2000, help="simulated for each row")
    add("--arms", type=cli.COUNT, nargs="+", default=[2, 4, 10])
    add("--seeds", type=cli.COUNT, nargs="+", default=[2, 3, 5])
    add("--queries", type=cli.COUNT, default=1500)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(
        "| arms | seeds | of a seed | arm x query | "
        + " | ".join(f"{name}: each, any" for name in TESTS)
        + " | power |"
    )
    print("|" + " --- |" * (5 + len(TESTS)))
    settings = itertools.product(args.arms, args.seeds, (0.0, OF_ARM), (0.0, 0.006, 0.012))
    for arms, seeds, of_arm, of_seed in settings:
        how = {"of_seed": of_seed, "of_arm": of_arm, "queries": args.queries, "rng": rng}
        found = level(arms, seeds, comparisons=args.comparisons, **how)
        share = power(arms, seeds, comparisons=args.comparisons // 4 or 1, **how)
        cells = [f"{each:.1%}, {family:.1%}" for each, family in found.values()]
        last = "too few seeds" if share is None else f"{share:.0%}"
        print(f"| {arms} | {seeds} | {of_seed} | {of_arm} | {' | '.join(cells)} | {last} |", flush=True)


if __name__ == "__main__":
    process.cli(main)

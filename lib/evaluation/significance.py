"""Paired tests on per-query values: over queries, over queries and seeds, corrected for their number."""

import itertools
import string

import numpy as np
from scipy import special  # its distributions: importing scipy.stats would take a second of every command

LEVEL = 0.05  # of p with Holm's correction: two arms differ, for other seeds and queries too
MARGIN = 0.01  # arms whose difference is shown to be smaller, either way, are equal
POWER = 0.8  # of the least difference that a test finds
QUERIES, BOTH = "queries", "queries and seeds"  # what a test is over


def paired_test(a, b, *, seed, rounds=10_000):
    """Compare two arrays (Q,) of per-query values, query by query.

    Returns the mean difference a - b, a 95 % bootstrap interval, the two-sided p of a paired randomisation
    test (signs of the differences flipped at random; Smucker, Allan & Carterette, CIKM 2007), and how many
    queries a wins, ties, loses.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    generator = np.random.Generator(np.random.Philox(seed))
    observed = difference.mean()
    moved = difference[difference != 0]  # a flipped zero stays zero
    extreme, means = 0, []
    for _ in range(rounds // 100):  # blocks of 100 keep memory at 100 * Q numbers
        signs = generator.integers(0, 2, size=(100, len(moved)), dtype=np.int8) * 2 - 1
        extreme += (np.abs(signs @ moved) >= np.abs(moved.sum()) - 1e-12).sum()
        picks = generator.integers(0, len(difference), size=(100, len(difference)))
        means.append(difference[picks].mean(1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return {
        "difference": float(observed),
        "low": float(low),
        "high": float(high),
        "p": float((extreme + 1) / (rounds + 1)),
    } | _counts(difference)


def by_query(values, others, measure):
    """paired_test() of two {qid: {measure: value}} over the queries of the second, the first less the second."""
    return paired_test(*(np.array([of[qid][measure] for qid in others]) for of in (values, others)), seed=0)


def _counts(difference):
    counts = {"wins": difference > 0, "ties": difference == 0, "losses": difference < 0}
    return {name: int(of.sum()) for name, of in counts.items()} | {"queries": len(difference)}


def compare(values, pairs, seeds=None, *, with_detectable=True):
    """Test pairs of arms for other queries and other seeds, corrected for the number of pairs (Holm 1979).

    values {arm: (S, Q)}: per-query values, a row for each seed; an arm of one row, as BM25's, is compared with every
    seed of another. seeds {arm: (S,)}: the seeds of those that have others than most; the rest share theirs, row by
    row, and what a seed does to all arms is no part of their differences.

    Returns a dict for each (a, b) of pairs: the difference a - b, its standard error, its 95 % interval low and high, p
    and p_holm, what they are `over`, whether the arms differ by p_holm, the effect size (mean difference over its
    standard deviation between queries; Cohen's d_z), the least true difference that such a test finds with 80 % power,
    on how many queries a wins, ties and loses, and `decision`: better or worse where the arms differ; else equal where
    two one-sided tests (Schuirmann 1987; p_equal, and with Holm's correction p_equal_holm) show that they are less than
    MARGIN apart; else open.

    `detectable` takes most of the time, and is None without with_detectable.

    With one seed, or two of two arms, nothing can be said of other seeds: p and interval are then over queries only
    (paired_test), `differs`, `detectable` and `p_equal` are None, and all is open.
    """
    pairs = list(pairs)
    of = len(pairs) if with_detectable else None
    tests = [_test(values, a, b, seeds=seeds or {}, pairs=of) for a, b in pairs]
    equal = holm([1.0 if test["p_equal"] is None else test["p_equal"] for test in tests])
    for test, p, p_equal in zip(tests, holm([test["p"] for test in tests]), equal):
        test |= {"p_holm": p, "p_equal_holm": p_equal}
        test["differs"] = p < LEVEL if test["over"] == BOTH else None
        if test["differs"]:
            test["decision"] = "better" if test["difference"] > 0 else "worse"
        else:
            test["decision"] = "equal" if p_equal < LEVEL else "open"
    return tests


def tie_groups(values, seeds=None):
    """{arm: letters}, best mean first, for values {arm: (S, Q)}: arms that share a letter are not shown to differ.

    Tests of all pairs, with Holm's correction; letters by inserting and absorbing (Piepho 2004).
    """
    order = sorted(values, key=lambda arm: -np.mean(values[arm]))
    if max(map(len, values.values())) == 1:  # nothing is shown of other seeds
        return dict.fromkeys(order, "a")
    pairs = list(itertools.combinations(order, 2))
    groups = [frozenset(order)]
    for (a, b), test in zip(pairs, compare(values, pairs, seeds, with_detectable=False)):
        if test["differs"]:
            split = [part for group in groups for part in ((group - {a}, group - {b}) if {a, b} <= group else (group,))]
            groups = [group for group in dict.fromkeys(split) if not any(group < other for other in split)]
    groups.sort(key=lambda group: [arm not in group for arm in order])
    return {
        arm: "".join(string.ascii_letters[n % 52] for n, group in enumerate(groups) if arm in group) for arm in order
    }


def crossed(values, a, b, *, seeds=None, prior=(0.0, 0)):
    """((S, Q) differences a - b, their spread between queries, the arguments of possible_variances() for their mean).

    prior: (deviation of a run's mean over seeds, degrees of freedom that this counts for), beside what the runs say.
    """
    first, second = np.broadcast_arrays(np.asarray(values[a], float), np.asarray(values[b], float))
    difference = first - second
    S, Q = difference.shape
    spread = float(difference.mean(0).std(ddof=1)) if Q > 1 else 0.0
    of_seeds, own = _between_seeds(values, a, b, seeds or {})
    if freedom := own + prior[1]:
        of_seeds = (of_seeds * own + 2 * prior[0] ** 2 / S * prior[1]) / freedom
    rest = difference - difference.mean(1, keepdims=True) - difference.mean(0) + difference.mean()
    least = float((rest**2).sum()) / max(1, (S - 1) * (Q - 1)) / (S * Q)
    return difference, spread, (max(spread**2 / Q - least, 0.0), of_seeds, freedom, least)


def _test(values, a, b, *, seeds, pairs):
    difference, spread, parts = crossed(values, a, b, seeds=seeds)
    mean, Q, (of_queries, of_seeds, freedom, least) = float(difference.mean()), difference.shape[1], parts
    if freedom < 2 or Q < 2:
        result = paired_test(difference.mean(0), np.zeros(Q), seed=0)
        result |= {"over": QUERIES, "detectable": None, "error": spread / Q**0.5, "p_equal": None}
    else:
        chances = possible_variances(*parts)
        half = half_width(LEVEL, *chances)
        result = {"difference": mean, "low": mean - half, "high": mean + half, "p": p_value(mean, *chances)}
        result |= {"error": (max(of_seeds, least) + of_queries) ** 0.5, "p_equal": p_equal(mean, *chances)}
        result |= _counts(difference.mean(0)) | {"over": BOTH}
        result["detectable"] = detectable(*parts, pairs=pairs) if pairs else None
    return result | {"effect": mean / spread if spread else 0.0}


def _between_seeds(values, a, b, seeds):
    """(what seeds contribute to the variance of the mean difference of two arms, its degrees of freedom).

    Two arms alone with S seeds have S - 1 degrees of freedom, too few to tell a small variance from a lucky one.
    What arms and seeds do not explain of the means of all runs with these seeds has (A - 1)(S - 1), and leaves out what
    a seed does to all arms, as a paired difference does. Arms of different seeds differ by that too.
    """
    means = {arm: np.mean(rows, axis=1) for arm, rows in values.items()}
    S = max(len(means[a]), len(means[b]))
    if S == 1:
        return 0.0, 0
    if len(means[a]) != len(means[b]):  # one of the two has no seeds
        return float(np.var(means[a] - means[b], ddof=1)) / S, S - 1
    own = {arm: tuple(seeds.get(arm, ())) for arm in values}
    if own[a] != own[b]:
        if S == 2 and len(means) < 4:  # as little as two arms that share them
            return 0.0, 0
        return float(np.var(means[a], ddof=1) + np.var(means[b], ddof=1)) / S, 2 * (S - 1)
    seeded = np.stack([of for arm, of in means.items() if len(of) == S and own[arm] == own[a]])  # (A, S)
    rest = seeded - seeded.mean(1, keepdims=True) - seeded.mean(0) + seeded.mean()
    freedom = (len(seeded) - 1) * (S - 1)
    return 2 * float((rest**2).sum()) / freedom / S, freedom


def possible_variances(of_queries, of_seeds, freedom, least=0.0):
    """(variances (n,), how likely each is (n,)) of a mean difference between two arms.

    of_queries and of_seeds are what queries and seeds contribute (crossed random factors; Clark 1973). The second is
    known only as well as its degrees of freedom say: the true one may be of_seeds * freedom / chi-squared (a
    generalised p value; Weerahandi 1995), but no less than `least`, what queries and seeds do not explain.
    """
    centre, spread = np.log(freedom), np.sqrt(2 / freedom)
    z = np.linspace(centre - 92 / freedom - 8 * spread, centre + 12 * spread, 300)  # the logarithm of chi-squared
    weight = freedom / 2 * z - np.exp(z) / 2
    weight = np.exp(weight - weight.max())
    return np.maximum(of_seeds * freedom / np.exp(z), least) + of_queries, weight / weight.sum()


def p_value(difference, variances, weight):
    """Two-sided p of a difference whose variance is one of these."""
    if abs(difference) < 1e-15:
        return 1.0
    return float(weight @ (2 * special.ndtr(-abs(difference) / np.sqrt(np.maximum(variances, 1e-30)))))


def p_equal(difference, variances, weight, margin=MARGIN):
    """p of the less certain of two one-sided tests: that the true difference is not between -margin and margin."""
    return float(weight @ special.ndtr((abs(difference) - margin) / np.sqrt(np.maximum(variances, 1e-30))))


def half_width(p, variances, weight):
    """The difference whose p_value() is p: half of an interval's width."""
    return _falls_to(p, lambda x: p_value(x, variances, weight), float(np.sqrt(variances.min())))


def _falls_to(value, function, start):
    """Where a function that falls from 0 on has a value."""
    from scipy import optimize  # here: most commands need none of it

    low, high = 0.0, start + 1e-15
    while function(high) > value:
        low, high = high, 2 * high
    return optimize.brentq(lambda x: function(x) - value, low, high, xtol=1e-12, rtol=1e-9)


def detectable(of_queries, of_seeds, freedom, least=0.0, *, pairs=1):
    """The least true difference that the test finds with 80 % power as one of so many pairs.

    The arguments are those of possible_variances(). What another comparison will estimate of the variance between
    seeds, and so its test's width, varies too.
    """
    of_seeds = of_seeds * freedom / special.chdtri(freedom, 0.5)  # as likely too small as too large
    deviation = np.sqrt(max(of_seeds, least) + of_queries) + 1e-15
    estimates = of_seeds * special.chdtri(freedom, (np.arange(5) + 0.5) / 5) / freedom
    chances = [possible_variances(of_queries, estimate, freedom, least) for estimate in estimates]
    widths = np.array([half_width(LEVEL / pairs, *each) for each in chances])
    return _falls_to(1 - POWER, lambda x: special.ndtr((widths - x) / deviation).mean(), deviation)


def shown(p):
    """A p value for a table."""
    return f"{p:.4f}" if p >= 0.00005 else "<.0001"


def holm(p_values):
    """Holm's correction (1979): p values adjusted for their number, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out.tolist()

"""Paired tests on per-query values: over queries, over queries and seeds, corrected for their number."""

import numpy as np
from scipy import special  # its distributions: importing scipy.stats would take a second of every command


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
        "wins": int((difference > 0).sum()),
        "ties": int((difference == 0).sum()),
        "losses": int((difference < 0).sum()),
        "queries": len(difference),
    }


def paired_seeds(a, b, *, seed, rounds=10_000):
    """Compare two arms over seeds: a, b (S, Q) per-query values, row by row the same seed.

    paired_test() of the means over seeds, except that the interval resamples seeds and queries together.
    Adds p_seeds, which holds for other seeds too (crossed_test(); p where there is one seed), the effect size
    (mean difference over its standard deviation between queries; Cohen's d_z) and the least difference that
    this many queries would show with 80 % power.
    """
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)  # (S, Q)
    result = paired_test(np.mean(a, axis=0), np.mean(b, axis=0), seed=seed, rounds=rounds)
    if len(difference) > 1:
        generator = np.random.Generator(np.random.Philox(seed + 1))
        S, Q = difference.shape
        means = []
        for _ in range(rounds // 100):
            seeds = generator.multinomial(S, [1 / S] * S, size=100) / S  # (100, S)
            picks = generator.integers(0, Q, size=(100, Q))
            means.append(np.take_along_axis(seeds @ difference, picks, 1).mean(1))
        result["low"], result["high"] = map(float, np.quantile(np.concatenate(means), [0.025, 0.975]))
    result["p_seeds"] = crossed_test(difference) if min(difference.shape) > 1 else result["p"]
    spread = float(difference.mean(0).std(ddof=1)) if difference.shape[1] > 1 else 0.0
    result["effect"] = result["difference"] / spread if spread else 0.0
    result["detectable"] = detectable(spread, difference.shape[1])
    return result


def crossed_test(difference):
    """Two-sided p that the mean of differences (S, Q) is 0, for other seeds and other queries alike.

    Of p values over queries alone, an arm against itself on other seeds finds too many: what differs from run
    to run moves all queries at once. Here seeds and queries are both random: difference = mean + seed + query
    + rest, its variance from the mean squares, and a t test with Satterthwaite's degrees of freedom
    (Satterthwaite 1946; crossed random factors, as in Clark 1973).
    """
    S, Q = difference.shape
    mean, by_seed, by_query = difference.mean(), difference.mean(1), difference.mean(0)
    rest = difference - by_seed[:, None] - by_query + mean
    seeds, queries = Q * by_seed.var(ddof=1), S * by_query.var(ddof=1)  # mean squares
    error = (rest**2).sum() / ((S - 1) * (Q - 1))
    if seeds > error:
        square = queries + seeds - error
        freedom = square**2 / (queries**2 / (Q - 1) + seeds**2 / (S - 1) + error**2 / ((S - 1) * (Q - 1)))
    else:  # seeds differ by no more than the rest explains
        square, freedom = queries, Q - 1
    if square <= 1e-18 * max(mean**2, 1e-300):
        return float(mean == 0)
    return float(2 * special.stdtr(freedom, -abs(mean) / np.sqrt(square / (S * Q))))


def detectable(spread, queries, *, power=0.8, level=0.05):
    """The least mean difference that a two-sided test on `queries` pairs shows with that power.

    spread: standard deviation of the per-query differences.
    """
    return float((special.ndtri(1 - level / 2) + special.ndtri(power)) * spread / np.sqrt(queries))


def holm(p_values):
    """Holm's correction (1979): p values adjusted for their number, in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    out = np.empty_like(p)
    out[order] = np.minimum(adjusted, 1.0)
    return out.tolist()

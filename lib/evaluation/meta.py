"""One effect over several collections: comparisons of the same arms, pooled by a random-effects model."""

import collections
import pathlib

import numpy as np
from scipy import special

from lib.evaluation import comparison, significance
from lib.files import BadInput, markdown

DECISIONS = ("better", "equal", "open", "worse")
FEW = 3  # collections below which a mean over them says nothing


def pool(effects, errors):
    """The mean of effects (k,) that vary between collections, each known with a standard error (k,), k at least 2.

    DerSimonian & Laird (1986), with the interval of Hartung & Knapp (2001), which is never made narrower than without
    (Röver, Knapp & Friede 2015). Returns mean, 95 % interval low and high, p, tau (standard deviation of the true
    effects between collections), i2 (share of the spread that is not chance within collections), and
    predicted (low, high): where 95 % of the effects in new collections lie (Higgins, Thompson & Spiegelhalter 2009;
    from three collections up, else None).
    """
    y, v = np.asarray(effects, float), np.maximum(np.square(np.asarray(errors, float)), 1e-12)
    k, weight = len(y), 1 / v
    spread = float((weight * np.square(y - weight @ y / weight.sum())).sum())  # Cochran's Q
    tau2 = max(0.0, (spread - (k - 1)) / float(weight.sum() - (weight**2).sum() / weight.sum()))
    weight = 1 / (v + tau2)
    mean = float(weight @ y / weight.sum())
    error = np.sqrt(max(1.0, float((weight * np.square(y - mean)).sum()) / (k - 1)) / weight.sum())
    half = special.stdtrit(k - 1, 0.975) * error
    beyond = special.stdtrit(k - 2, 0.975) * np.sqrt(tau2 + 1 / weight.sum()) if k > 2 else None
    return {
        "mean": mean,
        "low": float(mean - half),
        "high": float(mean + half),
        "p": float(2 * special.stdtr(k - 1, -abs(mean) / error)),
        "tau": float(np.sqrt(tau2)),
        "i2": max(0.0, (spread - (k - 1)) / spread) if spread else 0.0,
        "predicted": None if beyond is None else [float(mean - beyond), float(mean + beyond)],
    }


def over(results):
    """Arms over the collections of several analyse() results that share their first arm and measure.

    Returns {encoder, measure, first, collections: [{name, queries, seeds, references, first: mean}], arms: [{arm,
    tests: {collection: test}, counts: {decision: collections}, pooled: pool()}]}. A collection where an arm did exactly
    what the first does is not counted; pooled is None where fewer than FEW are.
    """
    first, names = results[0]["arms"][0]["arm"], [result["name"] for result in results]
    if other := next((result for result in results if result["arms"][0]["arm"] != first), None):
        raise BadInput(
            f"{other['name']} is tested against {other['arms'][0]['arm']} and {names[0]} against {first}: --against ARM"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadInput(f"two comparisons are called {twice[0]}: of one collection only one counts")
    tests = {}
    for result in results:
        for row in result["arms"][1:]:
            if comparison.mark_of(row.get("pool", {})) != "leaks":  # no leak counts
                tests.setdefault(row["arm"], {})[result["name"]] = row["against_first"]
    arms = []
    for arm, of in tests.items():
        apart = [test for test in of.values() if test["wins"] or test["losses"]]  # two pools may be the same docs
        row = {"arm": arm, "tests": of, "counts": dict(collections.Counter(test["decision"] for test in apart))}
        effects = [(test["difference"], test["error"]) for test in apart]
        arms.append(row | {"pooled": pool(*zip(*effects)) if len(effects) >= FEW else None})
    pooled = [row["pooled"] for row in arms if row["pooled"]]
    for row, p in zip(pooled, significance.holm([row["p"] for row in pooled])):
        row["p_holm"] = p
    measured = [
        {
            "name": result["name"],
            "queries": result["queries"],
            "seeds": len(result["seeds"]),
            "references": {name: values[result["measure"]] for name, values in result["references"].items()},
            "first": float(np.mean(result["arms"][0]["test"][result["measure"]])),
        }
        for result in results
    ]
    encoders = {pathlib.PurePath(str(result.get("encoder", "static"))).name for result in results}
    whole = {"encoder": f"{' and '.join(sorted(encoders))} encoder"}
    return whole | {"measure": results[0]["measure"], "first": first, "collections": measured, "arms": arms}


def conclusion(found):
    """Which arm gains most over the collections, and how far that can be expected of another one."""
    pooled = [row for row in found["arms"] if row["pooled"]]
    if not pooled:
        return f"No arm was trained on {FEW} of these collections: too few for a mean."
    best = max(pooled, key=lambda row: row["pooled"]["mean"])
    if best["pooled"]["mean"] <= 0:
        return f"No arm is better than {found['first']} on average."
    counts = ", ".join(f"{name} in {best['counts'][name]}" for name in DECISIONS if name in best["counts"])
    holds = best["pooled"]["p_holm"] < significance.LEVEL and best["pooled"]["mean"] > 0
    low, high = best["pooled"]["predicted"]
    return (
        f"{best['arm']} gains {interval(best['pooled'])} {found['measure']} over {found['first']}, the most on "
        f"average: {counts} of {sum(best['counts'].values())} collections. "
        + ("" if holds else "That mean is not beyond chance: what an arm gains depends on the collection. ")
        + f"A new collection can be expected between {low:+.3f} and {high:+.3f}."
    )


def interval(pooled):
    """A pooled effect with its interval."""
    return f"{pooled['mean']:+.4f} [{pooled['low']:+.4f}, {pooled['high']:+.4f}]"


def _cell(test):
    """A collection's test of an arm: its difference and the decision."""
    if not test:
        return ""
    return f"{test['difference']:+.4f} {test['decision']}" if test["wins"] or test["losses"] else "the same"


def to_table(found):
    """over() as Markdown: a conclusion, the pooled effects, the effect in each collection."""
    rows = []
    for row in found["arms"]:
        pooled, counts = row["pooled"], (str(row["counts"].get(decision, "")) for decision in DECISIONS)
        cells = ["", "", "", ""]
        if pooled:
            low, high = pooled["predicted"]
            cells = [interval(pooled), significance.shown(pooled["p_holm"])]
            cells += [f"{low:+.3f} to {high:+.3f}", f"{pooled['i2']:.0%}"]
        rows.append([row["arm"], str(sum(row["counts"].values())), *cells, *counts])
    measure, names = found["measure"], [each["name"] for each in found["collections"]]
    head = ["negatives", "collections", f"{measure} against {found['first']} [95 %]", "p (Holm)"]
    text = [f"**{conclusion(found)}**\n", markdown([*head, "in a new collection", "I²", *DECISIONS], rows)]
    text.append(
        "Random effects over collections (DerSimonian-Laird), interval by Hartung and Knapp. In a new collection: "
        "where 95 % of the effects would lie. I²: share of the spread between collections that is not chance.\n"
    )
    lines = [
        ["queries, seeds", *(f"{each['queries']:,}, {each['seeds']}" for each in found["collections"])],
        *(
            [
                f"*{name}*",
                *(
                    f"{each['references'][name]:.4f}" if name in each["references"] else ""
                    for each in found["collections"]
                ),
            ]
            for name in dict.fromkeys(name for each in found["collections"] for name in each["references"])
        ),
        [found["first"], *(f"{each['first']:.4f}" for each in found["collections"])],
    ]
    for row in found["arms"]:
        of = [row["tests"].get(name) for name in names]
        lines.append([row["arm"], *map(_cell, of)])
    return "\n".join([*text, markdown([f"test {measure}", *names], lines)])

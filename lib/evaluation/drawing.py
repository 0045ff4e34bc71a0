"""What the figures of a comparison show, out of its runs; how they are drawn stands in comparison_plots."""

import numpy as np

from lib.evaluation import analysis, comparison_plots
from lib.evaluation.measures import MEASURES


def draw(folder, result, runs, features):
    """Every figure of a comparison. features: {qid: {name: value}} of the test queries, or None."""
    measure = result["measure"]
    comparison_plots.arms(folder / "arms.png", result)
    if all(row["trained"] for row in result["arms"]):
        if measure in MEASURES:  # what dev was measured by
            comparison_plots.curves(folder / "curves.png", _curves(runs, measure), measure=measure)
        comparison_plots.hardness(folder / "sources.png", _by_source(runs))
        comparison_plots.geometry(folder / "geometry.png", result["arms"])
    if len(result["arms"]) == 2:
        (_, first), (_, second) = by_arm = list(analysis.means_of(runs, measure, list(runs[0].values)).items())
        comparison_plots.differences(
            folder / "differences.png", second - first, names=[by_arm[1][0], by_arm[0][0]], measure=measure
        )
    if features and len(result["arms"]) > 1:
        comparison_plots.gains(
            folder / "gains.png", _gains(runs, features, measure), measure=measure, first=result["arms"][0]["arm"]
        )
    if grid := _grid(runs, measure):
        flag, *cells = grid
        comparison_plots.grid(
            folder / "grid.png",
            *cells,
            flag=flag,
            title=f"test {measure.upper()}, {result['name']}, mean of {len(result['seeds'])} seeds",
        )


def _curves(runs, measure):
    """{arm: (steps, seconds, mean dev measure)} over its seeds."""
    curves = {}
    for one in runs:
        seconds = {x["step"]: x["dev_seconds"] for x in one.timing if x["event"] == "evaluation"}
        points = [
            (x["step"], seconds.get(x["step"], 0.0), x["dev"][measure]) for x in one.log if x["event"] == "evaluation"
        ]
        curves.setdefault(one.arm, []).append(points)
    return {arm: np.mean([points[: min(map(len, many))] for points in many], axis=0).T for arm, many in curves.items()}


def _by_source(runs):
    """{arm: {source: [(step, above, gradient)]}} without in_batch, means over seeds; in_batch's own is {}."""
    found = {}
    for one in runs:
        of_arm = found.setdefault(one.arm, {})
        for x in one.log:
            for source, row in x.get("sources", {}).items():
                if source != "in_batch" and row["negatives"]:
                    at = of_arm.setdefault(source, {}).setdefault(x["step"], [])
                    at.append((row["above"], row["gradient"]))
    return {
        arm: {
            source: [(step, *np.mean(values, axis=0)) for step, values in sorted(at.items())]
            for source, at in of_arm.items()
        }
        for arm, of_arm in found.items()
    }


def _gains(runs, features, measure):
    """{feature: {arm: [(bin label, mean gain over the first arm, its standard error)]}}."""
    qids = [qid for qid in runs[0].values if qid in features]
    means = analysis.means_of(runs, measure, qids)
    first, *others = means
    gains = {}
    for name in next(iter(features.values())):
        values = np.array([features[qid][name] for qid in qids], dtype=np.float64)
        edges = np.unique(values)
        if len(edges) == 1:  # tells no query from another
            continue
        yes_or_no = edges.tolist() == [0, 1]
        if len(edges) > 4:
            name, edges = f"{name}, quarters", np.unique(np.quantile(values, [0, 0.25, 0.5, 0.75]))
        bins = np.searchsorted(edges, values, side="right") - 1
        gains[name] = {arm: [] for arm in others}
        for number in np.unique(bins):
            inside = bins == number
            low, high = values[inside].min(), values[inside].max()
            label = ("no", "yes")[number] if yes_or_no else f"{low:g}" if low == high else f"{low:.3g}-{high:.3g}"
            for arm in others:
                gain = (means[arm] - means[first])[inside]
                gains[name][arm].append((label, gain.mean(), gain.std() / np.sqrt(len(gain))))
    return gains


def _grid(runs, measure):
    """(flag, arms without it, its values, means (A, V)) if the arms differ by one number each, else None."""
    cells = {}
    for one in runs:
        if len(one.overrides) != 1 or not isinstance(next(iter(one.overrides.values())), (int, float)):
            return None
        ((flag, value),) = one.overrides.items()
        mean = np.mean([values[measure] for values in one.values.values()])
        cells.setdefault((flag, one.base, value), []).append(mean)
    flags = {flag for flag, _, _ in cells}
    rows, columns = list(dict.fromkeys(key[1] for key in cells)), sorted({key[2] for key in cells})
    if len(flags) > 1 or len(cells) < len(rows) * len(columns) or len(columns) < 2:
        return None
    (flag,) = flags
    return flag, rows, columns, np.array([[np.mean(cells[flag, a, v]) for v in columns] for a in rows])

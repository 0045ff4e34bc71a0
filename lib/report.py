"""The comparison of arms: tables and figures, made only from what lies in the run folders."""
import itertools
import pathlib

import numpy as np
from scipy import stats

from lib import formats, metrics, plots, run
from lib.run import BadInput

LEVEL = 0.05  # of p_seeds with Holm's correction: two arms differ, for other seeds and queries too
DEEP = "recall@100"  # what a reranker or a reader is given: tested besides the measure that is asked for
BUDGETS = {"steps": "steps", "denominators": "negatives in denominators per query",
           "docs_encoded": "docs encoded, mining included", "seconds": "seconds, mining included"}


def read_runs(folder):
    """[(summary, {qid: {measure: value}}, lines of metrics.jsonl, lines of timing.jsonl)] of a comparison.

    In the order of the command that began it; BadInput if a run of it is not finished.
    """
    folder = pathlib.Path(folder)
    config = run.recorded(folder)
    found = {}
    for path in sorted(folder.glob("*/summary.json")):
        summary = run.read_json(path)
        if path.parent.name == "pilot":  # left by a command that was killed
            continue
        per_query = path.parent / "eval" / f"{config['inputs']['collection']}-test" / "per_query.jsonl"
        log = run.Run(path.parent)
        found[summary["negatives"], summary["seed"]] = (
            summary, formats.read_per_query(per_query), log.read_log(), log.read_log("timing.jsonl"))
    if "arm" in config["derived"]:
        raise BadInput(f"{folder} is a single run; a comparison has several: train.py --negatives A B ...")
    jobs = list(itertools.product(config["args"]["negatives"], config["args"]["seeds"]))
    if missing := [job for job in jobs if job not in found]:
        arm, seed = missing[0]
        raise BadInput(f"{folder}: {len(missing)} of {len(jobs)} runs are not finished, the first is {arm}, "
                       f"seed {seed}; continue with the same command and --resume")
    return [found[job] for job in jobs]


def compare(folder, *, measure, against=None):
    """Write ablation.json, ablation.md and plots/ of a comparison; returns the table."""
    folder = pathlib.Path(folder)
    runs = read_runs(folder)
    if against is not None:  # that arm comes first, and the others are tested against it
        if against not in (arms := dict.fromkeys(summary["negatives"] for summary, *_ in runs)):
            raise BadInput(f"--against {against!r}: no arm of {folder}; it has {', '.join(arms)}")
        runs.sort(key=lambda one: one[0]["negatives"] != against)
    result = analyse(runs, measure=measure)
    table = to_table(result)
    run.write_json(folder / "ablation.json", result)
    run.write_text(folder / "ablation.md", table)
    features = folder / "queries.json"
    draw(folder / "plots", result, runs, run.read_json(features) if features.exists() else None)
    if audits := read_audits(folder):
        plots.audit(folder / "plots" / "audit.png", audits, title=f"false negatives, {_name(result)}")
    return table


def read_audits(folder):
    """[(source and run, filter, ranks, estimate)] of mine_negatives.py --audit of a comparison's runs."""
    return [(f"{row['source']}, {path.parent.parent.name}", row["after"], row["ranks"], row)
            for path in sorted(folder.glob("*/audit/*.json")) for row in run.read_json(path)["rows"]]


# ------------------------------------------------------------------------------------------------ statistics

def analyse(runs, *, measure):
    """Rows for each arm, tested against the first; then each against the next in the order of means."""
    arms = {}
    for summary, values, log, _ in runs:
        arms.setdefault(summary["negatives"], []).append((summary, values, log))
    qids = list(runs[0][1])
    for summary, values, _, _ in runs:
        if values.keys() != runs[0][1].keys():
            raise BadInput(f"{summary['name']} was measured on other queries than {runs[0][0]['name']}")
    rows = [arm_row(arm, of_arm, measure) for arm, of_arm in arms.items()]
    first = rows[0]["arm"]
    matrices = {name: {arm: np.array([[values[qid][name] for qid in qids] for _, values, _ in of_arm])
                       for arm, of_arm in arms.items()}                                 # (S, Q)
                for name in (measure, DEEP)}  # an arm may lift the top and lose what lies deep
    for name, matrix in matrices.items():
        tests = paired((matrix[row["arm"]], matrix[first]) for row in rows[1:])
        for row, test in zip(rows[1:], tests):
            if name == measure:
                row["against_first"] = test
            if test["difference"] < 0 and test["differs"]:
                row.setdefault("hurts", {})[name] = {key: test[key] for key in ("difference", "p_seeds_holm")}
                row["why"] = why(row, rows[0])
    matrix = matrices[measure]
    order = sorted(matrix, key=lambda arm: -matrix[arm].mean())
    steps = paired((matrix[a], matrix[b]) for a, b in itertools.pairwise(order))
    for (a, b), test in zip(itertools.pairwise(order), steps):
        test |= {"above": a, "below": b}
    summary = runs[0][0]
    result = {key: summary[key] for key in ("data", "encoder", "steps", "bm25")}
    result |= {"measure": measure, "seeds": [s["seed"] for s, _, _ in arms[first]], "queries": len(qids),
               "untrained": {name: float(np.mean([s["untrained"][name] for s, *_ in runs]))
                             for name in metrics.MEASURES},
               "arms": rows, "order": steps}
    scores = [row["forecast"] for row in rows]
    if len(rows) > 2 and all(scores):
        means = [np.mean(row["test"][measure]) for row in rows]
        result["forecast"] = {key: _correlation([s[key] for s in scores], means) for key in scores[0]}
    return result


def paired(pairs):
    """metrics.paired_seeds() of every pair, with Holm's correction over them of both p values."""
    tests = [metrics.paired_seeds(a, b, seed=0) for a, b in pairs]
    for key in ("p", "p_seeds"):
        for test, p in zip(tests, metrics.holm([test[key] for test in tests])):
            test[f"{key}_holm"] = p
    return [test | {"differs": test["p_seeds_holm"] < LEVEL} for test in tests]


def arm_row(arm, of_arm, measure):
    """Numbers of one arm over its seeds."""
    summaries = [summary for summary, _, _ in of_arm]
    row = {"arm": arm, "seeds": [s["seed"] for s in summaries],
           "test": {name: [s["test"][name] for s in summaries] for name in metrics.MEASURES}}
    row |= {key: float(np.mean([s[key] for s in summaries]))
            for key in ("steps", "denominators", "docs_encoded", "train_s", "mine_s")}
    row["seconds"] = row["train_s"] + row["mine_s"]
    gain = np.mean([s["test"][measure] - s["untrained"][measure] for s in summaries])
    row["gain_per_minute"] = float(60 * gain / max(row["seconds"], 1e-9))
    row["geometry"] = {key: float(np.mean([s["geometry"][key] for s in summaries]))
                       for key in summaries[0]["geometry"]}
    last = [[x for x in log if "loss" in x][-1] for _, _, log in of_arm]
    row["geometry"]["effective_negatives"] = float(np.mean([x["effective"] for x in last]))
    begun = [[x["forecast"] for x in log if "forecast" in x] for _, _, log in of_arm]
    row["forecast"] = {key: float(np.mean([f[0][key] for f in begun])) for key in begun[0][0]} \
        if all(begun) else None
    row["alarms"] = sorted({x["alarm"] for _, _, log in of_arm for x in log if "alarm" in x})
    row["best_at"] = float(np.mean([s["best_step"] / s["steps"] for s in summaries]))
    row["late"] = late_negatives(of_arm)
    return row


def late_negatives(of_arm):
    """{source: what its negatives did in the second half of training}, in_batch left out; means over seeds.

    above: share of them above the positive; gradient: share of the gradient; near_copies: share of the last
    list that resembles a positive, None for a source without lists.
    """
    found = {}
    for summary, _, log in of_arm:
        for x in (x for x in log if "loss" in x and x["step"] >= summary["steps"] / 2):
            for source, row in x["sources"].items():
                if source != "in_batch" and row["negatives"]:
                    copies = summary.get("near_copies", {}).get(source)
                    found.setdefault(source, []).append((row["above"], row["gradient"], copies))
    return {source: {key: None if None in values else float(np.mean(values))
                     for key, values in zip(("above", "gradient", "near_copies"), zip(*rows))}
            for source, rows in found.items()}


def why(row, first):
    """What may explain that an arm is worse than the first: sentences, each with what to try."""
    found = []
    for source, late in row["late"].items():
        if (late["near_copies"] or 0) > 0.02:
            found.append(f"{late['near_copies']:.0%} of what {source} mined are near-copies of a positive "
                         "(--filters near_copy:0.5)")
        if late["above"] > 0.1:
            found.append(f"{late['above']:.0%} of {source}'s negatives still stood above the positive in the "
                         "second half of training: unlabelled positives, or too hard for this encoder "
                         "(mine_negatives.py --audit 0.3; --filters percpos:0.95)")
    few, many = (arm["geometry"]["effective_negatives"] for arm in (row, first))
    if few < many / 2:
        found.append(f"the gradient of a query came from {few:.1f} negatives, not {many:.1f}: they crowd out "
                     "the rest (fewer of them, a higher --temperature)")
    mine, theirs = (arm["geometry"]["uniformity"] for arm in (row, first))
    if mine > theirs + 0.1:
        found.append(f"its docs are spread less evenly (uniformity {mine:.2f} against {theirs:.2f}), which "
                     "costs deep recall: negatives from a fixed list or without gradient (bm25, dense, "
                     "adore, queue) leave the rest of the corpus alone (refresh:4, random:2+bm25:2)")
    if row["best_at"] <= 0.5 < first["best_at"]:
        found.append(f"dev was best at {row['best_at']:.0%} of the steps and fell from there "
                     "(fewer --epochs, or hard negatives later: in_batch,refresh:4@0.5)")
    return found or ["nothing in its logs stands out; read the examples of mine_negatives.py --audit 0.3"]


def _correlation(a, b):
    """Spearman's, None where one of the two is constant."""
    return None if len(set(a)) < 2 or len(set(b)) < 2 else float(stats.spearmanr(a, b).statistic)


# ---------------------------------------------------------------------------------------------------- tables

def to_table(result):
    """analyse() as Markdown: the arms, what they cost, their order, the forecast."""
    measure, first = result["measure"], result["arms"][0]["arm"]
    head = ["negatives", *(f"test {name}" for name in metrics.MEASURES),
            f"{measure} against {first} [95 %]", "p (Holm)", "p, other seeds (Holm)", "effect", "could show"]
    lines = [[f"*{name}*", *(f"{result[name][m]:.4f}" for m in metrics.MEASURES), *[""] * 5]
             for name in ("bm25", "untrained")]
    for row in result["arms"]:
        cells = {name: f"{np.mean(values):.4f}" for name, values in row["test"].items()}
        if len(row["seeds"]) > 1:
            cells[measure] += f" ± {np.std(row['test'][measure], ddof=1):.4f}"
        tail = [""] * 5
        if test := row.get("against_first"):
            tail = [f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}]",
                    *(f"{_p(test[key])} ({_p(test[key + '_holm'])})" for key in ("p", "p_seeds")),
                    f"{test['effect']:+.2f}", f"{test['detectable']:.4f}"]
        lines.append([row["arm"], *cells.values(), *tail])
    text = [_markdown(head, lines)]
    text.append(f"{result['data']}, seeds {' '.join(map(str, result['seeds']))}, {result['queries']} test "
                "queries; ± standard deviation over seeds; interval: bootstrap over queries and seeds "
                "together; p: paired randomisation test of queries averaged over seeds, these seeds on other "
                "queries; p, other seeds: t test with seeds and queries both random, by which arms are said "
                "to differ; in brackets with Holm's correction over the arms; effect: difference over its "
                "standard deviation between queries; could show: least difference found with 80 % power.\n")
    head = ["negatives", *BUDGETS.values(), "of which mining s", "gain a minute", "alignment", "uniformity",
            "effective rank", "effective negatives", "alarms"]
    text.append(_markdown(head, [
        [row["arm"], f"{row['steps']:,.0f}", f"{row['denominators']:,.0f}", f"{row['docs_encoded']:,.0f}",
         f"{row['seconds']:.1f}", f"{row['mine_s']:.1f}", f"{row['gain_per_minute']:+.3f}",
         *(f"{row['geometry'][key]:{form}}" for key, form in (
             ("alignment", ".3f"), ("uniformity", ".3f"), ("effective_rank", ".0f"),
             ("effective_negatives", ".1f"))), ", ".join(row["alarms"])] for row in result["arms"]]))
    if result["order"]:
        chain = [result["order"][0]["above"]]
        for test in result["order"]:
            sign = ">" if test["differs"] else "≈"
            chain.append(f"{sign} {test['below']} (p {_p(test['p_seeds_holm'])})")
        text.append("Order by mean, each against the next (Holm): " + " ".join(chain) + ".\n")
    for row in result["arms"]:
        if "hurts" in row:
            told = ", ".join(f"{name} {found['difference']:+.4f} (p {_p(found['p_seeds_holm'])})"
                             for name, found in row["hurts"].items())
            text.append(f"**{row['arm']} hurts**: {told}. What its runs say: {'; '.join(row['why'])}.\n")
    if result.get("forecast"):
        told = ", ".join(f"{key} {'n/a' if rho is None else f'{rho:+.2f}'}"
                         for key, rho in result["forecast"].items())
        text.append("Forecast: rank correlation over the arms of what the untrained encoder said of their "
                    f"negatives with test {measure}: {told}.\n")
    return "\n".join(text)


def _p(value):
    return f"{value:.4f}" if value >= 0.00005 else "<.0001"


def _markdown(head, lines):
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [head, ["---"] * len(head), *lines])


# --------------------------------------------------------------------------------------------------- figures

def draw(folder, result, runs, features):
    """Every figure of a comparison. features: {qid: {name: value}} of the test queries, or None."""
    measure = result["measure"]
    plots.arms(folder / "arms.png", result)
    plots.curves(folder / "curves.png", _curves(runs, measure), measure=measure)
    plots.hardness(folder / "sources.png", _by_source(runs))
    plots.geometry(folder / "geometry.png", result["arms"])
    if features and len(result["arms"]) > 1:
        plots.gains(folder / "gains.png", _gains(runs, features, measure), measure=measure,
                    first=result["arms"][0]["arm"])
    if grid := _grid(result):
        plots.grid(folder / "temperature.png", *grid,
                   title=f"test {measure.upper()}, {_name(result)}, mean of {len(result['seeds'])} seeds")


def _curves(runs, measure):
    """{arm: (steps, seconds, mean dev measure)} over its seeds."""
    curves = {}
    for summary, _, log, timing in runs:
        seconds = {x["step"]: x["dev_seconds"] for x in timing if "dev_seconds" in x}
        points = [(x["step"], seconds.get(x["step"], 0.0), x["dev"][measure]) for x in log if "dev" in x]
        curves.setdefault(summary["negatives"], []).append(points)
    return {arm: np.mean([points[:min(map(len, many))] for points in many], axis=0).T
            for arm, many in curves.items()}


def _by_source(runs):
    """{arm: {source: [(step, above, gradient)]}} without in_batch, means over seeds; in_batch's own is {}."""
    found = {}
    for summary, _, log, _ in runs:
        of_arm = found.setdefault(summary["negatives"], {})
        for x in log:
            for source, row in x.get("sources", {}).items():
                if source != "in_batch" and row["negatives"]:
                    at = of_arm.setdefault(source, {}).setdefault(x["step"], [])
                    at.append((row["above"], row["gradient"]))
    return {arm: {source: [(step, *np.mean(values, axis=0)) for step, values in sorted(at.items())]
                  for source, at in of_arm.items()} for arm, of_arm in found.items()}


def _gains(runs, features, measure):
    """{feature: {arm: [(bin label, mean gain over the first arm, its standard error)]}}."""
    qids = [qid for qid in runs[0][1] if qid in features]
    by_arm = {}
    for summary, values, _, _ in runs:
        by_arm.setdefault(summary["negatives"], []).append([values[qid][measure] for qid in qids])
    means = {arm: np.mean(many, axis=0) for arm, many in by_arm.items()}
    first, *others = means
    gains = {}
    for name in next(iter(features.values())):
        values = np.array([features[qid][name] for qid in qids], dtype=np.float64)
        edges = np.unique(np.quantile(values, [0, 0.25, 0.5, 0.75, 1]))
        bins = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(len(edges) - 2, 0))
        gains[name] = {arm: [] for arm in others}
        for number in np.unique(bins):
            inside = bins == number
            low, high = values[inside].min(), values[inside].max()
            label = f"{low:g}" if low == high else f"{low:.3g}-{high:.3g}"
            for arm in others:
                gain = (means[arm] - means[first])[inside]
                gains[name][arm].append((label, gain.mean(), gain.std() / np.sqrt(len(gain))))
    return gains


def _name(result):
    """The collection's, without the folder that it lies in."""
    return pathlib.Path(result["data"]).name


def _grid(result):
    """(arms without temperature, temperatures, means (A, T)) if the arms form such a grid, else None."""
    cells = {}
    for row in result["arms"]:
        sources, *changes = row["arm"].split()
        values = [c.removeprefix("temperature=") for c in changes if c.startswith("temperature=")]
        if len(changes) != 1 or len(values) != 1:
            return None
        cells[sources, float(values[0])] = float(np.mean(row["test"][result["measure"]]))
    rows, columns = list(dict.fromkeys(a for a, _ in cells)), sorted({t for _, t in cells})
    if len(cells) < len(rows) * len(columns) or len(columns) < 2:
        return None
    return rows, columns, np.array([[cells[a, t] for t in columns] for a in rows])

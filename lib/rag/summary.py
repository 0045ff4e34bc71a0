"""Tables, tests and figures of answers: by arm, over seeds and questions."""

import collections
import textwrap

import numpy as np

from lib.evaluation import significance
from lib.evaluation.analysis import other_seeds
from lib.figure import STYLES, figure, legend_beside
from lib.files import markdown
from lib.rag import answers
from lib.rag.scoring import CONTEXTS

EFFECTS = ("gain", "recall effect", "distractor effect")
DISTRACTS = ("distracting effect", "spoiled")  # of docs that are not relevant: tested too
# columns of tables: what is averaged, its title, its form; METRICS stand between these of the first table
BEFORE = (("ndcg@10", "nDCG@10", "{:.4f}"),)
BEHIND = (("needed", "answers that change without the docs cited", "{:.1%}"), ("ms", "ms", "{:.1f}"))
DISTRACTION = (
    ("distracting effect", "distracting effect", "{:.4f}"),
    ("highly distracting", "questions with a highly distracting doc", "{:.1%}"),
    ("spoiled", "docs that spoil a right answer", "{:.1%}"),
    ("false distractors", "unlabelled docs that hold the answer", "{:.1%}"),
    ("udcg", "UDCG", "{:.4f}"),
)


def summarise(systems, *, measure, name):
    """What metrics.json holds of systems: [(arm, seed, {value: (n,) array})], the arm to compare with first.

    The questions of all systems are the same, in the same order. Differences are tested by significance.compare().
    """
    by_arm = {}
    for arm, seed, values in systems:
        by_arm.setdefault(arm, {})[seed] = values
    arms = [_arm_row(arm, by_seed) for arm, by_seed in by_arm.items()]
    first, *others = by_arm
    tested = {name: _tests(by_arm, name) for name in (measure, "ndcg@10", *DISTRACTS)}
    effects = {name: _tests(by_arm, name, of_first=0.0) for name in EFFECTS}
    for row, arm in zip(arms[1:], others):
        row |= {"against_first": tested[measure][arm], "ndcg_against_first": tested["ndcg@10"][arm]}
        row["split"] = {name: effects[name][arm] for name in EFFECTS if arm in effects[name]}
        row["distraction"] = {name: tested[name][arm] for name in DISTRACTS if arm in tested[name]}
    return {"name": name, "measure": measure, "first": first, "arms": arms, "agreement": _agreement(arms, measure)}


def _arm_row(arm, by_seed):
    names = [name for name, array in next(iter(by_seed.values())).items() if array.dtype.kind == "f"]
    means = {name: [_mean(values[name]) for values in by_seed.values()] for name in names}
    outcomes = collections.Counter(each for values in by_seed.values() for each in values.get("outcome", ()))
    total = sum(outcomes.values())
    return {
        "arm": arm,
        "seeds": list(by_seed),
        "questions": len(next(iter(next(iter(by_seed.values())).values()))),
        "means": {name: [None if np.isnan(each) else each for each in found] for name, found in means.items()},
        "outcomes": {name: outcomes[name] / total for name in answers.OUTCOMES} if total else {},
    }


def _mean(values):
    """The mean of what is there; nan where nothing is."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def _tests(by_arm, name, *, of_first=None):
    """{arm: its test against the first arm} of a value, where both have it; of_first: what it is for the first arm.

    Arms of one seed, as BM25, are tested apart from the others, of which the seeds that all have are taken.
    """
    first, *others = by_arm
    if not others:
        return {}
    seeds = [set(by_seed) for by_seed in by_arm.values() if len(by_seed) > 1]
    common = sorted(set.intersection(*seeds)) if seeds else []
    rows = {}
    for arm, by_seed in by_arm.items():
        own = [by_seed[seed] for seed in (common if len(by_seed) > 1 and common else by_seed)]
        if arm == first and of_first is not None:
            rows[arm] = np.full((len(own), len(own[0]["ndcg@10"])), of_first)
        elif all(name in values and np.isfinite(values[name]).any() for values in own):
            rows[arm] = np.stack([values[name] for values in own])  # (S, n)
    if first not in rows:
        return {}
    there = np.isfinite([found.sum(0) for found in rows.values()]).all(0)  # questions that have it in all runs
    if not there.any():
        return {}
    rows = {arm: found[:, there] for arm, found in rows.items()}
    found = {}
    for alone in (False, True):
        tested = [arm for arm in others if arm in rows and (len(rows[arm]) == 1) == alone]
        base = rows[first][:1] if alone and of_first is not None else rows[first]  # one split has no seeds to vary
        values = {first: base} | {arm: rows[arm] for arm in tested}
        found |= zip(tested, significance.compare(values, [(arm, first) for arm in tested], other_seeds(values)))
    return found


def _agreement(arms, measure):
    """{retrieval measure: Kendall's tau with the answers} over the arms, where there are three or more."""
    from scipy import stats  # here: it takes a second to import

    mean = lambda row, name: np.mean([x for x in row["means"].get(name, [None]) if x is not None] or [np.nan])  # noqa: E731
    found = {}
    quality = [mean(row, measure) for row in arms]
    for name in ("ndcg@10", "gold_recall", "answer_recall", "udcg", "distracting effect"):
        other = [mean(row, name) for row in arms]
        if len(arms) > 2 and np.isfinite(other).all() and len(set(other)) > 1:
            found[name] = float(stats.kendalltau(other, quality).statistic)
    return found


# -------------------------------------------------------------------------------------------------- tables


def cell(row, name, form):
    """A mean over seeds, with their standard deviation where there are several; empty where there is none."""
    found = [x for x in row["means"].get(name, []) if x is not None]
    if not found:
        return ""
    spread = f" ± {form.format(np.std(found, ddof=1))}" if len(found) > 1 else ""
    return form.format(np.mean(found)) + spread


def effect_cell(test):
    """A difference with its 95 % interval and its corrected p, and a mark where these are over questions only."""
    mark = "" if test["over"] == significance.BOTH else " (these runs)"
    return f"{test['difference']:+.4f} [{test['low']:+.4f}, {test['high']:+.4f}], p {test['p_holm']:.4f}{mark}"


def to_tables(result, references, gold_from=answers.OWN):
    """The Markdown of a summary and of the reference rows {name: (row of summarise)}; gold_from: of Questions."""
    arms, measure, first = result["arms"], result["measure"].upper(), result["first"]
    rows = [*arms, *references]
    some = lambda columns: [column for column in columns if any(cell(row, column[0], "{}") for row in rows)]  # noqa: E731
    cells = lambda row, columns: [row["arm"], *(cell(row, name, form) for name, _, form in columns)]  # noqa: E731
    metrics = [(name, row.title, row.form) for name, row in answers.METRICS.items() if row.title]
    shown, asked = some([*BEFORE, *metrics, *BEHIND]), some(DISTRACTION)
    parts = [f"# Answers: {result['name']}\n"]
    if gold_from != answers.OWN:
        parts.append(
            f"**These questions have no answers of their own ({answers.OWN}): what is said is compared with "
            f"{gold_from}, so that F1 rewards quoting how those begin.**\n"
        )
    parts.append(markdown(["arm", *(title for _, title, _ in shown)], [cells(row, shown) for row in rows]))
    if compared := [row for row in arms if row.get("split")]:
        parts.append(
            f"What the gain in {measure} over {first} is made of (95 % interval, p with Holm's correction over the "
            "arms; over questions and seeds, or, marked as of these runs, over questions only, where there are too "
            "few seeds):\n"
        )
        effects = [[row["arm"], *(effect_cell(row["split"][effect]) for effect in EFFECTS)] for row in compared]
        parts.append(markdown(["arm", *EFFECTS], effects))
    if asked:
        tested = [name for name, *_ in asked if any(name in row.get("distraction", ()) for row in arms)]
        head = ["arm", *(title for _, title, _ in asked), *(f"{name} against {first}" for name in tested)]
        tests = [row.get("distraction", {}) for row in arms]
        lines = [
            [*cells(row, asked), *(effect_cell(of[name]) if name in of else "" for name in tested)]
            for row, of in zip(arms, tests)
        ]
        parts += ["What the docs do that are not relevant, each read alone:\n", markdown(head, lines)]
    names = _happened(rows)
    outcomes = [[row["arm"], *(f"{row['outcomes'][name]:.1%}" for name in names)] for row in rows if row["outcomes"]]
    parts += ["What happened to the questions:\n", markdown(["arm", *names], outcomes)]
    if orders := [name for name in CONTEXTS if any(f"{name} f1" in row["means"] for row in rows)]:
        f1s = [(name, "", "{:.4f}") for name in ("f1", *(f"{name} f1" for name in orders))]
        lines = [cells(row, f1s) for row in arms]
        parts += ["F1 with the docs in another order:\n", markdown(["arm", "best first", *orders], lines)]
    if result["agreement"]:
        taus = ", ".join(f"{name} {tau:.3f}" for name, tau in result["agreement"].items())
        parts.append(f"Kendall's tau with {measure} over the arms: {taus}.\n")
    return "\n".join(parts)


def _happened(rows):
    """The rows of OUTCOMES that are shown: the rare ones only where they happened."""
    seen = {name for row in rows for name, share in row["outcomes"].items() if share}
    return [name for name in answers.OUTCOMES if name not in answers.RARE or name in seen]


# ------------------------------------------------------------------------------------------------- figures


def draw(folder, result, systems):
    """The figures of a summary: outcomes, coverage, and with several arms the split and the gains."""
    outcomes(folder / "outcomes.png", result)
    coverage(folder / "coverage.png", systems, measure=result["measure"])
    if any(row.get("split") for row in result["arms"]):
        split(folder / "split.png", result)
        gains(folder / "gains.png", result)


def outcomes(path, result):
    """What happened to the questions, a bar for each arm."""
    rows = result["arms"]
    hatches = ("", "///", "", "...", "xxx", "\\\\\\", "", "ooo", "+++", "---")
    shades = (
        "#1b4965",
        "#5fa8d3",
        "#dddddd",
        "#ffffff",
        "#cae9ff",
        "#ca6702",
        "#9b2226",
        "#ee9b00",
        "#eeeeee",
        "#bbbbbb",
    )
    with figure(path, width=8.5, height=1.8 + 0.42 * len(rows)) as ax:
        left = np.zeros(len(rows))
        looks = dict(zip(answers.OUTCOMES, zip(shades, hatches)))
        for name in _happened(rows):
            colour, hatch = looks[name]
            width = np.array([100 * row["outcomes"].get(name, 0) for row in rows])
            style = {"color": colour, "hatch": hatch, "edgecolor": "#333333", "linewidth": 0.5}
            ax.barh(range(len(rows)), width, left=left, label=name, **style)
            left += width
        ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 100), xlabel="questions (%)", title=result["name"])
        _name_rows(ax, rows)


def _name_rows(ax, rows):
    ax.set(yticks=range(len(rows)), yticklabels=[textwrap.fill(row["arm"], 28) for row in rows])
    legend_beside(ax)


def coverage(path, systems, *, measure):
    """Accuracy against coverage: the surest questions first, by the best doc's score and by the generator."""
    chosen = {}
    for arm, _, values in systems:
        chosen.setdefault(arm, values)  # the first seed
    with figure(path, 2) as axes:
        kinds = (("top", "the best doc's score"), ("confidence", "the generator's confidence"))
        for ax, (key, label) in zip(axes, kinds):
            for (arm, values), (colour, _, dash) in zip(chosen.items(), STYLES * len(chosen)):
                if key in values and np.isfinite(values[key]).any():
                    sure = np.where(np.isfinite(values[key]), values[key], -np.inf)
                    share, right = answers.coverage_curve(sure, values[measure])
                    ax.plot(100 * share, right, color=colour, linestyle=dash, label=arm)
            ax.set(xlabel=f"questions answered (%), surest first by\n{label}", ylim=(0, None))
            ax.set_ylabel(f"mean {measure.upper()} of those")
        legend_beside(axes[1])


def split(path, result):
    """What the gain over the first arm is made of: two effects an arm, with intervals."""
    rows = [row for row in result["arms"] if row.get("split")]
    with figure(path, width=7.5, height=1.8 + 0.6 * len(rows)) as ax:
        for shift, effect, (colour, mark, _) in zip((-0.2, 0, 0.2), EFFECTS, STYLES):
            tests = [row["split"][effect] for row in rows]
            middle = np.array([test["difference"] for test in tests])
            ends = np.array([[test["low"], test["high"]] for test in tests]).T
            ax.errorbar(
                middle, np.arange(len(rows)) + shift, xerr=np.abs(ends - middle), color=colour, marker=mark,
                linestyle="", capsize=3, label=effect if effect != "gain" else "gain = sum of both",
            )  # fmt: skip
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(xlabel=f"{result['measure'].upper()} over {result['first']} (95 % interval)", title=result["name"])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        _name_rows(ax, rows)


def gains(path, result):
    """Gain in retrieval against gain in answers, a point an arm, with intervals; the first arm lies at 0, 0."""
    with figure(path, width=6.4, height=4) as ax:
        for row, (colour, mark, _) in zip(result["arms"][1:], STYLES * len(result["arms"])):
            x, y = row["ndcg_against_first"], row["against_first"]
            ax.errorbar(
                x["difference"], y["difference"],
                xerr=[[x["difference"] - x["low"]], [x["high"] - x["difference"]]],
                yerr=[[y["difference"] - y["low"]], [y["high"] - y["difference"]]],
                color=colour, marker=mark, capsize=2, linestyle="", label=row["arm"],
            )  # fmt: skip
        ax.axhline(0, color="black", linewidth=0.8)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(xlabel=f"gain in nDCG@10 over {result['first']}", title=result["name"])
        ax.set_ylabel(f"gain in {result['measure'].upper()} of the answers")
        legend_beside(ax)

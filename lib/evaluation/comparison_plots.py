"""The figures of a comparison of arms, each a function of plain data."""

import functools
import itertools
import textwrap

import numpy as np

from lib.evaluation import comparison
from lib.figure import STYLES, legend_beside, looks
from lib.figure import figure as figure_of

figure = functools.partial(figure_of, pdf=True)  # they go into papers

# what a reader who does not know the arms calls them
PLAIN = {"random": "random docs", "bm25": "BM25's best", "dense": "own model, mined once"}
PLAIN |= {"refresh": "own model, mined again", "queue": "docs of earlier batches", "adore": "mined at every step"}


def in_words(arm):
    """An arm's name and, below, what it is in plain words."""
    sources, _, flags = arm.partition(" ")
    names = [PLAIN.get(source.partition(":")[0]) for source in sources.split("+")]
    if "seed_shift" in flags:
        return f"{sources}, other seeds\n(chance)"
    said = " and ".join(names) if all(names) else ""
    said += ",\nfrom the whole corpus" if flags == "negative_docs=all" else ""
    said += ",\nfiltered by score" if flags == "filters=percpos:.95" else ""
    return f"{textwrap.fill(arm, 30)}\n({said})" if said else textwrap.fill(arm, 30)


def name_of(row):
    """An arm's name, marked where its pool was made with the labels of dev or test, or negatives were injected."""
    mark = comparison.mark_of(row.get("pool", {}))
    return row["arm"] + (f" ({mark})" if mark else "")


def arms(path, result):
    """The test measure by arm: a point per seed, their mean, and the 95 % interval of its difference."""
    rows, measure = result["arms"], result["measure"]
    base, bar = np.mean(rows[0]["test"][measure]), {"color": "#999999", "linewidth": 5, "alpha": 0.6}
    seed = {
        "marker": "o",
        "markersize": 5,
        "linestyle": "",
        "markerfacecolor": "white",
        "markeredgecolor": STYLES[0][0],
    }
    with figure(path, width=9, height=1.6 + 0.4 * len(rows)) as ax:
        for y, row in enumerate(rows):
            values = row["test"][measure]
            if test := row.get("against_first"):
                ax.plot([base + test["low"], base + test["high"]], [y, y], solid_capstyle="butt", **bar)
            ax.plot([np.mean(values)] * 2, [y - 0.28, y + 0.28], color=STYLES[0][0], linewidth=2.5)
            ax.plot(values, [y] * len(values), **seed)
            star = " *" if test and test["differs"] else ""
            right = max(max(values), base + test["high"] if test else 0)
            ax.annotate(
                f"{np.mean(values):.3f}{star}", (right, y), xytext=(12, 0), textcoords="offset points", va="center"
            )
        known = {name: of[measure] for name, of in result["references"].items() if measure in of}
        for name, dash in zip(known, ("--", ":")):
            ax.axvline(known[name], color="#555555", linestyle=dash, linewidth=1.2, label=name)
        mean = {"marker": "|", "markersize": 12, "markeredgewidth": 2.5, "linestyle": "", "color": STYLES[0][0]}
        for label, style in (
            ("a seed", seed),
            ("mean over seeds", mean),
            ("95 % interval of the\ndifference to the first arm", bar),
            ("* differs from the first arm\n(p < .05, Holm)", {"linestyle": ""}),
        ):
            ax.plot([], [], label=label, **style)
        ax.set(
            yticks=range(len(rows)),
            yticklabels=[textwrap.fill(name_of(row), 28) for row in rows],
            ylim=(len(rows) - 0.4, -0.6),
            title=result["name"],
            xlabel=f"test {measure.upper()}",
        )
        legend_beside(ax)
        ax.margins(x=0.16)


def forest(path, found):
    """Effects by arm and collection, with their means over collections: found as meta.over() returns it.

    A block of lines for each arm, a line with its 95 % interval for each collection; below, the pooled mean with its
    interval (thick) and where the effects of new collections would lie (thin).
    """
    names = [each["name"] for each in found["collections"]]
    rows, block = [row for row in found["arms"] if row["pooled"]] or found["arms"], len(names) + 2
    queries = sum(each["queries"] for each in found["collections"])
    with figure(path, width=9, height=1.2 + 0.1 * block * len(rows)) as ax:
        for number, row in enumerate(rows):
            for place, name in enumerate(names):
                if test := row["tests"].get(name):
                    (colour, mark, _), y = STYLES[place % len(STYLES)], block * number + place
                    fill = "white" if test["decision"] in ("open", "equal") else colour
                    ax.plot([test["low"], test["high"]], [y, y], color=colour, linewidth=1, alpha=0.7)
                    ax.plot(test["difference"], y, marker=mark, color=colour, markersize=5, markerfacecolor=fill)
            if pooled := row["pooled"]:
                y = block * number + len(names)
                ax.plot(pooled["predicted"], [y, y], color="black", linewidth=0.8)
                ax.plot([pooled["low"], pooled["high"]], [y, y], color="black", linewidth=3, solid_capstyle="butt")
                ax.plot(pooled["mean"], y, marker="D", color="black", markersize=6)
        for name, (colour, mark, _) in zip(names, itertools.cycle(STYLES)):
            ax.plot([], [], color=colour, marker=mark, markersize=5, label=name)
        ax.plot([], [], color="black", marker="D", linewidth=3, label="mean over collections,\n95 % interval")
        ax.plot([], [], color="black", linewidth=0.8, label="a new collection, 95 %")
        ax.plot(
            [], [], linestyle="", marker="o", color="#555555", markerfacecolor="white", label="hollow: equal or open"
        )
        ax.axvline(0, color="#555555", linewidth=1)
        ax.set(
            yticks=[block * number + (len(names) - 1) / 2 for number in range(len(rows))],
            yticklabels=[in_words(row["arm"]) for row in rows],
            ylim=(block * len(rows) - 1, -1),
            xlabel=f"test {found['measure'].upper()} less that of {found['first']}, with 95 % intervals",
            title=f"{found['encoder']}, {len(names)} collections, {queries:,} test queries",
        )
        ax.grid(axis="y", visible=False)
        ax.locator_params(axis="x", nbins=6)
        legend_beside(ax)


def curves(path, lines, *, measure):
    """Learning curves: {arm: (steps, seconds, values)} against steps and against seconds with mining."""
    with figure(path, 2) as axes:
        for column, (ax, label) in enumerate(zip(axes, ("step", "seconds of training and mining"))):
            for (arm, points), look in zip(lines.items(), looks(markersize=4)):
                ax.plot(points[column], points[2], label=arm, **look)
            ax.set(xlabel=label, ylabel=f"dev {measure.upper()}, mean over seeds")
        legend_beside(axes[1])


def hardness(path, arms):
    """Hardness and share of the gradient of {arm: {source: [(step, above, gradient)]}}, means over seeds.

    Sources of one arm share its colour; the second and later ones have hollow marks.
    """
    with figure(path, 2) as axes:
        for ax, (column, label) in zip(
            axes, ((1, "negatives above their positive (%)"), (2, "share of the gradient (%)"))
        ):
            for (arm, sources), look in zip(arms.items(), looks(markersize=4)):
                for number, (source, points) in enumerate(sources.items()):
                    values, name = np.array(points), f"{source} in {arm}" if len(sources) > 1 else arm
                    face = "white" if number else look["color"]
                    ax.plot(values[:, 0], 100 * values[:, column], label=name, markerfacecolor=face, **look)
            ax.set(xlabel="step", ylabel=label, ylim=(0, None))
        legend_beside(axes[1])


def geometry(path, rows):
    """Alignment against uniformity (Wang & Isola 2020), both better when lower, and ranks, by arm."""
    with figure(path, 2, width=5.6) as (left, right):
        for number, (row, look) in enumerate(zip(rows, looks(markersize=7, linestyle="")), 1):
            values = row["geometry"]
            at = values["uniformity"], values["alignment"]
            left.plot(*at, label=f"{number} {row['arm']}", **look)
            left.annotate(number, at, xytext=(5, 4), textcoords="offset points", fontsize=8)
        left.set(
            xlabel="uniformity of docs (log mean exp(-2 d²))",
            ylabel="alignment of positives (mean d²)",
            title="lower is better on both axes",
        )
        legend_beside(left)
        y = np.arange(len(rows))
        for shift, (key, label) in zip(
            (-0.2, 0.2),
            (("effective_rank", "effective rank of the docs"), ("effective_negatives", "effective negatives a query")),
        ):
            right.barh(
                y + shift,
                [row["geometry"][key] for row in rows],
                height=0.38,
                label=label,
                color=STYLES[0][0] if shift < 0 else "white",
                edgecolor=STYLES[0][0],
                hatch="" if shift < 0 else "///",
            )
        right.set(
            yticks=y, yticklabels=y + 1, ylim=(len(rows) - 0.5, -0.5), xlabel="number", xscale="log", ylabel="arm"
        )
        legend_beside(right)


def gains(path, found, *, measure, first):
    """Where arms gain over the first: {feature: {arm: [(bin, mean, standard error)]}}, a panel a feature."""
    with figure(path, len(found), width=4.4) as axes:
        for ax, (name, of_arm) in zip(np.atleast_1d(axes), found.items()):
            styles = looks(1, markersize=4, linewidth=1)  # the first arm's is the first
            for number, ((arm, bins), look) in enumerate(zip(of_arm.items(), styles)):
                x = np.arange(len(bins)) + 0.04 * (number - len(of_arm) / 2)
                labels, means, errors = zip(*bins)
                ax.errorbar(x, means, errors, label=arm, **look)
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set(
                xticks=range(len(bins)),
                xticklabels=labels,
                xlabel=name,
                ylabel=f"{measure.upper()} minus that of {first}",
            )
        legend_beside(np.atleast_1d(axes)[-1])


def grid(path, rows, columns, values, *, flag, title):
    """A heat map of values (R, C): rows of arms, columns of a flag's values; the best of each row in bold."""
    with figure(path, width=1.6 + 1.1 * len(columns), height=1.4 + 0.5 * len(rows)) as ax:
        ax.grid(False)
        ax.imshow(
            values,
            cmap="Greys",
            aspect="auto",
            vmin=values.min() - np.ptp(values) * 0.2,
            vmax=values.max() + np.ptp(values),
        )  # light enough for black figures
        for (i, j), value in np.ndenumerate(values):
            ax.annotate(
                f"{value:.3f}",
                (j, i),
                ha="center",
                va="center",
                weight="bold" if value == values[i].max() else "normal",
            )
        ax.set(
            xticks=range(len(columns)),
            xticklabels=columns,
            yticks=range(len(rows)),
            yticklabels=rows,
            xlabel=f"{flag}; bold: the best of a row",
        )
        ax.set_title(title, fontsize=10)


def differences(path, difference, *, names, measure):
    """Per-query differences a - b, sorted: where a wins, where b does, and how many queries tie."""
    values = np.sort(difference)[::-1]
    with figure(path, width=6) as ax:
        ax.fill_between(np.arange(len(values)), values, step="mid", color=STYLES[0][0], alpha=0.5, linewidth=0)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(
            xlabel="queries, sorted by difference",
            ylabel=textwrap.fill(f"{measure.upper()} of {names[0]} minus {names[1]}", 40),
            title=f"{(values > 0).sum()} better, {(values == 0).sum()} equal, {(values < 0).sum()} worse",
        )

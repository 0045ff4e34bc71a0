"""Every figure, each a function of plain data; readable in black and white: marks and dashes differ too."""

import itertools
import textwrap
from contextlib import contextmanager

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is opened
import matplotlib.pyplot as plt
import numpy as np

STYLES = [
    ("#1b4965", "o", "-"),
    ("#ca6702", "s", "--"),
    ("#5f8d4e", "^", "-."),
    ("#9b2226", "D", ":"),
    ("#6d597a", "v", "-"),
    ("#555555", "P", "--"),
    ("#0a9396", "X", "-."),
    ("#bb3e03", "<", ":"),
    ("#3a5a40", ">", "-"),
    ("#e56b6f", "h", "--"),
    ("#001219", "*", "-."),
    ("#94a1b2", "p", ":"),
]


@contextmanager
def figure(path, columns=1, *, width=5.2, height=3.6):
    """Yield the axes of a figure and write it, whole or not at all, when the block ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fig, axes = plt.subplots(1, columns, figsize=(width * columns, height), layout="constrained", squeeze=False)
    for ax in axes[0]:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.set_axisbelow(True)
    try:
        yield axes[0] if columns > 1 else axes[0][0]
        temporary = path.with_name(f".{path.name}.tmp")
        fig.savefig(temporary, dpi=150, format="png")
        temporary.replace(path)
    finally:
        plt.close(fig)


def of_run(folder, log, points, *, measure, title, query):
    """The figures of one run: its training, the ledger of its negatives, a query among them."""
    training(folder / "training.png", log, measure=measure, title=title)
    ledger(folder / "ledger.png", log, title=title)
    neighbourhood(folder / "map.png", points, title=query[:80])


def legend_beside(ax):
    """A legend to the right of the axes: the names of arms are long, and there may be many, or none."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def training(path, log, *, measure, title):
    """Three panels from the lines of metrics.jsonl: the loss, the dev measure, the hardness by source."""
    lines = [line for line in log if line["event"] == "step"]
    evals = [line for line in log if line["event"] == "evaluation"]
    with figure(path, 3, width=4.4) as (left, middle, right):
        left.plot([x["step"] for x in lines], [x["loss"] for x in lines], color=STYLES[0][0])
        left.set(xlabel="step", ylabel="contrastive loss (nats)", title=title)
        middle.plot([x["step"] for x in evals], [x["dev"][measure] for x in evals], color=STYLES[0][0], marker="o")
        middle.set(xlabel="step", ylabel=f"dev {measure.upper()}", title="the checkpoint is the highest point")
        names = dict.fromkeys(name for x in lines for name in x["sources"])
        for name, (colour, mark, dash) in zip(names, STYLES):
            seen = [x for x in lines if x["sources"].get(name, {}).get("negatives")]
            right.plot(
                [x["step"] for x in seen],
                [100 * x["sources"][name]["above"] for x in seen],
                color=colour,
                linestyle=dash,
                marker=mark,
                markersize=3,
                label=name,
            )
        right.set(
            xlabel="step", ylabel="negatives above their positive (%)", title="hardness by source", ylim=(0, None)
        )
        right.legend(frameon=False)


def ledger(path, log, *, title):
    """The ledger of negatives over training: share of the gradient and hardness by source and rank band."""
    lines = [line for line in log if line["event"] == "step"]
    names = dict.fromkeys((row["source"], row["ranks"]) for x in lines for row in x["ledger"])
    panels = (("gradient", "share of the gradient (%)"), ("above", "negatives above their positive (%)"))
    with figure(path, 2, width=5.2) as axes:
        for ax, (key, label) in zip(axes, panels):
            for name, (colour, mark, dash) in zip(names, itertools.cycle(STYLES)):
                points = [
                    (x["step"], 100 * row[key])
                    for x in lines
                    for row in x["ledger"]
                    if (row["source"], row["ranks"]) == name and row["negatives"]
                ]
                if points:
                    ax.plot(
                        *zip(*points),
                        color=colour,
                        linestyle=dash,
                        marker=mark,
                        markersize=3,
                        label=" ".join(filter(None, name)),
                    )
            ax.set(xlabel="step", ylabel=label, ylim=(0, None))
        axes[0].set_title(title)
        axes[1].set_title("by source and rank in the mined list")
        legend_beside(axes[1])


def audit(path, rows, *, title):
    """Hidden positives per negative, with intervals: one line for each source, filter and band of ranks."""
    with figure(path, width=6.4, height=1.2 + 0.35 * len(rows)) as ax:
        for y, (_, _, ranks, row) in enumerate(rows):
            low, high = (100 * x for x in row["interval"])
            colour, mark, _ = STYLES[0 if ranks == "all" else 1]
            ax.plot([low, high], [y, y], color=colour)
            ax.plot(100 * row["rate"], y, marker=mark, color=colour)
        labels = [
            f"{source}, after {after}" if ranks == "all" else f"ranks {ranks}" for source, after, ranks, _ in rows
        ]
        ax.set(
            yticks=range(len(rows)),
            yticklabels=labels,
            ylim=(len(rows) - 0.5, -0.5),
            xlim=(0, None),
            xlabel="hidden positives among the negatives (%), 95 % interval",
            title=title,
        )


def arms(path, result):
    """The test measure by arm: a point per seed, their mean, and the 95 % interval of its difference."""
    rows, measure = result["arms"], result["measure"]
    base = np.mean(rows[0]["test"][measure])
    with figure(path, width=9, height=1.6 + 0.4 * len(rows)) as ax:
        for y, row in enumerate(rows):
            values = row["test"][measure]
            if test := row.get("against_first"):
                ax.plot(
                    [base + test["low"], base + test["high"]],
                    [y, y],
                    color="#999999",
                    linewidth=5,
                    alpha=0.6,
                    solid_capstyle="butt",
                )
            ax.plot([np.mean(values)] * 2, [y - 0.28, y + 0.28], color=STYLES[0][0], linewidth=2.5)
            ax.plot(
                values,
                [y] * len(values),
                linestyle="",
                marker="o",
                markersize=5,
                markerfacecolor="white",
                markeredgecolor=STYLES[0][0],
            )
            star = " *" if test and test["differs"] else ""
            ax.annotate(
                f"{np.mean(values):.3f}{star}",
                (max(values), y),
                xytext=(12, 0),
                textcoords="offset points",
                va="center",
            )
        for name, dash in zip(result["references"], ("--", ":")):
            ax.axvline(result["references"][name][measure], color="#555555", linestyle=dash, linewidth=1.2, label=name)
        for label, style in (
            (
                "a seed",
                {
                    "marker": "o",
                    "markersize": 5,
                    "linestyle": "",
                    "markerfacecolor": "white",
                    "markeredgecolor": STYLES[0][0],
                },
            ),
            (
                "mean over seeds",
                {"marker": "|", "markersize": 12, "markeredgewidth": 2.5, "linestyle": "", "color": STYLES[0][0]},
            ),
            ("95 % interval of the\ndifference to the first arm", {"color": "#999999", "linewidth": 5, "alpha": 0.6}),
            ("* differs from the first arm\n(p < .05, Holm)", {"linestyle": ""}),
        ):
            ax.plot([], [], label=label, **style)
        ax.set(
            yticks=range(len(rows)),
            yticklabels=[textwrap.fill(row["arm"], 28) for row in rows],
            ylim=(len(rows) - 0.4, -0.6),
            title=result["name"],
            xlabel=f"test {measure.upper()}",
        )
        legend_beside(ax)
        ax.margins(x=0.16)


def curves(path, lines, *, measure):
    """Learning curves: {arm: (steps, seconds, values)} against steps and against seconds with mining."""
    with figure(path, 2) as axes:
        for column, (ax, label) in enumerate(zip(axes, ("step", "seconds of training and mining"))):
            for (arm, points), (colour, mark, dash) in zip(lines.items(), itertools.cycle(STYLES)):
                ax.plot(points[column], points[2], color=colour, marker=mark, markersize=4, linestyle=dash, label=arm)
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
            for (arm, sources), (colour, mark, dash) in zip(arms.items(), itertools.cycle(STYLES)):
                for number, (source, points) in enumerate(sources.items()):
                    values = np.array(points)
                    ax.plot(
                        values[:, 0],
                        100 * values[:, column],
                        color=colour,
                        marker=mark,
                        markersize=4,
                        linestyle=dash,
                        markerfacecolor="white" if number else colour,
                        label=f"{source} in {arm}" if len(sources) > 1 else arm,
                    )
            ax.set(xlabel="step", ylabel=label, ylim=(0, None))
        legend_beside(axes[1])


def geometry(path, rows):
    """Alignment against uniformity (Wang & Isola 2020), both better when lower, and ranks, by arm."""
    with figure(path, 2, width=5.6) as (left, right):
        for number, (row, (colour, mark, _)) in enumerate(zip(rows, itertools.cycle(STYLES)), 1):
            values = row["geometry"]
            left.plot(
                values["uniformity"],
                values["alignment"],
                marker=mark,
                color=colour,
                markersize=7,
                linestyle="",
                label=f"{number} {row['arm']}",
            )
            left.annotate(
                number,
                (values["uniformity"], values["alignment"]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=8,
            )
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
            styles = itertools.islice(itertools.cycle(STYLES), 1, None)  # the first arm's is the first
            for number, ((arm, bins), (colour, mark, dash)) in enumerate(zip(of_arm.items(), styles)):
                x = np.arange(len(bins)) + 0.04 * (number - len(of_arm) / 2)
                ax.errorbar(
                    x,
                    [m for _, m, _ in bins],
                    [e for _, _, e in bins],
                    color=colour,
                    marker=mark,
                    markersize=4,
                    linestyle=dash,
                    linewidth=1,
                    label=arm,
                )
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set(
                xticks=range(len(bins)),
                xticklabels=[label for label, _, _ in bins],
                xlabel=f"{name}, quarters",
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


def neighbourhood(path, points, *, title):
    """A query, its positive and its negatives by source on the plane: [(label, x, y)]."""
    with figure(path, width=5.6, height=4.4) as ax:
        labels = dict.fromkeys(label for label, _, _ in points)
        marks = {"query": ("black", "*", 15), "positive": ("#5f8d4e", "P", 11), "other docs": ("#bbbbbb", ".", 4)}
        for label, (colour, mark, _) in zip(labels, itertools.cycle(STYLES[3:])):
            colour, mark, size = marks.get(label, (colour, mark, 6))
            x, y = zip(*((x, y) for name, x, y in points if name == label))
            ax.plot(x, y, linestyle="", marker=mark, color=colour, markersize=size, label=label)
        ax.set(xlabel="first principal component", ylabel="second principal component", title=title)
        ax.title.set_fontsize(8)
        ax.legend(frameon=False, fontsize=8)


def score_histogram(path, scores, *, title):
    """One panel per source: scores {source: (of its candidates, of the positives)} as two histograms."""
    with figure(path, len(scores), width=4.4) as axes:
        for ax, (source, (candidates, positives)) in zip(np.atleast_1d(axes), scores.items()):
            values = [candidates[np.isfinite(candidates)], positives[np.isfinite(positives)]]
            edges = np.histogram_bin_edges(np.concatenate(values), bins=40)
            for part, label, (colour, _, dash) in zip(values, ("candidates", "positives"), STYLES):
                ax.hist(
                    part,
                    bins=edges,
                    density=True,
                    histtype="step",
                    color=colour,
                    linestyle=dash,
                    linewidth=1.6,
                    label=label,
                )
            ax.set(xlabel=f"score by {source}", ylabel="density", title=title if ax is np.atleast_1d(axes)[0] else "")
            ax.legend(frameon=False)


def ranks(path, first_ranks, *, depth, title):
    """How far down the first relevant doc is: share of queries by rank. first_ranks (Q,), inf for none."""
    with figure(path) as ax:
        ranks = np.arange(1, depth + 1)
        shares = [100 * np.mean(first_ranks <= rank) for rank in ranks]
        ax.step(ranks, shares, where="post", color=STYLES[0][0])
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= depth]
        ax.set(
            xscale="log",
            xlabel="rank k",
            ylabel="queries with a relevant doc in the top k (%)",
            ylim=(0, 100),
            title=title,
            xticks=ticks,
            xticklabels=ticks,
        )


def differences(path, difference, *, names, measure):
    """Per-query differences a - b, sorted: where a wins, where b does, and how many queries tie."""
    values = np.sort(difference)[::-1]
    with figure(path, width=6) as ax:
        ax.fill_between(np.arange(len(values)), values, step="mid", color=STYLES[0][0], alpha=0.5, linewidth=0)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(
            xlabel="queries, sorted by difference",
            ylabel=f"{measure.upper()} of {names[0]} minus {names[1]}",
            title=f"{(values > 0).sum()} better, {(values == 0).sum()} equal, {(values < 0).sum()} worse",
        )

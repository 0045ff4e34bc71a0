"""The figures of a run and of what is searched, each a function of plain data."""

import itertools

import numpy as np

from lib.figure import STYLES, figure, legend_beside, looks, optional  # noqa: F401 (scripts draw within plots.optional)


def of_run(folder, log, points, *, measure, title, query):
    """The figures of one run: its training, the ledger of its negatives, a query among them."""
    training(folder / "training.png", log, measure=measure, title=title)
    ledger(folder / "ledger.png", log, title=title)
    neighbourhood(folder / "map.png", points, title=query[:80])


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
        for name, look in zip(names, looks(markersize=3)):
            seen = [x for x in lines if x["sources"].get(name, {}).get("negatives")]
            above = [100 * x["sources"][name]["above"] for x in seen]
            right.plot([x["step"] for x in seen], above, label=name, **look)
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
            for name, look in zip(names, looks(markersize=3)):
                points = [
                    (x["step"], 100 * row[key])
                    for x in lines
                    for row in x["ledger"]
                    if (row["source"], row["ranks"]) == name and row["negatives"]
                ]
                if points:
                    ax.plot(*zip(*points), label=" ".join(filter(None, name)), **look)
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


def negatives_file(path, drawn, *, title):
    """What a negatives file holds: how long its lists are, and how often its docs are used."""
    with figure(path, 2) as (left, right):
        left.hist(drawn["lists"], bins=min(40, 1 + int(drawn["lists"].max())), color=STYLES[0][0])
        left.set(xlabel="negatives of a query", ylabel="queries", title=title[:80])
        right.plot(1 + np.arange(len(drawn["uses"])), drawn["uses"], color=STYLES[1][0])
        right.set(
            xlabel="docs, the most used first", ylabel="queries that it is a negative of", xscale="log", yscale="log"
        )


def score_histogram(path, scores, *, title):
    """One panel per source: scores {source: (of its candidates, of the positives)} as two histograms."""
    with figure(path, len(scores), width=4.4) as axes:
        for ax, (source, (candidates, positives)) in zip(np.atleast_1d(axes), scores.items()):
            values = [candidates[np.isfinite(candidates)], positives[np.isfinite(positives)]]
            edges = np.histogram_bin_edges(np.concatenate(values), bins=40)
            for part, label, (colour, _, dash) in zip(values, ("candidates", "positives"), STYLES):
                how = {"density": True, "histtype": "step", "linewidth": 1.6, "label": label}
                ax.hist(part, bins=edges, color=colour, linestyle=dash, **how)
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


def recall_curve(path, curve, *, title):
    """Recall of an index against queries per second, one at a time and in batches, with exact search beside it."""
    points, exact = sorted(curve["points"], key=lambda point: point["recall"]), curve["exact_queries_per_s"]
    with figure(path, 2, width=4.6) as axes:
        for ax, key, label, (colour, mark, dash) in zip(
            axes, ("single", "batch"), ("one query at a time", "in a batch"), STYLES
        ):
            ax.plot([p["recall"] for p in points], [p[key] for p in points], color=colour, marker=mark, linestyle=dash)
            kept = curve["chosen"]
            ax.plot(kept["recall"], kept[key], marker="o", markersize=12, fillstyle="none", color="black", label="kept")
            ax.axvline(curve["target_recall"], color="grey", linewidth=0.8, label="target")
            if key == "single":
                ax.axhline(exact, color="grey", linestyle=":", label="exact search, about")
            ax.set(
                yscale="log",
                ylim=_decades([*(p[key] for p in points), exact]),
                xlabel="recall@10",
                ylabel="queries per second",
                title=label,
            )
            ax.legend(frameon=False, fontsize=7)
        axes[0].set_title(f"{title}\none query at a time", fontsize=9)
        axes[1].set_title(f"{curve['threads']} threads\nin a batch", fontsize=9)


def _decades(values):
    """Limits of a logarithmic axis: whole powers of ten around the values, so that it has labels."""
    return 10 ** np.floor(np.log10(min(values))), 10 ** np.ceil(np.log10(max(values)))


def slices(path, by, *, measure, title):
    """A measure by the values of a field, with 95 % intervals and the number of queries."""
    rows = by["rows"][::-1]
    with figure(path, width=6.4, height=1.2 + 0.26 * len(rows)) as ax:
        means = np.array([row["mean"] for row in rows])
        errors = [means - [row["low"] for row in rows], [row["high"] for row in rows] - means]
        ax.errorbar(means, range(len(rows)), xerr=np.maximum(errors, 0), fmt="o", color=STYLES[0][0], capsize=3)
        ax.set_yticks(range(len(rows)), [f"{row['value'][:40]} ({row['queries']:,})" for row in rows], fontsize=7)
        ax.set(xlabel=f"{measure} by {by['field']}, 95 % interval", title=title)


def error_split(path, lost, *, title):
    """What of nDCG@10 is lost to 1, by part."""
    with figure(path, width=5.2, height=2.2) as ax:
        names = list(lost)
        for at, (name, (colour, _, _)) in enumerate(zip(names, STYLES)):
            ax.barh(at, lost[name], color=colour)
            ax.text(max(lost[name], 0), at, f" {lost[name]:+.4f}", va="center", fontsize=8)
        ax.set_yticks(range(len(names)), [f"lost by {name}" for name in names])
        ax.set(xlabel="nDCG@10 lost", title=title)
        ax.margins(x=0.2)

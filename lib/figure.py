"""The style of every figure; readable in black and white: marks and dashes differ too."""

import itertools
from contextlib import contextmanager

from lib.files import atomic_path

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


def looks(first=0, **more):
    """Endless styles of lines, one for each of what a figure shows: keywords of plot()."""
    for colour, mark, dash in itertools.islice(itertools.cycle(STYLES), first, None):
        yield {"color": colour, "marker": mark, "linestyle": dash} | more


@contextmanager
def figure(path, columns=1, *, width=5.2, height=3.6, pdf=False):
    """Yield the axes of a figure and write it, whole or not at all, when the block ends; with `pdf` also for a paper.

    Text is taken literally: a dollar sign in a query begins no formula.
    """
    import matplotlib  # here: it takes half a second to import
    from matplotlib import ticker
    from matplotlib.figure import Figure  # no display, no global state

    with matplotlib.rc_context({"text.parse_math": False}):
        fig = Figure(figsize=(width * columns, height), layout="constrained")
        axes = fig.subplots(1, columns, squeeze=False)[0]
        for ax in axes:
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25, linewidth=0.6)
            ax.set_axisbelow(True)
        yield axes if columns > 1 else axes[0]
        for axis in (axis for ax in axes for axis in (ax.xaxis, ax.yaxis)):
            if isinstance(axis.get_major_formatter(), ticker.LogFormatterSciNotation):  # it writes formulas
                axis.set_major_formatter(lambda value, _: f"{value:,g}")
                axis.set_minor_formatter(ticker.NullFormatter())
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            fig.savefig(temporary, dpi=150, format="png")
        if pdf:
            with atomic_path(path.with_suffix(".pdf")) as temporary:
                fig.savefig(temporary, format="pdf", metadata={"CreationDate": None})  # the same bytes each time


@contextmanager
def optional(folder):
    """A block that draws: what fails there is a warning, since the results are written already."""
    try:
        yield
    except Exception as error:  # whatever a drawing library raises
        print(f"warning: {folder}: figures could not be drawn ({type(error).__name__}: {str(error)[:200]})")


def legend_beside(ax):
    """A legend to the right of the axes: the names of arms are long, and there may be many, or none."""
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))

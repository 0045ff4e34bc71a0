"""Figures are written whole or not at all."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from lib.evaluation import comparison_plots, plots

PNG = b"\x89PNG\r\n\x1a\n"


def log():
    """What a training logs, with one source that joins late."""
    rest = {"negatives": 0.0, "above": 0.0, "gradient": 0.0}
    lines = [
        {
            "event": "step",
            "step": step,
            "loss": 2.0 / (step + 1),
            "sources": {
                "in_batch": {"negatives": 7.0, "above": 0.1, "gradient": 0.5},
                "refresh": rest if step < 2 else rest | {"negatives": 4.0},
            },
        }
        for step in range(4)
    ]
    measured = {"event": "evaluation", "step": 4, "dev": {"mrr@10": 0.3, "recall@100": 0.6}}
    return [{"event": "mining", "step": 0, "mined": "refresh"}, *lines, measured]


def scores():
    """Scores of one source with gaps, and of the positives, some not found."""
    return np.array([0.1, 0.2, np.nan, 0.4]), np.array([0.9, np.nan])


def arm(name, values, test=None):
    """A row of a comparison."""
    return {
        "arm": name, "test": {"mrr@10": values},
        "geometry": {"alignment": 0.5, "uniformity": -2.0, "effective_rank": 30.0,
                     "effective_negatives": 3.0},
    } | ({"against_first": test} if test else {})  # fmt: skip


def result(*rows):
    """A comparison."""
    name = dict.fromkeys(["mrr@10"], 0.25)
    return {"measure": "mrr@10", "name": "made", "queries": 9, "references": {"bm25": name, "untrained": name},
            "arms": list(rows)}  # fmt: skip


ARMS = (
    arm("in_batch", [0.3, 0.4]),
    arm("bm25:4", [0.5, 0.6], {"low": 0.1, "high": 0.3, "differs": True}),
    arm("refresh:4 lr=1e-3", [0.3], {"low": -0.1, "high": 0.1, "differs": False}),
)
MANY = {f"arm {i}": np.array([[0, 4, 8], [0.0, 1.0, 2.0], [0.1, 0.2, 0.3 + i / 50]]) for i in range(9)}
BINS = [("0-1", 0.1, 0.01), ("2-9", -0.2, 0.02)]
LEDGER = [
    {"event": "step", "step": step, "ledger": [
        {"source": source, "ranks": ranks, "negatives": 1.0 * bool(step), "gradient": 0.5, "above": 0.1}
        for source, ranks in (("in_batch", ""), ("bm25", "1-10"), ("bm25", "11-30"))]}
    for step in range(3)
]  # fmt: skip
AUDIT = [("bm25", "none", "all", {"rate": 0.2, "interval": (0.1, 0.3)}),
         ("bm25", "none", "1-10", {"rate": 0.3, "interval": (0.2, 0.4)})]  # fmt: skip
POINTS = [("query", 0.0, 1.0), ("positive", 0.1, 0.9), ("other docs", -1.0, 0.0), ("bm25", 0.2, 0.2)]


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda path: comparison_plots.arms(path, result(*ARMS)), id="arms"),
        pytest.param(lambda path: comparison_plots.arms(path, result(ARMS[0])), id="one arm"),
        pytest.param(lambda path: comparison_plots.curves(path, MANY, measure="mrr@10"), id="curves"),
        pytest.param(
            lambda path: comparison_plots.hardness(
                path,
                {
                    "in_batch": {},
                    "bm25:4": {"bm25": [(0, 0.5, 0.2), (9, 0.1, 0.4)]},
                    "a:2+b:2": {"a": [(0, 0.5, 0.2)], "b": [(0, 0.4, 0.1)]},
                },
            ),  # fmt: skip
            id="hardness",
        ),
        pytest.param(lambda path: comparison_plots.geometry(path, ARMS), id="geometry"),
        pytest.param(
            lambda path: comparison_plots.gains(path, {"one": {"b": BINS}}, measure="mrr@10", first="a"), id="gain"
        ),
        pytest.param(
            lambda path: comparison_plots.gains(
                path,
                {"one": {"b": BINS, "c": BINS}, "two": {"b": BINS[:1], "c": BINS[:1]}},
                measure="mrr@10",
                first="a",
            ),
            id="gains",
        ),
        pytest.param(
            lambda path: comparison_plots.grid(
                path, ["a", "b"], [0.02, 0.1], np.array([[0.1, 0.2], [0.3, 0.3]]), flag="temperature", title="t"
            ),
            id="grid",
        ),
        pytest.param(
            lambda path: comparison_plots.grid(path, ["a"], [0.02, 0.1], np.full((1, 2), 0.5), flag="lr", title="t"),
            id="grid of equals",
        ),
        pytest.param(lambda path: plots.neighbourhood(path, POINTS, title="t"), id="neighbourhood"),
        pytest.param(lambda path: plots.ledger(path, LEDGER, title="t"), id="ledger"),
        pytest.param(lambda path: plots.audit(path, AUDIT, title="t"), id="audit"),
        pytest.param(lambda path: plots.training(path, log(), measure="mrr@10", title="t"), id="training"),
        pytest.param(lambda path: plots.score_histogram(path, {"bm25": scores()}, title="t"), id="one source"),
        pytest.param(
            lambda path: plots.score_histogram(path, {"bm25": scores(), "dense": scores()}, title="t"), id="two sources"
        ),
        pytest.param(lambda path: plots.ranks(path, np.array([1, 5, np.inf]), depth=100, title="t"), id="ranks"),
        pytest.param(
            lambda path: comparison_plots.differences(path, np.zeros(3), names=("a", "b"), measure="mrr@10"),
            id="all equal",
        ),
    ],
)
def test_figures_are_pngs(tmp_path, rendered, draw):
    draw(tmp_path / "new" / "f.png")
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(PNG)
    assert {p.name for p in (tmp_path / "new").iterdir()} <= {"f.png", "f.pdf"}


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function that draws and returns the axes, instead of writing the figure."""
    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda fig, path, **rest: kept.append(fig) or path.write_bytes(PNG))

    def draw(function, *args, **kwargs):
        function(tmp_path / "f.png", *args, **kwargs)
        return kept[-1].axes

    return draw


def texts(ax):
    return [text.get_text() for text in ax.texts]


def test_arms_show_every_seed_their_mean_and_what_is_significant(drawn):
    (ax,) = drawn(comparison_plots.arms, result(*ARMS))
    assert texts(ax) == ["0.350", "0.550 *", "0.300"]
    points = [line.get_xdata() for line in ax.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [list(x) for x in points] == [[0.3, 0.4], [0.5, 0.6], [0.3]]
    intervals = [list(line.get_xdata()) for line in ax.lines if line.get_color() == "#999999" and len(line.get_xdata())]
    assert intervals == [pytest.approx([0.45, 0.65]), pytest.approx([0.25, 0.45])]  # around the first's mean
    assert [label.get_text() for label in ax.get_yticklabels()] == ["in_batch", "bm25:4", "refresh:4 lr=1e-3"]


def test_a_grid_has_its_best_in_bold(drawn):
    (ax,) = drawn(
        comparison_plots.grid, ["a", "b"], [0.02, 0.1], np.array([[0.1, 0.2], [0.4, 0.3]]), flag="lr", title="t"
    )
    bold = [text.get_text() for text in ax.texts if text.get_weight() == "bold"]
    assert texts(ax) == ["0.100", "0.200", "0.400", "0.300"] and bold == ["0.200", "0.400"]


def test_a_training_is_drawn_for_the_measure_that_chose_the_checkpoint(drawn):
    axes = drawn(plots.training, log(), measure="recall@100", title="t")
    assert axes[1].get_ylabel() == "dev RECALL@100" and list(axes[1].lines[0].get_ydata()) == [0.6]


def test_curves_are_told_apart_without_colour(drawn):
    left, right = drawn(comparison_plots.curves, MANY, measure="mrr@10")
    styles = [(line.get_marker(), line.get_linestyle()) for line in left.lines[:6]]
    assert len(set(styles)) == 6 and len(left.lines) == len(right.lines) == 9
    assert list(left.lines[0].get_xdata()) == [0, 4, 8] and list(right.lines[0].get_xdata()) == [0, 1, 2]


def test_a_figure_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), plots.figure(tmp_path / "f.png"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_numbers_of_a_logarithmic_axis_are_plain(tmp_path):
    with plots.figure(tmp_path / "figure.png") as ax:
        ax.plot([1, 1000], [1, 10_000])
        ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        labels = [axis.get_major_formatter()(value, 0) for value in (1, 1000)]
        assert labels == ["1", "1,000"] and axis.get_minor_formatter()(5, 0) == ""

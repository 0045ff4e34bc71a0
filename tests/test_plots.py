"""Figures are written whole or not at all."""

import numpy as np
import pytest

from lib import plots

PNG = b"\x89PNG\r\n\x1a\n"


def log():
    """What a training logs, with one source that joins late."""
    rest = {"negatives": 0.0, "above": 0.0, "gradient": 0.0}
    lines = [
        {
            "step": step,
            "loss": 2.0 / (step + 1),
            "sources": {
                "in_batch": {"negatives": 7.0, "above": 0.1, "gradient": 0.5},
                "refresh": rest if step < 2 else rest | {"negatives": 4.0},
            },
        }
        for step in range(4)
    ]
    return [{"step": 0, "mined": "refresh"}, *lines, {"step": 4, "dev": {"mrr@10": 0.3}}]


def scores():
    """Scores of one source with gaps, and of the positives, some not found."""
    return np.array([0.1, 0.2, np.nan, 0.4]), np.array([0.9, np.nan])


@pytest.mark.parametrize(
    "draw",
    [
        pytest.param(lambda path: plots.training(path, log(), title="t"), id="training"),
        pytest.param(
            lambda path: plots.score_histogram(path, {"bm25": scores()}, title="t"), id="one source"
        ),
        pytest.param(
            lambda path: plots.score_histogram(path, {"bm25": scores(), "dense": scores()}, title="t"),
            id="two sources",
        ),
        pytest.param(
            lambda path: plots.ranks(path, np.array([1, 5, np.inf]), depth=100, title="t"), id="ranks"
        ),
        pytest.param(
            lambda path: plots.differences(path, np.zeros(3), names=("a", "b"), measure="mrr@10"),
            id="all equal",
        ),
    ],
)
def test_figures_are_pngs(tmp_path, draw):
    draw(tmp_path / "new" / "f.png")
    assert (tmp_path / "new" / "f.png").read_bytes().startswith(PNG)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["f.png"]


def test_a_figure_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), plots.figure(tmp_path / "f.png"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []

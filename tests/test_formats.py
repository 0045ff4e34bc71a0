"""Run files, per-query files, and messages."""

import numpy as np
import pytest

from lib import formats
from lib.run import BadInput


def test_run_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "eval" / "run.trec"
    rows = np.array([[2, 0, -1], [1, -1, -1], [-1, -1, -1]])
    scores = np.array([[1.25, 1 / 3, 0], [-7.5e-9, 0, 0], [0, 0, 0]], dtype=np.float32)
    formats.write_run(path, ["q1", "007", "q3"], ["a", "b", "c"], rows, scores, tag="bm25")
    assert path.read_text().splitlines()[0].split() == ["q1", "Q0", "c", "1", "1.25", "bm25"]
    found = formats.read_run(path)
    assert {qid: {doc: np.float32(score) for doc, score in docs.items()} for qid, docs in found.items()} == {
        "q1": {"c": scores[0, 0], "a": scores[0, 1]},
        "007": {"b": scores[1, 0]},
    }


@pytest.mark.parametrize(
    "line, value",
    [
        ("q1 Q0 a 1 0.5", "found 5"),
        ("q1 Q0 a 1 high tag", "'high'"),
        ("q1 Q0 a 1 nan tag", "nan"),
        ("q1 Q0 b 1 0.5 tag", "b"),
    ],
)
def test_bad_run_files(tmp_path, line, value):
    (tmp_path / "run.trec").write_text(f"q1 Q0 b 1 0.9 tag\n\n{line}\n")
    with pytest.raises(BadInput, match=rf"run\.trec:3: .*{value}"):
        formats.read_run(tmp_path / "run.trec")


def test_per_query_files_give_back_what_was_written(tmp_path):
    values = {"q1": {"mrr@10": 1 / 3, "recall@10": 0.0}, "007": {"mrr@10": 1.0, "recall@10": 0.1}}
    formats.write_per_query(tmp_path / "p.jsonl", values)
    assert formats.read_per_query(tmp_path / "p.jsonl") == values


@pytest.mark.parametrize("value", ["short", "x" * 500, "two\nlines", 12.5, ["a"] * 100])
def test_shortened_values_fit_on_a_line(value):
    text = formats.shorten(value)
    assert len(text) <= 60 and "\n" not in text and str(value)[:3] in text

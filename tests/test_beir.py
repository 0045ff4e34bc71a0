"""Run files, per-query files, and messages."""

import ir_measures
import numpy as np
import pytest

from lib.data import beir
from lib.evaluation import measures


def test_run_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "eval" / "run.trec"
    rows = np.array([[2, 0, -1], [1, -1, -1], [-1, -1, -1]])
    scores = np.array([[1.25, 1 / 3, 0], [-7.5e-9, 0, 0], [0, 0, 0]], dtype=np.float32)
    measures.write_run(path, ["q1", "007", "q3"], ["a", "b", "c"], rows, scores, tag="bm25")
    assert path.read_text().splitlines()[0].split() == ["q1", "Q0", "c", "1", "1.25", "bm25"]
    found = {(line.query_id, line.doc_id): np.float32(line.score) for line in ir_measures.read_trec_run(str(path))}
    assert found == {("q1", "c"): scores[0, 0], ("q1", "a"): scores[0, 1], ("007", "b"): scores[1, 0]}


def test_per_query_files_give_back_what_was_written(tmp_path):
    values = {"q1": {"mrr@10": 1 / 3, "recall@10": 0.0}, "007": {"mrr@10": 1.0, "recall@10": 0.1}}
    measures.write_per_query(tmp_path / "p.jsonl", values)
    assert measures.read_per_query(tmp_path / "p.jsonl") == values


@pytest.mark.parametrize("value", ["short", "x" * 500, "two\nlines", 12.5, ["a"] * 100])
def test_shortened_values_fit_on_a_line(value):
    text = beir.shorten(value)
    assert len(text) <= 60 and "\n" not in text and str(value)[:3] in text

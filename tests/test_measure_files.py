"""Run files and per-query files."""

import ir_measures
import numpy as np
import pytest

from lib.evaluation import measures
from lib.files import BadInput


def test_run_files_give_back_what_was_written(tmp_path):
    path = tmp_path / "eval" / "run.trec"
    rows = np.array([[2, 0, -1], [1, -1, -1], [-1, -1, -1]])
    scores = np.array([[1.25, 1 / 3, 0], [-7.5e-9, 0, 0], [0, 0, 0]], dtype=np.float32)
    rankings = measures.to_rankings(["q1", "007", "q3"], ["a", "b", "c"], rows, scores)
    measures.write_rankings(path, rankings, tag="bm25")
    assert path.read_text().splitlines()[0].split() == ["q1", "Q0", "c", "1", "1.25", "bm25"]
    found = {(line.query_id, line.doc_id): np.float32(line.score) for line in ir_measures.read_trec_run(str(path))}
    assert found == {("q1", "c"): scores[0, 0], ("q1", "a"): scores[0, 1], ("007", "b"): scores[1, 0]}


def test_per_query_files_give_back_what_was_written(tmp_path):
    values = {"q1": {"mrr@10": 1 / 3, "recall@10": 0.0}, "007": {"mrr@10": 1.0, "recall@10": 0.1}}
    measures.write_per_query(tmp_path / "p.jsonl", values)
    assert measures.read_per_query(tmp_path / "p.jsonl") == values


@pytest.mark.parametrize("line, value", [('{"qid": "q2", "mrr@10"', "JSON"), ('["q2", 0.5]', "object")])
def test_bad_per_query_files(tmp_path, line, value):
    (tmp_path / "p.jsonl").write_text(f'{{"qid": "q1", "mrr@10": 1.0}}\n\n{line}\n')
    with pytest.raises(BadInput, match=rf"p\.jsonl:3: .*{value}"):
        measures.read_per_query(tmp_path / "p.jsonl")

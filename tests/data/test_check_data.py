"""python -m lib.data.check: all faults with their lines, leaks, numbers, and an exit code."""

import json

import pytest
from conftest import write_collection

from lib import process
from lib.data import check
from lib.files import read_json


@pytest.fixture
def look(monkeypatch, capsys):
    """A function that looks at a collection: (exit code, what was printed)."""

    def start(*flags):
        monkeypatch.setattr("sys.argv", ["check", *map(str, flags)])
        code = 0
        try:
            process.cli(check.main)
        except SystemExit as stopped:
            code = stopped.code
        return code, capsys.readouterr().out

    return start


def test_a_good_collection(look, folder, tmp_path):
    dev = folder / "qrels/dev.tsv"  # q40 repeats a train query
    lines = dev.read_text(encoding="utf-8").splitlines(keepends=True)
    dev.write_text("".join(line for line in lines if not line.startswith("q40")), encoding="utf-8")
    code, printed = look(folder, "--out", tmp_path / "out")
    assert code == 0 and "nothing in it makes training wrong" in printed and "train queries" in printed
    found = read_json(tmp_path / "out/check.json", numbers=dict)
    assert found["numbers"]["docs"] == 40 and found["wrong"] == [] and (tmp_path / "out/check.png").exists()


def test_every_fault_is_named_and_not_only_the_first(look, folder):
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    lines[1], lines[4], lines[6] = '{"_id": 7, "text": "x"}', "{broken", lines[0]
    (folder / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, printed = look(folder)
    assert code == 1
    for place in ("corpus.jsonl:2:", "corpus.jsonl:5:", "corpus.jsonl:7:"):
        assert place in printed


def test_leaks_and_what_no_doc_answers(look, tmp_path):
    docs = {"a": "the first doc", "b": "the second doc", "c": "the second doc", "d": "nobody asks for this one"}
    queries = {"q1": "What is first?", "q2": "what is FIRST", "q3": "zebra", "q4": "the doc"}
    qrels = {"train": [("q1", "a", 1)], "dev": [("q4", "a", 1)], "test": [("q2", "b", 1), ("q3", "b", 1)]}
    other = write_collection(tmp_path / "other", docs, queries, qrels)
    (tmp_path / "other/qrels/train.tsv").open("a").write("q1\tb\t0\n")  # judged and not relevant: trains no label
    code, printed = look(other)
    assert "relevant doc is a train query's too (new wordings are measured): 1 (q4)" in printed
    assert code == 0 and "test queries that are train queries with other relevant docs: 1 (q2 = q1)" in printed
    qrels["test"].append(("q2", "a", 1))
    folder = write_collection(tmp_path / "leaky", docs, queries, qrels)
    code, printed = look(folder, "--out", tmp_path / "out")
    assert code == 1 and "test queries that are train queries with the same relevant doc: 1 (q2 = q1)" in printed
    found = json.loads((tmp_path / "out/check.json").read_text(encoding="utf-8"))
    assert found["leaks"]["dev queries whose relevant doc is a train query's too (new wordings are measured)"] == ["q4"]
    numbers = found["numbers"]
    assert numbers["docs with the text of another"] == 1 and numbers["test queries of which no doc has a word"] == 1
    assert numbers["docs that no query is labelled with"] == "33.3%"  # of three texts


def test_a_table_is_looked_at_too(look, tmp_path):
    (tmp_path / "f.csv").write_text("question,answer\n" + "".join(f"q{i}?,a{i}\n" for i in range(30)))
    code, printed = look(tmp_path / "f.csv")
    assert code == 0 and "f: nothing in it" in printed
    assert look(tmp_path / "nowhere")[0] == 2


@pytest.mark.parametrize("docs, code", [({"a": "one", "b": "two"}, 1), ({"a": "one", "b": "two", "c": "three"}, 0)])
def test_a_collection_that_leaves_no_doc_to_be_a_negative(look, tmp_path, docs, code):
    qrels = {"train": [(qid, doc, 1) for qid in ("q1", "q2") for doc in ("a", "b")], "test": [("q3", "a", 1)]}
    queries = {"q1": "x one", "q2": "y two", "q3": "z", "q4": "w"}
    folder = write_collection(tmp_path / "all", docs, queries, qrels | {"dev": [("q4", "b", 1)]})
    found, printed = look(folder)
    assert found == code and ("nothing is left to be a negative" in printed) == bool(code)
    assert ("train queries of which every doc is a positive" in printed) == bool(code)

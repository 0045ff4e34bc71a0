"""Shapes that tables have elsewhere: labels within docs, lists as numpy writes them, objects of columns."""

import json

import pytest

from lib.data.collection import load_collection
from lib.data.formats import cells, table_files
from lib.files import BadInput
from lib.model.encoder import load_encoder


def read(tmp_path, rows, name="t.jsonl"):
    """The collection of some rows, all of which train."""
    path = tmp_path / name
    if isinstance(rows, str):
        path.write_text(rows, encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row | {"split": "train"}) + "\n" for row in rows), encoding="utf-8")
    return load_collection(str(path))


def graded(collection):
    """{question: {text of a doc: grade}} of the train queries."""
    texts = {ident: collection.docs.record(row)["text"] for row, ident in enumerate(collection.docs.ids)}
    return {
        collection.queries.record(collection.queries.row_of[qid])["text"]: {texts[doc]: g for doc, g in own.items()}
        for qid, own in collection.qrels_dict("train").items()
    }


@pytest.mark.parametrize("name", ["relevance", "label", "has_answer"])
@pytest.mark.parametrize("yes, no", [(1, 0), (True, False)])
def test_labels_within_docs_are_grades(tmp_path, name, yes, no):
    docs = [{"text": "right", name: yes}, {"title": "W", "text": "wrong", name: no}]
    for column in ("docs", "ctxs"):
        assert graded(read(tmp_path, [{"query": "q", column: docs}], f"{column}.jsonl")) == {
            "q": {"right": 1, "wrong": 0}
        }


def test_what_a_search_found_is_no_positive(tmp_path):
    row = {"question": "q", "answers": ["red"], "ctxs": [{"text": "a"}, {"text": "b"}]}
    with pytest.raises(BadInput, match="no has_answer says which docs answer"):
        read(tmp_path, [row])
    ids = {"query_text": "q", "positive_document_ids": ["d1"], "negative_document_ids": ["d2"], "answer": "red"}
    with pytest.raises(BadInput, match="positive_document_ids holds a list"):
        read(tmp_path, [ids])


def test_a_prompt_with_its_answer_in_it_is_no_doc(tmp_path):
    rows = [
        {"instruction": f"do {i}", "input": "", "output": f"done {i}", "text": f"do {i}, done {i}"} for i in range(3)
    ]
    assert graded(read(tmp_path, rows)) == {f"do {i}": {f"done {i}": 1} for i in range(3)}


def test_lists_as_numpy_writes_them(tmp_path):
    row = {"question": "q", "positive": "p", "negatives": "['first one'\n 'it''s \"two\"' 'third']"}
    row["negatives"] = "['first one'\n \"it's two\" 'third']"
    assert graded(read(tmp_path, [row])) == {"q": {"p": 1, "first one": 0, "it's two": 0, "third": 0}}


@pytest.mark.parametrize(
    "column", ["hard-negative", "negative-1", "distractor1", "irrelevant_passages", "wrong_answers"]
)
def test_negatives_by_other_names(tmp_path, column):
    assert graded(read(tmp_path, [{"question": "q", "positive": "p", column: "n"}])) == {"q": {"p": 1, "n": 0}}


@pytest.mark.parametrize(
    "column, values",
    [("median_relevance", [4, 1]), ("esci_label", ["E", "I"]), ("target", [1, 0]), ("feedback", "👍👎")],
)
def test_columns_that_are_called_as_labels_are_are_asked_for(tmp_path, column, values):
    rows = [{"question": f"q{i}", "answer": f"a{i}", column: value} for i, value in enumerate(values)]
    with pytest.raises(BadInput, match=f"{column} is .* which may say how relevant a doc is: say"):
        read(tmp_path, rows)
    assert len(load_collection(f"{tmp_path / 't.jsonl'}:label=").docs) == 2


def test_a_passage_that_does_not_answer_is_left_out(tmp_path):
    rows = [{"question": f"q{i}", "context": f"c{i}", "answers": ["a"], "is_impossible": False} for i in range(2)]
    rows += [{"question": "q8", "context": "c8", "answers": [], "is_impossible": False}]
    rows += [{"question": "q9", "context": "c9", "answers": ["plausible"], "is_impossible": True}]
    assert list(graded(read(tmp_path, rows))) == ["q0", "q1"]


def test_an_object_of_columns_is_rows(tmp_path):
    columns = {"question": ["q0", "q1"], "answer": ["a0", "a1"], "split": ["train", "train"]}
    for name, indent in (("one.jsonl", None), ("lines.json", 1)):
        found = graded(read(tmp_path, json.dumps(columns, indent=indent), name))
        assert found == {"q0": {"a0": 1}, "q1": {"a1": 1}}


@pytest.mark.parametrize("label", ["high", 0.5, 10**9])
def test_a_label_of_a_doc_that_is_no_grade_is_refused(tmp_path, label):
    docs = [{"text": "a", "relevance": 1}, {"text": "b", "relevance": label}]
    with pytest.raises(BadInput, match="the label of a doc is .*, which is no grade"):
        read(tmp_path, [{"query": "q", "docs": docs}])


@pytest.mark.parametrize("text", ["['a\nb' 'c']", r"['\x' 'b']", "['it\\'s' 'b']"])
def test_texts_in_a_list_of_numpy_are_what_they_are(text):
    assert len(cells.listed(text)) == 2


def test_programs_that_hold_html_are_left_as_they_are(tmp_path):
    code = 'def page(x):\n    return f"<p>{x} &lt; 3</p><br>"'
    assert graded(read(tmp_path, [{"question": "q", "answer": code}])) == {"q": {code: 1}}


def test_markup_in_cells_is_taken_out_and_said(tmp_path, capsys):
    row = {"question": "how do I &lt;reset&gt;?", "answer": "<h2>Reset</h2><p>Hold <b>power</b>&nbsp;10 s</p>"}
    assert graded(read(tmp_path, [row])) == {"how do I <reset>?": {"Reset\n\nHold power 10 s": 1}}
    assert "HTML tags and entities, left out: 1 (line 1)" in "".join(capsys.readouterr())
    assert graded(read(tmp_path, [{"question": "what does <b> do?", "answer": "a < b"}], "c.jsonl")) == {
        "what does <b> do?": {"a < b": 1}
    }


@pytest.mark.parametrize(
    "text, doc", [('a\t"say ""A"", then B"', 'say "A", then B'), ('a\t"quoted" word', '"quoted" word')]
)
def test_quotes_in_a_tsv(tmp_path, text, doc):
    assert graded(read(tmp_path, f"question\tanswer\tsplit\n{text}\ttrain\n", "t.tsv")) == {"a": {doc: 1}}


@pytest.mark.parametrize(
    "text, names",
    [
        ('"Frage, de";"Antwort, de"\n"q";"a; b"\n', ["Frage, de", "Antwort, de"]),
        ('SEP=;\nquestion;answer\nq;"a; b"\n', ["question", "answer"]),
        ('"question", "answer"\n"q", "a; b"\n', ["question", "answer"]),
    ],
    ids=["commas in names", "SEP in capitals", "blanks behind commas"],
)
def test_spreadsheets_dialects(tmp_path, text, names):
    (tmp_path / "t.csv").write_text(text)
    wrong = []
    assert [row for _, row in table_files.rows(tmp_path / "t.csv", wrong)] == [dict(zip(names, ("q", "a; b")))]
    assert not wrong


def test_user_0_and_id_0(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"a{i}", "user": i % 9} for i in range(180)]
    path = tmp_path / "by.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_collection(f"{path}:by=user")
    places = {split for split in found.qrels for row in found.split(split).queries
              if found.queries.record(row)["metadata"]["user"] == 0}  # fmt: skip
    assert len(places) == 1
    path.write_text("".join(json.dumps({"id": i, "text": f"Words of doc {i}. More."}) + "\n" for i in range(30)))
    assert load_collection(f"docs:{path}").docs.ids == [str(i) for i in range(30)]


def test_a_column_of_another_name_says_the_split(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"a{i}", "subset": ("train", "test")[i % 2]} for i in range(60)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = load_collection(str(tmp_path / "t.jsonl"))
    assert len(found.split("test")) == 30


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "model/model.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n")
    (path.parent / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(BadInput, match=f"{path.name}: a Git LFS pointer, .*git lfs pull"):
        load_encoder(path.parent) if "model" in name else load_collection(str(path))


def test_lines_of_texts_are_a_question_a_positive_and_negatives(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps([f"q{i}", f"p{i}", f"n{i}", f"m{i}"][: 4 - i % 2]) + "\n" for i in range(60)))
    found = load_collection(str(path))
    assert len(found.queries) == 60 and len(found.docs) == 60 + 60 + 30
    path.write_text('["q", "p"]\n["alone"]\n')
    with pytest.raises(BadInput, match=":2: an array of texts is wanted"):
        load_collection(str(path))

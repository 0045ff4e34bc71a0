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


def lines_of(rows):
    """JSON objects, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


ASKED = [{"question": f"question {i}", "answer": f"answer {i}"} for i in range(60)]


@pytest.mark.parametrize(
    "names, splits",
    [
        ({"train.jsonl": 40, "validation.jsonl": 10, "test.jsonl": 10}, {"train": 40, "dev": 10, "test": 10}),
        ({"faq_test.jsonl": 30, "faq-dev.jsonl": 30}, {"dev": 30, "test": 30}),
        ({"test.jsonl": 60, "README.md": None}, {"test": 60}),
        ({"data/train-00000-of-00002.jsonl": 30, "data/train-00001-of-00002.jsonl": 30}, {"train": 60}),
    ],
)
def test_a_folder_of_tables_one_for_a_split(tmp_path, capsys, names, splits):
    left = iter(ASKED)
    for name, count in names.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(
            "# A card\n\nIt says more than five words of the data." if count is None else
            lines_of(next(left) for _ in range(count)))  # fmt: skip
    found = load_collection(str(tmp_path))
    assert {split: len(rows) for split, rows in found.qrels.items()} == splits and len(found.docs) == 60
    said = load_collection(f"{tmp_path}:question=answer,answer=question")
    assert "answer 0" in said.queries.texts()


def test_pages_beside_a_table_are_what_a_folder_holds(tmp_path):
    (tmp_path / "test.jsonl").write_text(lines_of(ASKED))
    (tmp_path / "install.md").write_text("# Install\n\nRun the program that installs it all.")
    assert len(load_collection(str(tmp_path)).docs) == 1


def test_a_folder_of_a_table_without_a_split_says_what_to_give(tmp_path):
    (tmp_path / "pairs.jsonl").write_text(lines_of(ASKED))
    with pytest.raises(BadInput, match="give one, as .*pairs.jsonl"):
        load_collection(str(tmp_path))


def test_columns_of_a_folder_are_called_alike_in_all_files(tmp_path):
    (tmp_path / "train.csv").write_text("question,answer\nwhat is a,a is one\nwhat is b,b is two\n")
    (tmp_path / "test.csv").write_text("query,passage\nwhat is c,c is three\n")
    with pytest.raises(
        BadInput, match=r"test\.csv: no column 'question', where train.csv .*; there are 'query', 'passage':"
    ):
        load_collection(tmp_path)


def test_a_broken_line_of_a_folder_names_its_file(tmp_path):
    (tmp_path / "train.jsonl").write_text(lines_of(ASKED))
    (tmp_path / "test.jsonl").write_text('{"question": "q"\n')
    with pytest.raises(BadInput, match="test.jsonl:1: "):
        load_collection(str(tmp_path))


def test_instructions_before_texts_are_left_out(tmp_path, capsys):
    path = tmp_path / "medi.json"
    rows = [{"query": ["Represent the question: ", f"q{i}"], "pos": ["Represent the doc: ", f"p{i}"],
             "neg": ["Represent the doc: ", f"n{i}"]} for i in range(40)]  # fmt: skip
    path.write_text(json.dumps(rows))
    found = load_collection(str(path))
    assert found.queries.text(3) == "q3" and sorted(found.docs.texts()) == sorted(
        [f"{c}{i}" for c in "pn" for i in range(40)]
    )
    assert "instructions before the texts, which are left out: query, pos, neg" in capsys.readouterr().out
    for row in rows:
        row["query"] = [row["query"][1], row["query"][1] + " in other words"]
    path.write_text(json.dumps(rows))
    assert len(load_collection(str(path)).queries) == 80


def test_rows_without_a_passage_have_their_answer_as_doc_and_say_so(tmp_path, capsys):
    rows = [{"instruction": f"q{i}", "context": f"c{i}" * (i % 2), "response": f"r{i}"} for i in range(40)]
    (tmp_path / "dolly.jsonl").write_text(lines_of(rows))
    found = load_collection(str(tmp_path / "dolly.jsonl"))
    assert {"c1", "r0"} <= set(found.docs.texts()) and "r1" not in found.docs.texts()
    assert "the answer is the doc of 20 rows without a context" in capsys.readouterr().out


def test_columns_of_one_name(tmp_path):
    path = tmp_path / "jira.csv"
    path.write_text("question,Comment,answer,Comment\n" + "".join(f"q{i},a,r{i},b\n" for i in range(40)))
    found = load_collection(str(path))
    assert found.queries.record(0)["metadata"] == {"Comment": "a", "Comment.1": "b"}
    path.write_text("question,answer,answer\n" + "".join(f"q{i},a,r{i}\n" for i in range(40)))
    with pytest.raises(BadInput, match="two columns are called 'answer'"):
        load_collection(str(path))
    path.write_text("query,pos,neg,neg\n" + "".join(f"q{i},p{i},a{i},b{i}\n" for i in range(40)))
    assert len(load_collection(str(path)).docs) == 120


def test_other_wordings_are_no_instructions(tmp_path):
    rows = [
        {"question": [f"How do I do {i // 2}?", f"{i // 2} how to"], "answer": f"the text {i} here"} for i in range(12)
    ]
    (tmp_path / "t.jsonl").write_text(lines_of(rows))
    assert len(load_collection(str(tmp_path / "t.jsonl")).queries) == 12


@pytest.mark.parametrize(
    "files",
    [
        ("guide/README.md", "api/README.md", "mkdocs.json"),
        ("README.md", "CHANGELOG.md", "tsconfig.json"),
        ("README.md", "package-dev.json"),
    ],
)
def test_folders_of_pages_beside_settings_are_pages(tmp_path, files):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        words = f"# Title of {name}\n\nThe text of {name} has these words and some others."
        (tmp_path / name).write_text("{}" if name.endswith("json") else words)
    assert len(load_collection(str(tmp_path)).docs) == sum(name.endswith("md") for name in files)


def test_a_table_of_a_folder_may_have_a_split_of_its_own(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "train.jsonl").write_text(
        lines_of(row | {"split": ("train", "dev")[i % 2]} for i, row in enumerate(ASKED[:40]))
    )
    (tmp_path / "data" / "test.jsonl").write_text(lines_of(ASKED[40:]))
    (tmp_path / "docs.csv").write_text("id,text\n1,a\n")
    found = load_collection(str(tmp_path))
    assert {split: len(rows) for split, rows in found.qrels.items()} == {"train": 20, "dev": 20, "test": 20}
    assert "are not read: docs.csv" in capsys.readouterr().out


def test_a_column_that_is_called_answer_1_is_no_twin(tmp_path):
    (tmp_path / "t.jsonl").write_text(lines_of(row | {"answer.1": "x"} for row in ASKED))
    assert len(load_collection(str(tmp_path / "t.jsonl")).queries) == 60
    (tmp_path / "t.csv").write_text("question,answer,answer\n" + "".join(f"q{i},a{i},b\n" for i in range(40)))
    assert len(load_collection(f"{tmp_path / 't.csv'}:question=question,answer=answer").queries) == 40
    (tmp_path / "u.csv").write_text("question,answer,x,x,x.1\n" + "".join(f"q{i},a{i},b,c,d\n" for i in range(40)))
    assert len(load_collection(str(tmp_path / "u.csv")).queries) == 40

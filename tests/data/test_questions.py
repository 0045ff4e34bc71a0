"""Questions of one's own: how answers are found, which split they are in, and a run that is measured on them."""

import json

import pytest
from conftest import write_collection

from lib.data import beir, questions, readers
from lib.data.collection import load_collection
from lib.files import BadInput

WORDS = "the desk opens at eight and closes at noon"
PAGES = {
    "setup.md": f"# Setup\n\n{WORDS} one\n\n## Install it\n\n{WORDS} two\n\n## Remove\n\n{WORDS} three\n",
    "faq/door.md": f"# Door\n\n{WORDS} four\n",
} | {f"p{n}.md": f"# Page {n}\n\n{WORDS} {n}\n" for n in range(12)}


@pytest.fixture
def notes(tmp_path):
    for name, text in PAGES.items():
        (tmp_path / "notes" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "notes" / name).write_text(text)
    return tmp_path / "notes"


def asked(notes, text, name="own.csv"):
    """The collection of the notes with the questions of a file."""
    (notes.parent / name).write_text(text)
    return load_collection(f"asked:{notes.parent / name}@{notes}", quiet=True)


def answers(collection):
    """{question: ids of docs} of dev and test."""
    found = {}
    for split in ("dev", "test"):
        for qid, grades in collection.qrels_dict(split).items():
            found[collection.queries.record(collection.queries.row_of[qid])["text"]] = sorted(grades)
    return found


def test_answers_are_docs_files_headings_and_titles(notes):
    rows = ["question,answer", "How do I install?,setup.md#install-it", "And the door?,faq/door.md",
            "Both?,setup.md#Remove|faq/door.md#1", "By title?,Setup > Install it", "All of it?,./setup.md"]  # fmt: skip
    found = answers(asked(notes, "\n".join(rows) + "\n"))
    assert found == {
        "How do I install?": ["setup.md#2"],
        "And the door?": ["faq/door.md#1"],
        "Both?": ["faq/door.md#1", "setup.md#3"],
        "By title?": ["setup.md#2"],
        "All of it?": ["setup.md#1", "setup.md#2", "setup.md#3"],
    }


def test_the_questions_are_dev_and_test_and_made_queries_are_trained_on(notes):
    before = load_collection(str(notes), quiet=True)
    lines = [json.dumps({"query": f"What is on page {n}?", "docs": [f"p{n}.md"]}) for n in range(9)]
    found = asked(notes, "\n".join(lines), "own.jsonl")
    assert (len(found.split("dev")), len(found.split("test"))) == (5, 4)
    assert len(found.split("train")) == sum(map(len, before.qrels.values()))
    assert found.docs.fingerprint == before.docs.fingerprint  # an index of the one is one of the other
    assert len(answers(found)) == 9


def test_many_questions_are_trained_on_too(notes, monkeypatch):
    monkeypatch.setattr(questions, "ENOUGH", 10)
    made = len(asked(notes, "question,answer\na,p1.md\nb,p2.md\n").split("train"))
    found = asked(notes, "question,answer\n" + "".join(f"Page {n}?,p{n}.md\n" for n in range(12)), "many.csv")
    assert [len(found.split(split)) for split in ("train", "dev", "test")] == [made + 8, 2, 2]


def test_what_others_had_asked_is_left_out_of_dev_and_test(tmp_path, capsys):
    (tmp_path / "own.csv").write_text("question,answer\nHow heavy?,001\nHow old?,002\n")
    before = load_collection("tests/tiny", quiet=True)
    ids = before.docs.ids[:2]
    (tmp_path / "own.csv").write_text(f"question,answer\nHow heavy?,{ids[0]}\nHow old?,{ids[1]}\n")
    found = load_collection(f"asked:{tmp_path / 'own.csv'}@tests/tiny")
    assert len(found.split("dev")) == len(found.split("test")) == 1
    assert len(found.split("train")) == len(before.split("train"))
    assert "queries of test, which --questions takes the place of, left out: 12" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "question,answer\na,nowhere.md\nb,p1.md#no\nc,p1.md\n",
            "own.csv:2: 'nowhere.md' is no id .*own.csv:3: 'p1.md#no'",
        ),
        (
            "question,colour\na,red\n",
            "own.csv: no answer .answer, doc_id, file. among the columns question, colour; say which",
        ),
        ("question,answer\na,p1.md\n", "1 questions with a doc that answers: two at least"),
        ("question,answer,label\na,p1.md,1\nb,p1.md,0\nc,p2.md,0\n", "1 questions with a doc that answers"),
    ],
)
def test_what_answers_nothing_is_one_line(notes, text, message):
    with pytest.raises(BadInput, match=message):
        asked(notes, text)


def test_two_files_of_one_split_are_refused(tmp_path):
    docs = {f"d{i}": f"doc {i}" for i in range(9)}
    rows = [(f"q{i}", f"d{i}", 1) for i in range(9)]
    folder = write_collection(
        tmp_path / "f", docs, {f"q{i}": f"query {i}" for i in range(9)}, {"dev": rows, "val": rows}
    )
    (tmp_path / "own.csv").write_text("question,answer\na,d1\nb,d2\n")
    with pytest.raises(BadInput, match="dev.tsv and val.tsv are both the dev split"):
        load_collection(f"asked:{tmp_path}/own.csv@{folder}")


def test_a_run_is_measured_on_them(notes, launch, tmp_path, capsys):
    (tmp_path / "own.csv").write_text("question,answer\n" + "".join(f"Where is page {n}?,p{n}.md\n" for n in range(6)))
    small = ("--dim", 16, "--vocab_size", 100, "--epochs", 1, "--batch_size", 4, "--negatives", "in_batch")
    assert launch("train.py", "--data", notes, "--questions", "own.csv", *small, "--name", "own", cwd=tmp_path) == 0
    summary = json.loads((tmp_path / "runs/own/summary.json").read_text())
    assert launch("evaluate.py", "--run", "runs/own", cwd=tmp_path) == 0
    found = json.loads((tmp_path / "runs/own/eval/notes-asked-own-test/metrics.json").read_text())
    assert found["queries"] == 3 and found["mean"] == pytest.approx(summary["test"])
    assert launch("evaluate.py", "--retriever", "bm25", "--data", notes, "--questions", "own.csv", cwd=tmp_path) == 0
    assert launch("build_index.py", "--run", "runs/own", cwd=tmp_path) == 0


def test_what_is_written_exactly_goes_before_what_is_alike(notes):
    (notes / "c.md").write_text(f"# Languages\n\n{WORDS}\n\n## C++\n\n{WORDS} plus\n\n## C\n\n{WORDS} sea\n")
    found = answers(asked(notes, "question,answer\nPlus?,c.md#C++\nSea?,c.md#C\n"))
    assert found == {"Plus?": ["c.md#2"], "Sea?": ["c.md#3"]}


def test_other_questions_take_the_place_of_those_before(notes):
    spec = readers.asked(readers.asked(str(notes), "a.csv"), "b.csv")
    assert spec == f"asked:b.csv@{notes}"


def test_the_corpus_stays_as_it_is_and_so_do_its_candidates(tmp_path):
    """The same bytes, however they are written: an index of the docs stays one."""
    folder = tmp_path / "a@b"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d1",  "text": "caf\\u00e9"}\n{"_id": "d2", "text": "tea"}\n')
    query = {"_id": "q", "text": "what?", "metadata": {"kind": "howto"}}  # a kind of somebody's own
    (folder / "queries.jsonl").write_text(json.dumps(query) + "\n" + json.dumps(query | {"_id": "t"}) + "\n")
    for split, qid in (("train", "t"), ("dev", "q")):
        (folder / f"qrels/{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{qid}\td1\t1\n")
    given = {"qid": "t", "doc_id": "d2", "source": "given", "rank": 1, "score": None, "positive_score": None}
    (folder / "negatives.jsonl").write_text(json.dumps({"header": {"of": "a"}}) + "\n" + json.dumps(given) + "\n")
    (folder / "own.csv").write_text("question,doc_id\nhot?,d1\ncold?,d2\n")
    before = load_collection(str(folder), quiet=True)
    found = load_collection(f"asked:{folder / 'own.csv'}@{folder}", quiet=True)
    assert found.docs.fingerprint == before.docs.fingerprint and len(found.split("train")) == 1
    assert [*beir.candidates_in(found.negatives)] == [given]


def grades(collection):
    """{question: {id of a doc: grade}} of dev and test."""
    return {
        collection.queries.text(collection.queries.row_of[qid]): own
        for split in ("dev", "test")
        for qid, own in collection.qrels_dict(split).items()
    }


def test_labels_say_which_docs_answer(notes):
    rows = ["question,doc_id,label", "one?,p1.md#1,1", "one?,p2.md#1,0", "two?,p3.md#1,yes", "none?,p4.md#1,0"]
    assert grades(asked(notes, "\n".join(rows))) == {"one?": {"p1.md#1": 1, "p2.md#1": 0}, "two?": {"p3.md#1": 1}}
    rows = ["question,relevant,file", "one?,1,p1.md", "one?,0,p2.md", "two?,1,p3.md"]
    assert grades(asked(notes, "\n".join(rows), "b.csv"))["one?"] == {"p1.md#1": 1, "p2.md#1": 0}
    with pytest.raises(BadInput, match="own.csv:3: label is '', no label|own.csv:3: label is"):
        asked(notes, "question,doc_id,label\none?,p1.md#1,1\ntwo?,p2.md#1,maybe\n")


def test_a_column_of_splits_is_obeyed(notes):
    rows = [f"q {n}?,p{n}.md#1,{'val' if n < 3 else 'test'}" for n in range(9)]
    found = asked(notes, "\n".join(["question,doc_id,split", *rows]))
    assert (len(found.split("dev")), len(found.split("test"))) == (3, 6)
    with pytest.raises(BadInput, match="split is 'later'"):
        asked(notes, "question,doc_id,split\none?,p1.md#1,later\ntwo?,p2.md#1,test\n", "b.csv")

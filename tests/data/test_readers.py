"""Tables and folders of files as collections: what becomes of them, and what is refused in one line."""

import csv
import gzip
import json
import pathlib

import numpy as np
import pytest

from lib.data import readers
from lib.data.collection import load_collection
from lib.data.formats import pages, table_files
from lib.files import BadInput

ROWS = [
    {
        "question": f"what is number {i}?",
        "answer": f"Number {i // 2 * 2} is a number, as everybody knows.",
        "page": f"p{i % 5}",
    }
    for i in range(60)
]  # two questions to each answer


def write_table(folder, suffix, rows, name="pairs"):
    path = folder / f"{name}{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == ".parquet":
        pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", table_files.SUFFIXES)
def test_a_table_is_the_same_collection_in_every_format(tmp_path, suffix):
    wanted = load_collection(write_table(tmp_path, ".csv", ROWS))
    found = load_collection(write_table(tmp_path, suffix, ROWS))
    assert found.fingerprint == wanted.fingerprint and found.name == "pairs"
    assert len(found.queries) == 60 and len(found.docs) == 30 and set(found.qrels) == {"train", "dev", "test"}
    assert found.queries.record(7)["metadata"] == {"page": "p2"}
    for split in found.qrels:
        for qid, judged in found.qrels_dict(split).items():
            number = int(found.queries.text(found.queries.row_of[qid]).split()[-1].rstrip("?"))
            (doc,) = judged
            assert found.docs.text(found.docs.row_of[doc]) == ROWS[number]["answer"]


def test_a_question_with_several_answers_and_a_short_answer_in_a_passage(tmp_path):
    rows = [
        {"query": "q one", "passage": "the first passage holds 42", "answers": ["42", "forty-two"], "title": "T"},
        {"query": "q one", "passage": "the second passage holds 42 too", "answers": ["42"], "title": "T"},
        {"query": "q two", "passage": "the first passage holds 42", "answers": [], "title": "T"},
    ]
    found = load_collection(write_table(tmp_path, ".jsonl", [row | {"split": "train"} for row in rows]))
    assert found.qrels_dict("train") == {"q1": {"d1": 1, "d2": 1}, "q2": {"d1": 1}}
    assert (
        found.queries.record(0)["metadata"]["answers"] == ["42", "forty-two"] and found.docs.record(0)["title"] == "T"
    )


def test_columns_that_are_said_and_splits_by_a_column(tmp_path):
    rows = [{"Frage": row["question"], "text": row["answer"], "Seite": row["page"]} for row in ROWS]
    spec = write_table(tmp_path, ".csv", rows) + ":question=Frage,answer=text,by=Seite"
    found, split_of = load_collection(spec), {}
    for split in found.qrels:
        for row in found.split(split).queries:
            split_of.setdefault(found.queries.record(row)["metadata"]["Seite"], set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())


def test_splits_that_are_given(tmp_path):
    rows = [row | {"split": ("train", "validation", "test")[i % 3]} for i, row in enumerate(ROWS)]
    found = load_collection(write_table(tmp_path, ".csv", rows))
    assert [len(found.split(split)) for split in ("train", "dev", "test")] == [20, 20, 20]


def test_a_spreadsheet_of_the_continent(tmp_path):
    lines = ["\ufeffquestion;answer", '"eins; zwei?";"Eine Antwort,\nin zwei Zeilen"', "drei?;Noch eine"]
    (tmp_path / "f.csv").write_text("\r\n".join(lines), encoding="utf-8")
    name, folder = readers.find(str(tmp_path / "f.csv"))
    docs = [json.loads(line)["text"] for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    assert name == "f" and docs == ["Eine Antwort,\nin zwei Zeilen", "Noch eine"]


def test_rows_without_a_text_are_left_out_and_said(tmp_path, capsys):
    rows = [*ROWS, {"question": " ", "answer": "x", "page": ""}, {"question": "y", "answer": "", "page": ""}]
    assert len(load_collection(write_table(tmp_path, ".csv", rows)).queries) == 60
    printed = capsys.readouterr()
    said = printed.out + printed.err
    assert "without a question, left out: 1 (line 62)" in said and "without an answer, left out: 1 (line 63)" in said


BROKEN = {
    "empty": (".csv", "", "1: a line with a name for each column"),
    "no names": (".csv", ",,\n1,2,3\n", "1: a line with a name"),
    "same names": (".csv", "question,question,answer\na,b,c\n", "1: two columns are called 'question'"),
    "no rows": (".csv", "question,answer\n", "no row with a question"),
    "other columns": (".csv", "a1,b1\nx,y\n", "2: a column of questions and one of answers are wanted"),
    "no answers": (".csv", "question,note\nx,y\n", "say which, as in"),
    "too many cells": (".csv", "question,answer\nx,y,z\n", "2: 3 columns, and the first line names 2"),
    "too few cells": (".csv", "question,answer\nx\n", "no row with a question"),
    "open quote": (".csv", 'question,answer\nx,"y\nz\n', "unexpected end of data"),
    "text behind a quote": (".csv", 'question,answer\nx,"y" z\n', "expected after"),
    "split": (".csv", "question,answer,split\nx,y,held\n", "2: split is 'held', none of"),
    "latin-1": (".csv", "question,answer\nx,caf\xe9\n".encode("latin-1"), "not UTF-8"),
    "blank": (".csv", "question,answer\n , \n", "no row with a question"),
    "not json": (".jsonl", "{question: 1}\n", "1: not valid JSON"),
    "a list": (".jsonl", "[1]\n", "1: a JSON object is wanted"),
    "an object as a text": (".jsonl", '{"question": "q", "answer": {"body": "a"}}\n', "1: answer is"),
    "a list of objects": (".jsonl", '{"question": "q", "answer": [{"body": "a"}]}\n', "1: answer is"),
    "half a pair": (".jsonl", '{"question": "q", "answer": "\\ud800"}\n', "1: not valid JSON (half a surrogate pair"),
    "no parquet": (".parquet", b"PAR1 nothing", "cannot be read"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_table_is_one_line_and_leaves_nothing(tmp_path, name, monkeypatch):
    suffix, text, message = BROKEN[name]
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setenv("HARDNEG_CACHE", str(tmp_path / "cache"))
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInput) as error:
        readers.find(str(path))
    assert message in str(error.value) and str(path) in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


@pytest.mark.parametrize(
    "tail, message",
    [
        ("question=nothing", "no column 'nothing'"),
        ("frage=question", "is none of"),
        ("by=nothing", "no column 'nothing'"),
    ],
)
def test_columns_that_are_not_there(tmp_path, tail, message):
    with pytest.raises(BadInput, match=message):
        readers.find(write_table(tmp_path, ".csv", ROWS) + ":" + tail)
    with pytest.raises(BadInput, match="no such file"):
        readers.find(str(tmp_path / "none.csv"))


# -------------------------------------------------------------------------------------------- folders of files

MARKDOWN = """Before any heading there are words enough.

# Top

Some words of the top section here.

```
# no heading in code, and these are five words
```

## Below

The section below has a few words.

### Deep ##

Deeper down there are words as well.

# Second

The second top section is short too.
"""


def test_markdown_is_cut_at_headings():
    found = pages.sections_of_markdown(MARKDOWN)
    assert [(line, path) for line, path, *_ in found] == [
        (1, ()), (3, ("Top",)), (11, ("Top", "Below")), (15, ("Top", "Below", "Deep")), (19, ("Second",)),
    ]  # fmt: skip
    assert "# no heading in code" in found[1][2] and MARKDOWN.splitlines()[found[2][0] - 1] == "## Below"


def test_html_shows_what_a_reader_sees():
    text = (
        "<html><head><title>no</title><style>p {}</style></head><body><nav>menu</nav>\n<h1>The <b>Top</b></h1>\n<p>"
        "Some &amp; words<script>alert('no')</script> here</p><h2>Below</h2><ul><li>one<li>two</ul></body></html>"
    )
    assert pages.sections_of_html(text) == [
        (2, ("The Top",), "Some & words here"),
        (3, ("The Top", "Below"), "- one\n- two"),
    ]


def folder_of(path, count=12):
    for i in range(count):
        name = path / ("deep" if i % 2 else "") / f"n{i}.md"
        name.parent.mkdir(parents=True, exist_ok=True)
        words = " ".join(f"w{i}x{j}" for j in range(450))
        name.write_text(f"# Note {i}\n\n{words}\n\n## Part {i}\n\nsome more words of note {i}\n", encoding="utf-8")
    (path / ".hidden").mkdir()
    (path / ".hidden/x.md").write_text("# no\n\nnobody reads these few words\n")
    return path


def test_a_folder_of_files_is_a_collection(tmp_path):
    found = load_collection(str(folder_of(tmp_path / "notes")))
    assert found.name == "notes" and len(found.docs) == 12 * 4
    first = [found.docs.record(i) for i in range(4)]
    assert [doc["title"] for doc in first] == ["Note 1"] * 3 + ["Note 1 > Part 1"]
    assert first[0]["metadata"]["file"] == "deep/n1.md" and first[3]["metadata"]["line"] == 5
    pieces = [doc["text"].split() for doc in first[:3]]
    assert pieces[0][-pages.OVERLAP :] == pieces[1][: pages.OVERLAP] and len(pieces[0]) == pages.WORDS
    assert sorted({word for piece in pieces for word in piece}) == sorted({f"w1x{j}" for j in range(450)})
    splits = {}
    for split in found.qrels:
        for qid, judged in found.qrels_dict(split).items():
            assert len({doc.split("#")[0] for doc in judged}) == 1
            splits.setdefault(next(iter(judged)).split("#")[0], set()).add(split)
            if qid.startswith("heading:deep/n1.md#1"):
                assert len(judged) == 3  # every piece below the heading answers it
    assert all(len(own) == 1 for own in splits.values())  # a file is on one side
    again = load_collection(str(tmp_path / "notes"))
    assert again.fingerprint == found.fingerprint


def test_a_changed_file_is_another_collection(tmp_path):
    folder = folder_of(tmp_path / "notes", 3)
    before = load_collection(str(folder)).fingerprint
    (folder / "n0.md").write_text("# Other\n\nwith some other words in it\n", encoding="utf-8")
    assert load_collection(str(folder)).fingerprint != before


@pytest.mark.parametrize(
    "files, message",
    [({}, "neither corpus.jsonl nor a file"), ({"a.pdf": b"x"}, "neither"), ({"a.md": b"# a\n\nfew"}, "no section"),
     ({"a.txt": b"\xfc\xfe\x00"}, "not UTF-8"), ({"queries.jsonl": b""}, "corpus.jsonl: no such file")],
)  # fmt: skip
def test_a_folder_without_docs_is_refused(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_bytes(text)
    with pytest.raises(BadInput, match=message):
        load_collection(str(tmp_path))


def test_a_table_from_training_to_an_answer(launch, tmp_path, capsys):
    spec = write_table(tmp_path, ".csv", ROWS)
    flags = ("--data", spec, "--dim", 8, "--vocab_size", 200, "--batch_size", 8, "--steps", 3, "--name", "own")
    assert launch("train.py", *flags, cwd=tmp_path) == 0
    assert launch("evaluate.py", "--run", "runs/own", cwd=tmp_path) == 0
    assert launch("rag_demo.py", "--run", "runs/own", "what is number 4?", cwd=tmp_path) == 0
    assert "[1]" in capsys.readouterr().out
    assert np.isfinite(json.loads((tmp_path / "runs/own/summary.json").read_text())["test"]["mrr@10"])


def test_names_of_files_that_ids_cannot_hold(tmp_path):
    for name in (b"two words.md", b"100%.md", b"\xff odd.md", "\u4e2d.md".encode()):
        with open(bytes(tmp_path) + b"/" + name, "wb") as out:
            out.write(b"# T\n\nsome few words in this file\n")
    found = load_collection(str(tmp_path))
    assert len(found.docs) == 4 and "two%20words.md#1" in found.docs.ids and "\u4e2d.md#1" in found.docs.ids
    assert "100%25.md#1" in found.docs.ids


def test_what_only_later_rows_have_counts(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"a{i}", "split": "test" if i else "train"} for i in range(9)]
    rows = [{"question": "q9", "text": None, "answer": "a9", "split": "dev"}, *rows]
    found = load_collection(write_table(tmp_path, ".jsonl", rows))
    assert len(found.split("test")) == 8 and len(found.split("train")) == 1
    rows = [{"question": "q", "passage": f"the passage {n}", "answers": [n]} for n in ("alpha", "beta")]
    rows = [{"question": "other", "passage": "p"}, *[row | {"split": "train"} for row in rows]]
    rows[0]["split"] = "train"
    found = load_collection(write_table(tmp_path, ".jsonl", rows, "short"))
    assert found.queries.record(1)["metadata"]["answers"] == ["alpha", "beta"]
    rows = [row | {"answers": "z", "user": ""} for row in ROWS]
    found = load_collection(write_table(tmp_path, ".csv", rows, "meta") + ":question=question,answer=answer,by=user")
    assert "answers" not in found.queries.record(0)["metadata"] and len(found.qrels) == 3  # no user: by the question


def test_headings_that_are_underlined_and_fences_of_four():
    parts = [
        "Title\n=====",
        "some words",
        "Sub title\n---",
        "more",
        "- a list\n---",
        "````\n```\n# no heading\n````",
        "# Yes",
        "end",
    ]
    found = pages.sections_of_markdown("\n\n".join(parts))
    assert [(line, path) for line, path, *_ in found] == [(1, ("Title",)), (6, ("Title", "Sub title")), (19, ("Yes",))]
    assert "# no heading" in found[1][2]


def test_html_that_leaves_tags_open():
    found = pages.sections_of_html("<html><head><title>T</title><body><nav>menu<h1>Top</h1><p>some words")
    assert found == [(1, ("Top",), "some words")]
    assert pages.sections_of_html("<head><title>T</title><body><p>words of a page") == [(1, ("T",), "words of a page")]


def test_a_link_that_leads_nowhere_is_left_out(tmp_path):
    folder_of(tmp_path / "notes", 2)
    (tmp_path / "notes/gone.md").symlink_to(tmp_path / "nothing.md")
    assert len(load_collection(str(tmp_path / "notes")).docs) == 8


def test_links_out_of_a_folder_and_cyclic_ones_are_named_and_not_followed(tmp_path, capsys):
    folder_of(tmp_path / "notes", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/secret.md").write_text("# Secret\n" + "a word that nobody outside may read " * 5)
    for name, place in {
        "file.md": "../out/secret.md", "folder": "../out", "loop": "loop", "loop.md": "loop.md", "above": "..",
        "here": ".", "gone.md": "nothing.md", "inside.md": "n0.md", "picture.png": "../out/secret.md",
    }.items():  # fmt: skip
        (tmp_path / "notes" / name).symlink_to(place)
    collection = load_collection(str(tmp_path / "notes"))
    assert len(collection.docs) == 8 + 4 and not any("nobody outside" in text for text in collection.docs.texts())
    notes = capsys.readouterr()
    assert (notes.out + notes.err).count("links to what is not a file of this folder, left out: 7 (above, ") == 1


def test_the_csv_of_the_readme_is_made(tmp_path, monkeypatch, folder):
    import runpy
    import sys

    from conftest import ROOT

    monkeypatch.setattr(
        sys, "argv", ["table_of", "--data", str(folder), "--rows", "12", "--out", str(tmp_path / "f.csv")]
    )
    runpy.run_path(str(ROOT / "experiments/table_of.py"))["main"]()
    assert 8 <= len(load_collection(str(tmp_path / "f.csv")).queries) <= 12  # questions that repeat are one


@pytest.mark.parametrize("name", ["t.CSV", "t.CSV.GZ", "t.Tsv.gz", "t.NDJSON", "t.ndjson.gz"])
def test_suffixes_are_read_in_any_case(tmp_path, name):
    made = pathlib.Path(write_table(tmp_path, {"c": ".csv", "t": ".tsv", "n": ".jsonl"}[name[2].lower()], ROWS))
    text = made.read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.lower().endswith("gz") else text)
    assert load_collection(str(tmp_path / name)).docs.fingerprint == load_collection(str(made)).docs.fingerprint


@pytest.mark.parametrize("name", ["t.xlsx", "t.ods", "t.txt", "t.csv.bz2", "t.jsonl.zst", "t.xlsx:question=a"])
def test_a_file_of_another_kind_says_what_is_read(tmp_path, name):
    (tmp_path / name.partition(":")[0]).write_text("x")
    with pytest.raises(BadInput, match="of a kind that is not read: a table is one of .csv, .tsv, .jsonl"):
        readers.find(str(tmp_path / name))


def test_headers_without_an_end_and_objects_over_several_lines_are_one_line(tmp_path):
    (tmp_path / "t.csv").write_text('"question,answer\nq1,a1\n')
    with pytest.raises(BadInput, match="t.csv:1: the names of the columns cannot be read .unexpected end of data"):
        load_collection(str(tmp_path / "t.csv"))
    for suffix in ("jsonl", "json"):
        path = tmp_path / f"t.{suffix}"
        path.write_text("\n".join(json.dumps(row, indent=1) for row in ROWS))
        with pytest.raises(BadInput, match=f"t.{suffix}:1: a JSON object over several lines") as error:
            load_collection(str(path))
        assert "\n" not in str(error.value)

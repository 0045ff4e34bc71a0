"""docs:FILE: tables of docs without questions, and questions of one's own on them."""

import csv

import pytest

from lib.data.collection import load_collection
from lib.files import BadInput

BODY = "<p>It stops at page&nbsp;{}.</p><p>Every time.</p>"
ROWS = [
    {"no": f"T-{i}", "subject": f"printer {i} jams" if i % 4 else "", "body": BODY.format(i),
     "fix": f"Clean roller {i}." if i != 5 else "N/A", "product": "alpha" if i % 2 else "beta"}
    for i in range(1, 31)
]  # fmt: skip
ROLES = ":id=no,title=subject,text=body+fix"


def table(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        out = csv.DictWriter(file, list(rows[0]))
        out.writeheader()
        out.writerows(rows)
    return path


def test_a_table_of_docs_keeps_ids_texts_and_metadata(tmp_path, capsys):
    spec = f"docs:{table(tmp_path / 'tickets.csv', [*ROWS, dict.fromkeys(ROWS[0], ''), ROWS[3]])}{ROLES}"
    collection = load_collection(spec)
    said = "".join(capsys.readouterr())
    assert collection.docs.ids == [row["no"] for row in ROWS] and collection.name.startswith("tickets")
    record = collection.docs.record(6)
    assert record["title"] == "printer 7 jams" and record["metadata"] == {"product": "alpha"}
    assert record["text"].split() == "It stops at page 7. Every time. Clean roller 7.".split()
    assert "N/A" not in collection.docs.text(4)
    assert "HTML tags and entities, left out: 31" in said and "rows without a text, left out: 1 (line 32)" in said
    assert "rows that repeat another, left out: 1 (line 33)" in said
    asked = {collection.queries.text(row) for row in range(len(collection.queries))}
    assert "printer 7 jams" in asked and "It stops at page 7." in asked and len(collection.qrels) == 3
    kinds = {collection.queries.record(row)["metadata"]["kind"] for row in range(len(collection.queries))}
    assert kinds == {"title", "first_sentence"}


def test_questions_name_the_docs_by_their_ids(tmp_path):
    table(tmp_path / "tickets.csv", ROWS)
    questions = table(tmp_path / "q.csv", [{"asks": f"how is {i} mended?", "solved by": f"T-{i}"} for i in range(1, 9)])
    collection = load_collection(
        f"asked:{questions}:question=asks,answer=solved by@docs:{tmp_path / 'tickets.csv'}{ROLES}"
    )
    known = {collection.queries.text(row): list(collection.qrels_dict(split)[collection.queries.ids[row]])
             for split in ("dev", "test") for row in collection.split(split).queries}  # fmt: skip
    assert known == {f"how is {i} mended?": [f"T-{i}"] for i in range(1, 9)}
    with pytest.raises(BadInput, match="no answer .solver. among the columns asks, solved by"):
        load_collection(f"asked:{questions}:question=asks,answer=solver@docs:{tmp_path / 'tickets.csv'}{ROLES}")


@pytest.mark.parametrize(
    "roles, rows, message",
    [
        (":id=product,text=body", ROWS, "tickets.csv:4: the id 'alpha' stands in two rows that differ"),
        (":text=story", ROWS, "no column 'story'; there are 'no', 'subject'"),
        (":body=x", ROWS, "body is none of id, title, text"),
        ("", [{"a": "x", "b": "y"}], "no column of texts among 'a', 'b'; say which"),
        ("", [{"text": "", "b": ""}], "no row"),
    ],
)
def test_what_is_no_table_of_docs_is_one_line(tmp_path, roles, rows, message):
    with pytest.raises(BadInput, match=message):
        load_collection(f"docs:{table(tmp_path / 'tickets.csv', rows)}{roles}")


def test_a_table_without_questions_says_how_it_is_read(tmp_path):
    with pytest.raises(BadInput, match="a table of docs alone is docs:"):
        load_collection(table(tmp_path / "tickets.csv", ROWS))

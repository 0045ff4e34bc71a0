"""Questions of one's own on the docs of a collection: what `--questions FILE` and `--data asked:FILE@DATA` read.

A table (CSV, TSV, JSON, JSONL, Parquet) with a question and what answers it: the id of a doc; of a folder of pages
also a file, or file#heading; or a title. Several answers stand in a list, or in one cell between bars, as in
setup.md#Install|faq.md. The questions are the dev and the test split, from ENOUGH of them also part of train, whose own
queries stay; what dev and test held before joins train where it was made from the docs, and is left out where somebody
had asked it.
"""

import pathlib
import re

import numpy as np

from lib import rng
from lib.data import beir, made_queries
from lib.data.formats import cells, table_files, tables
from lib.data.formats.columns import ROLES
from lib.data.qrels import grades_of, judged_files
from lib.data.texts import Texts
from lib.files import BadInput, fingerprint, fingerprint_file

ENOUGH = 200  # questions from which on some are trained on
QUESTION = ("question", "query", "q", "text")
ANSWER = ("answer", "answers", "doc", "doc_id", "docs", "doc_ids", "file", "page", "where")
COLUMNS = {"question": QUESTION, "answer": ANSWER}
MADE = {"heading", *made_queries.KINDS}  # kinds of queries that were made from docs


def build(place):
    """(name, folder in BEIR layout) of QUESTIONS@DATA."""
    from lib.data.readers import find  # which names this reader

    file, data = parts(place)
    if not data or not (path := pathlib.Path(tables.split_roles(file)[0])).is_file():
        raise BadInput(f"--data asked:{place}: FILE@DATA is wanted, a table of questions and a collection")
    name, folder = find(data)
    docs, queries = (Texts.load(folder / f"{each}.jsonl") for each in ("corpus", "queries"))
    files = judged_files(folder)
    contents = [[split, fingerprint_file(path)] for split, path in files.items()]
    given = folder / beir.NEGATIVES
    contents += [fingerprint_file(given)] if given.is_file() else []
    key = [
        docs.fingerprint,
        queries.fingerprint,
        contents,
        fingerprint_file(path),
        file.removeprefix(str(path)),
        ENOUGH,
        3,
    ]

    def read():
        dropped, records = {}, [queries.record(row) for row in range(len(queries))]
        judged = _kept(queries, files, dropped)
        for number, (question, answers, split) in enumerate(_asked(file, docs), 1):
            records.append({"_id": f"asked:{number}", "text": question, "metadata": {"kind": "asked"}})
            judged.append((f"asked:{number}", split, answers))
        return docs.path, records, judged, dropped, list(beir.candidates_in(given))

    stem = re.sub(r"[^\w.-]+", "_", path.stem)
    return beir.build("asked", f"{name}-asked-{stem}", fingerprint(key), read)  # evaluations of both stand side by side


def parts(place):
    """(file, data) of FILE@DATA: cut at the first @ behind a file, or else at the first."""
    signs = [at for at, sign in enumerate(place) if sign == "@"]
    ends = (at for at in signs if pathlib.Path(tables.split_roles(place[:at])[0]).is_file())
    cut = next(ends, signs[0] if signs else len(place))
    return place[:cut], place[cut + 1 :]


def _kept(queries, files, dropped):
    """[(qid, split, grades)] of what was asked before: train, and of dev and test what was made from docs."""
    found = []
    for split, path in files.items():
        for qid, own in grades_of(path, queries.row_of).items():
            made = beir.metadata_of(queries.record(queries.row_of[qid])).get("kind") in MADE
            if split == "train" or made:
                found.append((qid, "train", own))
            else:
                dropped.setdefault(f"queries of {split}, which --questions takes the place of", []).append(qid)
    return found


def _asked(path, docs):
    """[(question, {id of a doc: grade}, split)] of a file; BadInput names every line that says neither.

    A column of labels, as a table may have one, says which docs answer a question and which do not.
    """
    wrong, found, said = [], {}, {}
    path, roles = tables.split_roles(path)
    rows, answers_of = list(table_files.rows(path, wrong)), _places(docs)
    asks, names = ([roles[role].lower()] if role in roles else known for role, known in COLUMNS.items())
    there = {str(name).strip().lower() for _, row in rows for name in row}
    for role, known, some in (("question", asks, "question, query"), ("answer", names, "answer, doc_id, file")):
        if rows and not there & set(known):
            raise BadInput(
                f"{path}: no {role} ({roles.get(role, some)}) among the columns {', '.join(map(str, rows[0][1]))}; say "
                f"which, as in {path}:question=COLUMN,answer=COLUMN"
            )
    grade_of = _grades(path, rows)
    for number, row in rows:
        low = {str(name).strip().lower(): value for name, value in row.items()}
        question = next((str(low[name]).strip() for name in asks if low.get(name) not in (None, "")), "")
        answers = next((low[name] for name in names if low.get(name) not in (None, "")), None)
        if not question or answers is None:
            wrong.append(f"{path}:{number}: no {'answer' if question else 'question'}")
            continue
        for answer in answers if isinstance(answers, list) else _parts(str(answers), answers_of):
            if ids := answers_of.get(str(answer).strip()) or answers_of.get(_same(answer)):
                own, given = found.setdefault(question, {}), grade_of(number, row)
                own |= {ident: max(given, own.get(ident, given)) for ident in ids}
                said.setdefault(question, str(low.get("split") or "").strip().lower())
            else:
                shown = beir.shorten(str(answer))
                wrong.append(f"{path}:{number}: {shown} is no id of a doc, no file, no file#heading and no title")
    if wrong:
        raise beir.Malformed(wrong)
    found = {question: own for question, own in found.items() if max(own.values()) >= 1}  # others ask for nothing
    if len(found) < 2:
        count = f"{len(found)} questions with a doc that answers"
        raise BadInput(f"{path}: {count}: two at least are wanted, one for dev and one for test")
    if any(said.values()):
        if odd := [said[question] for question in found if said[question] not in table_files.SPLITS]:
            raise BadInput(f"{path}: split is {beir.shorten(odd[0])}, none of {', '.join(table_files.SPLITS)}")
        return [(question, own, table_files.SPLITS[said[question]]) for question, own in found.items()]
    order = rng.permutation(len(found), "own questions", 0)
    splits = np.empty(len(found), dtype=object)
    fifth = len(found) // 5 if len(found) >= ENOUGH else -(-len(found) // 2)
    splits[order] = (
        ["dev"] * fifth + ["test"] * min(fifth, len(found) - fifth) + ["train"] * max(0, len(found) - 2 * fifth)
    )
    return [(question, own, split) for (question, own), split in zip(found.items(), splits)]


def _grades(path, rows):
    """A function of a line's number and row: the grade that its label gives to the docs it names, 1 without labels."""
    by_name = {str(name).strip().lower(): name for _, row in rows for name in row}
    columns = {"question": [by_name[name] for name in QUESTION if name in by_name][:1]}
    columns["label"] = [by_name[name] for name in ROLES["label"] if name in by_name]
    grade = cells.grading(path, rows, columns, {}) if columns["label"] else None

    def of(number, row):
        (column,) = columns["label"]
        if (value := cells.number_of(row.get(column))) is None:
            raise BadInput(f"{path}:{number}: {column} is {beir.shorten(str(row.get(column)))}, no label as 1 or 0")
        return grade(value)

    return of if grade else lambda number, row: 1


def _same(text):
    """A place as it is looked up: without what differs between a heading and a link to it."""
    return " ".join(re.sub(r"[\W_]+", " ", str(text).casefold().removeprefix("./")).split())


def _parts(text, known):
    """The answers of one cell."""
    return (
        [text] if text.strip() in known or _same(text) in known else [part for part in text.split("|") if part.strip()]
    )


def _places(docs):
    """{id, file, file#heading or title: ids of docs}, as it is written and as _same() has it.

    Ids go before files, files before titles, and what is written exactly so before what is only alike.
    """
    found, exact = [{}, {}, {}], [{}, {}, {}]
    for row, ident in enumerate(docs.ids):
        record = docs.record(row)
        file, title = beir.metadata_of(record).get("file"), record.get("title") or ""
        heading = title.split(" > ")[-1]
        for rank, place in ((0, ident), (1, file), (1, file and f"{file}#{heading}"), (2, title)):
            if place:
                found[rank].setdefault(_same(place), []).append(ident)
                exact[rank].setdefault(place, []).append(ident)
    return found[2] | found[1] | found[0] | exact[2] | exact[1] | exact[0]

"""Tables of docs that nobody has asked for: tickets, articles, a knowledge base (CSV, TSV, JSON, JSONL, Parquet).

A row is a doc. Columns are found by their names or said: `docs:tickets.csv:id=number,title=subject,text=body+answer`,
where several columns are one text. Others become metadata. Titles and first sentences are the queries, as those of a
folder of pages are; `--questions` measures on real ones.
"""

import pathlib

from lib.data import beir, made_queries
from lib.data.formats import cells, pages, table_files, tables
from lib.files import BadInput, fingerprinted

RECIPE = 4  # raise it when the rules below change
ROLES = {
    "id": ("id", "_id", "doc_id", "docid", "key", "number"),
    "title": ("title", "subject", "name", "heading", "summary"),
    "text": ("text", "body", "content", "description", "article", "document", "passage", "answer", "contents"),
}


def build(spec):
    """(name, folder in BEIR layout) of FILE, perhaps with columns behind a colon."""
    head, said = tables.split_roles(spec)
    path, wrong = pathlib.Path(head), []
    if unknown := said.keys() - ROLES.keys():
        raise BadInput(f"--data docs:{spec}: {min(unknown)} is none of {', '.join(ROLES)}")
    if not path.is_file() or table_files.suffix(head) not in table_files.SUFFIXES:
        raise BadInput(f"--data docs:{head}: no such file of {', '.join(table_files.SUFFIXES)}")
    with fingerprinted(path) as content:
        key = ["docs", content, table_files.suffix(path), said, RECIPE]
        name = pathlib.Path(path.name.removesuffix(".gz")).stem
        return beir.build("tables", name, key, lambda: _read(path, said, list(table_files.rows(path, wrong)), wrong))


def _columns(path, rows, said):
    """{role: [columns]}; BadInput for a column that is not there, and without one of texts."""
    there = list({name: None for _, row in rows for name in row})
    by_name, found = {name.lower().strip(): name for name in there}, {}
    for role, names in ROLES.items():
        found[role] = said[role].split("+") if role in said else [by_name[n] for n in names if n in by_name][:1]
        if missing := [column for column in found[role] if column not in there]:
            raise BadInput(f"{path}: no column {missing[0]!r}; there are {', '.join(map(repr, there))}")
    if not found["text"]:
        raise BadInput(
            f"{path}: no column of texts among {', '.join(map(repr, there))}; say which, as in docs:{path}:text=COLUMN"
        )
    return found


def _read(path, said, rows, wrong):
    """What beir.build() wants of (line, {column: value}) rows."""
    if wrong or not rows:
        raise beir.Malformed(wrong or [f"{path}: no rows"])
    columns, docs, dropped = _columns(path, rows, said), {}, {}
    taken = {name for names in columns.values() for name in names}

    def cell(row, role):
        held = (row.get(name) for name in columns[role])
        values = [each for value in held for each in (value if isinstance(value, list) else [value])]
        values = ["" if value is None else str(value).strip() for value in values]
        return "\n\n".join(value for value in values if not cells.is_missing(value))

    for number, row in rows:
        ident = cell(row, "id") or f"row{number}"
        (title, _), (text, marked) = (cells.without_markup(cell(row, role)) for role in ("title", "text"))
        title = " ".join(title.split())
        if marked:
            dropped.setdefault("HTML tags and entities", []).append(ident)
        if not text and not title:
            dropped.setdefault("rows without a text", []).append(f"line {number}")
        elif ident in docs and (title, text) == (docs[ident]["title"], docs[ident]["text"]):
            dropped.setdefault("rows that repeat another", []).append(f"line {number}")
        elif ident in docs:
            said_twice = f"the id {beir.shorten(ident)} stands in two rows that differ; say another column, id=COLUMN"
            wrong.append(f"{path}:{number}: {said_twice}")
        else:
            meta = {name: value for name, value in row.items() if name not in taken and tables.plain(value)}
            docs[ident] = {"_id": ident, "title": title, "text": text, "metadata": meta}
    if wrong or not docs:
        raise beir.Malformed(wrong or [f"{path}: no row with a text"])
    return docs.values(), *_queries(docs), dropped


def _queries(docs):
    """(records of queries, judgements): titles and first sentences, each text once, with all docs that it is of."""
    asked, split_of = {}, pages.splits(list(docs))
    for row, (ident, doc) in enumerate(docs.items()):
        for kind in ("title", "first_sentence"):
            if text := made_queries.KINDS[kind](doc, row).strip():
                asked.setdefault(text.casefold(), (kind, text, []))[2].append(ident)
    queries, judged = [], []
    for kind, text, idents in asked.values():
        qid, idents = f"{kind}:{idents[0]}", list(dict.fromkeys(idents))
        queries.append({"_id": qid, "text": text, "metadata": {"kind": kind}})
        split = min((split_of[ident] for ident in idents), key=beir.SPLITS.index)
        judged.append((qid, split, dict.fromkeys(idents, 1)))
    return queries, judged

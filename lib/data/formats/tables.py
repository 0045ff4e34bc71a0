"""Tables of questions and answers (CSV, TSV, JSONL, Parquet) as collections.

Columns are found by their names or said: `pairs.csv:question=Frage,answer=Antwort`. Rows with the same question are one
query with several positives, rows with the same answer one doc; other columns become metadata of the query. A column
`split` decides train, dev and test, else a hash of the question, or of the column that `by=COLUMN` names, so that all
questions of one user, page or disease fall on one side.
"""

import csv
import pathlib

from tqdm import tqdm

from lib.data import beir
from lib.data.words import normalise
from lib.files import BadInput, fingerprinted, parse_json, reading, refuse_bloated

RECIPE = 1  # raise it when the rules below change, so that cached folders are made again
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
# role -> names of columns that play it, the likeliest first
ROLES = {
    "question": ("question", "query", "anchor", "question_text", "query_text", "prompt", "instruction", "q"),
    "doc": ("doc", "document", "passage", "context", "positive", "text"),
    "answer": ("answer", "answers", "response", "output", "reply", "a"),
    "title": ("title",),
    "split": ("split",),
}
SPLITS = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
MOST_METADATA = 2000  # characters of a column that is kept as metadata


def is_table(spec):
    """Whether a spec names a file of SUFFIXES, perhaps with columns behind a colon."""
    return pathlib.Path(split_roles(spec)[0]).suffix.lower() in SUFFIXES


def split_roles(spec):
    """(what stands before, {role: column}) of a spec that may end in :question=COLUMN,answer=COLUMN."""
    head, colon, tail = spec.rpartition(":")
    if colon and "=" in tail:
        return head, dict(part.partition("=")[::2] for part in tail.split(","))
    return spec, {}


def check_roles(spec, said):
    """BadInput if roles are named that there are not."""
    if unknown := said.keys() - {*ROLES, "by"}:
        raise BadInput(f"--data {spec}: {min(unknown)} is none of {', '.join(ROLES)}, by")


def build(spec):
    """(name, folder in BEIR layout) of a table; BadInput if it cannot be read as one."""
    head, said = split_roles(spec)
    path = pathlib.Path(head)
    check_roles(spec, said)
    if not path.is_file():
        raise BadInput(f"--data {path}: no such file")

    with fingerprinted(path) as content:
        key = [content, path.suffix, said, RECIPE]
        return beir.build("tables", path.stem, key, lambda: read(path, said, _rows(path)))


# ------------------------------------------------------------------------------------------------- reading


def _rows(path):
    """(line, {column: value}) of every row of a table."""
    kind = path.suffix.lower()
    if kind == ".jsonl":
        for number, line in beir.read_lines(path):
            yield number, beir.parse_object(line, path=path, number=number)
    elif kind == ".parquet":
        yield from parquet_rows(path)
    else:
        yield from _csv_rows(path, "\t" if kind == ".tsv" else None)


def _csv_rows(path, delimiter):
    csv.field_size_limit(1 << 30)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            if delimiter is None:  # of a European spreadsheet: a semicolon
                delimiter = max(",;\t|", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header) or not any(header):
                raise BadInput(
                    f"{path}:1: a line with a name for each column is wanted, found {beir.shorten(first.strip())}"
                )
            for row in reader:
                if not row:
                    continue
                if len(row) != len(header):
                    raise BadInput(
                        f"{path}:{reader.line_num}: {len(row)} columns, and the first line names {len(header)}; "
                        "put quotes around texts that hold the separator"
                    )
                yield reader.line_num, dict(zip(header, row))
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}: not UTF-8 ({error}); convert it, as with iconv -t utf-8") from None
    except csv.Error as error:
        raise BadInput(f"{path}:{reader.line_num}: {error}") from None


def parquet_package(path):
    """pyarrow, with what reads and writes Parquet; BadInput where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BadInput(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    return pyarrow


def parquet_rows(path):
    """(number, {column: value}) of every row of a Parquet file."""
    pyarrow = parquet_package(path)
    with reading(path, " as Parquet"):
        file, number = pyarrow.parquet.ParquetFile(path), 0
        refuse_bloated(path, sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)))
        for block in file.iter_batches(1 << 14):
            for record in block.to_pylist():
                number += 1
                yield number, record


# ------------------------------------------------------------------------------------------------- writing


def _columns(path, number, row, said):
    """{role: column} for the columns of a table; BadInput if question or doc and answer are not there."""
    by_name = {name.lower().strip(): name for name in row}
    found = {role: column for role, column in said.items() if role != "by"}
    for column in said.values():
        if column not in row:
            raise BadInput(f"{path}:{number}: no column {column!r}; there are {', '.join(map(repr, row))}")
    for role in ROLES.keys() - said.keys():
        named = [by_name[name] for name in ROLES[role] if name in by_name]
        if free := [column for column in named if column not in said.values()]:
            found[role] = free[0]
    if "question" not in found or not {"doc", "answer"} & found.keys():
        raise BadInput(
            f"{path}:{number}: a column of questions and one of answers are wanted, there are "
            f"{', '.join(map(repr, row))}; say which, as in {path}:question=COLUMN,answer=COLUMN"
        )
    return found


def _texts(value, *, path, number, column):
    """The texts of a cell: a text, a list of them, or a list as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("[") and value.rstrip().endswith("]"):
        try:
            listed = parse_json(value)
        except ValueError:
            listed = None
        if isinstance(listed, list) and all(isinstance(each, str) for each in listed):
            value = listed
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, (str, int, float, type(None))) for each in values):
        raise BadInput(f"{path}:{number}: {column} is {beir.shorten(value)}, no text and no list of texts")
    return [str(each).strip() for each in values if each is not None and str(each).strip()]


def read(path, said, rows):
    """What beir.build() wants of (line, {column: value}) rows. said: {role: column}; path: for messages."""
    docs, queries, judged, dropped, first = {}, {}, {}, {}, {}
    rows = list(tqdm(rows, unit="row", unit_scale=True, desc=f"reading {path}", delay=2))
    columns = _columns(path, rows[0][0], {name: None for _, row in rows for name in row}, said) if rows else {}
    for number, row in rows:

        def cell(role, row=row, number=number):
            column = columns.get(role)
            return _texts(row.get(column), path=path, number=number, column=column) if column else []

        question, answers = " ".join(cell("question")), cell("answer")
        texts = cell("doc") or answers
        if not question or not texts:
            what = f"rows without {'an answer' if question else 'a question'}"
            dropped.setdefault(what, []).append(f"line {number}")
            continue
        split = _split_of(row, columns, said, question, path=path, number=number)
        if question not in queries:
            # what generators are scored with is never taken from a column of another meaning
            named = {*columns.values(), "answer", "answers"} - {said.get("by")}
            meta = {name: value for name, value in row.items() if name not in named and _plain(value)}
            queries[question] = {"_id": f"q{len(queries) + 1}", "text": question, "metadata": meta}
            judged[question], first[question] = (split, {}), number
        elif split != judged[question][0] and "split" in columns:
            raise BadInput(
                f"{path}:{number}: this question is in {split}, and on line {first[question]} in "
                f"{judged[question][0]}; a question can be in one split only"
            )
        if cell("doc") and answers:  # a short answer and the doc that holds it
            queries[question]["metadata"].setdefault("answers", {}).update(dict.fromkeys(answers))
        title = " ".join(cell("title"))
        for text in texts:
            doc = docs.setdefault((title, text), {"_id": f"d{len(docs) + 1}", "title": title, "text": text})
            judged[question][1][doc["_id"]] = 1
    if not queries:
        raise BadInput(f"{path}: no row with a question and an answer")
    for query in queries.values():
        if held := query["metadata"].get("answers"):
            query["metadata"]["answers"] = list(held)
    return docs.values(), queries.values(), [(queries[q]["_id"], *pair) for q, pair in judged.items()], dropped


def _plain(value):
    """Whether a cell can be kept as metadata."""
    text = str(value)
    return isinstance(value, (str, int, float, bool)) and text != "" and len(text) <= MOST_METADATA


def _split_of(row, columns, said, question, *, path, number):
    """train, dev or test, as the column split says or by a hash: eight tenths, one, one."""
    if "split" in columns:
        value = str(row.get(columns["split"]) or "").strip().lower()
        if value not in SPLITS:
            raise BadInput(f"{path}:{number}: {columns['split']} is {beir.shorten(value)}, none of {', '.join(SPLITS)}")
        return SPLITS[value]
    group = str(row.get(said["by"]) or "").strip() if "by" in said else ""
    return beir.split_by_hash(group or normalise(question) or question)  # without a group, each question by itself

"""Read and write the field's file formats, strictly: errors name the file, line, value and fix."""
import json

import numpy as np

from lib.run import BadInput, atomic_path

QRELS_HEADER = ("query-id", "corpus-id", "score")


def read_lines(path):
    """(line number, text) of every line that is not blank, without byte order mark and line ending."""
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, decode_line(line, path=path, number=number)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None


def decode_line(line, *, path, number):
    """The text of one line of a UTF-8 file, given as bytes."""
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(f"{path}:{number}: not UTF-8 ({error}); convert it, as with iconv -t utf-8") from None


def parse_object(line, *, path, number):
    """The JSON object on one line of a JSONL file."""
    try:
        value = json.loads(line)
    except ValueError as error:
        raise BadInput(f"{path}:{number}: not valid JSON ({error}): {shorten(line)}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}:{number}: a JSON object is wanted, found {shorten(line)}")
    return value


def shorten(value, limit=60):
    """`value` as one line of at most `limit` characters, for messages."""
    text = repr(value if isinstance(value, str) else str(value))
    return text if len(text) <= limit else text[:limit - 4] + "...'"


def check_text(record, *, path, number):
    """(id, text) of a corpus or queries line; the text is title and text with a space between."""
    if "_id" not in record:
        raise BadInput(f'{path}:{number}: no "_id"; the keys are {", ".join(record) or "none"}')
    ident, text, title = record["_id"], record.get("text"), record.get("title") or ""
    if not isinstance(ident, str):
        raise BadInput(f'{path}:{number}: "_id" is {json.dumps(ident)}; ids are strings: write "{ident}"')
    if not ident or ident.split() != [ident]:
        raise BadInput(f'{path}:{number}: "_id" {shorten(ident)} is empty or holds white space, '
                       "which run files cannot hold")
    for key, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            raise BadInput(f'{path}:{number}: "{key}" of {ident} must be a string, '
                           f"found {shorten(json.dumps(value))}")
    text = f"{title} {text}".strip()
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise BadInput(f"{path}:{number}: {ident} holds half a surrogate pair (\\ud800 to \\udfff alone); "
                       "write the whole character")
    if not text:
        raise BadInput(f"{path}:{number}: {ident} has neither title nor text; "
                       "fill it or delete the line and its qrels")
    return ident, text


def read_qrels(path):
    """[(qid, doc_id, grade, line number)] of a BEIR qrels file: header, then query-id, corpus-id, score."""
    rows, seen = [], {}
    for index, (number, line) in enumerate(read_lines(path)):
        fields = line.split("\t")
        if index == 0:
            if tuple(f.strip() for f in fields) != QRELS_HEADER:
                raise BadInput(f"{path}:{number}: no header, found {shorten(line)}; the first line must be "
                               "query-id<TAB>corpus-id<TAB>score")
            continue
        if len(fields) != 3:
            raise BadInput(f"{path}:{number}: 3 fields with tabs between are wanted, "
                           f"found {len(fields)}: {shorten(line)}")
        qid, doc_id, score = (field.strip() for field in fields)
        try:
            grade = int(score)
        except ValueError:
            raise BadInput(f"{path}:{number}: score {shorten(score)} is not an integer") from None
        if (qid, doc_id) in seen:
            raise BadInput(f"{path}:{number}: {qid} {doc_id} was judged on line {seen[qid, doc_id]} already; "
                           "keep one")
        seen[qid, doc_id] = number
        rows.append((qid, doc_id, grade, number))
    if not rows:
        raise BadInput(f"{path}: no judgements; a split needs at least one line below the header")
    return rows


# ---------------------------------------------------------------------------------- rankings (TREC run files)

def write_run(path, qids, doc_ids, rows, scores, *, tag):
    """Write rankings as TREC's six columns. rows (Q, k) int, -1 where a list ends early; scores (Q, k)."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for qid, query_rows, query_scores in zip(qids, rows, scores):
            for rank, (row, score) in enumerate(zip(query_rows.tolist(), query_scores.tolist()), 1):
                if row >= 0:
                    out.write(f"{qid} Q0 {doc_ids[row]} {rank} {score:.9g} {tag}\n")


def read_run(path):
    """{qid: {doc_id: score}} of a TREC run file. The rank column is ignored, as trec_eval does."""
    rankings = {}
    for number, line in read_lines(path):
        fields = line.split()
        if len(fields) != 6:
            raise BadInput(f"{path}:{number}: 6 columns (qid Q0 doc_id rank score tag) are wanted, "
                           f"found {len(fields)}")
        try:
            score = float(fields[4])
        except ValueError:
            raise BadInput(f"{path}:{number}: score {shorten(fields[4])} is not a number") from None
        if not np.isfinite(score):
            raise BadInput(f"{path}:{number}: score {fields[4]} is not finite")
        docs = rankings.setdefault(fields[0], {})
        if fields[2] in docs:
            raise BadInput(f"{path}:{number}: {fields[2]} is ranked twice for {fields[0]}")
        docs[fields[2]] = score
    return rankings


def write_qrels(path, judged):
    """Write {qid: {doc_id: grade}} as BEIR's tab-separated judgements."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write("\t".join(QRELS_HEADER) + "\n")
        for qid, grades in judged.items():
            out.writelines(f"{qid}\t{doc_id}\t{grade}\n" for doc_id, grade in grades.items())


def write_per_query(path, values):
    """Write {qid: {measure: value}}, one line a query."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        for qid, measured in values.items():
            out.write(json.dumps({"qid": qid} | measured) + "\n")


def read_per_query(path):
    """{qid: {measure: value}} of a file that write_per_query() wrote."""
    records = (parse_object(line, path=path, number=number) for number, line in read_lines(path))
    return {record.pop("qid"): record for record in records}


# ------------------------------------------------------------------------------------- negatives

def write_negatives(path, header, records):
    """A JSONL file: the header on the first line, then a record per candidate. Returns how many of them."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(json.dumps({"header": header}, ensure_ascii=False) + "\n")
        for record in records:
            out.write(json.dumps(record, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_negatives(path):
    """(header, iterator of (line number, record)) of a negatives file."""
    lines = read_lines(path)
    number, first = next(lines, (1, ""))
    header = parse_object(first, path=path, number=number).get("header") if first else None
    if not isinstance(header, dict):
        raise BadInput(f"{path}:{number}: no header line; make the file with mine_negatives.py")

    def records():
        wanted = ("qid", "doc_id", "source", "score")
        for number, line in lines:
            record = parse_object(line, path=path, number=number)
            if missing := [key for key in wanted if key not in record]:
                raise BadInput(f"{path}:{number}: no {missing[0]!r} in {shorten(line)}")
            for key in ("qid", "doc_id", "source"):
                if not isinstance(record[key], str):
                    raise BadInput(f"{path}:{number}: {key} is {shorten(record[key])}; ids and names are "
                                   "strings")
            if not isinstance(record.get("rank"), (int, type(None))):
                raise BadInput(f"{path}:{number}: rank {shorten(record['rank'])} is not a whole number")
            for key in ("score", "positive_score", "teacher_score", "teacher_positive_score"):
                if not isinstance(record.get(key), (int, float, type(None))):
                    raise BadInput(f"{path}:{number}: {key} {shorten(record[key])} is not a number")
            yield number, record
    return header, records()

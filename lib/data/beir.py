"""Lines of JSONL and BEIR's tab-separated judgements, read strictly: errors name file, line, value, fix."""

import html
import json
import re
import xml.etree.ElementTree as ElementTree

from lib.files import BadInput, atomic_path, parse_json

SPLITS = ("train", "dev", "test")
MOST_LEVELS = 100  # of elements in an XML file
MOST_GRADE = 10_000  # trec_eval counts up to the largest grade, for each query
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
        value = parse_json(line)
    except ValueError as error:
        raise BadInput(f"{path}:{number}: not valid JSON ({error}): {shorten(line)}") from None
    if not isinstance(value, dict):
        raise BadInput(f"{path}:{number}: a JSON object is wanted, found {shorten(line)}")
    return value


def shorten(value, limit=60):
    """`value` as one line of at most `limit` characters, for messages."""
    text = repr(value if isinstance(value, str) else str(value))
    return text if len(text) <= limit else text[: limit - 4] + "...'"


class Notes:
    """What was kept or skipped in a file although it is odd: {what: [line numbers]}, said once for all lines."""

    def __init__(self, path):
        self.path, self.found = path, {}

    def add(self, what, number):
        """Note a line."""
        self.found.setdefault(what, []).append(number)

    def lines(self, most=50):
        """A sentence for each kind."""
        for what, numbers in self.found.items():
            some = ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")
            yield f"{self.path}: {len(numbers):,} {what} (line{'s' * (len(numbers) > 1)} {some})"


def check_text(record, *, path, number):
    """(id, text) of a corpus or queries line; the text is title and text with a space between, and may be empty."""
    if "_id" not in record:
        raise BadInput(f'{path}:{number}: no "_id"; the keys are {", ".join(record) or "none"}')
    ident, text, title = record["_id"], record.get("text"), record.get("title")
    text, title = ("" if value is None else value for value in (text, title))
    if not isinstance(ident, str):
        raise BadInput(f'{path}:{number}: "_id" is {json.dumps(ident)}; ids are strings: write "{ident}"')
    if not ident or ident.split() != [ident]:
        raise BadInput(
            f'{path}:{number}: "_id" {shorten(ident)} is empty or holds white space, which run files cannot hold'
        )
    if "\0" in ident or not ident.isascii() and any("\ud800" <= c <= "\udfff" for c in ident):
        raise BadInput(f'{path}:{number}: "_id" {shorten(ident)} holds a NUL or half a surrogate pair')
    for key, value in (("title", title), ("text", text)):
        if not isinstance(value, str):
            raise BadInput(f'{path}:{number}: "{key}" of {ident} must be a string, found {shorten(json.dumps(value))}')
    text = f"{title} {text}".strip()
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise BadInput(
            f"{path}:{number}: {ident} holds half a surrogate pair (\\ud800 to \\udfff alone); "
            "write the whole character"
        )
    return ident, text


def unescape(text):
    """html.unescape(), with the sign for no character in place of numbers that are too long for Python to read."""
    return html.unescape(re.sub(r"&#\d{20,};?", "\N{REPLACEMENT CHARACTER}", text))


class _Levels(ElementTree.TreeBuilder):
    depth = 0

    def start(self, tag, attributes):
        self.depth += 1
        if self.depth > MOST_LEVELS:
            raise ElementTree.ParseError(f"elements nested more than {MOST_LEVELS} deep")
        return super().start(tag, attributes)

    def end(self, tag):
        self.depth -= 1
        return super().end(tag)


def parse_xml(text, path):
    """The root element of an XML text; BadInput if it is broken, or nested so deeply that reading it takes long."""
    try:
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_Levels()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the latter of encodings that there are not
        raise BadInput(f"{path}: cannot be read as XML ({error})") from None


def metadata_of(record):
    """A record's metadata where it is an object, else {}: files hold null, lists and strings there too."""
    found = record.get("metadata")
    return found if isinstance(found, dict) else {}


def read_qrels(path, notes):
    """[(qid, doc_id, grade, line number)] of a BEIR qrels file: header, then query-id, corpus-id, score."""
    rows, seen = [], {}
    for index, (number, line) in enumerate(read_lines(path)):
        fields = line.split("\t")
        if index == 0:
            if tuple(f.strip() for f in fields) != QRELS_HEADER:
                raise BadInput(
                    f"{path}:{number}: no header, found {shorten(line)}; the first line must be "
                    "query-id<TAB>corpus-id<TAB>score"
                )
            continue
        if len(fields) != 3:
            raise BadInput(
                f"{path}:{number}: 3 fields with tabs between are wanted, found {len(fields)}: {shorten(line)}"
            )
        qid, doc_id, score = (field.strip() for field in fields)
        try:
            grade = int(score) if score.lstrip("+-").isdigit() else float(score)
            if grade != int(grade):
                raise ValueError
        except (ValueError, OverflowError):
            raise BadInput(f"{path}:{number}: score {shorten(score)} is not a whole number") from None
        if abs(grade) > MOST_GRADE:
            raise BadInput(f"{path}:{number}: score {shorten(score)} is beyond {MOST_GRADE:,}; grades count from 0 up")
        if "\0" in qid + doc_id:
            raise BadInput(f"{path}:{number}: an id holds a NUL, which ends a text in trec_eval")
        if (qid, doc_id) in seen:
            first, before = seen[qid, doc_id]
            if before != int(grade):
                raise BadInput(
                    f"{path}:{number}: {qid} {doc_id} was judged otherwise on line {first} already; keep one"
                )
            notes.add("judgements stand there twice: skipped", number)
            continue
        seen[qid, doc_id] = number, int(grade)
        rows.append((qid, doc_id, int(grade), number))
    if not rows:
        raise BadInput(f"{path}: no judgements; a split needs at least one line below the header")
    return rows


def write_qrels(path, judged):
    """Write {qid: {doc_id: grade}} as BEIR's tab-separated judgements."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write("\t".join(QRELS_HEADER) + "\n")
        for qid, grades in judged.items():
            out.writelines(f"{qid}\t{doc_id}\t{grade}\n" for doc_id, grade in grades.items())


def write_collection(folder, docs, queries, judged):
    """Write records of docs and queries, and judged [(qid, split, {doc_id: grade})], as a folder in BEIR layout."""
    (folder / "qrels").mkdir(parents=True)
    for name, records in (("corpus", docs), ("queries", queries)):
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
            for record in records:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
    for split in SPLITS:
        if own := {qid: grades for qid, of, grades in judged if of == split}:
            write_qrels(folder / "qrels" / f"{split}.tsv", own)


def usable(judged, dropped):
    """Of judged [(qid, split, grades)] what a split can hold: train queries have a positive; others go to dropped."""
    without = [qid for qid, split, grades in judged if split == "train" and max(grades.values()) < 1]
    if without:
        dropped["train queries without a positive"] = without
    return [row for row in judged if row[1] != "train" or max(row[2].values()) >= 1]


def there(folder):
    """The folder that write_collection() wrote, or None: what reads an entry of the cache."""
    return folder if (folder / "qrels").stat() else None

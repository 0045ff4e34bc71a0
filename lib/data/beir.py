"""Folders in BEIR layout: JSONL and judgements, read strictly (errors name file, line, value, fix) and written."""

import collections
import hashlib
import html
import json
import pathlib
import re
import shutil
import xml.etree.ElementTree as ElementTree

from tqdm import tqdm

from lib.files import (
    LFS,
    BadInput,
    atomic_path,
    cache_dir,
    cached,
    fingerprint,
    parse_json,
    refuse_pointer,
    unpacked,
    write_json,
)

SPLITS = ("train", "dev", "test")
DEV = ("val", "valid", "validation", "eval", "evaluation")  # other names of the split dev
MOST_LEVELS = 100  # of elements in an XML file
MOST_GRADE = 10_000  # trec_eval counts up to the largest grade, for each query
NEGATIVES = "negatives.jsonl"  # beside corpus.jsonl: candidates that a collection brings
QRELS_HEADER = ("query-id", "corpus-id", "score")


class Malformed(BadInput):
    """Several faulty lines of a file: `all` has a sentence for each, the message the first of them."""

    def __init__(self, wrong, most=10):
        more = f"; and {len(wrong) - most:,} more: python -m lib.data.check names all" if len(wrong) > most else ""
        super().__init__("; ".join(wrong[:most]) + more)
        self.all = wrong


def read_lines(path):
    """(line number, text) of every line that is not blank, without byte order mark and line ending; also of a .gz."""
    try:
        with unpacked(path) if str(path).lower().endswith(".gz") else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and line.startswith(LFS):
                    refuse_pointer(path)
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


def notes(path, odd, most=50):
    """A sentence for each kind of what was kept or skipped in a file although it is odd: {what: [line numbers]}."""
    for what, numbers in odd.items():
        some = ", ".join(map(str, numbers[:most])) + ", ..." * (len(numbers) > most)
        yield f"{path}: {len(numbers):,} {what} (line{'s' * (len(numbers) > 1)} {some})"


def check_id(ident, place):
    """BadInput if run files and trec_eval, which ends a text at a NUL, cannot hold an id."""
    if not ident or ident.split() != [ident] or "\0" in ident:
        raise BadInput(f"{place} {shorten(ident)} is empty or holds white space or a NUL, which run files cannot hold")


def check_text(record, *, path, number):
    """(id, text) of a corpus or queries line; the text may be empty."""
    if "_id" not in record:
        raise BadInput(f'{path}:{number}: no "_id"; the keys are {", ".join(record) or "none"}')
    ident = record["_id"]
    if not isinstance(ident, str):
        raise BadInput(f'{path}:{number}: "_id" is {json.dumps(ident)}; ids are strings: write "{ident}"')
    check_id(ident, f'{path}:{number}: "_id"')
    if "text" not in record and record.keys() - {"_id", "title", "metadata"}:  # a title alone may be all there is
        raise BadInput(f'{path}:{number}: no "text"; the keys are {", ".join(record)}: call it so, or leave it empty')
    for key in ("title", "text"):
        if not isinstance(value := record.get(key), (str, type(None))):
            raise BadInput(f'{path}:{number}: "{key}" of {ident} must be a string, found {shorten(json.dumps(value))}')
    return ident, text_of(record)


def text_of(record):
    """Title and text of a record, with a space between."""
    return f"{record.get('title') or ''} {record.get('text') or ''}".strip()


def records(path, wrong=None):
    """(line number, bytes with its line ending, id, text) of each record of a JSONL file.

    BadInput at the first line that is none, or whose id was used before; with a list `wrong` what is wrong goes there.
    """
    seen = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            found = None, None
            try:
                if line.strip():
                    text = decode_line(line, path=path, number=number)
                    found = check_text(parse_object(text, path=path, number=number), path=path, number=number)
                    if (first := seen.setdefault(found[0], number)) != number:
                        raise BadInput(f'{path}:{number}: "_id" "{found[0]}" was used on line {first}; ids must differ')
            except BadInput as error:
                if wrong is None:
                    raise
                wrong.append(str(error))
            yield number, len(line), *found


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


def read_qrels(path):
    """([(qid, doc_id, grade, line number)], {what is odd: [line numbers]}) of a BEIR qrels file."""
    rows, seen, odd = [], {}, collections.defaultdict(list)
    for index, (number, line) in enumerate(read_lines(path)):
        place, fields = f"{path}:{number}", [field.strip() for field in line.split("\t")]
        if index == 0:
            if tuple(fields) != QRELS_HEADER:
                raise BadInput(
                    f"{place}: no header, found {shorten(line)}; the first line must be {'<TAB>'.join(QRELS_HEADER)}"
                )
            continue
        if len(fields) != 3:
            raise BadInput(f"{place}: 3 fields with tabs between are wanted, found {len(fields)}: {shorten(line)}")
        qid, doc_id, score = fields
        try:
            grade = int(score) if score.lstrip("+-").isdigit() else float(score)
            if grade != int(grade):
                raise ValueError
        except (ValueError, OverflowError):
            raise BadInput(f"{place}: score {shorten(score)} is not a whole number") from None
        if abs(grade) > MOST_GRADE:
            raise BadInput(f"{place}: score {shorten(score)} is beyond {MOST_GRADE:,}; grades count from 0 up")
        check_id(qid, f"{place}: query-id")
        check_id(doc_id, f"{place}: corpus-id")
        before, first = seen.setdefault((qid, doc_id), (int(grade), number))
        if before != grade:
            raise BadInput(f"{place}: {qid} {doc_id} was judged otherwise on line {first} already; keep one")
        if first != number:
            odd["judgements stand there twice: skipped"].append(number)
        else:
            rows.append((qid, doc_id, before, number))
    if not rows:
        raise BadInput(f"{path}: no judgements; a split needs at least one line below the header")
    return rows, odd


def write_qrels(path, judged):
    """Write {qid: {doc_id: grade}} as BEIR's tab-separated judgements."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write("\t".join(QRELS_HEADER) + "\n")
        for qid, grades in judged.items():
            out.writelines(f"{qid}\t{doc_id}\t{grade}\n" for doc_id, grade in grades.items())


def write_collection(folder, docs, queries, judged, *, ascii=False):
    """Write records of docs and queries, and judged [(qid, split, {doc_id: grade})], as a folder in BEIR layout.

    docs may be the path of a corpus.jsonl, which is copied: the same bytes, the same fingerprint.
    """
    (folder / "qrels").mkdir(parents=True)
    for name, written in (("corpus", docs), ("queries", queries)):
        if isinstance(written, pathlib.Path):
            shutil.copyfile(written, folder / f"{name}.jsonl")
            continue
        with open(folder / f"{name}.jsonl", "w", encoding="utf-8") as out:
            out.writelines(json.dumps(record, ensure_ascii=ascii) + "\n" for record in written)
    for split in SPLITS:
        if own := {qid: grades for qid, of, grades in judged if of == split}:
            write_qrels(folder / "qrels" / f"{split}.tsv", own)


def build(kind, name, key, read, *, ascii=False):
    """(name, folder in BEIR layout) of a collection that the cache holds, or that read() gives.

    read() -> docs, queries and judgements, as write_collection() takes them, {what: [places]} of what was left out,
    which is said, and perhaps the records of candidates that the source brings, which become negatives.jsonl.
    Train queries without a positive are left out here. `key` identifies the source and the rules.
    """

    def make(folder):
        docs, queries, judged, dropped, *candidates = read()
        if without := [qid for qid, split, grades in judged if split == "train" and max(grades.values()) < 1]:
            dropped["train queries without a positive"] = without
        judged = [row for row in judged if row[1] != "train" or max(row[2].values()) >= 1]
        if not isinstance(docs, pathlib.Path):
            docs = tqdm(docs, unit="doc", unit_scale=True, desc=f"writing {name}", delay=2)
        write_collection(folder, docs, queries, judged, ascii=ascii)
        if any(candidates):
            with open(folder / NEGATIVES, "w", encoding="utf-8") as out:
                lines = ({"header": {"of": name}}, *candidates[0])
                out.writelines(json.dumps(line, ensure_ascii=ascii) + "\n" for line in lines)
        for what, places in dropped.items():
            some = ", ".join(map(str, places[:5])) + " ..." * (len(places) > 5)
            tqdm.write(f"note: {name}: {what}, left out: {len(places):,} ({some})")
        write_json(folder / "dropped.json", dropped)

    return name, cached(cache_dir(kind, fingerprint(key)) / name, make, there)


def candidates_in(path):
    """The records of the candidates that a collection brings, if it has the file."""
    for _, line in read_lines(path) if path and path.is_file() else ():
        if "header" not in (record := json.loads(line)):
            yield record


def there(folder):
    """The folder that write_collection() wrote, or None: what reads an entry of the cache."""
    return folder if (folder / "qrels").stat() else None


def split_by_hash(text, dev=0):
    """The split of whatever bears this name: one tenth is dev (those of this number), the next test, the rest train."""
    tenth = int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=4).digest(), "big") % 10
    return {dev: "dev", dev + 1: "test"}.get(tenth, "train")

"""Negatives files of other systems, written from our records and read back into them.

Those for distillation, by ids, are as sentence-transformers 6 (resolve_ids) and PyLate (KDProcessing) read them: the
texts that the ids stand for lie in two files beside them.
"""

import collections
import functools
import hashlib
import itertools
import json
import tempfile
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lib.data import beir
from lib.data.beir import shorten
from lib.data.formats import table_files
from lib.files import BadInput, atomic_path
from lib.negatives.formats.exchange_formats import SCORES, TABLE, TAUGHT, ByText, Doc, Group

EVEN = {"st-triplet", "st-ntuple"}  # whose rows become columns of a table, without gaps
FIELDS = ("qid", "doc_id", "source", "rank", *SCORES, *TAUGHT)
FORMATS = {name: row.about for name, row in TABLE.items()}  # what --format takes: its description
# what the other libraries want a file's name to end with: some pass over what is called otherwise
ENDINGS = {"own": "jsonl", "dpr": "dpr.json", "distillation-parquet": "distillation.parquet"}
ENDINGS |= {name: f"{name}.tsv" if name.startswith("msmarco") else f"{name}.jsonl" for name in TABLE.keys() - ENDINGS}
LOADS = {name: row.loads for name, row in TABLE.items() if row.loads}  # how the other library is given a file


def lost(format):
    """The fields of our records that `format` has no place for, in our order.

    `rank` is the place in the query's list: gaps close, and lists of several sources are one. In formats
    without ids, docs of equal text become the first of them, and so do queries, whose lists are joined.
    """
    return tuple(field for field in FIELDS if field not in TABLE[format].holds)


def write(path, format, records, collection, split, *, even=False):
    """Write records as another system's file; returns how many lines (dpr: items of the array).

    A query's records need not stand together. Positives are those of the split. A doc that two sources
    propose, or a copy of it, is written once: the first counts. Scores are written where all that a line
    must hold are known; our records know one score of the positives, the best one's, so each positive gets
    it. even: rows of formats in EVEN get equal columns, as _evened() says. BadInput for ids that the collection or the
    split lacks, and for known positives among the negatives.
    """
    several = []  # queries of which one score stands for all positives

    def counted(group):
        scored = any(None is not score for doc in group.negatives for score in (doc.positive_score, doc[-1]))
        several.extend([group.qid] if scored and len(group.positives) > 1 else [])
        return TABLE[format].to_lines(group)

    lines = itertools.chain.from_iterable(map(counted, _groups(records, collection, split)))
    put = {"dpr": functools.partial(_put, begin="[", between=",\n", end="]\n"), "distillation-parquet": _put_parquet}
    try:
        count = put.get(format, _put)(path, _evened(lines) if even and format in EVEN else lines)
    except BadInput as error:
        raise BadInput(f"{path}: not written: {error}") from None
    if several and {SCORES[1], TAUGHT[1]} & set(TABLE[format].holds):
        print(f"note: the score of the best positive stands for each, of {len(several):,} queries with several")
    if format.startswith("distillation"):
        for kind, key, texts in (
            ("queries", "query_id", collection.queries),
            ("documents", "document_id", collection.docs),
        ):
            rows = ({key: ident, "text": texts.text(row)} for row, ident in enumerate(texts.ids))
            _put(path.with_name(f"{path.name}.{kind}.jsonl"), rows)
    return count


def _evened(rows):
    """sentence-transformers' rows with the same columns each: scores in all or in none, and equally many negatives.

    Rows of more negatives than are kept are cut, rows of fewer are left out; kept is the number that keeps most.
    """
    widths, scored = collections.Counter(), True
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:  # there may be more than memory holds
        for row in rows:
            widths[len(row) - 2 - ("scores" in row)] += 1
            scored &= "scores" in row
            spool.write(json.dumps(row) + "\n")
        width = max(widths, default=0, key=lambda w: (w * sum(n for other, n in widths.items() if other >= w), w))
        if out := sum(n for other, n in widths.items() if other < width):
            print(f"note: rows with fewer than {width} negatives, left out since all need as many: {out:,} (--fill)")
        cut = {"scores", *(f"negative_{i}" for i in range(width + 1, max(widths, default=0) + 1))}
        spool.seek(0)
        for row in map(json.loads, spool):
            if len(row) - 2 - ("scores" in row) >= width:
                found = {key: value for key, value in row.items() if key not in cut}
                yield found | ({"scores": row["scores"][: width + 1]} if scored else {})


def _put(path, lines, *, begin="", between="\n", end="\n"):
    """Write lines, objects as JSON, each item of an array on one too: numbers of items are numbers of lines."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
        out.write(begin)
        for line in lines:
            line = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
            out.write((between if count else "") + line)
            count += 1
        out.write(end if count or begin else "")
    return count


def _put_parquet(path, lines):
    pyarrow, lines = table_files.parquet_package(path), list(lines)
    with atomic_path(path) as temporary:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(lines), temporary)
    return len(lines)


class Line(NamedTuple):
    """A line as it stands: rows of the collection, -1 for what that lacks."""

    number: int  # of the line or, in a JSON array, of the item
    query: int
    positives: list
    negatives: list
    best: float | None  # score of a positive
    scores: list  # of the negatives, None where the file has none
    lacks: str | None  # the first query or doc that the collection lacks, in words


def lines(path, format, collection):
    """Yield the Line of each line, or item of an array; BadInput names what is malformed and refuses nothing else.

    Docs and queries are found by id where the format has ids, else by text. Where positives and negatives stand in
    one list, what may not be a negative of the query is a positive.
    """
    row, tsv = TABLE[format], format.startswith("msmarco")  # a TSV cannot hold the tabs and line ends of our texts
    find_query = _finder(collection.queries, "query", by_id="qid" in row.holds, squeeze=tsv)
    find_doc = _finder(collection.docs, "doc", by_id="doc_id" in row.holds, squeeze=tsv)
    items = (
        table_files.parquet_rows if format.endswith("parquet") else beir.read_lines if tsv else table_files.json_rows
    )
    for number, item in items(path):
        try:
            query, positives, negatives, *scores = row.parse(item)
        except BadInput as error:
            raise BadInput(f"{path}:{number}: {error}") from None
        best, scores = scores or (None, [None] * len(negatives))
        found = [find_query(query), *map(find_doc, negatives), *map(find_doc, positives or ())]
        lacks = next((said for _, said in found if said), None)
        query, *docs = (place for place, _ in found)
        cut = len(negatives)
        negatives, beside = docs[:cut], docs[cut:]
        if positives is None:
            pair = np.array([max(query, 0)]), np.array([docs], dtype=np.int64)
            holds = collection.no_negative(*pair)[0] & (query >= 0)
            best = max((score for score, one in zip(scores, holds) if one), default=None)
            beside = [doc for doc, one in zip(docs, holds) if one]
            negatives, scores = ([value for value, one in zip(each, holds) if not one] for each in (docs, scores))
        yield Line(number, query, beside, negatives, best, scores, lacks)


def read(path, format, collection):
    """Yield (line number, record) of another system's file; of a JSON array, (number of the item, record).

    A doc counts once for a query, where it stands first. Fields that the format lacks: source is the format's name,
    scores None. BadInput names the line of what is not in the collection, or a positive among the negatives.
    """
    names = TAUGHT if TAUGHT[0] in TABLE[format].holds else SCORES
    listed = {}  # query row -> rows of its negatives so far
    for line in lines(path, format, collection):
        if said := line.lacks or _positive_among(collection, line.query, line.negatives, line.positives):
            raise BadInput(f"{path}:{line.number}: {said}")
        seen = listed.setdefault(line.query, set())
        for row, score in zip(line.negatives, line.scores):
            if row not in seen:  # queries with several positives name their negatives once for each
                seen.add(row)
                record = {"qid": collection.queries.ids[line.query], "doc_id": collection.docs.ids[row]}
                record |= {"source": format, "rank": len(seen)} | dict.fromkeys(SCORES)
                yield line.number, record | dict(zip(names, (score, line.best)))


def _positive_among(collection, query, rows, positives=()):
    """What is wrong if a doc of `rows` is known as relevant to the query, is the query, or is a copy of a positive."""
    rows, groups = np.array(rows, dtype=np.int64), collection.docs.groups
    bad = collection.no_negative(np.array([query]), rows[None])[0]
    bad |= np.isin(groups[rows], groups[np.array(positives, dtype=np.int64)])
    return bad.any() and (
        f"{collection.docs.ids[rows[bad][0]]} is a positive of {collection.queries.ids[query]}, or that query "
        "itself, and stands among its negatives; delete it there"
    )


def _finder(texts, kind, *, by_id, squeeze=False):
    """A function from an id, or a text, to (its row, None) or (-1, what is wrong). squeeze: white space is alike."""

    def digest(text):  # 16 bytes a text, as in Texts; JSON can hold half a surrogate pair
        text = " ".join(text.split()) if squeeze else text
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()

    @functools.cache
    def by_text():
        rows, first = {}, np.unique(texts.groups).tolist()  # in order of rows, so that the first of equal texts is kept
        for row in tqdm(first, unit="text", unit_scale=True, delay=2, desc=f"reading {texts.path.name}"):
            rows.setdefault(digest(texts.text(row)), row)
        return rows

    def find(value):
        exact = by_id and not isinstance(value, ByText)
        row = texts.row_of.get(value) if exact else by_text().get(digest(value))
        hint = "" if exact else "; texts are wanted as there, title and text with a space between"
        return (row, None) if row is not None else (-1, f"{kind} {shorten(value)} is not in the collection{hint}")

    return find


# ------------------------------------------------------------------------------------------- from our records


def _groups(records, collection, split):
    """A Group for each query, in order of first appearance."""
    qrels, docs, queries = collection.split(split), collection.docs, collection.queries
    find_query, find_doc = _finder(queries, "query", by_id=True), _finder(docs, "doc", by_id=True)
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    gathered = {}  # query row -> {text group: (doc row, its four scores)}
    for record in records:
        (query, unknown_query), (doc, unknown_doc) = find_query(record["qid"]), find_doc(record["doc_id"])
        outside = f"query {shorten(record['qid'])} is not in the split {split}; name the split that was mined for"
        if said := unknown_query or unknown_doc or (outside if query not in position else None):
            raise BadInput(said)
        candidate = doc, *(record.get(name) for name in (*SCORES, *TAUGHT))
        gathered.setdefault(query, {}).setdefault(docs.groups[doc], candidate)

    def make(row, *scores):
        title, body = (docs.record(row).get(key) or "" for key in ("title", "text"))
        return Doc(docs.ids[row], title, body, docs.text(row), *scores)

    for query, found in gathered.items():
        if said := _positive_among(collection, query, [doc for doc, *_ in found.values()]):
            raise BadInput(said)
        yield Group(
            queries.ids[query],
            queries.text(query),
            _answers(queries.record(query)),
            [make(row) for row in qrels.positives(position[query])],
            [make(*candidate) for candidate in found.values()],
        )


def _answers(record):
    """The list of answers that a query's record holds, itself or in its metadata; [] without one."""
    holders = [holder for holder in (record, record.get("metadata")) if isinstance(holder, dict)]
    return next((h["answers"] for h in holders if isinstance(h.get("answers"), list)), [])

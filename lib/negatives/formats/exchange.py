"""Negatives files of other systems, written from our records and read back into them."""

import hashlib
import itertools
import json

import numpy as np
from tqdm import tqdm

from lib.data import beir
from lib.data.beir import shorten
from lib.files import BadInput, atomic_path
from lib.negatives.formats.exchange_formats import TABLE, Doc, Group

FIELDS = ("qid", "doc_id", "source", "rank", "score", "positive_score", "teacher_score", "teacher_positive_score")
FORMATS = {name: row[0] for name, row in TABLE.items()}  # what --format takes: its description


def lost(format):
    """The fields of our records that `format` has no place for, in our order.

    `rank` is the place in the query's list: gaps close, and lists of several sources are one. In formats
    without ids, docs of equal text become the first of them, and so do queries, whose lists are joined.
    """
    return tuple(field for field in FIELDS if field not in TABLE[format][1])


def write(path, format, records, collection, split):
    """Write records as another system's file; returns how many lines (dpr: items of the array).

    A query's records need not stand together. Positives are those of the split. A doc that two sources
    propose, or a copy of it, is written once: the first counts. Scores are written where all that a line
    must hold are known; our records know one score of the positives, the best one's, so each positive gets
    it. BadInput for ids that the collection or the split lacks, and for known positives among the negatives.
    """
    to_lines = TABLE[format][2]
    # an item a line, the first on line 1: numbers of items are numbers of lines, which read() reports
    begin, between, end = ("[", ",\n", "]\n") if format == "dpr" else ("", "\n", "\n")
    count = 0
    try:
        with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as out:
            out.write(begin)
            for line in itertools.chain.from_iterable(map(to_lines, _groups(records, collection, split))):
                line = line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)
                out.write((between if count else "") + line)
                count += 1
            out.write(end if count or begin else "")
    except BadInput as error:
        raise BadInput(f"{path}: not written: {error}") from None
    return count


def read(path, format, collection):
    """Yield (line number, record) of another system's file; of a JSON array, (number of the item, record).

    Docs and queries are found by id where the format has ids, else by text. A doc counts once for a query,
    where it stands first. Fields that the format lacks: source is the format's name, scores None.
    BadInput names the line of what is malformed, not in the collection, or a positive among the negatives.
    """
    _, held, _, parse = TABLE[format]
    tsv = format.startswith("msmarco")  # which cannot hold the tabs and line ends of our texts
    find_query = _finder(collection.queries, "query", by_id="qid" in held, squeeze=tsv)
    find_doc = _finder(collection.docs, "doc", by_id="doc_id" in held, squeeze=tsv)
    listed = {}  # query row -> rows of its negatives so far
    for number, item in beir.read_lines(path) if tsv else _objects(path):
        try:
            query, positives, negatives, *scores = parse(item)
            query, rows = find_query(query), [find_doc(doc) for doc in negatives]
            _refuse_positives(collection, query, rows, [find_doc(doc) for doc in positives])
        except BadInput as error:
            raise BadInput(f"{path}:{number}: {error}") from None
        best, scores = scores or (None, [None] * len(rows))
        seen = listed.setdefault(query, set())
        for row, score in zip(rows, scores):
            if row not in seen:  # queries with several positives name their negatives once for each
                seen.add(row)
                yield (
                    number,
                    {
                        "qid": collection.queries.ids[query],
                        "doc_id": collection.docs.ids[row],
                        "source": format,
                        "rank": len(seen),
                        "score": score,
                        "positive_score": best,
                    },
                )


def read_as_it_stands(path, format, collection):
    """Yield (line, query row, doc row, score, best score) of each negative, -1 for what the collection lacks.

    Unlike read(), nothing is refused but lines that are malformed: for those who look at what a file holds.
    """
    _, held, _, parse = TABLE[format]
    tsv = format.startswith("msmarco")
    find_query = _finder(collection.queries, "query", by_id="qid" in held, squeeze=tsv)
    find_doc = _finder(collection.docs, "doc", by_id="doc_id" in held, squeeze=tsv)

    def row(find, value):
        try:
            return find(value)
        except BadInput:
            return -1

    named_with = {}  # (query, doc) -> the positives of the line that named it: formats repeat lists for each positive
    for number, item in beir.read_lines(path) if tsv else _objects(path):
        try:
            query, positives, negatives, *scores = parse(item)
        except BadInput as error:
            raise BadInput(f"{path}:{number}: {error}") from None
        best, scores = scores or (None, [None] * len(negatives))
        query, beside = row(find_query, query), tuple(row(find_doc, doc) for doc in positives)
        for doc, score in zip(negatives, scores):
            doc = row(find_doc, doc)
            if named_with.setdefault((query, doc), beside) == beside:
                yield number, query, doc, score, best


def _refuse_positives(collection, query, rows, positives=()):
    """BadInput if a doc of `rows` is known as relevant to the query, is the query, or is a copy of a positive."""
    rows, groups = np.array(rows, dtype=np.int64), collection.docs.groups
    bad = collection.no_negative(np.array([query]), rows[None])[0]
    bad |= np.isin(groups[rows], groups[np.array(positives, dtype=np.int64)])
    if bad.any():
        raise BadInput(
            f"{collection.docs.ids[rows[bad][0]]} is a positive of {collection.queries.ids[query]}, or that query "
            "itself, and stands among its negatives; delete it there"
        )


def _finder(texts, kind, *, by_id, squeeze=False):
    """A function from an id, or from a text, to its row in `texts`; squeeze: white space is all alike."""

    def digest(text):  # 16 bytes a text, as in Texts; JSON can hold half a surrogate pair
        text = " ".join(text.split()) if squeeze else text
        return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).digest()

    def find(value):
        row = rows.get(value if by_id else digest(value))
        if row is None:
            hint = "" if by_id else "; texts are wanted as there, title and text with a space between"
            raise BadInput(f"{kind} {shorten(value)} is not in the collection{hint}")
        return row

    rows = texts.row_of if by_id else {}
    if not by_id:
        first = np.unique(texts.groups).tolist()  # in order of rows, so that the first of equal texts is kept
        for row in tqdm(first, unit="text", unit_scale=True, delay=2, desc=f"reading {texts.path.name}"):
            rows.setdefault(digest(texts.text(row)), row)
    return find


# ------------------------------------------------------------------------------------------- from our records


def _groups(records, collection, split):
    """A Group for each query, in order of first appearance."""
    qrels, docs, queries = collection.split(split), collection.docs, collection.queries
    find_query, find_doc = _finder(queries, "query", by_id=True), _finder(docs, "doc", by_id=True)
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    gathered = {}  # query row -> {text group: (doc row, score, positive's score)}
    for record in records:
        query, doc = find_query(record["qid"]), find_doc(record["doc_id"])
        if query not in position:
            raise BadInput(
                f"query {shorten(record['qid'])} is not in the split {split}; name the split that was mined for"
            )
        candidate = doc, record["score"], record.get("positive_score")
        gathered.setdefault(query, {}).setdefault(docs.groups[doc], candidate)

    def make(row, *scores):
        title, body = (docs.record(row).get(key) or "" for key in ("title", "text"))
        return Doc(docs.ids[row], title, body, docs.text(row), *scores)

    for query, found in gathered.items():
        _refuse_positives(collection, query, [doc for doc, *_ in found.values()])
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


def _objects(path):
    """(number, JSON object) of each line, or of each item if the file is one JSON array."""
    if not next(beir.read_lines(path), (1, ""))[1].lstrip().startswith("["):
        for number, line in beir.read_lines(path):
            yield number, beir.parse_object(line, path=path, number=number)
        return
    try:
        items = json.loads("\n".join(line for _, line in beir.read_lines(path)))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: not valid JSON ({error})") from None
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise BadInput(f"{path}:{number}: a JSON object is wanted, found {shorten(json.dumps(item))}")
        yield number, item

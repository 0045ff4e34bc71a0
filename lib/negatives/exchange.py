"""Negatives files of other systems, written from our records and read back into them."""

import collections
import functools
import hashlib
import itertools
import json
import math

import numpy as np
from tqdm import tqdm

from lib.data import beir
from lib.data.beir import shorten
from lib.files import BadInput, atomic_path

FIELDS = ("qid", "doc_id", "source", "rank", "score", "positive_score", "teacher_score", "teacher_positive_score")
GOLD = 1000  # where DPR's own files have no score of a positive they give this one

# A query with its docs; positives, negatives: lists of Doc, whose `body` is the text without the title
Group = collections.namedtuple("Group", "qid text answers positives negatives")
Doc = collections.namedtuple("Doc", "id title body text score positive_score", defaults=(None, None))


def lost(format):
    """The fields of our records that `format` has no place for, in our order.

    `rank` is the place in the query's list: gaps close, and lists of several sources are one. In formats
    without ids, docs of equal text become the first of them, and so do queries, whose lists are joined.
    """
    return tuple(field for field in FIELDS if field not in _TABLE[format][1])


def write(path, format, records, collection, split):
    """Write records as another system's file; returns how many lines (dpr: items of the array).

    A query's records need not stand together. Positives are those of the split. A doc that two sources
    propose, or a copy of it, is written once: the first counts. Scores are written where all that a line
    must hold are known; our records know one score of the positives, the best one's, so each positive gets
    it. BadInput for ids that the collection or the split lacks, and for known positives among the negatives.
    """
    to_lines = _TABLE[format][2]
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
    _, held, _, parse = _TABLE[format]
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


def _refuse_positives(collection, query, rows, positives=()):
    """BadInput if a doc of `rows` is known as relevant to the query, or is a copy of one of `positives`."""
    rows, groups = np.array(rows, dtype=np.int64), collection.docs.groups
    bad = collection.known_positive(np.array([query]), rows[None])[0]
    bad |= np.isin(groups[rows], groups[np.array(positives, dtype=np.int64)])
    if bad.any():
        raise BadInput(
            f"{collection.docs.ids[rows[bad][0]]} is a positive of "
            f"{collection.queries.ids[query]} and stands among its negatives; delete it there"
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


def _known_scores(negatives):
    """(the positives' score, None where sources, each with a scale of its own, differ; negatives' scores)."""
    best = {negative.positive_score for negative in negatives}
    return best.pop() if len(best) == 1 else None, [negative.score for negative in negatives]


def _to_tuple(group, positive, negatives):
    best, scores = _known_scores(negatives.values())
    return (
        {"anchor": group.text, "positive": positive.text}
        | {key: negative.text for key, negative in negatives.items()}
        | ({} if None in (best, *scores) else {"scores": [best, *scores]})
    )


def _to_triplets(group):
    for positive, negative in itertools.product(group.positives, group.negatives):
        yield _to_tuple(group, positive, {"negative": negative})


def _to_ntuples(group):
    for positive in group.positives:
        yield _to_tuple(group, positive, {f"negative_{i}": doc for i, doc in enumerate(group.negatives, 1)})


def _to_pairs(group):
    for label, docs in ((1, group.positives), (0, group.negatives)):
        yield from ({"anchor": group.text, "positive": doc.text, "label": label} for doc in docs)


def _to_list(group):
    yield {
        "anchor": group.text,
        "positive": [doc.text for doc in group.positives + group.negatives],
        "labels": [1] * len(group.positives) + [0] * len(group.negatives),
    }


def _to_flagembedding(group):
    best, scores = _known_scores(group.negatives)
    yield (
        {
            "query": group.text,
            "pos": [doc.text for doc in group.positives],
            "neg": [doc.text for doc in group.negatives],
        }
        | ({} if best is None else {"pos_scores": [best] * len(group.positives)})
        | ({} if None in scores else {"neg_scores": scores})
    )


def _to_tevatron(group):
    positives, negatives = (
        [{"docid": doc.id, "title": doc.title, "text": doc.body} for doc in docs]
        for docs in (group.positives, group.negatives)
    )
    yield {"query_id": group.qid, "query": group.text, "positive_passages": positives, "negative_passages": negatives}


def _to_tevatron_ids(group):
    yield {
        "query_id": group.qid,
        "query_text": group.text,
        "positive_document_ids": [doc.id for doc in group.positives],
        "negative_document_ids": [doc.id for doc in group.negatives],
    }


def _to_dpr(group):
    def passage(doc, score):
        known = {} if score is None else {"score": score}
        return {"title": doc.title, "text": doc.body} | known | {"passage_id": doc.id}

    best, scores = _known_scores(group.negatives)
    yield {
        "question": group.text,
        "answers": group.answers,
        "positive_ctxs": [passage(doc, best) for doc in group.positives],
        "negative_ctxs": [],
        "hard_negative_ctxs": [passage(doc, score) for doc, score in zip(group.negatives, scores)],
    }


def _to_tsv(group, *, query, doc):
    for positive, negative in itertools.product(group.positives, group.negatives):
        fields = (getattr(group, query), getattr(positive, doc), getattr(negative, doc))
        yield "\t".join(field.translate(dict.fromkeys(map(ord, "\t\r\n"), " ")) for field in fields)


# ----------------------------------------------------------------------------------------- from others' files
# A parser takes the object or text of a line to (query, positives, negatives), by id or by text, and where
# the format has scores (best score of a positive or None, scores of the negatives or Nones).


def _objects(path):
    """(number, JSON object) of each line, or of each item if the file is one JSON array."""
    if not next(beir.read_lines(path), (1, ""))[1].lstrip().startswith("["):
        for number, line in beir.read_lines(path):
            yield number, beir.parse_object(line, path=path, number=number)
        return
    try:
        items = json.loads("\n".join(line for _, line in beir.read_lines(path)))
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error})") from None
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise BadInput(f"{path}:{number}: a JSON object is wanted, found {shorten(json.dumps(item))}")
        yield number, item


def _get(item, key, kind=str):
    """The value of a key that must be there, of type `kind`: str, list, dict, or float for any number."""
    if key not in item:
        raise BadInput(f'no "{key}"; the keys are {", ".join(item) or "none"}')
    value = item[key]
    if type(value) in (int, float) and math.isfinite(value) if kind is float else isinstance(value, kind):
        return value
    found = shorten(json.dumps(value, ensure_ascii=False))
    if kind is list and isinstance(value, str):
        raise BadInput(f'"{key}" is a string, a list is wanted: put brackets around {found}')
    names = {str: "a string", list: "a list", dict: "a JSON object", float: "a number"}
    raise BadInput(f'"{key}" must be {names[kind]}, found {found}')


def _each(item, key, kind=str):
    """The list at `key`, every entry of type `kind`."""
    entries = {f"{key}[{i}]": value for i, value in enumerate(_get(item, key, list))}
    return [_get(entries, name, kind) for name in entries]


def _numbers(item, key, count, *, required=False):
    """The `count` numbers at `key`, all None if there are none."""
    if item.get(key) is None and not required:
        return [None] * count
    values = _each(item, key, float)
    if len(values) != count:
        raise BadInput(f'"{key}" has {len(values)} numbers for {count} docs; one for each is wanted')
    return values


def _from_tuple(item, keys=("negative",)):
    anchor, positive, *negatives = (_get(item, key) for key in ("anchor", "positive", *keys))
    best, *scores = _numbers(item, "scores", 1 + len(negatives))
    return anchor, [positive], negatives, best, scores


def _from_ntuple(item):
    count = sum(key.startswith("negative_") for key in item)
    return _from_tuple(item, [f"negative_{i}" for i in range(1, 1 + max(1, count))])  # a gap is a missing key


def _from_labels(anchor, docs, labels):
    if wrong := [label for label in labels if label not in (0, 1)]:
        raise BadInput(f"label {wrong[0]} must be 1 (positive) or 0 (negative)")
    return anchor, *([doc for doc, label in zip(docs, labels) if label == wanted] for wanted in (1, 0))


def _from_pair(item):
    return _from_labels(_get(item, "anchor"), [_get(item, "positive")], [_get(item, "label", float)])


def _from_list(item):
    docs = _each(item, "positive")
    return _from_labels(_get(item, "anchor"), docs, _numbers(item, "labels", len(docs), required=True))


def _from_flagembedding(item):
    query, positives, negatives = _get(item, "query"), _each(item, "pos"), _each(item, "neg")
    best, scores = _numbers(item, "pos_scores", len(positives)), _numbers(item, "neg_scores", len(negatives))
    return query, positives, negatives, max((s for s in best if s is not None), default=None), scores


def _from_tevatron(item):
    return _get(item, "query_id"), *(
        [_get(passage, "docid") for passage in _each(item, key, dict)]
        for key in ("positive_passages", "negative_passages")
    )


def _from_tevatron_ids(item):
    return _get(item, "query_id"), _each(item, "positive_document_ids"), _each(item, "negative_document_ids")


def _from_dpr(item):
    def passages(*keys):
        found = [passage for key in keys for passage in _each(item, key, dict)]
        ids = [_get(passage, "psg_id" if "psg_id" in passage else "passage_id") for passage in found]  # older
        return ids, [None if passage.get("score") is None else _get(passage, "score", float) for passage in found]

    positives, best = passages("positive_ctxs")
    negatives, scores = passages("hard_negative_ctxs", *["negative_ctxs"] * ("negative_ctxs" in item))
    best = max((score for score in best if score not in (None, GOLD)), default=None)
    return _get(item, "question"), positives, negatives, best, scores


def _from_tsv(line):
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3:
        raise BadInput(
            f"3 fields with tabs between (query, positive, negative) are wanted, found {len(fields)}: {shorten(line)}"
        )
    return fields[0], [fields[1]], [fields[2]]


IDS, SCORED = ("qid", "doc_id", "rank"), ("rank", "score", "positive_score")
# name: (description, fields of ours that it holds, Group -> lines, line -> what it names)
_TABLE = {
    "st-triplet": (
        "sentence-transformers JSONL: anchor, positive, negative (and scores)",
        SCORED,
        _to_triplets,
        _from_tuple,
    ),
    "st-ntuple": (
        "sentence-transformers JSONL: anchor, positive, negative_1 to negative_n (and scores)",
        SCORED,
        _to_ntuples,
        _from_ntuple,
    ),
    "st-pair": (
        "sentence-transformers JSONL: anchor, positive (a doc), label 1 or 0",
        ("rank",),
        _to_pairs,
        _from_pair,
    ),
    "st-list": (
        "sentence-transformers JSONL: anchor, positive (a list of docs), labels (1 or 0 each)",
        ("rank",),
        _to_list,
        _from_list,
    ),
    "flagembedding": (
        "FlagEmbedding JSONL: query, pos, neg (and pos_scores, neg_scores)",
        SCORED,
        _to_flagembedding,
        _from_flagembedding,
    ),
    "tevatron": (
        "Tevatron's older JSONL: query_id, query, positive_passages, negative_passages",
        IDS,
        _to_tevatron,
        _from_tevatron,
    ),
    "tevatron-ids": (
        "Tevatron JSONL: query_id, query_text, positive_document_ids, negative_document_ids",
        IDS,
        _to_tevatron_ids,
        _from_tevatron_ids,
    ),
    "dpr": (
        "DPR, a JSON array: question, answers, positive_ctxs, negative_ctxs, hard_negative_ctxs",
        ("doc_id", *SCORED),
        _to_dpr,
        _from_dpr,
    ),
    "msmarco-ids": (
        "MS MARCO TSV: qid, positive pid, negative pid",
        IDS,
        functools.partial(_to_tsv, query="qid", doc="id"),
        _from_tsv,
    ),
    "msmarco-text": (
        "MS MARCO TSV: texts of query, positive, negative",
        ("rank",),
        functools.partial(_to_tsv, query="text", doc="text"),
        _from_tsv,
    ),
}
FORMATS = {name: row[0] for name, row in _TABLE.items()}

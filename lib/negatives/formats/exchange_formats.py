"""The lines of other systems' negatives files: a format is a pair of functions and a row of TABLE."""

import collections
import functools
import itertools
import json
from collections.abc import Callable
from typing import NamedTuple

from lib.data.beir import shorten
from lib.data.formats import cells
from lib.files import BadInput

SCORES = ("score", "positive_score")
TAUGHT = ("teacher_score", "teacher_positive_score")


class ByText(str):
    """A doc that has no id, by its title and text."""


# A query with its docs; positives, negatives: lists of Doc, whose `body` is the text without the title
Group = collections.namedtuple("Group", "qid text answers positives negatives")
Doc = collections.namedtuple("Doc", ("id", "title", "body", "text", *SCORES, *TAUGHT), defaults=[None] * 4)


def _known_scores(negatives, names=SCORES):
    """(the positives' score, None where sources, each with a scale of its own, differ; negatives' scores)."""
    scores, best = ([getattr(negative, name) for negative in negatives] for name in names)
    return best[0] if len(set(best)) == 1 else None, scores


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


def _to_distillation(group):
    """A positive first; the scores are a teacher's where all docs of a query have one, else their miner's."""
    for names in (TAUGHT, SCORES):
        best, scores = _known_scores(group.negatives, names)
        if None not in (best, *scores):
            break
    else:
        raise BadInput(f"query {group.qid} has docs without a score, or of several sources: this format is for scores")
    negatives = [doc.id for doc in group.negatives]
    for positive in group.positives:
        yield {"query_id": group.qid, "document_ids": [positive.id, *negatives], "scores": [best, *scores]}


def _to_tsv(group, *, query, doc):
    for positive, negative in itertools.product(group.positives, group.negatives):
        fields = (getattr(group, query), getattr(positive, doc), getattr(negative, doc))
        yield "\t".join(field.translate(dict.fromkeys(map(ord, "\t\r\n"), " ")) for field in fields)


# ----------------------------------------------------------------------------------------- from others' files
# A parser takes the object or text of a line to (query, positives, negatives), by id or by text, and where the
# format has scores (best score of a positive or None, scores of the negatives or Nones). Positives of None stand
# among the negatives: the collection knows which they are.


def _get(item, key, kind=str):
    """The value of a key that must be there, of type `kind`: str, list, dict, or float for any number."""
    if key not in item:
        raise BadInput(f'no "{key}"; the keys are {", ".join(item) or "none"}')
    value = item[key]
    if type(value) in (int, float) and abs(value) < 1e38 if kind is float else isinstance(value, kind):  # nor nan
        return value
    found = shorten(json.dumps(value, ensure_ascii=False))
    if kind is list and isinstance(value, str):
        raise BadInput(f'"{key}" is a string, a list is wanted: put brackets around {found}')
    names = {str: "a string", list: "a list", dict: "a JSON object", float: "a number"}
    raise BadInput(f'"{key}" must be {names[kind]}, found {found}')


def _each(item, key, kind=str, *, gaps=False):
    """The list at `key`, every entry of type `kind`, or None where there may be gaps."""
    entries = {f"{key}[{i}]": value for i, value in enumerate(_get(item, key, list))}
    return [None if gaps and entries[name] is None else _get(entries, name, kind) for name in entries]


def _parsed(value):
    """The number that a string holds; what is none stays as it is, to be refused or to be a gap."""
    number = cells.number_of(value) if isinstance(value, str) else None
    return value if number is None else number


def _numbers(item, key, count, *, required=False):
    """The `count` numbers at `key`, None where there are none; required: all of them."""
    if item.get(key) is None and not required:
        return [None] * count
    values = _each(item, key, float, gaps=not required)
    if len(values) != count:
        raise BadInput(f'"{key}" has {len(values)} numbers for {count} docs; one for each is wanted')
    return values


def _named(item):
    """The item with the names of sentence-transformers' own files: that library goes by the places of columns."""
    columns = [key for key in item if key not in ("label", "labels", "score", "scores")]
    names = {} if "anchor" in item else dict(zip(columns, ("anchor", "positive")))
    return {names.get(key, key): value for key, value in item.items()}


def _id(passage, *names):
    """The id of a passage, which may be a whole number; without one its text."""
    name = next((name for name in names if passage.get(name) is not None), None)
    if name is None and passage.get("text"):
        return ByText(f"{passage.get('title') or ''} {_get(passage, 'text')}".strip())
    return str(passage[name]) if type(passage.get(name)) is int else _get(passage, name or names[0])


def _from_tuple(item, keys=("negative",)):
    item = _named(item)
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
    item = _named(item)
    if "label" not in item and "score" in item:
        return _get(item, "anchor"), None, [_get(item, "positive")], None, [_get(item, "score", float)]
    return _from_labels(_get(item, "anchor"), [_get(item, "positive")], [_get(item, "label", float)])


def _from_list(item):
    item = _named(item)
    docs = _each(item, "positive")
    if "labels" not in item and "scores" in item:
        return _get(item, "anchor"), None, docs, None, _numbers(item, "scores", len(docs), required=True)
    return _from_labels(_get(item, "anchor"), docs, _numbers(item, "labels", len(docs), required=True))


def _from_flagembedding(item):
    if "pos" not in item and "document" in item:  # CoRNStack, whose scores are strings
        scores = [_parsed(each) for each in item.get("negative_scores") or ()] or None
        item = item | {"pos": [_get(item, "document")], "neg": item.get("negatives"), "neg_scores": scores}
    query, positives, negatives = _get(item, "query"), _each(item, "pos"), _each(item, "neg")
    best, scores = _numbers(item, "pos_scores", len(positives)), _numbers(item, "neg_scores", len(negatives))
    return query, positives, negatives, max((s for s in best if s is not None), default=None), scores


def _from_tevatron(item):
    return _id(item, "query_id"), *(
        [_id(passage, "docid") for passage in _each(item, key, dict)]
        for key in ("positive_passages", "negative_passages")
    )


def _from_tevatron_ids(item):
    if "query_id" not in item and isinstance(item.get("neg"), dict):  # sentence-transformers' of MS MARCO, by system
        positives = [str(doc) for doc in item.get("pos") or ()]
        listed = {str(doc): None for docs in item["neg"].values() for doc in docs}
        return _id(item, "qid"), positives, [doc for doc in listed if doc not in positives]
    return _id(item, "query_id"), _each(item, "positive_document_ids"), _each(item, "negative_document_ids")


def _from_dpr(item):
    def passages(*keys):
        found = [passage for key in keys for passage in _each(item, key, dict)]
        ids = [_id(passage, "passage_id", "psg_id") for passage in found]  # the latter in older files
        scores = [_parsed(passage.get("score")) for passage in found]
        return ids, [None if score is None else _get({"score": score}, "score", float) for score in scores]

    positives, best = passages("positive_ctxs")
    keys = [key for key in ("hard_negative_ctxs", "negative_ctxs") if key in item]
    negatives, scores = passages(*keys or ["hard_negative_ctxs"])
    best = max((score for score in best if score not in (None, cells.GOLD)), default=None)
    return _get(item, "question"), positives, negatives, best, scores


def _from_distillation(item):
    docs = _each(item, "document_ids")
    return _id(item, "query_id"), None, docs, None, _numbers(item, "scores", len(docs), required=True)


def _from_tsv(line):
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 3:
        raise BadInput(
            f"3 fields with tabs between (query, positive, negative) are wanted, found {len(fields)}: {shorten(line)}"
        )
    return fields[0], [fields[1]], [fields[2]]


class Format(NamedTuple):
    """A format: what it is, the fields of our records that it holds, Group -> lines, line -> what it names; `loads`,
    how the other library is given the file {path}."""

    about: str
    holds: tuple
    to_lines: Callable
    parse: Callable
    loads: str = ""


BY_ID, SCORED = ("qid", "doc_id", "rank"), ("rank", *SCORES)
OF_DATASETS = 'datasets.load_dataset("json", data_files="{path}", split="train"), as train_dataset of its trainer'
# fmt: off
TABLE = {
    "st-triplet": Format("sentence-transformers JSONL: anchor, positive, negative (and scores)",
        SCORED, _to_triplets, _from_tuple, OF_DATASETS),
    "st-ntuple": Format("sentence-transformers JSONL: anchor, positive, negative_1 to negative_n (and scores)",
        SCORED, _to_ntuples, _from_ntuple, OF_DATASETS),
    "st-pair": Format("sentence-transformers JSONL: anchor, positive (a doc), label 1 or 0",
        ("rank",), _to_pairs, _from_pair, OF_DATASETS),
    "st-list": Format("sentence-transformers JSONL: anchor, positive (a list of docs), labels (1 or 0 each)",
        ("rank",), _to_list, _from_list, OF_DATASETS),
    "flagembedding": Format("FlagEmbedding JSONL: query, pos, neg (and pos_scores, neg_scores); CoRNStack",
        SCORED, _to_flagembedding, _from_flagembedding, "--train_data {path}"),
    "tevatron": Format("Tevatron's older JSONL: query_id, query, positive_passages, negative_passages",
        BY_ID, _to_tevatron, _from_tevatron),
    "tevatron-ids": Format("Tevatron JSONL: query_id, query_text, *_document_ids; MS MARCO's qid, pos, neg by system",
        BY_ID, _to_tevatron_ids, _from_tevatron_ids),
    "dpr": Format("DPR, a JSON array: question, answers, positive_ctxs, negative_ctxs, hard_negative_ctxs",
        ("doc_id", *SCORED), _to_dpr, _from_dpr),
    "msmarco-ids": Format("MS MARCO TSV: qid, positive pid, negative pid",
        BY_ID, functools.partial(_to_tsv, query="qid", doc="id"), _from_tsv),
    "msmarco-text": Format("MS MARCO TSV: texts of query, positive, negative",
        ("rank",), functools.partial(_to_tsv, query="text", doc="text"), _from_tsv),
    "distillation": Format("JSONL with ids: query_id, document_ids, scores; queries and documents in files beside it",
        (*BY_ID, *TAUGHT), _to_distillation, _from_distillation),
    "distillation-parquet": Format("the same as Parquet",
        (*BY_ID, *TAUGHT), _to_distillation, _from_distillation),
}

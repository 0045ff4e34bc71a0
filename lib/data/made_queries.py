"""Queries that are made from a doc itself, for docs that nobody has asked for: a function and a row of KINDS each.

In training, a doc without a label that gets a query of its own is pulled and not only pushed.
"""

import dataclasses
import itertools
import json
import pathlib
import shutil

import numpy as np
import regex

from lib import rng
from lib.data import beir
from lib.data.qrels import grades_of, judged_files
from lib.data.texts import Texts
from lib.data.words import UNIT
from lib.files import BadInput, cache_dir, cached, fingerprint, fingerprint_file

LONGEST = 30  # words of a first sentence
CROP = (4, 16)  # words of a crop, from and to
LONGER = (6, 20)  # of one with words left out
DROPPED = 0.3  # share of the words that are left out
# where a sentence ends: behind its mark, but for abbreviations that a text goes on after
END = regex.compile(r"(?<=[.!?])(?<!\b(?:e\.g|i\.e|vs|cf|approx|Dr|Mrs?|Ms|Prof|St|Fig|No)\.)\s|(?<=[。！？])")


def title(record, row):
    """The doc's title; empty where it has none."""
    return record.get("title") or ""


def first_sentence(record, row):
    """The first sentence of the text, at most LONGEST words."""
    sentence = " ".join(END.split((record.get("text") or "").strip(), maxsplit=1)[0].split())
    ends = [unit.end() for unit in itertools.islice(UNIT.finditer(sentence), LONGEST)]
    return sentence[: ends[-1]] if ends else ""


def crop(record, row):
    """Some words of the doc, one behind the other, from a random place (Izacard et al. 2022, section 3.1)."""
    return " ".join(_some_words(f"{record.get('title') or ''} {record.get('text') or ''}", row, *CROP))


def dropped(record, row):
    """Some words of the text, one behind the other, a share of them left out (the same, section 3.1)."""
    words = _some_words(record.get("text") or "", row, *LONGER)
    return " ".join(word for i, word in enumerate(words) if i == 0 or rng.uniform("dropped word", row, i) >= DROPPED)


def _some_words(text, row, least, most):
    words = text.split()
    length = least + int(rng.uniform("crop length", row) * (most - least + 1))
    begin = int(rng.uniform("crop", row) * (max(0, len(words) - length) + 1))
    return words[begin : begin + length]


KINDS = {"title": title, "first_sentence": first_sentence, "crop": crop, "dropped": dropped}


def build(place):
    """(name, folder in BEIR layout) of a folder to test on alone: its train queries are made from its docs.

    Without a dev split a tenth of them is dev.
    """
    folder = pathlib.Path(place)
    files = judged_files(folder)
    if "train" in files or not files:
        raise BadInput(f"--data made:{place}: a folder in BEIR layout without train.tsv is wanted")
    docs, queries = (Texts.load(folder / f"{name}.jsonl") for name in ("corpus", "queries"))

    def read():
        found, judged = [queries.record(row) for row in range(len(queries))], []
        for split, path in files.items():
            judged += [(qid, split, own) for qid, own in grades_of(path, queries.row_of).items()]
        for row, ident in enumerate(docs.ids):
            if text := first_sentence(docs.record(row), row) or title(docs.record(row), row):
                found.append({"_id": f"made:{ident}", "text": text, "metadata": {"kind": "first_sentence"}})
                dev = "dev" not in files and beir.split_by_hash(ident) == "dev"
                judged.append((f"made:{ident}", "dev" if dev else "train", {ident: 1}))
        return docs.path, found, judged, {}

    contents = [[split, fingerprint_file(path)] for split, path in files.items()]
    key = [docs.fingerprint, queries.fingerprint, contents, LONGEST, 2]
    return beir.build("made", folder.resolve().name, key, read)


def add_pseudo_queries(collection, kind, doc_rows):
    """The collection with a train query more for each of `doc_rows` that one can be made for.

    kind: a name of KINDS, or a JSONL file of generated queries, {"doc_id": ..., "query": ...} a line, of which a doc
    may have several. The new queries stand behind the others, in queries and in the train split.
    """
    generated = None if kind in KINDS else _read(kind, collection)
    source = kind if generated is None else fingerprint_file(kind)
    rule = [LONGEST, CROP, 1]  # what the texts depend on besides: raise the last when the functions change
    key = fingerprint(rule, collection.queries.fingerprint, collection.docs.fingerprint, source, np.asarray(doc_rows))

    def make(folder):
        folder.mkdir()
        shutil.copyfile(collection.queries.path, folder / "queries.jsonl")
        np.save(folder / "docs.npy", _write(folder / "queries.jsonl", collection, kind, doc_rows, generated))

    def read(folder):
        return np.load(folder / "docs.npy"), Texts.load(folder / "queries.jsonl")

    docs, queries = cached(cache_dir("pseudo_queries", key), make, read)
    if not len(docs):
        raise BadInput(f"--pull {kind}: no doc without a label has one")
    qrels, n = collection.split("train"), len(collection.queries)
    pulled = dataclasses.replace(
        qrels,
        queries=np.concatenate([qrels.queries, np.arange(n, n + len(docs), dtype=np.int32)]),
        indptr=np.concatenate([qrels.indptr, qrels.indptr[-1] + 1 + np.arange(len(docs))]),
        docs=np.concatenate([qrels.docs, docs]),
        grades=np.concatenate([qrels.grades, np.ones(len(docs), dtype=np.int32)]),
    )
    return dataclasses.replace(
        collection,
        queries=queries,
        qrels=collection.qrels | {"train": pulled},
        fingerprint=fingerprint(collection.fingerprint, key),
    )


def _write(path, collection, kind, doc_rows, generated):
    """Append the pseudo-queries to a copy of queries.jsonl; returns the doc row of each."""
    docs, taken = [], collection.queries.row_of
    with open(path, "rb+") as file:
        file.seek(-1, 2)
        file.seek(0, 2) if file.read(1) == b"\n" else file.write(b"\n")
        for row in doc_rows:
            record = collection.docs.record(row)
            texts = [KINDS[kind](record, row)] if generated is None else generated.get(row, [])
            for number, text in enumerate(texts):
                ident = f"pulled:{collection.docs.ids[row]}:{number}"
                if ident in taken:
                    raise BadInput(f"{collection.queries.path}: a query has the id {ident}, which --pull gives")
                if text.strip():
                    file.write(json.dumps({"_id": ident, "text": text}).encode() + b"\n")
                    docs.append(row)
    return np.array(docs, dtype=np.int32)


def _read(path, collection):
    """{doc row: [query]} of a JSONL file of generated queries."""
    found = {}
    for number, line in beir.read_lines(path):
        record = beir.parse_object(line, path=path, number=number)
        doc_id, query = record.get("doc_id"), record.get("query")
        if not isinstance(doc_id, str) or not isinstance(query, str) or not query.strip():
            raise BadInput(f'{path}:{number}: {{"doc_id": ..., "query": ...}} is wanted, found {beir.shorten(line)}')
        if doc_id not in collection.docs.row_of:
            raise BadInput(f"{path}:{number}: doc {beir.shorten(doc_id)} is not in the collection")
        found.setdefault(collection.docs.row_of[doc_id], []).append(query)
    return found

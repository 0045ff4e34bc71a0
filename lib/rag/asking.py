"""One question: the docs that a retriever finds, and the generator's answer from them."""

import time
from typing import NamedTuple

from lib.data.beir import metadata_of
from lib.rag.prompts import Answer
from lib.rag.scoring import readable


class Doc(NamedTuple):
    """A doc that was found."""

    number: int  # from 1, as in citations
    ident: str
    score: float
    place: str  # its title or, for code, its name and line
    text: str


class Found(NamedTuple):
    """The docs of a question, best first, and the answer from them; no answer where nothing was found."""

    docs: list
    answer: Answer
    search_ms: float


def ask(question, retriever, generator, collection, k):
    """Search for one question and answer it from the k best docs."""
    begin = time.perf_counter()
    hits = retriever.search([question], k)
    search_ms = 1000 * (time.perf_counter() - begin)
    there = hits.rows[0] >= 0
    docs, texts = [], []
    for number, (row, score) in enumerate(zip(hits.rows[0][there].tolist(), hits.scores[0][there].tolist()), 1):
        record, text = collection.docs.record(row), collection.docs.text(row)
        docs.append(Doc(number, collection.docs.ids[row], score, _place(record), text))
        texts.append(readable(record, text))
    if not docs:
        return Found([], Answer(""), search_ms)
    (answer,) = generator.generate([(question, tuple(texts))])
    return Found(docs, answer, search_ms)


def _place(record):
    meta = metadata_of(record)
    if {"name", "file", "line"} <= meta.keys():
        return f"{meta['name']}  ({meta['file']}:{meta['line']})"
    return str(record.get("title") or "")


def only_here(found, other):
    """The numbers of the docs of one Found that another one lacks."""
    there = {doc.ident for doc in other.docs}
    return {doc.number for doc in found.docs if doc.ident not in there}

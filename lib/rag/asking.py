"""One question: the docs that a retriever finds, the generator's answer from them, and both in the terminal."""

import json
import textwrap
import time
from typing import NamedTuple

from lib import process
from lib.data.beir import metadata_of
from lib.files import BadInput
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


def as_json(question, found):
    """A line of JSON for each retriever of {name: Found}: the docs, the answer, what it cites, and what it took."""
    for name, one in found.items():
        docs = [
            {"id": doc.ident, "score": round(doc.score, 6), "title": doc.place, "text": doc.text} for doc in one.docs
        ]
        answer = {"text": one.answer.text, "abstained": one.answer.abstained, "cut": one.answer.cut}
        answer |= {"citations": [one.docs[n - 1].ident for n in one.answer.citations]}
        times = {"search_ms": round(one.search_ms, 1), "answer_ms": round(one.answer.ms, 1)}
        yield json.dumps({"question": question, "retriever": name, "docs": docs, "answer": answer} | times)


def show(found, *, sent_to=None):
    """Print the docs and the answer of each retriever: {name: Found}; and what was sent to a generator, named here."""
    for name, one in found.items():
        others = [other for key, other in found.items() if key != name]
        marked = only_here(one, others[0]) if others else set()
        if others:
            print(f"\n== {process.printable(name)}")
        for doc in one.docs:
            mark = "  (only here)" if doc.number in marked else ""
            print(process.printable(f"\n[{doc.number}] {doc.score:.3f}  {doc.ident}  {doc.place}{mark}"))
            print(textwrap.indent(textwrap.shorten(process.printable(doc.text), 240, placeholder=" ..."), "    "))
        if not one.docs:
            print("nothing found: no word of the question is known to the encoder")
        if sent_to and one.docs:
            text = process.printable(one.answer.prompt) if one.answer.prompt else f"{sent_to} is sent no prompt"
            print(f"\n--- prompt, {one.answer.tokens[0]} tokens\n{text}\n---")
        more = " ..." if one.answer.text and one.answer.cut else ""
        print(f"\n{textwrap.fill(process.printable(one.answer.shown), 100)}{more}")
        if one.answer.unknown:
            print(f"(it cites {', '.join(f'[{n}]' for n in one.answer.unknown)}, which is no doc)")
        print()


def converse(answer):
    """Read questions at a prompt and answer each, until there is none."""
    while True:
        try:
            question = input("> ").strip().encode("utf-8", "replace").decode()
        except EOFError:
            break
        if not question:
            break
        try:
            answer(question)
        except BadInput as error:  # a server that is gone may come back: the next question can be asked
            print(f"error: {process.one_line(error)}")

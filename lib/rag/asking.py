"""One question: the docs that a retriever finds, the generator's answer from them, and both in the terminal."""

import json
import sys
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
    read: str  # what a generator reads of it


class Found(NamedTuple):
    """The docs of a question, best first, and the answer from them; no answer where nothing was found."""

    docs: list
    answer: Answer
    search_ms: float
    first_ms: float | None = None  # until its first words could be read, where a generator shows them as it writes
    whole: bool = True  # whether the answer has been asked for and is there


def find(question, retriever, collection, k, among=None):
    """The Found of one question, without an answer: the k best docs of the collection, or of the doc rows `among`."""
    begin = time.perf_counter()
    hits = retriever.search([question], k, None, among)
    search_ms = 1000 * (time.perf_counter() - begin)
    there = hits.rows[0] >= 0
    docs = []
    for number, (row, score) in enumerate(zip(hits.rows[0][there].tolist(), hits.scores[0][there].tolist()), 1):
        record, text = collection.docs.record(row), collection.docs.text(row)
        docs.append(Doc(number, collection.docs.ids[row], score, _place(record), text, readable(record, text)))
    return Found(docs, Answer(""), search_ms, whole=not docs)


def answered(found, question, generator, said=None):
    """A Found with the generator's answer. said(text) is told what it has written so far, if it can say so."""
    if not found.docs:
        return found
    begin, first = time.perf_counter(), []

    def told(text):
        if text:
            first.append(1000 * (time.perf_counter() - begin))
            said(text)

    texts = tuple(doc.read for doc in found.docs)
    if said and hasattr(generator, "stream"):
        answer = generator.stream(question, texts, told)
    else:
        (answer,) = generator.generate([(question, texts)])
    return found._replace(answer=answer, first_ms=first[0] if first else None, whole=True)


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


class _Screen:
    """Writes an answer as it comes; one that is told again from its beginning stands on a new line."""

    def __init__(self):
        self.shown = ""

    def told(self, text):
        """Show what has been added to a text."""
        again = not text.startswith(self.shown)
        print("\n" * again + process.printable(text if again else text[len(self.shown) :]), end="", flush=True)
        self.shown = text

    def close(self, answer):
        """Show the whole answer, or what is left of it to show."""
        if self.shown and answer.text.startswith(self.shown):
            self.told(answer.text)
        else:
            text = textwrap.fill(process.printable(answer.shown), 100)
            print("\n" * bool(self.shown) + text, end="")
        print(" ..." if answer.text and answer.cut else "")


def show(question, found, generator, *, sent_to=None):
    """Print the docs of each retriever, {name: Found}, and their answers as these come.

    sent_to: the name of the generator; then what it was sent is printed before its answer.
    """
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
            print("nothing found: no word of the question is known to what searches")
        print()
        screen = _Screen()
        one = answered(one, question, generator, screen.told if sys.stdout.isatty() and not sent_to else None)
        if sent_to and one.docs:
            text = process.printable(one.answer.prompt) if one.answer.prompt else f"{sent_to} is sent no prompt"
            print(f"--- prompt, {one.answer.tokens[0]} tokens\n{text}\n---\n")
        screen.close(one.answer)
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
            print(f"\nerror: {process.one_line(error)}")

"""Answers from retrieved docs, with citations."""

import dataclasses
import re
import zlib

import numpy as np

from lib.data.words import words


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer, and the numbers (from 1) of the docs that it rests on."""

    text: str
    citations: tuple


def sentences(text, *, shortest=20, longest=400):
    """A text's statements: sentences of `shortest` characters or more, cut at `longest`, no questions."""
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])|\n\s*\n|\s-\s(?=[A-Z])", text)
    parts = [re.sub(r"\s+", " ", part).strip() for part in parts]
    return [part[:longest] for part in parts if len(part) >= shortest and not part.endswith("?")]


def hashed_words(texts, dim=4096):
    """(n, dim) unit vectors that count each text's words, hashed: similarity without an encoder."""
    out = np.zeros((len(texts), dim), dtype=np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            out[row, zlib.crc32(word.encode()) % dim] += 1
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-9)


def extractive_answer(question, docs, scores, *, embed, count=2):
    """Answer with the `count` sentences of the retrieved docs that are nearest to the question.

    docs (list of text) and scores (k,) best first; `embed(texts, kind)` gives unit vectors. A sentence is
    worth its own similarity to the question plus its doc's, so that a stray match in a poor doc does not win.
    """
    pool = [
        (number, order, sentence)
        for number, doc in enumerate(docs, 1)
        for order, sentence in enumerate(sentences(doc) or [doc[:400]])
    ]
    if not pool:
        return Answer("No doc was found.", ())
    vectors = embed([sentence for _, _, sentence in pool], "doc")  # (n, D)
    worth = vectors @ embed([question], "query")[0] + np.array([scores[number - 1] for number, _, _ in pool])
    chosen, seen = [], set()
    for i in np.argsort(-worth, kind="stable"):
        if pool[i][2] not in seen:  # copies of a sentence in several docs say it once
            seen.add(pool[i][2])
            chosen.append(pool[i])
        if len(chosen) == count:
            break
    chosen.sort(key=lambda item: item[:2])
    text = " ".join(f"{sentence.rstrip('.')} [{number}]." for number, _, sentence in chosen)
    return Answer(text, tuple(sorted({number for number, _, _ in chosen})))

"""How good an answer is: exact match, F1, ROUGE-L, citations, and what went wrong."""

import collections
import math
import re
import string

import numpy as np

from lib.data.beir import metadata_of
from lib.data.words import normalise
from lib.files import BadInput
from lib.rag.generators import sentences
from lib.rag.prompts import bare

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = set(string.punctuation)
RIGHT = 0.5  # F1 from which an answer counts as right, where classes of failure are counted
FIRST_SENTENCES = 2  # of a relevant doc: the gold answer of a question that has none of its own
MEASURES = ("em", "f1", "rouge_l")
# what may have happened to a question; every question falls into one
OUTCOMES = {
    "right, gold found": "right, and a relevant doc was among those read",
    "right without gold": "right, although no relevant doc was read",
    "no gold found": "wrong, and no relevant doc was read",
    "abstained without gold": "no answer, and no relevant doc was read",
    "abstained with gold": "no answer, although a relevant doc was read",
    "distracted": "wrong: the answer rests on other docs, although a relevant one was read",
    "misread": "wrong, although the answer rests on a relevant doc",
    "ignored": "wrong: the answer cites nothing, although a relevant doc was read",
}


def squad(text):
    """A text as SQuAD's evaluation compares it: lower case, without punctuation, articles and double spaces."""
    text = "".join(c for c in text.lower() if c not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", text).split())


def f1(text, gold):
    """F1 over words, as SQuAD defines it (Rajpurkar et al. 2016); two empty texts agree."""
    a, b = squad(text).split(), squad(gold).split()
    if not a or not b:
        return float(a == b)
    shared = sum((collections.Counter(a) & collections.Counter(b)).values())
    return 2 * shared / (len(a) + len(b))


def rouge_l(text, gold):
    """The F measure of the longest common subsequence of words (Lin 2004), words as in f1()."""
    a, b = squad(text).split(), squad(gold).split()
    if not a or not b:
        return float(a == b)
    row = np.zeros(len(b) + 1, dtype=np.int64)
    codes = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
    other = np.array([codes[word] for word in b])
    for word in a:
        fresh = np.where(other == codes[word], row[:-1] + 1, row[1:])
        row = np.maximum.accumulate(np.concatenate([[0], fresh]))
    return float(2 * row[-1] / (len(a) + len(b)))


def scored(text, golds):
    """{measure: value} of an answer against its gold answers, the best of them for each measure."""
    text = bare(text)
    if not text or not golds:
        return dict.fromkeys(MEASURES, 0.0)
    return {
        "em": float(any(squad(text) == squad(gold) for gold in golds)),
        "f1": max(f1(text, gold) for gold in golds),
        "rouge_l": max(rouge_l(text, gold) for gold in golds),
    }


def holds(doc, golds):
    """Whether a gold answer stands in a doc, word for word but for case and punctuation."""
    text = f" {normalise(doc)} "
    return any(f" {gold} " in text for gold in map(normalise, golds) if gold)


def gold_answers(collection, rows, split):
    """([gold answers of each query row], how they were come by).

    A query's own are `answers` (or `answer`) of its metadata. Where no query of the split has them, they are the first
    sentences of its relevant docs, titles left out: then an answer is compared with how those docs begin.
    """
    own = []
    for row in rows:
        meta = metadata_of(collection.queries.record(row))
        found = meta.get("answers", meta.get("answer")) or []
        found = [found] if isinstance(found, str) else found
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise BadInput(
                f"{collection.queries.path}: {collection.queries.ids[row]}: metadata.answers is no list of texts"
            )
        own.append([each for each in found if each.strip()])
    if any(own):
        return own, "metadata.answers"
    by_row = {int(row): i for i, row in enumerate(split.queries)}
    found = []
    for row in rows:
        records = [collection.docs.record(doc) for doc in split.positives(by_row[int(row)])]
        texts = [str(record.get("text") or "") for record in records]
        found.append([" ".join(sentences(text)[:FIRST_SENTENCES]) or text[:400] for text in texts])
    return found, f"the first {FIRST_SENTENCES} sentences of the relevant docs"


def outcome(answer, values, gold):
    """The row of OUTCOMES of one question. values: of scored(); gold (k,) bool: which docs it read are relevant."""
    found = any(gold)
    if answer.abstained:
        return "abstained with gold" if found else "abstained without gold"
    if values["f1"] >= RIGHT:
        return "right, gold found" if found else "right without gold"
    if not found:
        return "no gold found"
    if not answer.citations:
        return "ignored"
    return "misread" if any(gold[number - 1] for number in answer.citations) else "distracted"


def cited(answer, docs, golds):
    """{what can be checked of an answer's citations without a judge: share}, nan where it has none.

    exists: of the numbers that it cites, those of docs that there are; holds: of the docs cited, those that hold a gold
    answer.
    """
    count = len(answer.citations) + len(answer.unknown)
    return {
        "cited": float(count > 0),
        "exists": len(answer.citations) / count if count else math.nan,
        "holds": np.mean([holds(docs[n - 1], golds) for n in answer.citations]).item()
        if answer.citations
        else math.nan,
    }


def coverage_curve(confidence, right):
    """(coverage, accuracy), each (n,): the surest questions are answered first, and the others abstained from.

    confidence (n,) and right (n,) bool. Questions of equal confidence are answered together.
    """
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True)) + 1
    return ends / len(right), np.cumsum(right[order])[ends - 1] / ends


def udcg(relevant, absent, *, weight=1 / 3):
    """UDCG of a context (Trappolini et al. 2025, 2510.21440): the sigmoid of the mean over its docs of
    1 - absent for relevant ones and -weight (1 - absent) for others.

    relevant (k,) bool; absent (k,): the probability that the generator says "no answer" to each doc alone. 0 without
    docs.
    """
    if not len(relevant):
        return 0.0
    useful = 1 - np.asarray(absent, dtype=float)
    return float(1 / (1 + np.exp(-np.where(relevant, useful, -weight * useful).mean())))

"""How good an answer is: exact match, F1, ROUGE-L, citations, and what went wrong.

A metric is a row of METRICS: a function of one Answered question, and the column of the tables that its mean is in.
"""

import collections
import math
import re
import string
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.data.beir import metadata_of
from lib.data.words import normalise
from lib.files import BadInput
from lib.rag.generators import sentences
from lib.rag.prompts import Answer, bare

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = set(string.punctuation)
RIGHT = 0.5  # F1 from which an answer counts as right, where classes of failure are counted
OWN = "metadata.answers"  # where a question's own gold answers stand
FIRST_SENTENCES = 2  # of a relevant doc: the gold answer of a question that has none of its own
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
    "cut": "no answer and no abstention: the reply ended before one began",
    "refused": "no answer and no abstention: a content filter or the model refused the question",
}
RARE = ("cut", "refused")  # rows of OUTCOMES that are shown only where they happen


class Answered(NamedTuple):
    """A question that was answered: all that a metric may look at."""

    answer: Answer
    golds: list  # its gold answers
    docs: list = ()  # texts that were read
    relevant: list = ()  # bool: which of them are relevant


class Metric(NamedTuple):
    """A row of METRICS."""

    function: Callable  # Answered -> float, or nan where there is nothing to measure
    title: str = ""  # of its column in answers.md; without one it stands in the other files only
    form: str = "{:.4f}"
    tested: bool = False  # whether --measure offers it, which wants a value for every question


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


def best(agreement):
    """The metric that a function of two texts makes: of the gold answer that it likes most, citations left out."""

    def metric(one):
        text = bare(one.answer.text)
        return max((agreement(text, gold) for gold in one.golds), default=0.0) if text else 0.0

    return metric


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
        return own, OWN
    by_row = {int(row): i for i, row in enumerate(split.queries)}
    found = []
    for row in rows:
        records = [collection.docs.record(doc) for doc in split.positives(by_row[int(row)])]
        texts = [str(record.get("text") or "") for record in records]
        found.append([" ".join(sentences(text)[:FIRST_SENTENCES]) or text[:400] for text in texts])
    return found, f"the first {FIRST_SENTENCES} sentences of the relevant docs"


def gold_recall(one):
    """Whether a relevant doc was read."""
    return any(one.relevant)


def answer_recall(one):
    """Whether a doc that was read holds a gold answer."""
    return any(holds(text, one.golds) for text in one.docs)


def exists(one):
    """Of the numbers that an answer cites, the share of those of docs that there are."""
    count = len(one.answer.citations) + len(one.answer.unknown)
    return len(one.answer.citations) / count if count else math.nan


def cited_hold(one):
    """Of the docs that an answer cites, the share of those that hold a gold answer."""
    found = [holds(one.docs[number - 1], one.golds) for number in one.answer.citations]
    return np.mean(found) if found else math.nan


METRICS = {
    "gold_recall": Metric(gold_recall, "relevant doc read", "{:.1%}"),
    "answer_recall": Metric(answer_recall, "answer in the docs", "{:.1%}"),
    "em": Metric(best(lambda text, gold: float(squad(text) == squad(gold))), "exact match", tested=True),
    "f1": Metric(best(f1), "F1", tested=True),
    "rouge_l": Metric(best(rouge_l), "ROUGE-L", tested=True),
    "abstained": Metric(lambda one: one.answer.abstained, "abstained", "{:.1%}"),
    "cited": Metric(lambda one: bool(one.answer.citations or one.answer.unknown)),
    "exists": Metric(exists),
    "holds": Metric(cited_hold, "cited docs that hold the answer", "{:.1%}"),
}


def scored(one):
    """{metric: value} of an Answered."""
    return {name: float(metric.function(one)) for name, metric in METRICS.items()}


def right(one):
    """Whether an Answered counts as right."""
    return METRICS["f1"].function(one) >= RIGHT


def outcome(one):
    """The row of OUTCOMES of an Answered."""
    found = any(one.relevant)
    if one.answer.abstained:
        return "abstained with gold" if found else "abstained without gold"
    if not one.answer.text:
        return "refused" if one.answer.refused else "cut"
    if right(one):
        return "right, gold found" if found else "right without gold"
    if not found:
        return "no gold found"
    if not one.answer.citations:
        return "ignored"
    return "misread" if any(one.relevant[number - 1] for number in one.answer.citations) else "distracted"


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

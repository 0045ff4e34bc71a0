"""What a retriever's docs do to the answers: contexts, answers, and measures of each question."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lib.data.beir import metadata_of
from lib.evaluation import measures
from lib.files import BadInput
from lib.rag.answers import METRICS, Answered, gold_answers, holds, outcome, right, scored, udcg
from lib.rag.split import Ranked, four_contexts, shapley
from lib.rng import permutation, uniform

DISTRACTING = 0.8  # distracting effect from which a doc counts as highly distracting


@dataclasses.dataclass(frozen=True)
class Questions:
    """The questions of a split that are asked, with their gold answers and relevant docs."""

    collection: object
    split: str
    rows: np.ndarray  # (n,) query rows
    golds: list  # [gold answers of each]
    gold_from: str  # how they were come by

    @classmethod
    def of(cls, collection, split, count=None):
        """The questions of a split that have a gold answer, or `count` of them, chosen by their ids alone."""
        qrels = collection.split(split)
        rows = qrels.queries
        if count is not None and count < len(rows):
            rows = rows[np.sort(np.argsort(uniform("questions", np.arange(len(rows))))[:count])]
        golds, gold_from = gold_answers(collection, rows, qrels)
        kept = [i for i, own in enumerate(golds) if own]
        if not kept:
            raise BadInput(f"{collection.name}: no {split} question has a gold answer")
        return cls(collection, split, rows[kept], [golds[i] for i in kept], gold_from)

    def __len__(self):
        return len(self.rows)

    @property
    def qids(self):
        """The id of each."""
        return [self.collection.queries.ids[row] for row in self.rows]

    @property
    def texts(self):
        """The text of each."""
        return self.collection.queries.texts(self.rows)

    def relevant(self, rows):
        """(n, C) bool: which doc rows are relevant, copies of relevant docs included."""
        return self.collection.known_positive(self.rows, rows)


class Docs:
    """The texts that a generator reads, by doc row: of code its docstring, where it has one."""

    def __init__(self, docs):
        self._docs, self._texts = docs, {}

    def __getitem__(self, row):
        if row not in self._texts:
            self._texts[row] = readable(self._docs.record(row), self._docs.text(row))
        return self._texts[row]

    def of(self, rows):
        """The texts of doc rows, as a list."""
        return [self[row] for row in rows]


def readable(record, text):
    """What of a doc is read: what a function is for stands in its docstring, the doc itself is code."""
    found = metadata_of(record).get("docstring")
    return found if isinstance(found, str) and found else text  # other people's metadata hold anything


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """What one retriever found for the questions."""

    ranked: list  # a Ranked for each question, deeper than what is read
    top: np.ndarray  # (n,) score of the best doc; -inf where nothing was found
    ndcg: np.ndarray  # (n,) nDCG@10

    @classmethod
    def of(cls, retriever, questions, k, *, self_match):
        """Search for all the questions: k docs to read, and those that fill the places of relevant ones."""
        collection = questions.collection
        most = int(np.diff(collection.known[0])[questions.rows].max(initial=0))
        depth = max(10, k + min(most, k))
        spare = measures.spare(collection, questions.split) if self_match == "drop" else 0
        hits = retriever.search(collection.queries.view(questions.rows), depth + spare)
        if self_match == "drop":
            hits = hits.without(collection.is_itself(questions.rows, hits.rows), depth)
        relevant = questions.relevant(hits.rows)
        ranked = [
            Ranked([row for row in rows if row >= 0], [g for row, g in zip(rows, gold) if row >= 0])
            for rows, gold in zip(hits.rows.tolist(), relevant.tolist())
        ]
        rankings = measures.to_rankings(questions.qids, collection.docs.ids, hits.rows[:, :10], hits.scores[:, :10])
        qrels = collection.qrels_dict(questions.split)
        values = measures.per_query(rankings, {qid: qrels[qid] for qid in questions.qids})
        top = np.where(hits.rows >= 0, hits.scores, -np.inf)[:, :1].max(1, initial=-np.inf)
        return cls(ranked, top, np.array([values[qid]["ndcg@10"] for qid in questions.qids]))

    def best(self, k):
        """[the k best doc rows of each question]."""
        return [each.rows[:k] for each in self.ranked]


# ------------------------------------------------------------------------------------------------ contexts


def relevant_docs(questions, k, **_):
    """The relevant docs alone."""
    known = questions.collection.known_docs(questions.rows)
    return [[row for row in rows if row >= 0][:k] for rows in known.tolist()]


def random_docs(questions, k, seed, **_):
    """Docs drawn at random, none of them relevant."""
    corpus, found = len(questions.collection.docs), []
    drawn = (uniform("random docs", seed, questions.rows[:, None], np.arange(4 * k)) * corpus).astype(np.int64)
    for rows, relevant in zip(drawn, questions.relevant(drawn)):
        found.append(list(dict.fromkeys(rows[~relevant].tolist()))[:k])
    return found


def no_docs(questions, **_):
    """No docs."""
    return [[] for _ in questions.rows]


def uncited(best, given, **_):
    """The docs retrieved, without those that the answer cites: does the answer change?"""
    return [
        [row for number, row in enumerate(rows, 1) if number not in answer.citations]
        for rows, answer in zip(best, given)
    ]


def worst_first(best, **_):
    """The docs retrieved, the best last."""
    return [rows[::-1] for rows in best]


def shuffled(questions, best, seed, **_):
    """The docs retrieved, in random order."""
    return [[rows[i] for i in permutation(len(rows), "order", seed, int(q))] for rows, q in zip(best, questions.rows)]


class Context(NamedTuple):
    """A row of CONTEXTS."""

    function: Callable  # (questions, k, seed, best, given) -> [doc rows of each question]; see evaluate.Part
    of_retriever: bool = False  # whether it is made of the docs that a retriever has found

    @property
    def about(self):
        """What is read, from the function's docstring."""
        text = " ".join(self.function.__doc__.split()).rstrip(".")
        return text[0].lower() + text[1:]


# what else a generator may be given for a question
CONTEXTS = {
    "gold": Context(relevant_docs),
    "random": Context(random_docs),
    "closed_book": Context(no_docs),
    "uncited": Context(uncited, of_retriever=True),
    "reversed": Context(worst_first, of_retriever=True),
    "shuffled": Context(shuffled, of_retriever=True),
}


# ------------------------------------------------------------------------------------------------- answers


def answered(store, questions, docs, contexts, *, desc):
    """An Answer for each question, given [doc rows of each]."""
    return store.ask([(text, tuple(docs.of(rows))) for text, rows in zip(questions.texts, contexts)], desc=desc)


def looked_at(questions, docs, contexts, given):
    """The Answered of each question, given [doc rows of each] and the Answers to them."""
    width = max(1, max(map(len, contexts), default=1))
    table = np.full((len(contexts), width), -1, dtype=np.int64)
    for i, rows in enumerate(contexts):
        table[i, : len(rows)] = rows
    return [
        Answered(answer, golds, docs.of(rows), relevant[: len(rows)])
        for answer, golds, rows, relevant in zip(given, questions.golds, contexts, questions.relevant(table).tolist())
    ]


def records(questions, docs, contexts, given):
    """What is measured of each question: a dictionary that goes into questions.jsonl."""
    return [
        {
            "qid": qid,
            "answer": one.answer.text,
            "citations": list(one.answer.citations),
            "docs": [questions.collection.docs.ids[row] for row in rows],
            **scored(one),
            "outcome": outcome(one),
            "confidence": one.answer.confidence,
            "tokens": list(one.answer.tokens),
            "ms": one.answer.ms,
        }
        for qid, rows, one in zip(questions.qids, contexts, looked_at(questions, docs, contexts, given))
    ]


def arrays(found):
    """{value: (n,) array} of the records of questions."""
    values = {
        name: np.array([record[name] for record in found], dtype=float) for name in (*METRICS, "ms", "confidence")
    }
    values["tokens"] = np.array([record["tokens"][0] for record in found], dtype=float)
    return values | {"outcome": np.array([record["outcome"] for record in found])}


def split_of(store, questions, docs, a, b, k, *, measure, desc):
    """{effect: (n,)} of the gain in a measure from the Retrieved a to the Retrieved b: see lib/rag/split.py."""
    four = list(zip(*(four_contexts(one, other, k) for one, other in zip(a.ranked, b.ranked))))
    values = []
    for contexts in four:
        given = answered(store, questions, docs, contexts, desc=desc)
        found = looked_at(questions, docs, contexts, given)
        values.append(np.array([METRICS[measure].function(one) for one in found], dtype=float))
    recall, distractors = shapley(*values)
    return {"gain": values[3] - values[0], "recall effect": recall, "distractor effect": distractors}


def distraction(store, questions, docs, retrieved, k):
    """{measure: (n,)} of the docs that each question is given, each read alone (2505.06914, 2510.21440).

    distracting effect: 1 - P(no answer) of docs that are not relevant, mean over them; nan where all are relevant.
    highly distracting: whether one of them has DISTRACTING or more. false distractors: share of the docs without a
    label that hold a gold answer; these are left out of both. udcg: of all docs.
    """
    owner = [(i, j) for i, rows in enumerate(retrieved.best(k)) for j in range(len(rows))]
    texts = questions.texts
    absent = store.absent([(texts[i], docs[retrieved.ranked[i].rows[j]]) for i, j in owner], desc="distraction")
    by_doc = dict(zip(owner, absent))
    names = ("distracting effect", "highly distracting", "false distractors", "udcg")
    found = {name: np.full(len(questions), math.nan) for name in names}
    for i, each in enumerate(retrieved.ranked):
        gold = np.array(each.gold[:k], dtype=bool)
        own = np.array([by_doc[i, j] for j in range(len(gold))])
        found["udcg"][i] = udcg(gold, own)
        false = np.array(
            [not g and holds(docs[row], questions.golds[i]) for row, g in zip(each.rows, gold)], dtype=bool
        )
        if (~gold).any():
            found["false distractors"][i] = false[~gold].mean()
        if len(effect := 1 - own[~gold & ~false]):
            found["distracting effect"][i] = effect.mean()
            found["highly distracting"][i] = float(effect.max() >= DISTRACTING)
    return found


def spoiled(store, questions, docs, retrieved, k):
    """(n,) for generators without probabilities: the share of a question's docs without a label that spoil its answer.

    They turn a right answer wrong when they are added to the relevant docs; nan where the answer to those alone is
    not right.
    """
    gold_docs = relevant_docs(questions, k)
    alone = answered(store, questions, docs, gold_docs, desc="gold")
    found = np.full(len(questions), math.nan)
    owner, pairs = [], []
    texts = questions.texts
    for i in np.flatnonzero([right(Answered(answer, golds)) for answer, golds in zip(alone, questions.golds)]):
        for row, relevant in zip(retrieved.ranked[i].rows[:k], retrieved.ranked[i].gold):
            if not relevant:
                owner.append(i)
                pairs.append((texts[i], tuple(docs.of([row, *gold_docs[i]]))))
    wrong = {}
    for i, answer in zip(owner, store.ask(pairs, desc="distraction")):
        wrong.setdefault(i, []).append(not right(Answered(answer, questions.golds[i])))
    for i, those in wrong.items():
        found[i] = np.mean(those)
    return found

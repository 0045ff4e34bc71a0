"""Judgements of one split, by row of queries and docs."""

import dataclasses

import numpy as np

from lib.data import beir
from lib.data.texts import plain
from lib.files import BadInput


@dataclasses.dataclass(frozen=True)
class Qrels:
    """Judgements of one split, by row: query i has entries indptr[i]:indptr[i+1] of `docs` and `grades`."""

    queries: np.ndarray  # (Q,) int32 query rows, each with a relevant doc, in the corpus or missing from it
    indptr: np.ndarray  # (Q + 1,) int64
    docs: np.ndarray  # (J,) int32 doc rows
    grades: np.ndarray  # (J,) int32; a positive has grade >= 1
    # query row -> {doc id that the corpus lacks: grade}: relevant and never found, as trec_eval counts it
    missing: dict = dataclasses.field(default_factory=dict)

    def __len__(self):
        return len(self.queries)

    def positives(self, i):
        """Doc rows of the positives of the split's i-th query."""
        span = slice(self.indptr[i], self.indptr[i + 1])
        return self.docs[span][self.grades[span] >= 1]

    def select(self, mask):
        """The Qrels of the queries where `mask` (Q,) holds."""
        entries = np.repeat(mask, np.diff(self.indptr))
        indptr = np.concatenate([[0], np.cumsum(np.diff(self.indptr)[mask])])
        missing = {row: self.missing[row] for row in self.queries[mask].tolist() if row in self.missing}
        return Qrels(self.queries[mask], indptr, self.docs[entries], self.grades[entries], missing)


def judged_files(folder):
    """{split: path} of the judgements in a folder in BEIR layout; BadInput for two of one split."""
    found = {}
    for name in (*beir.SPLITS, *beir.DEV):
        split, path = "dev" if name in beir.DEV else name, plain(folder / "qrels" / f"{name}.tsv")
        if path.is_file() and (other := found.setdefault(split, path)) != path:
            raise BadInput(f"{folder}/qrels: {other.name} and {path.name} are both the {split} split; keep one")
    return found


def grades_of(path, known):
    """{query id: {doc id: grade}} of a file, of the queries that are known."""
    found = {}
    for qid, doc_id, grade, _ in beir.read_qrels(path)[0]:
        if qid in known:
            found.setdefault(qid, {})[doc_id] = grade
    return found


def load_qrels(path, queries, docs, *, train, least=1):
    """(the Qrels of a file, what is odd in it); BadInput if it is malformed or a query of training has no positive.

    least: the grade of a relevant doc; lower ones become 0, and a query that has no other is left out.
    """
    by_query, missing, first_line = {}, {}, {}
    judged, odd = beir.read_qrels(path)
    for qid, doc_id, grade, number in judged:
        grade = grade if grade >= least else min(grade, 0)
        if qid not in queries.row_of:
            odd[f"judged queries are not in {queries.path.name}: skipped"].append(number)
            continue
        row = queries.row_of[qid]
        first_line.setdefault(row, number)
        if doc_id in docs.row_of:
            by_query.setdefault(row, []).append((docs.row_of[doc_id], grade))
        else:
            by_query.setdefault(row, [])
            missing.setdefault(row, {})[doc_id] = grade
            what = "relevant and never found" if not train else "skipped"
            odd[f"judged docs are not in {docs.path.name}: {what}"].append(number)
    for row in list(by_query):
        if all(grade < 1 for _, grade in by_query[row]):
            if train and row not in missing and least == 1:
                raise BadInput(
                    f"{path}:{first_line[row]}: query {queries.ids[row]} has no positive "
                    "(score 1 or more); add one or delete its lines"
                )
            if train or max(missing.get(row, {"": 0}).values()) < 1:
                odd["queries have no relevant doc: left out"].append(first_line[row])
                del by_query[row]
    if not by_query:
        lost = next((f"{q} {d}" for q, d, *_ in judged if q not in queries.row_of or d not in docs.row_of), None)
        ids = f"; its ids are such as {lost}, the collection's such as {queries.ids[0]} {docs.ids[0]}" if lost else ""
        raise BadInput(f"{path}: no query has a relevant doc{ids}")
    rows = sorted(by_query)
    judged = np.array([pair for row in rows for pair in by_query[row]], dtype=np.int32).reshape(-1, 2)
    indptr = np.cumsum([0] + [len(by_query[row]) for row in rows])
    missing = {} if train else {row: found for row, found in missing.items() if row in by_query}
    return Qrels(np.array(rows, dtype=np.int32), indptr, judged[:, 0], judged[:, 1], missing), odd

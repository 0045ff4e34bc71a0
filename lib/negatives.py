"""Negatives: the grammar of arms, candidate lists, the draw from them, and their records in files."""
import dataclasses
import re

import numpy as np

from lib import filters, formats, index
from lib.run import BadInput, uniform

SOURCES = ("in_batch", "random", "bm25", "dense", "refresh", "adore", "queue", "file")
MINED = ("bm25", "dense", "refresh", "adore", "file")  # sources that draw from lists of candidates
BANDS = (10, 30, 100)  # ranks at which the bands of the ledger end; the last has no end
# of several positives' scores (n, P), nan for none
POSITIVE = {"max": lambda scores: np.fmax.reduce(scores, axis=1),
            "min": lambda scores: np.fmin.reduce(scores, axis=1),
            "mean": lambda scores: np.nansum(scores, 1) / np.where(np.isnan(scores).all(1), np.nan,
                                                                   (~np.isnan(scores)).sum(1))}


@dataclasses.dataclass(frozen=True)
class Stage:
    """From fraction `begin` of training on, draw `parts` = ((source, negatives per query), ...)."""
    begin: float
    parts: tuple


def parse_arm(text):
    """The stages of an arm, as in `bm25:2+refresh:2` or `random:4,refresh:4@0.3`; `in_batch` has no parts.

    What follows a space changes flags of train.py for this arm and plays no part here.
    """
    stages = []
    for piece in (text.split() or [""])[0].split(","):
        body, _, begin = piece.partition("@")
        parts = []
        for part in body.split("+"):
            match = re.fullmatch(r"(\w+)(?::(\d+))?", part)
            if not match or match[1] not in SOURCES:
                raise BadInput(f"--negatives {text}: {part!r} is no source; "
                               f"write source:K with one of {', '.join(SOURCES)}")
            count = int(match[2] or 0)
            if (match[1] == "in_batch") != (match[2] is None) or (match[2] and not count):
                raise BadInput(f"--negatives {text}: {part!r}; "
                               "in_batch takes no number, every other source at least 1")
            if match[1] != "in_batch":
                parts.append((match[1], count))
        if len({name for name, _ in parts}) < len(parts):
            raise BadInput(f"--negatives {text}: a source stands twice in {piece!r}")
        try:
            fraction = float(begin or 0.0)
        except ValueError:
            fraction = -1.0
        rises = fraction > stages[-1].begin if stages else fraction == 0
        if not 0.0 <= fraction < 1.0 or not rises:
            raise BadInput(f"--negatives {text}: stages begin at rising fractions below 1, the first at 0; "
                           f"found @{begin}")
        stages.append(Stage(fraction, tuple(parts)))
    return stages


def count_by_stage(text):
    """Explicit negatives per query of an arm, as "4" or, where stages differ, as "4 then 8"."""
    return " then ".join(str(sum(count for _, count in stage.parts)) for stage in parse_arm(text))


def arm_sources(text):
    """The explicit sources that an arm names, in order of first use."""
    return list(dict.fromkeys(name for stage in parse_arm(text) for name, _ in stage.parts))


# ------------------------------------------------------------------------------------------------ candidates

@dataclasses.dataclass
class Candidates:
    """Candidate docs of n queries from one source, best first, -1 where a list ends early."""
    source: str
    queries: np.ndarray   # (n,) query rows
    docs: np.ndarray      # (n, C) int32 doc rows
    scores: np.ndarray    # (n, C) float32, on the source's own scale
    positive: np.ndarray  # (n,) float32: score of the query's positive by the same source, nan without one
    dropped: dict         # reason -> how many fetched docs it removed
    ranks: np.ndarray     # (n, C) int32: rank in the source's list, from 1; 0 for none
    origin: np.ndarray | None = None            # (n, C) int8: which of `origins` proposed it
    origins: tuple = ()
    notes: dict = dataclasses.field(default_factory=dict)  # further numbers about the mining
    teacher: np.ndarray | None = None           # (n, C) float32: scores of a teacher, nan where it gave none
    teacher_positive: np.ndarray | None = None  # (n,) float32: its score of the query's positive


def from_search(collection, query_rows, found, *, source, depth, positive="max"):
    """Candidates from a search that fetched `depth` + overfetch() docs, or all docs.

    found: (scores, rows) (n, k) and (n, P) scores of Collection.known_docs(), of which `positive` (max, min,
    mean) is kept.
    """
    scores, rows, positive_scores = found
    known = collection.known_docs(query_rows) >= 0                                      # (n, P)
    is_positive = collection.known_positive(query_rows, rows)
    copies = _repeats(np.where(rows >= 0, collection.docs.groups[rows], -1 - np.arange(rows.shape[1])))
    there = (rows >= 0) & ~is_positive & ~copies
    ranks = np.cumsum(there, axis=1, dtype=np.int32)
    inside = there & (ranks <= depth)
    dropped = {"positive": int(is_positive.sum()), "copy": int((copies & ~is_positive).sum()),
               "below the depth": int(there.sum() - inside.sum())}
    reduced = POSITIVE[positive](np.where(known, positive_scores, np.nan)).astype(np.float32)
    candidates = Candidates(source, query_rows, rows.astype(np.int32), scores, reduced, dropped, ranks)
    candidates = filters.keep(candidates, inside, depth=depth)
    assert not collection.known_positive(query_rows, candidates.docs).any(), "a positive was mined"
    return candidates


def from_vectors(collection, query_rows, q_emb, d_emb, *, source, depth, positive, search):
    """Candidates by inner product: q_emb (n, D), d_emb (M, D); search(q_emb, d_emb, k) -> (scores, rows)."""
    found = search(q_emb, d_emb, depth + overfetch(collection))
    known = index.pair_scores(q_emb, d_emb, collection.known_docs(query_rows))
    return from_search(collection, query_rows, (*found, known), source=source, depth=depth, positive=positive)


def overfetch(collection):
    """How many docs a search must fetch beyond the depth so that dropping positives leaves enough."""
    indptr, groups = collection.known
    copies = np.bincount(collection.docs.groups, minlength=len(collection.docs))  # docs that share each text
    return int(np.add.reduceat(copies[groups], indptr[:-1][np.diff(indptr) > 0]).max())


def _repeats(values):
    """(n, C) bool: whether a value stood further left in its row already."""
    by_value = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, by_value, 1)
    again = np.zeros_like(values, dtype=bool)
    np.put_along_axis(again, by_value[:, 1:], ranked[:, 1:] == ranked[:, :-1], 1)
    return again


def random_docs(collection, query_rows, count, *, seed, epoch):
    """(n, count) doc rows drawn uniformly, no positive, no doc twice; -1 where the corpus is too small."""
    spare = 8 + overfetch(collection)
    draws = uniform("random", seed, epoch, query_rows[:, None], np.arange(count + spare))
    rows = (draws * len(collection.docs)).astype(np.int32)
    drop = collection.known_positive(query_rows, rows) | _repeats(collection.docs.groups[rows])
    front = np.argsort(drop, axis=1, kind="stable")[:, :count]
    return np.where(np.take_along_axis(drop, front, 1), -1, np.take_along_axis(rows, front, 1))


def random_candidates(collection, query_rows, depth, *, seed):
    """random_docs() as Candidates, without scores; -1 where the corpus is too small."""
    docs = random_docs(collection, query_rows, depth, seed=seed, epoch=0)
    return Candidates("random", query_rows, docs, np.full(docs.shape, np.nan, dtype=np.float32),
                      np.full(len(docs), np.nan, dtype=np.float32), {}, np.zeros(docs.shape, dtype=np.int32))


def trim(candidates, depth):
    """The first `depth` candidates of each list; what is cut off is counted."""
    kept = filters.keep(candidates, candidates.docs >= 0, depth=depth)
    cut = int((candidates.docs >= 0).sum() - (kept.docs >= 0).sum())
    before = candidates.dropped.get("below the depth", 0)
    return dataclasses.replace(kept, dropped=candidates.dropped | {"below the depth": before + cut})


def select(candidates, picks):
    """The Candidates of the queries at positions `picks`."""
    assert (picks >= 0).all(), "a query that was not mined for"
    arrays = {f.name: getattr(candidates, f.name)[picks] for f in dataclasses.fields(candidates)
              if isinstance(getattr(candidates, f.name), np.ndarray)}
    return dataclasses.replace(candidates, **arrays)


def take(candidates, slots):
    """Candidates at slots (n, K) of their lists; slots beyond a list's end stand for none."""
    inside = slots < candidates.docs.shape[1]
    arrays = {}
    for name, missing in (("docs", -1), ("ranks", 0), ("scores", np.nan), ("teacher", np.nan), ("origin", 0)):
        values = getattr(candidates, name)
        if values is not None:
            moved = np.take_along_axis(values, np.where(inside, slots, 0), 1)
            arrays[name] = np.where(inside, moved, np.asarray(missing, dtype=values.dtype))
    left = int((candidates.docs >= 0).sum() - (arrays["docs"] >= 0).sum())
    return dataclasses.replace(candidates, dropped=candidates.dropped | {"not chosen": left}, **arrays)


def draw(candidates, count, choice, *, seed, epoch):
    """{(source, band of ranks): (B, count) doc rows, -1 for none}: filters.choose() from each list.

    The source is the candidate's own where a file holds several; a source without ranks has the band "".
    """
    slots = filters.choose(candidates, count, choice, seed=seed, epoch=epoch)
    docs, ranks = (np.where(slots >= 0, np.take_along_axis(values, np.maximum(slots, 0), 1), missing)
                   for values, missing in ((candidates.docs, -1), (candidates.ranks, 0)))
    bands = np.searchsorted(BANDS, ranks)
    names, origin = (candidates.source,), np.zeros_like(docs)
    if candidates.origin is not None:
        names = tuple(f"{name} (file)" for name in candidates.origins)
        origin = np.take_along_axis(candidates.origin, np.maximum(slots, 0), 1)
    drawn = {}
    for number, name in enumerate(names):
        for band, label in enumerate(band_names()):
            mine = (origin == number) & (bands == band) & (ranks > 0) & (docs >= 0)
            if mine.any():
                drawn[name, label] = np.where(mine, docs, -1).astype(np.int32)
        if (mine := (origin == number) & (ranks <= 0) & (docs >= 0)).any():
            drawn[name, ""] = np.where(mine, docs, -1).astype(np.int32)
    return drawn


def band_names():
    """The bands of ranks, as in 1-10."""
    starts = (1, *(end + 1 for end in BANDS))
    return [*(f"{a}-{b}" for a, b in zip(starts, BANDS)), f">{BANDS[-1]}"]


def describe(candidates):
    """What came of a mining, as plain numbers for logs and headers."""
    lengths = (candidates.docs >= 0).sum(1)
    return {"queries": len(lengths), "candidates": int(lengths.sum()), "shortest_list": int(lengths.min()),
            "empty_lists": int((lengths == 0).sum()),
            "mean_score": _mean(candidates.scores), "mean_positive_score": _mean(candidates.positive),
            "outscore_positive": _mean((candidates.scores > candidates.positive[:, None])[
                (candidates.docs >= 0) & ~np.isnan(candidates.positive)[:, None]]),
            "dropped": candidates.dropped} | candidates.notes


def _mean(values):
    values = np.asarray(values, dtype=np.float64)
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 6)


# ----------------------------------------------------------------------------------------------------- files

def records(candidates, collection, *, round=0):
    """The records of a negatives file, one per candidate, in order of query and rank."""
    names = candidates.origins or (candidates.source,)
    for i, row in enumerate(candidates.queries):
        positive = round_score(candidates.positive[i])
        for j in np.flatnonzero(candidates.docs[i] >= 0):
            doc_id = collection.docs.ids[candidates.docs[i, j]]
            record = {"qid": collection.queries.ids[row], "doc_id": doc_id,
                      "source": names[0 if candidates.origin is None else candidates.origin[i, j]],
                      "rank": int(candidates.ranks[i, j]),
                      "score": round_score(candidates.scores[i, j]), "positive_score": positive,
                      "round": round}
            if candidates.teacher is not None:
                record["teacher_score"] = round_score(candidates.teacher[i, j])
                record["teacher_positive_score"] = round_score(candidates.teacher_positive[i])
            yield record


def round_score(score):
    """A score for JSON: 6 significant digits, null for nan."""
    return None if np.isnan(score) else float(f"{score:.6g}")


def load_candidates(path, collection, qrels, *, rows=None):
    """Candidates from a negatives file, a list per train query; BadInput if it was made for other data.

    rows: (line number, record) pairs of a file that is not in our format, as exchange.read() gives them.
    """
    if rows is None:
        header, rows = formats.read_negatives(path)
        if header.get("collection_fingerprint") != collection.fingerprint:
            raise BadInput(f"{path}: mined on collection {header.get('collection_fingerprint')}, --data is "
                           f"{collection.fingerprint}; mine again on this collection")
    position = {row: i for i, row in enumerate(qrels.queries.tolist())}
    lists = [{} for _ in position]  # doc row -> (score, rank, source's number, teacher's score)
    origins = {}
    positive, teacher_positive = (np.full(len(lists), np.nan, dtype=np.float32) for _ in range(2))
    for number, record in rows:
        query = collection.queries.row_of.get(record["qid"])
        doc = collection.docs.row_of.get(record["doc_id"])
        if query is None or doc is None:
            missing = record["qid"] if query is None else record["doc_id"]
            raise BadInput(f"{path}:{number}: {formats.shorten(missing)} is not in the collection")
        if query in position:
            i = position[query]
            # two sources may propose one doc: the first counts
            lists[i].setdefault(doc, (record["score"], record.get("rank") or 0, origins.setdefault(
                record["source"], len(origins)), record.get("teacher_score")))
            for array, key in ((positive, "positive_score"), (teacher_positive, "teacher_positive_score")):
                if record.get(key) is not None:
                    array[i] = record[key]
    if not any(lists):
        raise BadInput(f"{path}: no negatives for the queries of this split")
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    scores, teacher = (np.full(docs.shape, np.nan, dtype=np.float32) for _ in range(2))
    ranks, origin = np.zeros(docs.shape, dtype=np.int32), np.zeros(docs.shape, dtype=np.int8)
    for i, found in enumerate(lists):
        for j, (doc, (score, rank, source, taught)) in enumerate(found.items()):
            docs[i, j], ranks[i, j], origin[i, j] = doc, rank, source
            scores[i, j], teacher[i, j] = (np.nan if x is None else x for x in (score, taught))
    known = collection.known_positive(qrels.queries, docs)
    if known.any():
        i, j = np.argwhere(known)[0]
        raise BadInput(f"{path}: {collection.docs.ids[docs[i, j]]} is a positive of "
                       f"{collection.queries.ids[qrels.queries[i]]}; {known.sum()} such lines: mine again")
    return Candidates("file", qrels.queries, docs, scores, positive, {}, ranks, origin, tuple(origins),
                      teacher=teacher, teacher_positive=teacher_positive)

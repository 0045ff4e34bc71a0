"""A look at any negatives file: what in it would teach a model something wrong, or nothing."""

from typing import NamedTuple

import numpy as np

from lib.files import BadInput, markdown, write_json, write_text
from lib.negatives import prices
from lib.negatives.files import read_negatives
from lib.negatives.formats import exchange
from lib.negatives.near_copies import NEAR_COPY, near_copies_of_positives
from lib.negatives.pool import held_out, labelled
from lib.negatives.query_blind import query_blind

SHORT = 0.5  # a list is short that has less than this share of the median list's docs
HUB = 20  # a doc is a hub that is a negative of this many times as many queries as the mean doc of the file, and of 10
# what is looked for: name -> what it says; the share is of the negatives, but where `of` says queries
FINDINGS = {
    "unknown": "docs or queries that the collection lacks",
    "other_queries": "queries of another split",
    "known_positives": "known positives of the query, in any split",
    "copies": "docs with the text of a known positive",
    "near_copies": f"docs that nearly copy a known positive (Jaccard of 3-word shingles at least {NEAR_COPY:g})",
    "itself": "the query itself, by id or text",
    "duplicates": "docs that stand twice in a list",
    "held_out": "docs that only queries of dev or test are labelled with",
    "unlabelled": "docs that are a positive of no training query: only ever pushed away",
    "above_positive": "docs whose score is above their positive's",
    "rising": "scores that rise with the rank",
    "no_score": "negatives without a score, or with one that is not finite",
    "hubs": f"docs that are negatives of {HUB} times as many queries as others",
    "short_lists": "queries with less than half as many negatives as the median query",
    "no_list": "queries of the split without a negative",
}
OF_QUERIES = ("short_lists", "no_list")
WRONG = ("unknown", "known_positives", "copies", "itself", "duplicates", "held_out")  # no file should have any of these
FALSE = ("known_positives", "copies", "near_copies")  # of which it is known that they are false negatives


class Found(NamedTuple):
    """One finding: how many, of how many, and where the first ones stand."""

    count: int
    of: int
    lines: tuple

    @property
    def share(self):
        """The count as a share."""
        return self.count / max(1, self.of)


def read_any(path, format, collection):
    """[(line, query row or -1, doc row or -1, score or nan, positive's score or nan)] of a file, nothing refused."""
    if format == "own":
        records = read_negatives(path)[1]
        queries, docs = collection.queries.row_of, collection.docs.row_of
        return [
            (
                number,
                queries.get(r["qid"], -1),
                docs.get(r["doc_id"], -1),
                _number(r["score"]),
                _number(r.get("positive_score")),
            )
            for number, r in records
        ]
    rows = []
    named_with = {}  # (query, doc) -> positives of the line that named it: lists are repeated for each positive
    for line in exchange.lines(path, format, collection):
        for doc, score in zip(line.negatives, line.scores):
            unknown = -1 in (line.query, doc)  # of which nothing says that it was named before
            if unknown or named_with.setdefault((line.query, doc), line.positives) == line.positives:
                rows.append((line.number, line.query, doc, _number(score), _number(line.best)))
    return rows


def _number(value):
    return float("nan") if value is None else float(value)


def look(rows, collection, split):
    """({name of FINDINGS: Found}, {what figures draw}) of the rows of read_any(). BadInput if there are none."""
    if not rows:
        raise BadInput("the file has no negatives")
    lines, queries, docs = (np.array(column, dtype=np.int64) for column in list(zip(*rows))[:3])
    scores, best = (np.array(column, dtype=float) for column in list(zip(*rows))[3:])
    wanted = collection.split(split).queries
    known = (queries >= 0) & (docs >= 0)
    q, d = np.maximum(queries, 0), np.maximum(docs, 0)
    groups = collection.docs.groups
    of_text = known & collection.known_positive(q, d[:, None])[:, 0]
    exact = known & _labelled_pairs(collection, q, d)
    near = known & near_copies_of_positives(collection, q, d[:, None], similarity=NEAR_COPY)[:, 0]
    alone = -1 - np.arange(len(rows))  # what is unknown is like nothing else
    asked, text = np.where(queries >= 0, queries, alone), np.where(docs >= 0, groups[d], alone)
    order = np.lexsort((lines, text, asked))
    again = np.zeros(len(rows), dtype=bool)
    again[order[1:]] = (asked[order][1:] == asked[order][:-1]) & (text[order][1:] == text[order][:-1])
    ranked = np.lexsort((np.arange(len(rows)), asked))  # by query, in the file's order
    rises = np.zeros(len(rows), dtype=bool)
    rises[ranked[1:]] = (asked[ranked][1:] == asked[ranked][:-1]) & (scores[ranked][1:] > scores[ranked][:-1] + 1e-9)
    lists = np.bincount(np.searchsorted(wanted, q[known & np.isin(q, wanted)]), minlength=len(wanted))
    short = (lists > 0) & (lists < SHORT * np.median(lists[lists > 0])) if lists.any() else lists > 0
    uses = np.bincount(d[known], minlength=len(collection.docs))
    hub = uses >= max(10, HUB * uses[uses > 0].mean()) if known.any() else uses > 0
    masks = {
        "unknown": ~known,
        "other_queries": (queries >= 0) & ~np.isin(queries, wanted),
        "known_positives": exact,
        "copies": of_text & ~exact,
        "near_copies": near & ~of_text,
        "itself": known & collection.is_itself(q, d[:, None])[:, 0],
        "duplicates": again & known,
        "held_out": known & held_out(collection)[d],
        "unlabelled": known & ~labelled(collection)[d],
        "above_positive": scores > best,
        "rising": rises,
        "no_score": ~np.isfinite(scores),
        "hubs": known & hub[d],
    }
    found = {name: Found(int(mask.sum()), len(rows), tuple(lines[mask][:3].tolist())) for name, mask in masks.items()}
    found["short_lists"] = Found(int(short.sum()), len(wanted), ())
    found["no_list"] = Found(int((lists == 0).sum()), len(wanted), ())
    return {name: found[name] for name in FINDINGS}, {"lists": lists, "uses": np.sort(uses[uses > 0])[::-1]}


def _labelled_pairs(collection, q, d):
    """(n,) bool: whether the doc row itself, and not only its text, is labelled with the query."""
    pairs = [
        np.stack([np.repeat(x.queries, np.diff(x.indptr)), x.docs])[:, x.grades >= 1] for x in collection.qrels.values()
    ]
    rows, docs = np.concatenate(pairs, axis=1).astype(np.int64)
    base = len(collection.docs)
    return np.isin(q * base + d, rows * base + docs)


def parse_limit(text):
    """(finding, the most that its share may be) of a limit such as near_copies=.01."""
    name, equals, value = text.partition("=")
    try:
        most = float(value)
    except ValueError:
        most = -1.0
    if name not in FINDINGS or not equals or not 0 <= most <= 1:
        raise BadInput(f"{text}: a limit is one of {', '.join(FINDINGS)}, an = and a share from 0 to 1")
    return name, most


def blind(rows, collection, split):
    """The QueryBlind of the rows of read_any(), of which the known count; None where none has a positive."""
    queries, docs = (np.array(column, dtype=np.int64) for column in list(zip(*rows))[1:3])
    known = (queries >= 0) & (docs >= 0)
    return query_blind(collection, split, queries[known], docs[known])


def report(folder, found, path, blind, priced=None):
    """Write check.md and check.json of a look at the file `path` to a folder; returns the Markdown.

    priced: the Prices by which it says what the false negatives among them cost.
    """
    share = sum(found[name].share for name in FALSE)
    text = to_table(found, path)
    if priced and share:
        text += f"\n{prices.cost(share, priced)}: {', '.join(FALSE)}\n"
    if blind:
        text += f"\n{blind.said}\n"
    write_text(folder / "check.md", text)
    as_numbers = {name: one._asdict() | {"share": one.share} for name, one in found.items()}
    write_json(folder / "check.json", as_numbers | {"query_blind": blind and blind._asdict()})
    return text


def to_table(found, path):
    """The Markdown of a look."""
    rows = []
    for name, one in found.items():
        of = "queries" if name in OF_QUERIES else "negatives"
        where = ", ".join(map(str, one.lines)) if one.count and name not in ("unlabelled", "no_score") else ""
        rows.append([f"{name}: {FINDINGS[name]}", f"{one.count:,}", f"{one.share:.2%} of {one.of:,} {of}", where])
    return f"# {path}\n\n{markdown(['finding', 'count', 'share', 'first lines'], rows)}"

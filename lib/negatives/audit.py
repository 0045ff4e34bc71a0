"""How many mined negatives are really positives: estimated by hiding positives and looking where they land.

A share of the queries loses one of its known positives from the judgements; a query with a single positive
gets an edited copy of it planted in the corpus instead. Mining does not know, so a hidden doc that comes back
as a negative is a false one, for certain.
"""

import dataclasses
import html
import json
import os
import re
import shutil

import numpy as np

from lib import process
from lib.data import beir
from lib.data.collection import load_collection
from lib.files import BadInput, atomic_path, cache_dir, cached, fingerprint, markdown, write_json, write_text
from lib.negatives import prices
from lib.negatives.candidates import BANDS, band_names
from lib.negatives.filters import FILTERS, apply
from lib.rng import uniform

EDITED = 0.15  # share of the words that a planted copy lacks


def hide(collection, split, share, *, seed):
    """(collection without some positives, hidden (n, 2): query row, doc row in it); cached by its content."""
    if not 0 < share <= 1:
        raise BadInput(f"--audit {share}: a share of the queries, above 0 and at most 1")
    qrels = collection.split(split)
    key = fingerprint("audit", collection.fingerprint, split, share, seed, EDITED)

    def make(folder):
        _write(collection, split, qrels, share, seed, folder)

    def read(folder):
        pairs = [json.loads(line) for line in (folder / "hidden.jsonl").read_text(encoding="utf-8").splitlines()]
        return load_collection(str(folder), quiet=True), pairs

    audited, pairs = cached(cache_dir("audit", f"{collection.name}-{key}"), make, read)
    hidden = np.array([[audited.queries.row_of[q], audited.docs.row_of[d]] for q, d in pairs], dtype=np.int64).reshape(
        -1, 2
    )
    # a positive that another query of the same text still has is not hidden
    gone = ~audited.known_positive(hidden[:, 0], hidden[:, 1:])[:, 0]
    return audited, hidden[gone]


def _write(collection, split, qrels, share, seed, folder):
    (folder / "qrels").mkdir(parents=True)
    for texts, name in ((collection.docs, "corpus.jsonl"), (collection.queries, "queries.jsonl")):
        shutil.copyfile(texts.path, folder / name)
    picked = np.flatnonzero(uniform("audit", seed, qrels.queries) < share)
    hidden, removed, copies = [], set(), []
    for i in picked.tolist():
        positives, row = qrels.positives(i), int(qrels.queries[i])
        doc = int(positives[int(uniform("audit which", seed, row) * len(positives))])
        qid, doc_id = collection.queries.ids[row], collection.docs.ids[doc]
        if len(positives) > 1:
            removed.add((qid, doc_id))
            hidden.append((qid, doc_id))
        else:
            record = collection.docs.record(doc)
            record |= {"_id": f"{doc_id}~planted-for-{qid}", "text": edited(record.get("text") or "", seed, row)}
            copies.append(record)
            hidden.append((qid, record["_id"]))
    with open(folder / "corpus.jsonl", "ab") as corpus:
        corpus.write(b"" if _ends_a_line(collection.docs.path) else b"\n")
        corpus.write("".join(json.dumps(record) + "\n" for record in copies).encode())
    for name in collection.qrels:
        beir.write_qrels(
            folder / "qrels" / f"{name}.tsv",
            {
                qid: {
                    doc_id: grade for doc_id, grade in grades.items() if name != split or (qid, doc_id) not in removed
                }
                for qid, grades in collection.qrels_dict(name).items()
            },
        )
    write_text(folder / "hidden.jsonl", "".join(json.dumps(pair) + "\n" for pair in hidden))


def _ends_a_line(path):
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def edited(text, *key):
    """`text` without EDITED of its words, drawn as a function of `key`; at least one word stays."""
    words = text.split()
    kept = [word for word, u in zip(words, uniform("edit", *key, np.arange(len(words)))) if u >= EDITED]
    return " ".join(kept or words[:1])


def relabel(folder, collection, split, mined, limit):
    """Write a collection in which candidates that the teacher scores above `limit` are positives of their queries.

    Returns the collection, the candidates without them, and how many there are.
    """
    grades = {name: collection.qrels_dict(name) for name in collection.qrels}
    count = 0
    for candidates in mined:
        i, j = ((candidates.teacher > limit) & (candidates.docs >= 0)).nonzero()
        for row, doc in zip(candidates.queries[i], candidates.docs[i, j]):
            of_query = grades[split][collection.queries.ids[row]]
            count += of_query.get(collection.docs.ids[doc], 0) < 1
            of_query[collection.docs.ids[doc]] = 1
    with atomic_path(folder) as temporary:
        (temporary / "qrels").mkdir(parents=True)
        for texts, name in ((collection.docs, "corpus.jsonl"), (collection.queries, "queries.jsonl")):
            os.symlink(texts.path.resolve(), temporary / name)
        for name, judged in grades.items():
            beir.write_qrels(temporary / "qrels" / f"{name}.tsv", judged)
    relabelled, left = load_collection(str(folder), quiet=True), []
    for candidates in mined:
        positive = relabelled.known_positive(candidates.queries, candidates.docs)
        kept = candidates.keep((candidates.docs >= 0) & ~positive)
        left.append(dataclasses.replace(kept, dropped=kept.dropped | {"relabelled": int(positive.sum())}))
    return relabelled, left, count


# ------------------------------------------------------------------------------------------------- estimates


def interval(count, n, z=1.96):
    """The 95 % Wilson score interval of a share count / n."""
    if not n:
        return 0.0, 1.0
    p, zz = count / n, z * z / n
    centre, half = p + zz / 2, z * (p * (1 - p) / n + zz / (4 * n)) ** 0.5
    return max(0.0, (centre - half) / (1 + zz)), min(1.0, (centre + half) / (1 + zz))


def is_hidden(candidates, hidden, groups):
    """(n, C) bool: candidates whose text is that of a doc hidden for their query."""
    wanted = dict(zip(hidden[:, 0].tolist(), groups[hidden[:, 1]].tolist()))
    column = np.array([wanted.get(row, -2) for row in candidates.queries.tolist()])[:, None]
    return (groups[candidates.docs] == column) & (candidates.docs >= 0)


def estimate(candidates, found, *, share, before=None, inside=None):
    """One row of the audit for the candidates where `inside` (n, C) holds (all by default).

    found (n, C): is_hidden(). rate: hidden positives per negative, with an interval over queries, each of
    which has one at most; per_unlabelled: what the rate would be if every query had one positive that nobody
    labelled, alike to the hidden ones. at_most: upper_bound(). `before`, the candidates that a filter was
    given, adds what it caught of the hidden ones and what it cost of the others.
    """
    inside = candidates.docs >= 0 if inside is None else inside & (candidates.docs >= 0)
    queries, count = len(candidates.docs), int(inside.sum())
    hit = int((found & inside).sum())
    scale = queries / max(count, 1)
    low, high = interval(hit, queries)
    row = {
        "negatives": count,
        "hidden": hit,
        "rate": hit / max(count, 1),
        "interval": [low * scale, min(1.0, high * scale)],
        "per_unlabelled": hit / share / max(count, 1),
        "at_most": upper_bound(candidates, found, inside),
    }
    if before:
        others = before["negatives"] - before["hidden"]
        row["cost"] = 1 - (count - hit) / max(others, 1)
        if before["hidden"]:
            row["caught"] = 1 - hit / before["hidden"]
    return row


def upper_bound(candidates, found, inside, *, least=20):
    """A 95 % upper bound on the share of all true positives among the candidates, labelled by nobody.

    If unlabelled positives score like the hidden ones, a share p of positives puts at least p times the share
    of hidden ones beyond any threshold there, so p cannot exceed the ratio of the two shares: the least such
    ratio over thresholds of s - s+ (mixture proportion estimation; Blanchard, Lee & Scott 2010). 1 where
    fewer than `least` hidden ones or no scores give anything to compare.
    """
    margin = candidates.scores - candidates.positive[:, None]
    hidden = margin[found & inside & np.isfinite(margin)]
    others = margin[inside & ~found & np.isfinite(margin)]
    if len(hidden) < least or not len(others):
        return 1.0
    best = 1.0
    levels = np.quantile(hidden, np.linspace(0, 0.9, 10))
    z = 2.81  # one-sided 2.5 % over 10 thresholds, for each of the two shares
    for level in levels:
        high = interval(int((others >= level).sum()), len(others), z)[1]
        low = interval(int((hidden >= level).sum()), len(hidden), z)[0]
        best = min(best, high / max(low, 1e-12))
    return float(best)


def bands(candidates, found, *, share):
    """[(band of ranks, estimate())] of every band that holds a candidate."""
    of_rank = np.where(candidates.ranks > 0, np.searchsorted(BANDS, candidates.ranks), -1)
    return [
        (label, estimate(candidates, found, share=share, inside=of_rank == band))
        for band, label in enumerate(band_names())
        if ((of_rank == band) & (candidates.docs >= 0)).any()
    ]


# --------------------------------------------------------------------------------------------------- reports


def report(path, collection, mined, hidden, filters, *, share, title, measured=None):
    """Write the audit of each source before, between and behind the filters as .md and .json; (its rows, its table).

    mined: Candidates of each source, hidden: what hide() hid of the share; measured: the Prices by which filters pay.
    """
    rows, pages = [], []
    for candidates in mined:
        first = None
        for each in (None, *filters):
            candidates = apply(candidates, [each], collection) if each else candidates
            found = is_hidden(candidates, hidden, collection.docs.groups)
            after = each.text if each else "none"
            row = estimate(candidates, found, share=share, before=first)
            first = first or row
            rows.append((candidates.source, after, "all", row))
        rows += [(candidates.source, after, band, row) for band, row in bands(candidates, found, share=share)]
        pages.append(page(candidates, found, collection))
    text = f"{table(rows)}\n{NOTE}" + "".join(f"\n{line}\n" for line in verdicts(rows, measured))
    write_text(path, f"# Audit of false negatives: {title}\n\n{text}" + "".join(pages))
    named = [{"source": source, "after": after, "ranks": ranks} | row for source, after, ranks, row in rows]
    about = {"collection_fingerprint": collection.fingerprint, "share": share, "hidden": len(hidden)}
    write_json(path.with_suffix(".json"), about | {"rows": named})
    return rows, text


def verdicts(rows, measured):
    """A line for each source and filter: whether it pays by measured prices. rows: as for table()."""
    firsts = {source: row for source, after, ranks, row in rows if after == "none" and ranks == "all"}
    for source, after, ranks, row in rows if measured else ():
        if ranks == "all" and "caught" in row:
            by_score = bool(FILTERS[after.partition(":")[0]].needs)
            said = prices.verdict(row, firsts[source], measured, by_score=by_score)
            yield f"**{source}, {after}**: {said} (prices of {measured.collection}, docs/false-negatives.md)."


def table(rows):
    """The audit as a Markdown table. rows: [(source, filter, ranks, estimate())]."""
    head = "source,after,ranks,negatives,hidden found,rate (95 % interval),per unlabelled positive"
    lines = []
    for source, after, ranks, row in rows:
        low, high = row["interval"]
        rate = f"{row['rate']:.3%} [{low:.3%}, {high:.3%}]"
        cells = [source, after, ranks, f"{row['negatives']:,}", f"{row['hidden']:,}", rate]
        cells += [f"{row['per_unlabelled']:.3%}", f"{row['at_most']:.1%}"]
        lines.append([*cells, *(f"{row[key]:.1%}" for key in ("caught", "cost") if key in row)])
    return markdown([*head.split(","), "all false, at most", "hidden caught", "others lost"], lines)


NOTE = """\
*rate*: share of the negatives that are hidden positives. *per unlabelled positive*: the share that would be
false if every query had one positive that nobody labelled, found as often as the hidden ones are. *all false,
at most*: 95 % bound on the share of all negatives that are positives, if unlabelled ones score like hidden
ones. *hidden caught*, *others lost*: what the filters up to here dropped, of the hidden and of the rest.
"""


def page(candidates, found, collection, *, count=30):
    """Markdown: the negatives that score highest against their positive, to be read by a person."""
    margin = np.nan_to_num(candidates.scores - candidates.positive[:, None], nan=-1e30)
    there = np.flatnonzero(candidates.docs >= 0)
    order = there[np.argsort(-margin.ravel()[there], kind="stable")[:count]]
    lines = [f"\n## The {len(order)} hardest negatives by {candidates.source}\n"]
    for number, flat in enumerate(order.tolist(), 1):
        i, j = divmod(flat, margin.shape[1])
        row = candidates.queries[i]
        positive = next(iter(collection.known_docs(np.array([row]))[0]), -1)
        lines.append(
            f"{number}. **{_short(collection.queries.text(row), 200)}**  \n"
            f"   positive {candidates.positive[i]:.3f}: {_short(collection.docs.text(positive))}  \n"
            f"   {'*hidden positive*' if found[i, j] else 'negative'} {candidates.scores[i, j]:.3f}, rank "
            f"{candidates.ranks[i, j]}: {_short(collection.docs.text(candidates.docs[i, j]))}\n"
        )
    return "\n".join(lines)


def _short(text, limit=300):
    """A text for a page of Markdown, cut and without effect: it may hold markup, scripts and images."""
    text = process.one_line(text, limit)
    return html.escape(re.sub(r"([*\[\]!])", r"\\\1", text).replace("`", "'"), quote=False)

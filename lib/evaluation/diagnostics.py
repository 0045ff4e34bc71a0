"""Diagnostics of a run: the measures of a split, what an untrained encoder says of negatives, the space."""

import numpy as np
from scipy.special import entr

from lib import rng
from lib.data.words import words
from lib.evaluation import measures
from lib.evaluation.measures import RANKED
from lib.files import fingerprint
from lib.negatives.near_copies import share_of_near_copies
from lib.negatives.pool import labelled
from lib.search import exact
from lib.search.hits import Hits
from lib.search.retriever import open_retriever
from lib.search.sharded import cached_search

MOST_BYTES, PART = 1 << 31, 1 << 20  # of a static encoder's vectors of all docs: more are made and searched in parts
SAMPLED_DOCS = 2000  # that stand for the corpus in statistics of the space


def evaluate(embedder, encoder, split, *, self_match="drop", docs=None):
    """Per-query values of a split by exact search. self_match: of measures.SELF_MATCH; docs: of ranked()."""
    hits = ranked(AsItStands(embedder, encoder), embedder.collection, split, self_match=self_match, docs=docs)
    return measures.score(embedder.collection, split, hits)


def ranked(retriever, collection, split, *, self_match="drop", docs=None):
    """The Hits of a retriever for the queries of a split. docs: the rows that are searched, all by default."""
    queries = collection.queries.view(collection.split(split).queries)
    how = {"self_match": self_match}
    return measures.results(lambda k: retriever.search(queries, k, among=docs), collection, split, RANKED, **how)[0]


class AsItStands:
    """An encoder in training as a retriever, for queries of its collection. What it embeds is kept: its weights must
    not change. shared: of embed_docs().
    """

    def __init__(self, embedder, encoder, *, shared=False):
        self.encoder, self._embedder, self._shared, self._kept = encoder, embedder, shared, {}

    def search(self, queries, k, known=None, among=None):
        """The Hits of a view of queries; among: the docs that are searched, the only ones then that are embedded."""
        q_emb, device = self._vectors("query", queries.rows), next(self.encoder.parameters()).device
        docs = len(self._embedder.collection.docs)
        large = 4 * q_emb.shape[1] * docs > MOST_BYTES and self.encoder.kind == "static"  # others take long to make
        if among is None and large and not self._embedder.has_docs(self.encoder):
            return self._in_parts(q_emb, k, known, docs, device)
        d_emb = self._vectors("doc", among)
        if among is None:
            return exact.search(q_emb, d_emb, k, known, device=device)
        if known is not None:
            known = np.where(known < 0, -1, np.searchsorted(among, known))
        hits = exact.search(q_emb, d_emb, k, known, device=device)
        return hits._replace(rows=np.where(hits.rows < 0, -1, among[hits.rows]))

    def _in_parts(self, q_emb, k, known, docs, device):
        """search() of all docs without their vectors ever being there together."""
        best = scores = None
        for begin in range(0, docs, PART):
            rows = np.arange(begin, min(docs, begin + PART))
            own = None if known is None else np.where((known >= begin) & (known <= rows[-1]), known - begin, -1)
            hits = exact.search(q_emb, self._embedder.embed(self.encoder, "doc", rows), k, own, device=device)
            found = hits.scores, np.where(hits.rows < 0, -1, hits.rows + begin)
            best = exact.merge(best, found, k)
            if known is not None:
                scores = hits.known if scores is None else np.where(own < 0, scores, hits.known)
        return Hits(*best, scores)

    def _vectors(self, kind, rows):
        key = kind, rows if rows is None else fingerprint(rows)
        if key not in self._kept:
            if kind == "doc":
                self._kept[key] = self._embedder.embed_docs(self.encoder, rows, shared=self._shared)
            else:
                self._kept[key] = self._embedder.embed(self.encoder, kind, rows)
        return self._kept[key]


def dev_pool(collection, count, found):
    """(n,) sorted rows of about `count` docs that stand for the corpus when dev is evaluated.

    All positives of dev; then, rank by rank, what each Hits of `found` lists for dev's queries; then docs at random,
    the same for every run.
    """
    qrels = collection.split("dev")
    rows = dict.fromkeys(qrels.docs[qrels.grades >= 1].tolist())
    for rank in range(max(hits.rows.shape[1] for hits in found)):
        for hits in found:
            if len(rows) < count and rank < hits.rows.shape[1]:
                rows |= dict.fromkeys(hits.rows[hits.rows[:, rank] >= 0, rank].tolist())
    for row in rng.permutation(len(collection.docs), "dev pool", 0).tolist():
        if len(rows) >= count:
            break
        rows[row] = None
    return np.array(sorted(rows), dtype=np.int64)


def bm25_hits(collection, split, *, self_match="drop", docs=None):
    """BM25's Hits for the queries of a split, the same for every run: cached. docs: as in evaluate()."""
    queries = collection.queries.view(collection.split(split).queries)
    bm25 = open_retriever("bm25", collection, device=None)
    how = {"self_match": self_match}
    return measures.results(lambda k: cached_search(bm25, queries, k, among=docs), collection, split, RANKED, **how)[0]


def near_copies(candidates, collection, *, queries=64):
    """{"positive", "query": share of the candidates that are near-copies of it}, from a sample of the lists."""
    sample = rng.permutation(len(candidates.docs), "near_copies", 0)[:queries]
    return share_of_near_copies(candidates.select(sample), collection)


def geometry(embedder, encoder, split):
    """embedding_stats() of a split's first positives and of a sample of the corpus."""
    qrels = embedder.collection.split(split)
    found = [(row, qrels.positives(i)[0]) for i, row in enumerate(qrels.queries) if len(qrels.positives(i))]
    queries, positives = np.array(found, dtype=np.int64).T
    sample = rng.permutation(len(embedder.collection.docs), "geometry", 0)[:SAMPLED_DOCS]
    q_emb = embedder.embed(encoder, "query", queries)
    return embedding_stats(q_emb, *(embedder.embed_docs(encoder, rows)[:] for rows in (positives, sample)))


def embedding_stats(q_emb, positives, sample):
    """The space that an encoder spans: q_emb, positives (Q, D) row by row, sample (n, D) of docs.

    alignment: mean squared distance of a query and its positive; uniformity: log of the mean of exp(-2 d^2)
    over pairs of docs (Wang & Isola 2020); effective_rank: exponential of the entropy of the sample's
    normalised singular values (Roy & Vetterli 2007), at most D.
    """
    norms = (sample**2).sum(1)
    squared = (norms[:, None] + norms - 2 * (sample @ sample.T))[np.triu_indices(len(sample), 1)]
    singular = np.sqrt(np.maximum(np.linalg.eigvalsh(sample.T.astype(np.float64) @ sample), 0))
    share = singular / max(singular.sum(), 1e-300)
    return {
        "alignment": float(((q_emb - positives) ** 2).sum(1).mean()),
        "uniformity": float(np.log(np.exp(-2 * np.maximum(squared, 0)).mean())),
        "effective_rank": float(np.exp(entr(share / share.sum()).sum())),
    }


def cosines(a, b):
    """(n,) cosine of each row of a (n, D) with the same row of b (n, D)."""
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def neighbourhood(embedder, encoder, position, drawn, names, *, others=300):
    """[(label, x, y)] of a train query, its positive, drawn docs and others, on the plane.

    drawn: {code: (1, K) doc rows, -1 for none}; names[code - 1]: the source of a code.
    """
    collection = embedder.collection
    qrels = collection.split("train")
    groups = {
        "other docs": rng.permutation(len(collection.docs), "map", 0)[:others],
        "positive": qrels.positives(position)[:1],
    }
    for code, docs in drawn.items():
        name = names[code - 1]
        groups[name] = np.concatenate([groups.get(name, docs[0][:0]), docs[0][docs[0] >= 0]])
    d_emb = embedder.embed_docs(encoder, np.concatenate(list(groups.values())).astype(np.int64))[:]
    q_emb = embedder.embed(encoder, "query", qrels.queries[position : position + 1])
    vectors = np.concatenate([d_emb, q_emb])
    centred = vectors - vectors.mean(0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T  # (n, 2)
    labels = [name for name, rows in groups.items() for _ in rows] + ["query"]
    return [(label, float(f"{x:.5g}"), float(f"{y:.5g}")) for label, (x, y) in zip(labels, plane)]


def labelled_queries(collection, split):
    """{qid: whether a doc that answers is a positive in training} for every query of a split."""
    qrels, known = collection.split(split), labelled(collection)
    return {collection.queries.ids[row]: bool(known[qrels.positives(i)].any()) for i, row in enumerate(qrels.queries)}


def query_features(collection, split):
    """{qid: {name: value}} for every query of a split: what may explain where an arm gains."""
    qrels, known = collection.split(split), labelled_queries(collection, split)
    ranks = measures.first_relevant(bm25_hits(collection, split).rows, qrels)
    features = {}
    for i, row in enumerate(qrels.queries):
        own = set(words(collection.queries.text(row)))
        shared = (
            max(len(own & set(words(collection.docs.text(doc)))) for doc in qrels.positives(i))
            if len(qrels.positives(i))
            else 0
        )
        features[collection.queries.ids[row]] = {
            "BM25 rank of the positive": int(min(ranks[i], RANKED + 1)),
            "words of the query": len(own),
            "share of them in the positive": shared / max(len(own), 1),
            "its doc has a label in training": int(known[collection.queries.ids[row]]),
        }
    return features

"""Exact search by inner product over vectors in memory."""

import functools

import faiss
import numpy as np
import torch

from lib import dist
from lib.search.hits import Hits

# queries times dimensions from which faiss multiplies matrices; its default, 128,000, makes the search for a
# single batch (adore, at every step) five times as slow
faiss.cvar.distance_compute_blas_threshold = 1024
# queries and docs in one product: as many scores as by default, in a quicker shape (tests/bench/exact_search.py)
faiss.cvar.distance_compute_blas_query_bs, faiss.cvar.distance_compute_blas_database_bs = 1024, 4096
ON_GPU = 4096, 1 << 16  # queries and docs of one product there: a gigabyte of scores
ROWS = 8192  # queries whose best docs are sent to all processes at once
TIES = 32  # docs fetched beyond the wanted: among equal scores, as of copies, the first rows are kept, whatever k


def top_k(q_emb, d_emb, k, *, device=None):
    """The k docs of largest inner product -> (scores (Q, k) float32, rows (Q, k) int64), by_score_and_row().

    A zero vector, of a text without a known word, finds nothing and is not found: rows of -1, scores of 0. On the
    CPU FAISS searches; on a GPU, the torch.device, torch does, in float32 as well.
    """
    fetched = min(k + TIES, len(d_emb))
    if device is not None and device.type == "cuda":
        found = top_k_by_torch(q_emb, d_emb, fetched, device)
    else:
        found = faiss.knn(q_emb, d_emb, fetched, metric=faiss.METRIC_INNER_PRODUCT)
    scores, rows = (array[:, :k] for array in by_score_and_row(*found))
    scores, rows = without_zeros(q_emb, scores, rows, lambda found: d_emb[found])
    if len(short := np.flatnonzero((rows < 0).any(1) & q_emb.any(1))):  # zero docs took places of others
        there = np.flatnonzero(d_emb.any(1))
        if 0 < len(there) < len(d_emb):
            again, at = top_k(q_emb[short], d_emb[there], k, device=device)
            scores[short, : at.shape[1]], rows[short, : at.shape[1]] = again, there[at]
    return scores, rows


@torch.no_grad()
def top_k_by_torch(q_emb, d_emb, k, device, *, blocks=ON_GPU):
    """(scores (Q, k), rows (Q, k)), best first, of a product of `blocks` (queries, docs) at a time."""
    queries = torch.from_numpy(np.array(q_emb)).to(device)  # a copy: what is mapped from a file cannot be written to
    best = [(queries.new_empty(len(part), 0), queries.new_empty(len(part), 0, dtype=torch.int64))
            for part in queries.split(blocks[0])]  # fmt: skip
    for begin in range(0, len(d_emb), blocks[1]):
        docs = torch.from_numpy(np.array(d_emb[begin : begin + blocks[1]])).to(device)
        for i, part in enumerate(queries.split(blocks[0])):
            scores, rows = (part @ docs.T).topk(min(k, len(docs)))
            scores, rows = torch.cat([best[i][0], scores], 1), torch.cat([best[i][1], rows + begin], 1)
            scores, kept = scores.topk(min(k, scores.shape[1]))
            best[i] = scores, rows.gather(1, kept)
    return tuple(torch.cat(parts).cpu().numpy() for parts in zip(*best))


def without_zeros(q_emb, scores, rows, vectors_of):
    """Both (Q, k), closed up, without docs where the query's vector or the doc's, vectors_of(rows), is zero."""
    at = np.nonzero((scores == 0) & (rows >= 0))
    if len(at[0]):
        zero = ~q_emb[at[0]].any(1) | ~vectors_of(rows[at]).any(1)
        rows[at[0][zero], at[1][zero]] = -1
        order = np.argsort(rows < 0, axis=1, kind="stable")
        scores, rows = (np.take_along_axis(array, order, 1) for array in (scores, rows))
    return scores, rows


def by_score_and_row(scores, rows):
    """Both (Q, k), best first; equal scores, as of copies, in the order of their rows."""
    unsorted = np.flatnonzero(~(scores[:, :-1] > scores[:, 1:]).all(1))
    order = np.lexsort((rows[unsorted], -scores[unsorted]), axis=1)
    scores, rows = scores.copy(), rows.copy()
    for array in (scores, rows):
        array[unsorted] = np.take_along_axis(array[unsorted], order, 1)
    return scores, rows


def search(q_emb, d_emb, k, known=None, *, among=None, device=None):
    """The Hits of query vectors (Q, D) among doc vectors (M, D), each process doing its share on its torch.device.

    d_emb: an array, of which each process searches all for its share of the queries, or a dist.Spread, where each
    searches its own docs for all queries and sends the k best. among: the doc rows that are searched, all by default.
    """
    if isinstance(d_emb, dist.Spread):
        scores, rows = _top_k_of_all(q_emb, d_emb, k, among, device)
        return Hits(scores, rows, None if known is None else pair_scores(q_emb, d_emb, known))
    searched = d_emb if among is None else d_emb[among]
    scores, rows = dist.map_rows(lambda own: top_k(q_emb[own], searched, k, device=device), np.arange(len(q_emb)))
    rows = rows if among is None else np.where(rows < 0, -1, among[rows])
    return Hits(scores, rows, None if known is None else pair_scores(q_emb, d_emb, known))


def _top_k_of_all(q_emb, d_emb, k, among, device):
    """top_k() of a dist.Spread: what is sent is k scores and rows a query and process."""
    own = d_emb.rows if among is None else np.intersect1d(d_emb.rows, among)
    vectors = d_emb.vectors if among is None else d_emb.vectors[d_emb.place(own)]
    k, found = min(k, len(d_emb) if among is None else len(among)), []
    for begin in range(0, max(1, len(q_emb)), ROWS):
        part = q_emb[begin : begin + ROWS]
        scores, rows = np.zeros((len(part), k), dtype=np.float32), np.full((len(part), k), -1)
        if len(own) and len(part):
            best, at = top_k(part, vectors, k, device=device)
            scores[:, : best.shape[1]], rows[:, : best.shape[1]] = best, np.where(at < 0, -1, own[at])
        both = zip(dist.of_all(scores), dist.of_all(rows))
        found.append(functools.reduce(lambda one, other: merge(one, other, k), both))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def pair_scores(q_emb, d_emb, rows, *, block=8192):
    """(Q, P) inner products of each query with its own docs: rows (Q, P), -1 for none, which gives nan.

    d_emb: (M, D), a dist.Spread, or a function of rows that gives their vectors, asked for `block` of them at a time.
    """
    if isinstance(d_emb, dist.Spread):
        own = np.nan_to_num(pair_scores(q_emb, d_emb.vectors, d_emb.place(rows), block=block))
        return np.where(rows < 0, np.float32(np.nan), dist.total(own))
    take = d_emb if callable(d_emb) else d_emb.__getitem__
    scores = np.full(rows.shape, np.nan, dtype=np.float32)
    owner, column = np.nonzero(rows >= 0)
    for begin in range(0, len(owner), block):
        i, j = owner[begin : begin + block], column[begin : begin + block]
        scores[i, j] = np.einsum("nd,nd->n", q_emb[i], take(rows[i, j]))
    return scores


class Array:
    """(n, D) vectors in memory, read as ShardedVectors are."""

    def __init__(self, vectors):
        self.vectors, self.shape = vectors, vectors.shape

    def blocks(self, size):
        """(first row, vectors) of all of them."""
        yield 0, self.vectors

    def take(self, rows):
        """The vectors of `rows` (n,)."""
        return self.vectors[rows]


def pieces(vectors, size, among=None):
    """(rows, their vectors) of a ShardedVectors or Array, about `size` at a time: of all, or of the rows `among`."""
    for begin, block in vectors.blocks(size):
        rows = np.arange(begin, begin + len(block))
        if among is not None:
            rows = among[slice(*np.searchsorted(among, [begin, begin + len(block)]))]
            block = block[rows - begin]
        if len(rows):
            yield rows, block


def merge(a, b, k):
    """The k best of two (scores (n, C), rows (n, C)), ties by row; all of b where a is None."""
    if a is None:
        return b
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(a, b))
    scores, rows = by_score_and_row(np.where(rows < 0, -np.inf, scores), rows)
    scores = np.where(rows < 0, np.float32(0), scores)
    return scores[:, :k], rows[:, :k]

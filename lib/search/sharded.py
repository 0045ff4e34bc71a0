"""Resumable search of any size: work is cut into files, each written atomically and never computed again.

A killed command continues where it was; with several processes each makes its own share of the files.
"""

import contextlib
import functools

import numpy as np
from tqdm import tqdm

from lib import dist
from lib.data.tokens import tokenize
from lib.files import UNREADABLE, cache_dir, cached, fingerprint
from lib.model.encoder import embed, embed_texts
from lib.search.approximate import Approximate
from lib.search.exact import merge, pair_scores, pieces, top_k
from lib.search.hits import Hits

ROWS = 8192  # vectors or queries in a file


def once(path, function):
    """The arrays {name: array} that function() returns: from the file at `path`, which is made if need be."""

    def make(temporary):
        with open(temporary, "wb") as file:
            np.savez(file, **function())

    def read(path):
        with np.load(path) as arrays:
            return dict(arrays)

    return cached(path, make, read)


def make(folder, rows, function, *, desc):
    """The files of `folder` for so many rows, ROWS each, of function(number) -> {name: array}; returns their paths."""
    paths = [folder / f"{number:06}.npz" for number in range(-(-rows // ROWS))]
    own = [number for number in range(dist.rank(), len(paths), dist.world()) if not paths[number].exists()]
    sizes = [min(ROWS, rows - number * ROWS) for number in own]
    with tqdm(total=sum(sizes), unit="text", unit_scale=True, desc=desc, delay=2) as bar:
        for number, size in zip(own, sizes):
            once(paths[number], lambda number=number: function(number))
            bar.update(size)
    dist.barrier()
    return paths


class Beside:
    """The vectors in the folders beside a folder: of other states of its corpus, by the same encoder."""

    def __init__(self, folder):
        found = []  # (path, the fingerprints of its texts)
        for path in sorted(folder.parent.glob("*/*.npz")):
            with contextlib.suppress(*UNREADABLE), np.load(path) as arrays:
                found.append((path, arrays["texts"]))
        self._paths = [path for path, _ in found]
        texts = np.concatenate([np.zeros(0, np.uint64), *(texts for _, texts in found)])
        self._texts, first = np.unique(texts, return_index=True)
        sizes = [len(texts) for _, texts in found]
        self._file = np.repeat(np.arange(len(found)), sizes)[first]
        self._row = (np.arange(len(texts)) - np.repeat(np.cumsum([0, *sizes])[:-1], sizes))[first]

    def fill(self, out, texts):
        """Write into `out` (n, D) what is there of texts (n,); which rows (n,) are still to be made."""
        missing = np.ones(len(texts), dtype=bool)
        at = np.searchsorted(self._texts, texts)
        known = np.flatnonzero(self._texts[np.minimum(at, len(self._texts) - 1)] == texts) if len(self._texts) else []
        files = self._file[at[known]]
        for number in np.unique(files):
            rows = known[files == number]
            with contextlib.suppress(*UNREADABLE), np.load(self._paths[number]) as arrays:
                out[rows], missing[rows] = arrays["vectors"][self._row[at[rows]]], False
        return missing


class ShardedVectors:
    """(n, dim) float32 vectors in files of ROWS rows each, read piece by piece into memory of their own."""

    def __init__(self, folder, n, dim, embed, *, desc, texts=None):
        """embed(rows) -> (len(rows), dim) makes what is missing; `embedded` counts the rows.

        texts() -> (n,) a fingerprint of each text: vectors that folders beside this one have of equal texts are read
        there.
        """
        self.shape, self.embedded = (n, dim), 0
        beside = functools.cache(lambda: (Beside(folder), texts()))

        def one(number):
            rows = np.arange(number * ROWS, min(n, (number + 1) * ROWS))
            out, missing, more = np.empty((len(rows), dim), dtype=np.float32), np.ones(len(rows), dtype=bool), {}
            if texts is not None:
                more = {"texts": beside()[1][rows]}
                missing = beside()[0].fill(out, more["texts"])
            if missing.any():
                out[missing] = embed(rows[missing])
            self.embedded += int(missing.sum())
            return {"vectors": out, **more}

        self._one, self._paths = one, make(folder, n, one, desc=desc)

    def __len__(self):
        return self.shape[0]

    def file(self, number):
        """The vectors of one file."""
        return once(self._paths[number], lambda: self._one(number))["vectors"]

    def blocks(self, rows):
        """(first row, vectors) of pieces of about `rows` rows, in order."""
        files = max(1, rows // ROWS)
        for begin in range(0, len(self._paths), files):
            parts = [self.file(i) for i in range(begin, min(begin + files, len(self._paths)))]
            yield begin * ROWS, parts[0] if len(parts) == 1 else np.concatenate(parts)

    def take(self, rows):
        """The vectors of `rows` (n,), each file read once."""
        out = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        files = rows // ROWS
        for number in np.unique(files):
            inside = files == number
            out[inside] = self.file(number)[rows[inside] - number * ROWS]
        return out


class Sharded:
    """Exact search over vectors in files, within `max_ram` bytes beside the result."""

    def __init__(self, vectors, embed, *, key, query_key, max_ram, encoder=None, mine_index=None, device=None):
        """vectors: ShardedVectors; embed(texts) -> (n, D); keys identify the doc vectors and what embeds queries."""
        self.vectors, self.encoder, self.fingerprint = vectors, encoder, key
        self._embed, self._query_key, self._device = embed, query_key, device
        self._approximate = Approximate(mine_index) if mine_index else None
        if mine_index:
            self.fingerprint = fingerprint(key, mine_index)
        # docs at a time: a quarter of the memory; the search needs as much again
        self._block = max(ROWS, int(max_ram / 4 / (4 * vectors.shape[1])))

    @classmethod
    def open(cls, docs, encoder, *, precision, max_ram, mine_index=None, device=None):
        """Over the vectors of all docs (Texts) by an encoder that embeds in the named precision; cached.

        mine_index: search by such an index instead (search.approximate). device: where exact search computes.
        """
        with dist.main_first():
            tokens = tokenize(docs, encoder, "doc")
        made_by = encoder.fingerprint, precision, encoder.vector_key() if encoder.kind == "transformer" else ""
        key = fingerprint(*made_by, encoder.token_key("doc"), docs.fingerprint)
        folder = cache_dir("vectors", fingerprint(*made_by, encoder.token_key("doc")), key)
        vectors = ShardedVectors(
            folder,
            len(docs),
            encoder.dim,
            functools.partial(embed, encoder, tokens),
            desc="embedding docs",
            texts=tokens.fingerprints,
        )
        make_queries = functools.partial(embed_texts, encoder, kind="query")
        how = {"max_ram": max_ram, "encoder": encoder, "mine_index": mine_index, "device": device}
        return cls(vectors, make_queries, key=key, query_key=fingerprint(*made_by, encoder.token_key("query")), **how)

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts."""
        q_emb = self._query_vectors(queries)
        k, best = min(k, len(self.vectors) if among is None else len(among)), None
        if self._approximate:
            best = self._approximate.top_k(q_emb, self.vectors, k, among)
        else:
            for docs, d_emb in pieces(self.vectors, self._block, among):
                scores, rows = top_k(q_emb, d_emb, k, device=self._device)
                best = merge(best, (scores, np.where(rows < 0, -1, docs[rows]).astype(np.int32)), k)
        return Hits(*best, None if known is None else pair_scores(q_emb, self.vectors.take, known, block=ROWS))

    def _query_vectors(self, queries):
        """(Q, D): kept where the queries are of a collection, and not where somebody has just typed them."""
        if not hasattr(queries, "fingerprint"):
            return self._embed(queries)
        path = cache_dir("vectors", fingerprint(self._query_key, queries.fingerprint) + ".npz")
        return once(path, lambda: {"vectors": self._embed(queries)})["vectors"]


def cached_search(retriever, queries, k, known=None, among=None, *, desc="searching"):
    """retriever.search() of a view of queries, in files of ROWS queries in the cache."""

    def one(number):
        part = slice(number * ROWS, (number + 1) * ROWS)
        found = retriever.search(queries[part], k, None if known is None else known[part], among)
        return {name: array for name, array in found._asdict().items() if array is not None}

    key = fingerprint(retriever.fingerprint, queries.fingerprint, known, among, k)
    paths = make(cache_dir("hits", key), len(queries), one, desc=desc)
    parts = [Hits(**once(path, functools.partial(one, number))) for number, path in enumerate(paths)]
    return Hits(*(None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*parts)))

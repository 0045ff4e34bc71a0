"""Work too large for memory or for one sitting: files of a folder that are made one by one and never twice.

Each file is committed atomically, so that a killed command continues where it was; with several processes
each makes its own share of the files.
"""
import numpy as np
from tqdm import tqdm

from lib import dist, index
from lib.run import atomic_path

ROWS = 8192  # vectors in a file


def make(folder, count, function, *, desc):
    """Files 0 ... count - 1 of `folder`, each function(number) -> {name: array}; returns their paths."""
    paths = [folder / f"{number:06}.npz" for number in range(count)]
    own = [number for number in range(dist.rank(), count, dist.world()) if not paths[number].exists()]
    for number in tqdm(own, unit="shard", desc=desc, delay=2):
        arrays = function(number)
        with atomic_path(paths[number]) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)
    dist.barrier()
    return paths


class Vectors:
    """(n, dim) float32 vectors in files of ROWS rows each, read piece by piece into memory of their own."""

    def __init__(self, folder, n, dim, embed, *, desc):
        """embed(rows) -> (len(rows), dim) makes what is missing."""
        self.shape = n, dim

        def one(number):
            return {"vectors": embed(np.arange(number * ROWS, min(n, (number + 1) * ROWS)))}
        self._paths = make(folder, -(-n // ROWS), one, desc=desc)

    def __len__(self):
        return self.shape[0]

    def file(self, number):
        """The vectors of one file."""
        with np.load(self._paths[number]) as arrays:
            return arrays["vectors"]

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
            mine = files == number
            out[mine] = self.file(number)[rows[mine] - number * ROWS]
        return out


def search(folder, queries, docs, known, k, *, max_ram, desc):
    """The k docs of largest inner product of every query, exactly, in `max_ram` bytes beside the result.

    queries, docs: Vectors; known (Q, P): doc rows whose scores are wanted too, -1 for none. Returns scores
    (Q, k), rows (Q, k) and scores of the known ones (Q, P), nan for none.
    """
    dim, k = docs.shape[1], min(k, len(docs))
    block = max(ROWS, int(max_ram / 4 / (4 * dim)))  # docs at a time: a quarter; search needs as much again

    def one(number):
        q_emb = queries.file(number)
        wanted = known[number * ROWS:number * ROWS + len(q_emb)]
        best = None
        for begin, d_emb in docs.blocks(block):
            scores, rows = index.exact_search(q_emb, d_emb, k)
            rows = (rows + begin).astype(np.int32)
            best = (scores, rows) if best is None else merge(best, (scores, rows), k)
        there, column = np.nonzero(wanted >= 0)
        extra = np.full(wanted.shape, np.nan, dtype=np.float32)
        for begin in range(0, len(there), ROWS):
            part = slice(begin, begin + ROWS)
            docs_of = docs.take(wanted[there[part], column[part]])
            extra[there[part], column[part]] = np.einsum("nd,nd->n", q_emb[there[part]], docs_of)
        return {"scores": best[0], "rows": best[1], "known": extra}

    paths = make(folder, -(-len(queries) // ROWS), one, desc=desc)
    return tuple(read(paths, name) for name in ("scores", "rows", "known"))


def read(paths, name):
    """One array of every file, one behind the other."""
    parts = []
    for path in paths:
        with np.load(path) as arrays:
            parts.append(arrays[name])
    return np.concatenate(parts)


def merge(a, b, k):
    """The k best of two (scores (n, C), rows (n, C)), ties by row: a's rows come before b's."""
    scores, rows = (np.concatenate(pair, axis=1) for pair in zip(a, b))
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

"""Vectors that another system made: a folder with queries.npy and docs.npy, searched exactly."""

import pathlib

import numpy as np

from lib.files import BadInput, fingerprint, fingerprint_file, read_json, reading
from lib.search import exact
from lib.search.hits import Hits

SIDES = ("queries", "docs")


def is_folder_of_vectors(spec):
    """Whether a folder holds the two files."""
    return all((pathlib.Path(spec) / f"{side}.npy").is_file() for side in SIDES)


class Vectors:
    """Searches with vectors from files, row i for the i-th query or doc of the collection.

    The collection's own queries can be searched for, not texts that somebody types.
    """

    encoder = None

    def __init__(self, q_emb, d_emb, *, key, device=None):
        self._q_emb, self._d_emb, self.fingerprint, self._device = q_emb, d_emb, key, device

    @classmethod
    def open(cls, folder, collection, *, device=None):
        """queries.npy (n, D) and docs.npy (M, D) of a folder, in the order of queries.jsonl and corpus.jsonl.

        Where queries.ids.json or docs.ids.json (a list of ids) lies beside them, its order is compared. BadInput if
        counts, ids, dimensions or values do not fit.
        """
        found = []
        for side in SIDES:
            path, texts = pathlib.Path(folder) / f"{side}.npy", getattr(collection, side)
            with reading(path, " as an array"):
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            if vectors.ndim != 2 or vectors.dtype.kind != "f":
                raise BadInput(f"{path}: {vectors.dtype} of shape {vectors.shape}; (n, D) of floats is wanted")
            if len(vectors) != len(texts):
                raise BadInput(f"{path}: {len(vectors):,} rows, and {collection.name} has {len(texts):,} {side}")
            ids = path.with_name(f"{side}.ids.json")
            given = read_json(ids) if ids.exists() else texts.ids
            if not isinstance(given, list):
                raise BadInput(f"{ids}: a list of ids is wanted, found {type(given).__name__}")
            if given != texts.ids:
                row = next((i for i, pair in enumerate(zip(given, texts.ids)) if pair[0] != pair[1]), len(given))
                raise BadInput(f"{ids}: not the ids of {texts.path}, in its order; the first that differs is row {row}")
            for begin in range(0, len(vectors), 1 << 16):
                if not np.isfinite(vectors[begin : begin + (1 << 16)]).all():
                    raise BadInput(f"{path}: holds values that are not finite")
            found.append(vectors)
        if found[0].shape[1] != found[1].shape[1]:
            raise BadInput(f"{folder}: queries have {found[0].shape[1]} dimensions, docs {found[1].shape[1]}")
        key = fingerprint("vectors", *(fingerprint_file(pathlib.Path(folder) / f"{side}.npy") for side in SIDES))
        return cls(*found, key=key, device=device)

    def search(self, queries, k, known=None, among=None):
        """The Hits of a view of the collection's queries."""
        if not hasattr(queries, "rows"):
            raise BadInput("vectors from files can be searched with the collection's own queries only")
        q_emb = np.asarray(self._q_emb[queries.rows], dtype=np.float32)
        d_emb = np.asarray(self._d_emb, dtype=np.float32)
        # not exact.search(), which shares queries among processes: cached_search() gives each its own already
        scores, rows = exact.top_k(q_emb, d_emb if among is None else d_emb[among], k, device=self._device)
        rows = rows if among is None else np.where(rows < 0, -1, among[rows])
        return Hits(scores, rows, None if known is None else exact.pair_scores(q_emb, d_emb, known))

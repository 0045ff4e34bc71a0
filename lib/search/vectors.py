"""Vectors as files: what another system made, searched exactly, and what others are to search."""

import json
import pathlib

import numpy as np

from lib.data.formats.table_files import parquet_package
from lib.files import BadInput, atomic_path, fingerprint, fingerprint_file, read_json, reading, write_json
from lib.search import exact
from lib.search.hits import Hits

SIDES = ("queries", "docs")
LARGEST = 1e18  # a number of a vector: the square of a larger one is none in float32
ROWS = 8192  # that are written at a time


def is_folder_of_vectors(spec):
    """Whether a folder holds the two files."""
    return all((pathlib.Path(spec) / f"{side}.npy").is_file() for side in SIDES)


def check_place(path):
    """BadInput if export() would take the place of what it has not written, or lacks what it needs."""
    parquet = path.suffix == ".parquet"
    if path.exists() and not (path.is_file() if parquet else is_folder_of_vectors(path)):
        raise BadInput(f"--export {path}: there is something else; name another place")
    if parquet:
        parquet_package(path)


def export(path, collection, vectors, q_emb):
    """Write a collection's vectors for other systems; what was written, in words.

    path: a folder, for docs.npy and queries.npy with ids beside them, as Vectors.open() reads them; or a .parquet file
    with a row a doc (id, title, text, metadata as JSON, vector). vectors: of exact.pieces(), (M, D); q_emb: (n, D).
    """
    docs, rows = collection.docs, exact.pieces(vectors, ROWS)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pyarrow = parquet_package(path)
            vector = pyarrow.list_(pyarrow.float32(), q_emb.shape[1])
            fields = dict.fromkeys(("id", "title", "text", "metadata"), pyarrow.string()) | {"vector": vector}
            schema = pyarrow.schema(list(fields.items()))
            with pyarrow.parquet.ParquetWriter(temporary, schema) as file:
                for own, block in rows:
                    records = [docs.record(row) for row in own.tolist()]
                    columns = {"id": [docs.ids[row] for row in own]}
                    columns |= {name: [each.get(name) for each in records] for name in ("title", "text")}
                    columns["metadata"] = [json.dumps(each.get("metadata") or {}) for each in records]
                    values = pyarrow.array(np.asarray(block, dtype=np.float32).ravel())
                    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(values, q_emb.shape[1])
                    file.write_table(pyarrow.table(columns, schema=schema))
            return f"{path}: id, title, text, metadata and vector of {len(docs):,} docs"
        temporary.mkdir()
        shape = (len(docs), q_emb.shape[1])
        written = np.lib.format.open_memmap(temporary / "docs.npy", mode="w+", dtype=np.float32, shape=shape)
        for own, block in rows:
            written[own] = block
        written.flush()
        np.save(temporary / "queries.npy", q_emb)
        for side in SIDES:
            write_json(temporary / f"{side}.ids.json", getattr(collection, side).ids)
    return f"{path}/: docs.npy and queries.npy, float32 {shape}, and their ids"


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

        Where queries.ids.json or docs.ids.json (a list of ids) lies beside them, theirs is the order. BadInput if
        counts, ids, dimensions or values do not fit.
        """
        found = []
        for side in SIDES:
            path, texts = pathlib.Path(folder) / f"{side}.npy", getattr(collection, side)
            with reading(path, " as an array"):
                vectors = np.load(path, mmap_mode="r", allow_pickle=False)
            if not isinstance(vectors, np.ndarray):
                raise BadInput(f"{path}: an archive of several arrays; one array is wanted, as np.save writes it")
            if vectors.ndim != 2 or vectors.dtype.kind != "f":
                raise BadInput(f"{path}: {vectors.dtype} of shape {vectors.shape}; (n, D) of floats is wanted")
            if len(vectors) != len(texts):
                raise BadInput(f"{path}: {len(vectors):,} rows, and {collection.name} has {len(texts):,} {side}")
            ids = path.with_name(f"{side}.ids.json")
            given = read_json(ids) if ids.exists() else texts.ids
            if not isinstance(given, list):
                raise BadInput(f"{ids}: a list of ids is wanted, found {type(given).__name__}")
            if given != texts.ids and sorted(map(str, given)) == sorted(texts.ids):
                row_of = {ident: row for row, ident in enumerate(given)}
                vectors = vectors[[row_of[ident] for ident in texts.ids]]
            elif given != texts.ids:
                row = next((i for i, pair in enumerate(zip(given, texts.ids)) if pair[0] != pair[1]), len(given))
                raise BadInput(f"{ids}: not the ids of {texts.path}; the first that differs is row {row}")
            for begin in range(0, len(vectors), 1 << 16):
                block = vectors[begin : begin + (1 << 16)]
                size = np.abs(block, dtype=np.float64).max(initial=0)
                if not size < LARGEST or not vectors.shape[1]:
                    raise BadInput(f"{path}: holds values that are not finite, or larger than {LARGEST:g}, or none")
                if 0 < size < 1 / LARGEST:
                    raise BadInput(f"{path}: all values are smaller than {1 / LARGEST:g}: scale them up")
            found.append(vectors)
        if found[0].shape[1] != found[1].shape[1]:
            raise BadInput(f"{folder}: queries have {found[0].shape[1]} dimensions, docs {found[1].shape[1]}")
        files = [pathlib.Path(folder) / f"{side}.{ending}" for side in SIDES for ending in ("npy", "ids.json")]
        key = fingerprint("vectors", *(fingerprint_file(path) if path.exists() else "" for path in files))
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

"""FAISS indexes on disk, with the record of what they were made from."""

import faiss
import numpy as np

from lib.files import BadInput, atomic_path, fingerprint_file, read_json, reading, write_json
from lib.model.encoder import embed_texts
from lib.search.exact import by_score_and_row, pair_scores, without_zeros
from lib.search.hits import Hits

META = ("encoder_fingerprint", "corpus_fingerprint", "precision", "digest")  # what a loader compares
TIES = 32  # docs fetched beyond the wanted: among equal scores, as of copies, the first rows are kept, whatever k


def build_index(d_emb):
    """A flat inner-product index over (M, D) vectors: exact, no training, 4 * D bytes a doc."""
    index = faiss.IndexFlatIP(d_emb.shape[1])
    index.add(d_emb)
    return index


def save_index(index, folder, meta):
    """Write an index with what it was made from. `meta` holds the fingerprints that a loader compares."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        faiss.write_index(index, str(temporary / "index.faiss"))
        meta |= {"docs": index.ntotal, "dim": index.d, "digest": fingerprint_file(temporary / "index.faiss")}
        write_json(temporary / "meta.json", meta)


def read_meta(folder):
    """What an index was made from; BadInput if there is no index."""
    if not (folder / "meta.json").exists():
        raise BadInput(f"{folder}: no index; make it with build_index.py")
    return read_json(folder / "meta.json", **dict.fromkeys(META, str))


def load_index(folder, *, encoder_fingerprint, collection):
    """The index of a folder; BadInput if another encoder or another corpus made it."""
    meta = read_meta(folder)
    for key, wanted in (
        ("encoder_fingerprint", encoder_fingerprint),
        ("corpus_fingerprint", collection.docs.fingerprint),
    ):
        if meta[key] != wanted:
            raise BadInput(f"{folder}: the index was made with {key} {meta[key]}, this one is {wanted}; build it again")
    path = folder / "index.faiss"
    with reading(path):  # FAISS believes what it reads: a file that was changed can make it write anywhere
        if fingerprint_file(path) != meta["digest"]:
            raise BadInput(f"{path}: is not the file that meta.json describes (its digest differs); build it again")
        index = faiss.read_index(str(path))
    if index.ntotal != len(collection.docs):
        raise BadInput(f"{folder}: {index.ntotal} vectors for {len(collection.docs)} docs; build it again")
    return index


class FaissRetriever:
    """Searches an index with the encoder that made it, in the precision in which the docs were encoded."""

    def __init__(self, encoder, index):
        self.encoder, self.index = encoder, index
        self.fingerprint = encoder.fingerprint

    def search(self, queries, k, known=None, among=None):
        """The Hits of query texts; scores of known docs are those of the vectors that the index holds."""
        q_emb = embed_texts(self.encoder, queries, "query", desc="embedding queries")
        size, how = (self.index.ntotal, None) if among is None else (len(among), _only(among))
        found = self.index.search(q_emb, min(k + TIES, size), params=how)
        scores, rows = (x[:, :k] for x in by_score_and_row(*found))
        rows = without_zeros(q_emb, scores, rows, self.index.reconstruct_batch)
        if known is None:
            return Hits(scores, rows)
        d_emb = self.index.reconstruct_n(0, self.index.ntotal)
        return Hits(scores, rows, pair_scores(q_emb, d_emb, known))


def _only(rows):
    """FAISS's parameters of a search among some rows."""
    return faiss.SearchParameters(sel=faiss.IDSelectorBatch(np.asarray(rows, dtype=np.int64)))

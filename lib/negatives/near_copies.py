"""Near-copies: how alike two texts are, by their shingles; exactly, or for a whole corpus by MinHash."""

import functools
import hashlib

import numpy as np
from tqdm import tqdm

from lib.data.words import normalise
from lib.files import cache_dir, cached_array, fingerprint
from lib.rng import mix, uniform

NEAR_COPY = 0.5  # Jaccard similarity of shingles from which on a text is called one
SHINGLE, HASHES = 3, 128  # words a shingle; hash functions of a signature: the estimate's deviation is < .045


def shingles(text):
    """The set of the text's 3-word shingles; of its words, if it has fewer."""
    words = normalise(text).split()
    return set(zip(*(words[i:] for i in range(SHINGLE)))) or {tuple(words)}


def minhash(texts):
    """(n, HASHES) uint32 signatures of all texts: equal entries estimate Jaccard similarity (Broder 1997)."""

    def make():
        signatures = np.empty((len(texts), HASHES), dtype=np.uint32)
        for row in tqdm(range(len(texts)), unit="text", unit_scale=True, desc="MinHash", delay=2):
            signatures[row] = signature(texts.text(row))
        return signatures

    key = fingerprint(texts.fingerprint, SHINGLE, HASHES, "marks")
    return cached_array(cache_dir("minhash", f"{key}.npy"), make, mapped=True)


def near_copies_of_positives(collection, query_rows, docs, *, similarity):
    """(n, C) bool: whether doc row docs[i, c] is this similar (Jaccard, by MinHash) to a positive of query_rows[i]."""
    signatures = minhash(collection.docs)
    found = np.zeros(docs.shape, dtype=bool)
    known = collection.known_docs(query_rows)  # (n, P)
    block = max(1, (1 << 23) // max(1, docs.shape[1] * HASHES))
    for begin in range(0, len(docs), block):
        part = slice(begin, begin + block)
        own = signatures[np.maximum(docs[part], 0)]  # (n, C, HASHES)
        for column in known[part].T:
            theirs = signatures[np.maximum(column, 0)][:, None]  # (n, 1, HASHES)
            found[part] |= ((own == theirs).mean(2) >= similarity) & (column >= 0)[:, None]
    return found & (docs >= 0)


def signature(text):
    """(HASHES,) uint32: the least hash of the text's shingles under each of HASHES hash functions."""
    words = np.array([_hash_word(word) for word in normalise(text).split()] or [0], dtype=np.uint64)
    shingles = words[: max(1, len(words) - SHINGLE + 1)].copy()
    with np.errstate(over="ignore"):
        for i in range(1, min(SHINGLE, len(words))):
            shingles = shingles * np.uint64(0x9E3779B97F4A7C15) + words[i : i + len(shingles)]
        hashed = mix(np.unique(shingles)[:, None] ^ _SALTS)  # (shingles, HASHES)
    return (hashed.min(0) >> np.uint64(32)).astype(np.uint32)


@functools.lru_cache(maxsize=1 << 18)
def _hash_word(word):
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


_SALTS = (uniform("minhash", np.arange(HASHES)) * 2.0**53).astype(np.uint64) << np.uint64(11)


def share_of_near_copies(candidates, collection, *, similarity=0.5):
    """{"positive", "query": share of the candidates that are near-copies of a positive, of the query}.

    By exact similarities: quick for a few hundred queries. None where there are no candidates.
    """
    shingles_of = functools.lru_cache(maxsize=1 << 16)(lambda row: shingles(collection.docs.text(row)))
    found = []
    for query, docs, known in zip(candidates.queries, candidates.docs, collection.known_docs(candidates.queries)):
        targets = [shingles_of(row) for row in known[known >= 0].tolist()], [shingles(collection.queries.text(query))]
        for own in map(shingles_of, docs[docs >= 0].tolist()):
            found.append([any(len(own & t) >= similarity * len(own | t) for t in texts) for texts in targets])
    shares = np.mean(found, axis=0).tolist() if found else (None, None)
    return dict(zip(("positive", "query"), shares))

"""Token ids: made once for each pair of tokenizer and texts, then mapped from disk."""

from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from lib import rng
from lib.data.collection import ranges
from lib.files import cache_dir, cached, fingerprint

FINGERPRINTED = 65_536  # texts at a time


class TokenBatch(NamedTuple):
    """What an encoder's forward() takes: the tokens of n texts, one text behind the other."""

    ids: torch.Tensor  # (T,) int32
    offsets: torch.Tensor  # (n + 1,) int32: text i has ids[offsets[i]:offsets[i + 1]]
    counts: torch.Tensor | None  # (T,) float32: how often a static encoder's token stands in the text
    kind: str  # query or doc


class Tokens:
    """Token ids of n texts in one flat array. Static encoders keep each id once per text, with a count."""

    def __init__(self, ids, offsets, counts=None, *, kind="doc", names=None):
        self.ids, self.offsets, self.counts = ids, offsets, counts  # (T,), (n + 1,), (T,) or None
        self.kind, self.names = kind, names  # query or doc; the texts' ids, for messages

    def __len__(self):
        return len(self.offsets) - 1

    @property
    def lengths(self):
        """(n,) tokens of each text."""
        return np.diff(self.offsets)

    def fingerprints(self):
        """(n,) uint64: equal where the tokens, their order and counts are equal, which makes vectors equal too."""
        found = np.zeros(len(self), dtype=np.uint64)
        for begin in range(0, len(self), FINGERPRINTED):  # a block at a time: several numbers of 8 bytes a token
            ends = self.offsets[begin : begin + FINGERPRINTED + 1]
            flat, lengths = slice(ends[0], ends[-1]), np.diff(ends)
            parts = [self.ids[flat], np.arange(ends[0], ends[-1]) - np.repeat(ends[:-1], lengths)]
            parts += [] if self.counts is None else [self.counts[flat]]
            sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(rng.hashed(*parts), dtype=np.uint64)])
            found[begin : begin + len(lengths)] = np.diff(sums[ends - ends[0]])
        return found

    def select(self, rows):
        """The TokenBatch of some rows."""
        start, end = self.offsets[rows], self.offsets[np.asarray(rows) + 1]
        flat = ranges(start, end)
        offsets = np.concatenate([[0], np.cumsum(end - start)]).astype(np.int32)
        counts = None if self.counts is None else torch.from_numpy(self.counts[flat].astype(np.float32))
        return TokenBatch(torch.from_numpy(self.ids[flat]), torch.from_numpy(offsets), counts, self.kind)


def tokenize(texts, encoder, kind, *, block=4096):
    """Tokens of all of `texts` as `kind` (query or doc); made once per (tokenizer, texts), then mapped."""

    def make(folder):
        parts = []
        with tqdm(total=len(texts), unit="text", unit_scale=True, delay=1, desc=f"tokenising {texts.path.name}") as bar:
            for begin in range(0, len(texts), block):
                rows = range(begin, min(begin + block, len(texts)))
                parts.append(encoder.tokenize(texts.texts(rows), kind))
                bar.update(len(rows))
        ids, offsets, counts = zip(*parts)
        lengths = np.concatenate([np.diff(o) for o in offsets])
        folder.mkdir()
        np.save(folder / "ids.npy", np.concatenate(ids))
        np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]))
        if counts[0] is not None:
            np.save(folder / "counts.npy", np.concatenate(counts))

    def read(folder):
        ids, offsets = np.load(folder / "ids.npy", mmap_mode="r"), np.load(folder / "offsets.npy")
        counts = np.load(folder / "counts.npy", mmap_mode="r") if (folder / "counts.npy").exists() else None
        if offsets[-1] != len(ids):
            raise ValueError("arrays of different lengths")
        return Tokens(ids, offsets, counts, kind=kind, names=getattr(texts, "ids", None))

    key = fingerprint(encoder.token_key(kind), texts.fingerprint)
    return cached(cache_dir("tokens", key), make, read)


def cut_note(encoder, docs):
    """A sentence on docs (Texts) that fill all the tokens which an encoder reads of one; empty where none does."""
    limit = getattr(encoder, "settings", {}).get("doc_length")
    full = int((tokenize(docs, encoder, "doc").lengths >= limit).sum()) if limit else 0
    share = f"{full:,} of {len(docs):,} docs ({full / max(1, len(docs)):.1%})"
    return (
        f"note: {share} fill the {limit} tokens that this encoder reads of a doc: what follows is lost" if full else ""
    )

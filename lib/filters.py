"""Filters over candidates: which docs of a mined list may serve as negatives, and the choice among those.

A filter is written name:value, as in percpos:0.95; several apply in the order given, each to what the ones
before it left. Let s be a candidate's score and s+ its query's positive score, both by the miner.
"""
import dataclasses
import functools
import hashlib

import numpy as np
from tqdm import tqdm

from lib.run import BadInput, atomic_path, cache_dir, fingerprint, mix, uniform

SHINGLE, HASHES = 3, 128  # words a shingle; hash functions of a signature: the estimate's deviation is < .045


def window(candidates, collection, first, last):
    """Ranks outside of first..last, counted from 1 in the list as it was mined."""
    return (candidates.ranks < first) | (candidates.ranks > last)


def max_score(candidates, collection, limit):
    """Scores above an absolute limit."""
    return candidates.scores > limit


def margin(candidates, collection, gap):
    """Scores not below s+ minus an absolute gap (MarginPos; Moreira et al. 2024, section 3)."""
    return candidates.scores >= candidates.positive[:, None] - gap


def percpos(candidates, collection, share):
    """Scores not below a share of s+ (TopK-PercPos; Moreira et al. 2024, section 3).

    The paper's threshold is s+ * share; for a negative s+ that would lie above it, so the distance
    |s+| * (1 - share) is taken off, which is the same where s+ is positive.
    """
    positive = candidates.positive[:, None]
    return candidates.scores >= positive - np.abs(positive) * (1 - share)


def quantile(candidates, collection, level):
    """Scores above that quantile of all queries' positive scores; a rising affine map changes nothing."""
    return candidates.scores > np.nanquantile(candidates.positive.astype(np.float64), level)


def near_copy(candidates, collection, similarity):
    """Docs whose 3-word shingles are this similar (Jaccard, by MinHash) to a positive's."""
    signatures = minhash(collection.docs)
    drop = np.zeros(candidates.docs.shape, dtype=bool)
    for begin in range(0, len(drop), 256):
        part = slice(begin, begin + 256)
        mine = signatures[np.maximum(candidates.docs[part], 0)]                         # (n, C, HASHES)
        known = collection.known_docs(candidates.queries[part])                         # (n, P)
        for column in known.T:
            theirs = signatures[np.maximum(column, 0)][:, None]                         # (n, 1, HASHES)
            drop[part] |= ((mine == theirs).mean(2) >= similarity) & (column >= 0)[:, None]
    return drop


def near_copies(candidates, collection, *, similarity=0.5):
    """Share of the candidates that near_copy drops, by exact similarities: quick for a few hundred queries.

    None where there are no candidates.
    """
    shingles_of = functools.lru_cache(maxsize=1 << 16)(lambda row: shingles(collection.docs.text(row)))
    found = []
    for docs, known in zip(candidates.docs, collection.known_docs(candidates.queries)):
        positives = [shingles_of(row) for row in known[known >= 0].tolist()]
        for mine in map(shingles_of, docs[docs >= 0].tolist()):
            found.append(any(len(mine & p) >= similarity * len(mine | p) for p in positives))
    return sum(found) / len(found) if found else None


def answer(candidates, collection):
    """Docs that hold an answer of the query: `answers` in a query's record or in its metadata."""
    drop = np.zeros(candidates.docs.shape, dtype=bool)
    text_of = functools.lru_cache(maxsize=1 << 16)(lambda row: normalise(collection.docs.text(row)))
    found = False
    for i, row in enumerate(candidates.queries):
        record = collection.queries.record(row)
        answers = record.get("answers") or (record.get("metadata") or {}).get("answers") or []
        answers = [answers] if isinstance(answers, str) else answers
        if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
            raise BadInput(f'{collection.queries.path}: "answers" of {record["_id"]} must be a list of '
                           "strings")
        found |= bool(answers)
        wanted = [f" {normalise(a)} " for a in answers if normalise(a)]
        if wanted:
            drop[i] = [doc >= 0 and any(a in f" {text_of(doc)} " for a in wanted)
                       for doc in candidates.docs[i]]
    if not found:
        raise BadInput("the filter answer: no query of this split has \"answers\" in its record or metadata")
    return drop


def denoise(candidates, collection, limit):
    """Docs that a cross-encoder gives more than this (RocketQA, Qu et al. 2021: 0.1)."""
    if candidates.teacher is None:
        raise BadInput("the filter denoise needs scores of --cross_encoder")
    return candidates.teacher > limit


@dataclasses.dataclass(frozen=True)
class Filter:
    """One filter with its numbers. `text` is how it was written."""
    text: str
    function: object
    numbers: tuple

    def __call__(self, candidates, collection):
        """(n, C) bool: what to drop."""
        return self.function(candidates, collection, *self.numbers)


#        name: (function, types of its numbers, which scores of the miner it needs)
FILTERS = {"window": (window, (int, int), ()), "max_score": (max_score, (float,), ("scores",)),
           "margin": (margin, (float,), ("scores", "positive")),
           "percpos": (percpos, (float,), ("scores", "positive")),
           "quantile": (quantile, (float,), ("scores", "positive")), "near_copy": (near_copy, (float,), ()),
           "answer": (answer, (), ()), "denoise": (denoise, (float,), ())}
SHARES = ("percpos", "quantile", "near_copy", "denoise")  # their number lies between 0 and 1


def parse_filter(text):
    """The Filter that `text` names, such as window:11:30; BadInput if there is none."""
    name, *numbers = text.split(":")
    if name not in FILTERS:
        raise BadInput(f"--filters {text}: no such filter; there are {', '.join(FILTERS)}")
    function, types, _ = FILTERS[name]
    try:
        values = tuple(kind(number) for kind, number in zip(types, numbers, strict=True))
    except ValueError:
        raise BadInput(f"--filters {text}: {name} takes {len(types)} number{'s' * (len(types) != 1)}, as in "
                       f"{':'.join([name, *('0.9' if t is float else '10' for t in types)])}") from None
    if any(not np.isfinite(value) for value in values) or name in SHARES and not 0 <= values[0] <= 1:
        wanted = "a number from 0 to 1" if name in SHARES else "a number"
        raise BadInput(f"--filters {text}: {wanted} is wanted")
    return Filter(text, function, values)


def apply(candidates, filters, collection):
    """Candidates without what the filters drop, closed up to the left; each filter's count in `dropped`."""
    for each in filters:
        scored = FILTERS[each.text.split(":")[0]][2]
        there = candidates.docs >= 0
        for name in scored:
            values = candidates.scores[there] if name == "scores" else candidates.positive
            if there.any() and np.isnan(values).all():
                what = {"scores": "scores", "positive": "scores of the positives"}[name]
                raise BadInput(f"--filters {each.text}: needs {what}, and {candidates.source} has none")
        if scored and len(candidates.origins) > 1:
            raise BadInput(f"--filters {each.text}: {', '.join(candidates.origins)} score on scales of their "
                           "own; filter when mining, where each source stands alone")
        drop = each(candidates, collection) & there
        before = candidates.dropped.get(each.text, 0)
        candidates = keep(candidates, there & ~drop)
        candidates.dropped = candidates.dropped | {each.text: before + int(drop.sum())}
    return candidates


def keep(candidates, mask, *, depth=None):
    """Candidates where `mask` (n, C) holds, closed up to the left, the first `depth` of each list."""
    front = np.argsort(~mask, axis=1, kind="stable")[:, :depth]
    kept = np.take_along_axis(mask, front, 1)
    changed = {}
    for name, missing in (("docs", -1), ("ranks", 0), ("scores", np.nan), ("teacher", np.nan), ("origin", 0)):
        values = getattr(candidates, name)
        if values is not None:
            moved = np.take_along_axis(values, front, 1)
            changed[name] = np.where(kept, moved, np.asarray(missing, dtype=values.dtype))
    return dataclasses.replace(candidates, **changed)


# ---------------------------------------------------------------------------------------------------- choice

def parse_choice(text):
    """(name, numbers) of top, uniform, simans:A:B or softmax:T; BadInput for anything else."""
    name, *numbers = text.split(":")
    wanted = {"top": 0, "uniform": 0, "simans": 2, "softmax": 1}
    try:
        values = tuple(map(float, numbers))
    except ValueError:
        values = None
    if values is None or wanted.get(name) != len(values) or name == "softmax" and values[0] <= 0:
        raise BadInput(f"--choice {text}: one of top, uniform, simans:A:B, softmax:T, as in simans:0.5:0")
    return name, values


def choose(candidates, count, choice, *, seed, epoch):
    """(n, count) slots of each list, without replacement, -1 where the list is too short.

    choice (parse_choice()): top the best ones; uniform; simans with probability proportional to
    exp(-A (s - s+ - B)^2) (Zhou et al. 2022, eq. 5); softmax to exp(s / T). Draws depend on seed, epoch and
    query alone. Weighted draws take the smallest of exponential variables (Efraimidis & Spirakis 2006).
    """
    name, numbers = choice
    there = candidates.docs >= 0
    if name == "top":
        keys = np.broadcast_to(np.arange(there.shape[1], dtype=np.float64), there.shape).copy()
    else:
        u = uniform(candidates.source, seed, epoch, candidates.queries[:, None], np.arange(there.shape[1]))
        keys = np.log(-np.log(np.maximum(u, 2.0 ** -60)))
        if name == "uniform":
            keys = u
        elif np.isnan(candidates.scores[there]).any() or \
                name == "simans" and np.isnan(candidates.positive[there.any(1)]).any():
            raise BadInput(f"--choice {name} weighs scores of docs and positives, and {candidates.source} "
                           "lacks some")
        elif name == "simans":
            a, b = numbers
            keys = keys + a * (candidates.scores - candidates.positive[:, None] - b) ** 2
        else:
            keys = keys - candidates.scores / numbers[0]
    keys[~there] = np.inf
    slots = np.full((len(keys), count), -1, dtype=np.int64)
    order = np.argsort(keys, axis=1, kind="stable")[:, :count]
    slots[:, :order.shape[1]] = np.where(np.take_along_axis(there, order, 1), order, -1)
    return slots


# -------------------------------------------------------------------------------------------- near-duplicates

def normalise(text):
    """Lower case, words separated by single spaces."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def shingles(text):
    """The set of the text's 3-word shingles; of its words, if it has fewer."""
    words = normalise(text).split()
    return set(zip(*(words[i:] for i in range(SHINGLE)))) or {tuple(words)}


def minhash(texts):
    """(n, HASHES) uint32 signatures of all texts: equal entries estimate Jaccard similarity (Broder 1997)."""
    folder = cache_dir("minhash", fingerprint(texts.fingerprint, SHINGLE, HASHES))
    if not folder.exists():
        signatures = np.empty((len(texts), HASHES), dtype=np.uint32)
        for row in tqdm(range(len(texts)), unit="text", unit_scale=True, desc="MinHash", delay=2):
            signatures[row] = signature(texts.text(row))
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            np.save(temporary / "signatures.npy", signatures)
    return np.load(folder / "signatures.npy", mmap_mode="r")


def signature(text):
    """(HASHES,) uint32: the least hash of the text's shingles under each of HASHES hash functions."""
    words = np.array([_hash_word(word) for word in normalise(text).split()] or [0], dtype=np.uint64)
    shingles = words[:max(1, len(words) - SHINGLE + 1)].copy()
    with np.errstate(over="ignore"):
        for i in range(1, min(SHINGLE, len(words))):
            shingles = shingles * np.uint64(0x9E3779B97F4A7C15) + words[i:i + len(shingles)]
        hashed = mix(np.unique(shingles)[:, None] ^ _SALTS)                            # (shingles, HASHES)
    return (hashed.min(0) >> np.uint64(32)).astype(np.uint32)


@functools.lru_cache(maxsize=1 << 18)
def _hash_word(word):
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


_SALTS = (uniform("minhash", np.arange(HASHES)) * 2.0 ** 53).astype(np.uint64) << np.uint64(11)

"""Tokens of texts by a tokenizer that sees each different word once.

WordPiece cuts every word by itself, so the tokens of a text are those of its words, one behind the other. Texts repeat
their words: handing the library only those that are new makes tokens several times as fast, and the same.
"""

import json
import re

import numpy as np

from lib.data.collection import ranges

WORD = re.compile("[A-Za-z0-9]+")  # of ASCII texts, for a tokenizer that drops punctuation
CHUNK = re.compile("[^ \t\n\r]+")  # of all others: what no tokenizer of these joins
CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
)  # is deleted by normalisers, so that its neighbours are one word
MOST = 2_000_000  # different words that are kept
ONE_BY_ONE = 64  # texts of a call below which the library is as fast


class WordCache:
    """The words that a tokenizer has seen, and their tokens."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer
        parts = json.loads(tokenizer.to_str())
        self.applies, self._drops_punctuation = _kind(parts)
        model = parts["model"]
        named = tokenizer.token_to_id(model.get("unk_token") or "")
        self.unknown = next((each for each in (named, model.get("unk_id")) if each is not None), -1)  # of no word: -1
        self._forget()

    def __deepcopy__(self, memo):
        return WordCache(self._tokenizer)  # words are seen again sooner than they are copied

    def _forget(self):
        self._known = {}  # word -> its number
        self._ids, self._offsets = np.empty(0, dtype=np.int64), np.zeros(1, dtype=np.int64)

    def encode(self, texts):
        """(ids (T,) int64, lengths (n,) int64) of n texts, without special tokens."""
        if not self.applies or len(texts) < ONE_BY_ONE:
            return self._by_library(texts)
        found = [self._words(text) for text in texts]
        if new := list({word for words in found for word in words} - self._known.keys()):
            if len(self._known) + len(new) > MOST:
                self._forget()
                new = list({word for words in found for word in words})
            ids, lengths = self._by_library(new)
            self._known.update(zip(new, range(len(self._known), len(self._known) + len(new))))
            self._ids = np.concatenate([self._ids, ids])
            self._offsets = np.concatenate([self._offsets, self._offsets[-1] + np.cumsum(lengths)])
        counts = np.fromiter(map(len, found), dtype=np.int64, count=len(found))
        number = self._known.__getitem__
        words = np.fromiter((number(word) for own in found for word in own), dtype=np.int64, count=counts.sum())
        start, end = self._offsets[words], self._offsets[words + 1]
        until = np.concatenate([[0], np.cumsum(end - start)])[np.concatenate([[0], np.cumsum(counts)])]
        return self._ids[ranges(start, end)], np.diff(until)

    def _words(self, text):
        if self._drops_punctuation and text.isascii() and not CONTROL.search(text):
            return WORD.findall(text)
        return CHUNK.findall(text)

    def _by_library(self, texts):
        encoded = [e.ids for e in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))
        return np.fromiter((i for ids in encoded for i in ids), dtype=np.int64, count=lengths.sum()), lengths


def _kind(parts):
    """(whether words can be cut one by one, whether punctuation is dropped) of a tokenizer's JSON."""
    normalizer, splitter = parts["normalizer"] or {}, parts["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    plain = (
        parts["model"]["type"] == "WordPiece"
        and all(step.get("type") in ("BertNormalizer", "Replace", "Lowercase") for step in steps)
        and all(step["content"] == " " for step in steps if step["type"] == "Replace")
        and all(re.fullmatch(r"\S+", token["content"]) for token in parts["added_tokens"])
        and parts["truncation"] is None
    )
    own = splitter.get("type") == "Split" and splitter["behavior"] == "Removed" and splitter["invert"]
    drops = own and splitter["pattern"] == {"Regex": r"[^\W_]+"} and not parts["added_tokens"]
    return plain and (drops or splitter.get("type") == "BertPreTokenizer"), drops

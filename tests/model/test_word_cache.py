"""Tokens of words that are cached equal those of the library, whatever the text holds."""

import copy

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers

from lib.model import word_cache
from lib.model.static import train_wordpiece
from lib.model.word_cache import WordCache

WORDS = (
    "parseDate HTTPResponse getHTTP2Go snake_case x1Y2 a.b-c don't café cafe\u0301 naïve 日本語 ไทย 한국어 ﬁ ß Ǆ".split(
        " "
    )
)
WORDS += "İstanbul e\u0301\u0302 [SEP] [UNK] [MASK]x ##ing \u200b \xa0 \u2028 \x00 \x01a\x02b \x1c \x7f ½ ٣".split(" ")
WORDS += ["12345", "A1B", "ABC1d", "🙂👍🏽"]
WORDS += ["x" * 70, "\t", "\n", "\r\n", "", "I" * 101]


@pytest.fixture(scope="module")
def wordpieces(tiny):
    """{name: tokenizer}: ours, which drops punctuation, and BERT's, which keeps it and knows special tokens."""
    own = train_wordpiece(lambda: [*tiny.docs.texts(), *WORDS * 3], vocab_size=500)
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[SEP]": 2, "[MASK]": 3}
    for token in own.get_vocab():
        vocabulary.setdefault(token, len(vocabulary))
    for mark in ".,-_'[]#½":
        vocabulary.setdefault(mark, len(vocabulary))
    bert = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    bert.normalizer, bert.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    bert.add_special_tokens(["[SEP]", "[MASK]", "[UNK]"])
    return {"own": own, "bert": bert}


def by_library(tokenizer, texts):
    return [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def by_cache(cache, texts):
    ids, lengths = cache.encode(texts)
    return [own.tolist() for own in np.split(ids, np.cumsum(lengths)[:-1])]


pieces = st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=8)
joins = st.sampled_from([" ", "", "\n", "  ", ".", "_", "\x1f"])
text = st.tuples(pieces, joins).map(lambda pair: pair[1].join(pair[0]))


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(text, min_size=1, max_size=8))
def test_tokens_are_the_librarys(wordpieces, texts):
    for tokenizer in wordpieces.values():
        cache = WordCache(tokenizer)
        assert cache.applies
        many = texts * word_cache.ONE_BY_ONE
        wanted = by_library(tokenizer, texts)
        assert by_cache(cache, many)[: len(texts)] == wanted
        assert by_cache(cache, many)[-len(texts) :] == wanted  # from the cache
        assert by_cache(copy.deepcopy(cache), texts[:1]) == wanted[:1]


def test_words_are_asked_for_once(wordpieces, tiny, monkeypatch):
    cache = WordCache(wordpieces["own"])
    first = cache.encode(tiny.docs.texts() * 4)
    monkeypatch.setattr(cache, "_by_library", None)
    again = cache.encode(tiny.docs.texts() * 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_a_full_cache_begins_anew(wordpieces, tiny, monkeypatch):
    monkeypatch.setattr(word_cache, "MOST", 50)
    cache = WordCache(wordpieces["own"])
    for texts in (tiny.docs.texts() * 4, tiny.queries.texts() * 4, tiny.docs.texts() * 4):
        assert by_cache(cache, texts) == by_library(wordpieces["own"], texts)


@pytest.mark.parametrize("change", ["model", "splitter", "normalizer", "truncation", "added"])
def test_other_tokenizers_are_left_to_the_library(wordpieces, tiny, change):
    tokenizer = tokenizers.Tokenizer.from_str(wordpieces["bert"].to_str())
    if change == "model":
        tokenizer = tokenizers.Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
        tokenizer.decoder = decoders.ByteLevel()
    elif change == "splitter":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    elif change == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("x"), normalizers.BertNormalizer()])
    elif change == "truncation":
        tokenizer.enable_truncation(5)
    else:
        tokenizer.add_tokens(["two words"])
    cache = WordCache(tokenizer)
    assert not cache.applies
    texts = tiny.docs.texts() * 4
    assert by_cache(cache, texts) == by_library(tokenizer, texts)

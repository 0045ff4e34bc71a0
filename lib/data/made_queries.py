"""Queries that are made from a doc itself, for docs that nobody has asked for: a function and a row of KINDS each."""

import re

from lib import rng

LONGEST = 30  # words of a first sentence
CROP = (4, 16)  # words of a crop, from and to
LONGER = (6, 20)  # of one with words left out
DROPPED = 0.3  # share of the words that are left out


def title(record, row):
    """The doc's title; empty where it has none."""
    return record.get("title") or ""


def first_sentence(record, row):
    """The first sentence of the text, at most LONGEST words."""
    sentence = re.split(r"(?<=[.!?])\s", (record.get("text") or "").strip(), maxsplit=1)[0]
    return " ".join(sentence.split()[:LONGEST])


def crop(record, row):
    """Some words of the doc, one behind the other, from a random place (Izacard et al. 2022, section 3.1)."""
    return " ".join(_some_words(f"{record.get('title') or ''} {record.get('text') or ''}", row, *CROP))


def dropped(record, row):
    """Some words of the text, one behind the other, a share of them left out (the same, section 3.1)."""
    words = _some_words(record.get("text") or "", row, *LONGER)
    return " ".join(word for i, word in enumerate(words) if i == 0 or rng.uniform("dropped word", row, i) >= DROPPED)


def _some_words(text, row, least, most):
    words = text.split()
    length = least + int(rng.uniform("crop length", row) * (most - least + 1))
    begin = int(rng.uniform("crop", row) * (max(0, len(words) - length) + 1))
    return words[begin : begin + length]


KINDS = {"title": title, "first_sentence": first_sentence, "crop": crop, "dropped": dropped}

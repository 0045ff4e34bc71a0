"""The words of a text in any language: what BM25 matches, and what near-copies and answers are compared by."""

import re
import unicodedata

import regex  # a requirement of transformers; it knows scripts and combining marks, which re does not

SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar")  # no spaces between words
JOINED = "".join(rf"\p{{{name}}}" for name in SCRIPTS)
LETTER = r"[\p{L}\p{M}\p{No}\p{Nl}]"  # marks belong to the letter before them
RUN = rf"[{JOINED}][{JOINED}\p{{M}}ー]*"
WORD = regex.compile(rf"{RUN}|[A-Z]+(?![{LETTER}--[A-Z{JOINED}]])|[A-Z]?[{LETTER}--[A-Z{JOINED}]]+|\d+", regex.VERSION1)
# what a text's length is counted in: what stands between blanks, or two characters where words are written without
UNIT = regex.compile(rf"[{JOINED}]\p{{M}}*(?:[{JOINED}]\p{{M}}*)?|[^\s{JOINED}]+", regex.VERSION1)
ASCII_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")  # the same for most texts, in half the time
MARKS = regex.compile(r"(\p{M}{30})\p{M}+")  # more on one letter stand in no language (UAX 15, stream-safe text)
PLAIN = regex.compile(rf"[{JOINED}]\p{{M}}*|(?:[{LETTER}--[{JOINED}]]|\d)+", regex.VERSION1)
IS_JOINED = regex.compile(rf"[{JOINED}]", regex.VERSION1)


def _composed(text):
    """A text in NFC, which puts the marks of a letter in order, in a time that grows with their square."""
    return unicodedata.normalize("NFC", MARKS.sub(r"\1", text))


def words(text):
    """Lower-case words; camelCase and snake_case names fall into their parts, writing without spaces into pairs.

    Pairs of neighbouring characters (Chinese, Japanese, Thai ...) are what a search by words can match there.
    """
    if text.isascii():
        return [word.lower() for word in ASCII_WORD.findall(text)]
    found = []
    for word in WORD.findall(_composed(text)):
        if IS_JOINED.match(word):
            found += [word[i : i + 2] for i in range(max(1, len(word) - 1))]
        else:
            found.append(word.lower())
    return found


def normalise(text):
    """Lower case, words separated by single spaces; of writing without spaces, characters."""
    if text.isascii():
        return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
    return " ".join(PLAIN.findall(_composed(text).lower()))

"""Sentences and extractive answers."""

import numpy as np
import pytest

from lib.rag.generators import extractive_answer, sentences


@pytest.mark.parametrize(
    "text, wanted",
    [
        (
            "The Moon raises the tides. Most coasts turn through both.",
            ["The Moon raises the tides.", "Most coasts turn through both."],
        ),
        ("It is about 4.5 billion years old, they say.", ["It is about 4.5 billion years old, they say."]),
        (
            "A first paragraph of text\n\nand a\nsecond one, too.",
            ["A first paragraph of text", "and a second one, too."],
        ),
        ("Short. Also.", []),
        ("Why does toast turn brown? Sugars react with amino acids.", ["Sugars react with amino acids."]),
    ],
)
def test_sentences(text, wanted):
    assert sentences(text) == wanted


def test_long_sentences_are_cut():
    assert [len(part) for part in sentences("x" * 900)] == [400]


def letters(texts, kind):
    """Unit vectors of letter counts: texts are near when they use the same letters."""
    counts = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float64)
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


DOCS = [
    "Zebras zigzag in the zoo of Zanzibar. Nobody knows when the kettle boils.",
    "Nobody knows when the kettle boils. Quick quails quarrel quietly at the quay.",
]


def test_an_answer_cites_the_docs_that_it_rests_on():
    found = extractive_answer("zigzag zoo zebras", DOCS, [0.0, 0.0], embed=letters, count=1)
    assert found.text == "Zebras zigzag in the zoo of Zanzibar [1]." and found.citations == (1,)
    both = extractive_answer("zigzag zoo zebras quick quails quarrel", DOCS, [0.0, 0.0], embed=letters, count=2)
    assert both.citations == (1, 2) and both.text.index("[1]") < both.text.index("[2]")


def test_the_score_of_a_doc_counts():
    found = extractive_answer("zigzag zoo zebras", DOCS, [0.0, 2.0], embed=letters, count=1)
    assert found.citations == (2,)


def test_copies_of_a_sentence_are_said_once():
    found = extractive_answer("nobody knows", DOCS, [0.0, 0.0], embed=letters, count=4)
    assert found.text.count("Nobody knows") == 1


def test_no_docs_no_answer():
    assert extractive_answer("what?", [], [], embed=letters).citations == ()

"""Sentences, extractive answers, the table of generators."""

import pytest

from lib.files import BadInput
from lib.rag.generators import Extractive, open_generator, sentences


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
        ("x" * 900, ["x" * 400]),
    ],
)
def test_sentences(text, wanted):
    assert sentences(text) == wanted


DOCS = (
    "Zebras zigzag in the zoo of Zanzibar. Nobody knows when the kettle boils.",
    "Nobody knows when the kettle boils. Quick quails quarrel quietly at the quay.",
)


def answer(question, docs=DOCS, **options):
    (found,) = Extractive(**options).generate([(question, docs)])
    return found


def test_an_answer_cites_the_docs_that_it_rests_on():
    found = answer("where do zebras zigzag", count=1)
    assert found.text == "Zebras zigzag in the zoo of Zanzibar [1]." and found.citations == (1,)
    both = answer("zebras zigzag and quails quarrel", count=2)
    assert both.citations == (1, 2) and both.text.index("[1]") < both.text.index("[2]")


def test_the_rank_of_a_doc_counts():
    docs = ("The kettle boils at nine. It is green.", "The kettle boils at ten. It is blue.")
    assert answer("when does the kettle boil, boils the kettle", docs, count=1).text.startswith(
        "The kettle boils at nine"
    )
    assert "ten" in answer("when does the kettle boil, boils the kettle", docs[::-1], count=1).text


def test_copies_of_a_sentence_are_said_once():
    assert answer("nobody knows", count=4).text.count("Nobody knows") == 1


@pytest.mark.parametrize("docs", [(), ("",), ("Nothing here is of any use.",)])
def test_without_a_shared_word_it_abstains(docs):
    found = answer("zebras", docs)
    assert found.abstained and found.citations == ()


def test_a_doc_without_sentences_can_answer():
    assert answer("the zebra", ("a zebra",)).citations == (1,)


@pytest.mark.parametrize(
    "spec, wanted",
    [
        ("none", "none of extractive, qa, hf, http, https"),
        ("extractive:x", "takes no name"),
        ("qa:", "missing"),
        ("hf", "missing"),
    ],
)
def test_a_generator_that_is_none(spec, wanted):
    with pytest.raises(BadInput, match=wanted):
        open_generator(spec, device=None, model=None, context_tokens=10, answer_tokens=10, timeout=1)

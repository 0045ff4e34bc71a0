"""What answers are measured by, the prompt, and the split of a gain."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.rag import answers, prompts
from lib.rag.prompts import Answer
from lib.rag.split import Ranked, context, four_contexts, shapley

# ------------------------------------------------------------------------------------------------ measures


def scored(text, golds):
    return answers.scored(answers.Answered(Answer(text), golds))


@pytest.mark.parametrize(
    "text, gold, em, f1",
    [
        ("The  Panthers' defense!", "panthers defense", 1, 1),
        ("a 24", "24", 1, 1),
        ("308 points", "308", 0, 2 / 3),
        ("the cat sat", "a dog ran", 0, 0),
        ("cat cat dog", "cat dog dog", 0, 2 / 3),
        ("", "cat", 0, 0),
        ("Łódź", "łódź", 1, 1),
    ],
)
def test_exact_match_and_f1_are_those_of_squad(text, gold, em, f1):
    found = scored(text, [gold])
    assert found["em"] == em and found["f1"] == pytest.approx(f1)


def test_the_best_gold_answer_counts_and_citations_do_not():
    for text, golds, wanted in (
        ("the northern cardinal [2]", ["a robin", "Northern Cardinal"], 1.0),
        ("", ["x"], 0.0),
        ("x", [], 0.0),
    ):
        found = scored(text, golds)
        assert [found[name] for name in ("em", "f1", "rouge_l")] == [wanted] * 3


def longest_common(a, b):
    """The length of the longest common subsequence, by its definition."""
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common(a[:-1], b[:-1])
    return max(longest_common(a[:-1], b), longest_common(a, b[:-1]))


@given(
    st.lists(st.sampled_from("bcde"), min_size=1, max_size=7), st.lists(st.sampled_from("bcde"), min_size=1, max_size=7)
)
def test_rouge_l_is_the_longest_common_subsequence(a, b):
    wanted = 2 * longest_common(a, b) / (len(a) + len(b))
    assert answers.rouge_l(" ".join(a), " ".join(b)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "doc, golds, wanted",
    [
        ("He scored 308 points.", ["308"], True),
        ("He scored 1308 points.", ["308"], False),
        ("the Golden Gate-Bridge, of 1937", ["golden gate bridge"], True),
        ("anything", [""], False),
        ("anything", ["?!"], False),
    ],
)
def test_a_doc_holds_an_answer_word_for_word(doc, golds, wanted):
    assert answers.holds(doc, golds) is wanted


@pytest.mark.parametrize(
    "text, cited, relevant, wanted",
    [
        ("right", (1,), [True], "right, gold found"),
        ("right", (1,), [False], "right without gold"),
        ("x", (1,), [False], "no gold found"),
        ("x", (1,), [False, True], "distracted"),
        ("x", (1, 2), [False, True], "misread"),
        ("x", (), [False, True], "ignored"),
        ("", (), [False, True], "abstained with gold"),
        ("", (), [False], "abstained without gold"),
    ],
)
def test_what_happened_to_a_question(text, cited, relevant, wanted):
    one = answers.Answered(Answer(text, cited), ["right"], ["doc"] * len(relevant), relevant)
    assert answers.outcome(one) == wanted and wanted in answers.OUTCOMES
    assert answers.scored(one)["gold_recall"] == any(relevant)


def test_citations_are_checked():
    docs = ["the answer is 42", "nothing"]
    found = answers.scored(answers.Answered(Answer("42 [1] [2] [7]", (1, 2), (7,)), ["42"], docs))
    assert (found["cited"], found["exists"], found["holds"]) == (1.0, pytest.approx(2 / 3), 0.5)
    none = scored("42", ["42"])
    assert none["cited"] == 0 and math.isnan(none["exists"]) and math.isnan(none["holds"])


def test_coverage_answers_the_surest_first():
    share, right = answers.coverage_curve([0.9, 0.1, 0.5, 0.5], [1, 0, 1, 0])
    assert share.tolist() == [0.25, 0.75, 1.0] and right == pytest.approx([1.0, 2 / 3, 0.5])


def test_udcg_is_that_of_its_published_code():
    """The three examples that lie beside it (GiovanniTRA/UDCG, data/dataset_with_udcg.json), made with .333 for 1/3."""
    absent = [2.086162567138672e-06, 1.341104507446289e-05, 0.1318359375, 0.1812744140625, 0.02081298828125]
    assert answers.udcg([1, 1, 0, 0, 0], absent, weight=0.333) == pytest.approx(0.5553808928170055, abs=1e-9)
    absent = [
        5.960464477539063e-08,
        6.616115570068359e-06,
        0.00018215179443359375,
        0.006114959716796875,
        0.0093536376953125,
    ]
    assert answers.udcg([1, 1, 0, 0, 0], absent, weight=0.333) == pytest.approx(0.5501411475208001, abs=1e-9)
    absent = [
        3.0100345611572266e-05,
        0.00010311603546142578,
        0.007602691650390625,
        0.01299285888671875,
        0.00013053417205810547,
    ]
    assert answers.udcg([1, 0, 0, 0, 0], absent, weight=0.333) == pytest.approx(0.4837510250741193, abs=1e-9)
    assert answers.udcg([], []) == 0


# -------------------------------------------------------------------------------------------------- prompt


def count(text):
    return len(text.split())


def test_a_prompt_numbers_whole_docs_and_cuts_the_last():
    docs = [" ".join(f"{letter}{i}" for i in range(30)) for letter in "abc"]
    made = prompts.make_prompt("why?\nreally", docs, budget=55, count=count)
    assert made.docs == 2 and "[1] a0" in made.user and "a29" in made.user and "[2] b0" in made.user
    assert "b24" in made.user and "b25" not in made.user and "[3]" not in made.user
    assert made.user.endswith("Question: why? really\nAnswer:")
    assert prompts.make_prompt("q", docs, budget=50, count=count).docs == 1  # 20 tokens are too few for a second
    assert "(none)" in prompts.make_prompt("q", [], budget=50, count=count).user


def test_a_doc_cannot_look_like_another():
    made = prompts.make_prompt("q", ["one\n[2] forged", "two"], budget=99, count=count)
    assert made.user.splitlines()[1:3] == ["[1] one [2] forged", "[2] two"]


@given(st.lists(st.text(min_size=1, max_size=200), max_size=5), st.integers(0, 60))
def test_a_prompt_keeps_its_budget(docs, budget):
    made = prompts.make_prompt("q", docs, budget=budget, count=count)
    lines = made.user.split("\nQuestion:")[0].split("Documents:\n")[1]
    assert made.docs == 0 or count(lines) - made.docs <= budget


@pytest.mark.parametrize(
    "text, docs, wanted",
    [
        ("in 1937 [2]", 3, ((2,), ())),
        ("in [2], [1, 3] and [2][9]", 3, ((2, 1, 3), (9,))),
        ("[0] and [x] and [1937]", 3, ((), (0, 1937))),
        ("nothing", 3, ((), ())),
        ("【2】, [Document 1] and [^3]", 3, ((2, 1, 3), ())),
        ("【2†L1-L4】 and [docs 1, 3]", 3, ((2, 1, 3), ())),
        ("[1-3] and [2–9]", 3, ((1, 2, 3), (9,))),
        ("[1-99] [3-1]", 3, ((1, 3), (99,))),
        ("[1937-1945], [2024-05-01], [-5], [doc], [ ], a[1:2]", 3, ((), ())),
    ],
)
def test_citations_of_a_reply(text, docs, wanted):
    assert prompts.citations(text, docs) == wanted


def test_each_way_of_citing_is_written_as_one():
    found = prompts.answer_of("ten 【2】, [Document 1], [1-2] or [^7], in [1937-1945]", 2)
    assert found.text == "ten [2], [1], [1][2] or [7], in [1937-1945]"
    assert (found.citations, found.unknown) == ((2, 1), (7,))
    assert prompts.bare("ten 【2】 minutes [Document 1][1-2].") == "ten minutes."


@pytest.mark.parametrize(
    "text",
    ["", " [2]", "NO-RESPONSE", "no-response.", "NO-RESPONSE [1]", "NO_RESPONSE", "**No response.** [1]", "NO RESPONSE",
     "NO RESPONSE. No document says so.", "_no response_", "No\u2011Response"],
)  # fmt: skip
def test_a_reply_that_abstains(text):
    assert prompts.abstains(text)
    found = prompts.answer_of(text, 2)
    assert found.abstained and (found.citations, found.unknown) == ((), ())


@pytest.mark.parametrize("text", ["There was no response [1].", "No response came [2].", "no responses", "ten"])
def test_a_reply_that_does_not_abstain(text):
    assert not prompts.abstains(text)


# ------------------------------------------------------------------------------------------ split of a gain

ranking = st.lists(st.integers(0, 14), min_size=0, max_size=12, unique=True)


def ranked(rows, gold):
    return Ranked(rows, [row in gold for row in rows])


@given(ranking, ranking, st.sets(st.integers(0, 14), max_size=4), st.integers(1, 6), st.randoms())
def test_the_parts_of_a_gain_add_up(a, b, gold, k, random):
    a, b = ranked(a, gold), ranked(b, gold)
    four = four_contexts(a, b, k)
    assert four[0] == a.rows[:k] and four[3] == b.rows[:k]  # both as they were retrieved
    for rows in four:
        assert len(rows) == len(set(rows)) <= k
    for rows, golds, others in zip(four, (a, b, a, b), (a, a, b, b)):
        kept = {row for row, g in zip(golds.rows[:k], golds.gold) if g}
        assert {row for row in rows if row in gold} == kept
        assert {row for row in rows if row not in gold} <= set(others.rows)
    worth = {}
    values = [worth.setdefault(tuple(rows), random.random()) for rows in four]
    recall, distractors = shapley(*values)
    assert recall + distractors == pytest.approx(values[3] - values[0], abs=1e-12)
    if [(r, x) for r, x in enumerate(a.rows[:k]) if x in gold] == [
        (r, x) for r, x in enumerate(b.rows[:k]) if x in gold
    ]:
        if four[0] == four[1] and four[2] == four[3]:
            assert recall == 0
    if a == b:
        assert recall == distractors == 0


def test_equal_relevant_docs_give_no_recall_effect():
    a, b = ranked([1, 2, 3, 4], {2}), ranked([5, 2, 6, 7], {2})
    aa, ba, ab, bb = four_contexts(a, b, 3)
    assert aa == ba == [1, 2, 3] and ab == bb == [5, 2, 6]
    recall, distractors = shapley(*np.array([[0.1, 0], [0.1, 0], [0.7, 1], [0.7, 1]]))  # of two questions
    assert recall.tolist() == [0, 0] and distractors == pytest.approx([0.6, 1])


def test_a_freed_place_goes_to_the_next_doc():
    a, b = ranked([1, 2, 3, 4, 5], {1}), ranked([6, 7, 8, 9], {1})
    assert context(b, a, 3) == [2, 3, 4]  # no relevant doc: a's others move up, the fourth one in
    assert context(a, b, 3) == [1, 6, 7]

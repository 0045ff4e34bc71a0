"""rag_demo.py: questions, two retrievers side by side, scoring, what a gain is made of; the page."""

import fcntl
import json
import re
import shutil
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from conftest import TINY, make_encoder

from lib import run
from lib.data.collection import load_collection
from lib.files import BadInput, read_json, write_json
from lib.model import encoder as model
from lib.rag import answers, asking, page, scoring
from lib.rag.asking import Doc, Found
from lib.rag.generators import Extractive
from lib.rag.prompts import Answer
from lib.search.bm25 import BM25
from lib.search.hits import Hits

GOLD = {"q01": ["forty minutes"], "q02": "ten minutes"}


@pytest.fixture(scope="module")
def desk(tiny, tmp_path_factory):
    """A folder with the collection, once with gold answers, and a comparison of two arms and two seeds."""
    folder = tmp_path_factory.mktemp("rag")
    for name in ("tiny", "gold"):
        shutil.copytree(TINY, folder / name)
    lines = [json.loads(line) for line in open(folder / "gold/queries.jsonl", encoding="utf-8")]
    for line in lines:
        line["metadata"] = {"answers": GOLD.get(line["_id"], ["the juices", "heat"])}
    (folder / "gold/queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    args = {"data": "gold", "encoder": "static", "negatives": ["in_batch", "bm25:2"], "seeds": [0, 1]}
    write_json(folder / "runs/AB/config.json", {"args": args, "derived": {}, "inputs": {"collection": "gold"}})
    for number, (arm, seed) in enumerate([(a, s) for a in ("in_batch", "bm25-2") for s in (0, 1)]):
        own = folder / "runs/AB" / f"{arm}-s{seed}"
        model.save_encoder(make_encoder(tiny, seed=number), own / "encoder")
        write_json(own / "config.json", {"args": {"data": "gold", "encoder": "static"}, "derived": {}, "inputs": {}})
    shutil.copytree(folder / "runs/AB/in_batch-s0", folder / "runs/R")
    shutil.copytree(folder / "runs/AB/bm25-2-s0", folder / "runs/S")
    return folder


@pytest.fixture
def arms(monkeypatch):
    """The runs of the comparison, without the files of a training that reading one wants."""
    from lib.evaluation import comparison

    def read(folder, against=None):
        names = ["in_batch", "bm25:2"]
        if against not in (None, *names):
            raise BadInput(f"--against {against!r}: no arm")
        names.sort(key=lambda name: name != against)
        return [comparison.Measured(arm, arm, seed, {}, {}, [], [], {}) for arm in names for seed in (0, 1)]

    monkeypatch.setattr(comparison, "read_comparison", read)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# -------------------------------------------------------------------------------------------------- asking


def test_two_runs_side_by_side(launch, desk, capsys):
    question = "how long does it take to caramelise onions?"
    assert launch("rag_demo.py", "--run", "runs/R", "runs/S", "--docs", 3, "--show_prompt", question, cwd=desk) == 0
    printed = capsys.readouterr().out
    assert printed.count("extractive is sent no prompt") == 2
    assert "== runs/R" in printed and "== runs/S" in printed and printed.count("[1]") >= 2
    first, second = (part.split("\n\n[") for part in printed.split("== ")[1:])
    assert "only here" in printed or first[1:] == second[1:]


def test_answers_as_json(launch, desk, capsys):
    question = "how long does it take to caramelise onions?"
    assert (
        launch("rag_demo.py", "--run", "runs/R", "--retriever", "bm25", "--docs", 2, "--json", question, cwd=desk) == 0
    )
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["retriever"] for one in found] == ["runs/R", "bm25"] and found[0]["question"] == question
    for one in found:
        ids = [doc["id"] for doc in one["docs"]]
        assert len(ids) == 2 and set(one["answer"]["citations"]) <= set(ids) and one["search_ms"] >= 0
        assert one["answer"]["abstained"] == (not one["answer"]["text"])


@pytest.mark.parametrize("retriever", ["bm25", "runs/R+bm25"])
def test_json_is_json_where_something_is_read_for_the_first_time(launch, desk, tmp_path, capsys, retriever):
    rows = "".join(f"how is {tmp_path.name} {i} done?,by pressing {i} twice\n" for i in range(40))
    (tmp_path / "faq.csv").write_text(f"question,answer\n{rows}")
    flags = ("--retriever", retriever, "--data", tmp_path / "faq.csv", "--json", "how is 4 done?")
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    said = capsys.readouterr()
    assert [json.loads(line)["retriever"] for line in said.out.splitlines()] == [retriever]
    assert "columns taken" in said.err


@pytest.mark.slow
def test_an_index_is_built_when_asked_for(launch, desk, capfd):
    shutil.copytree(desk / "runs/R", desk / "runs/built", dirs_exist_ok=True)
    assert launch("rag_demo.py", "--run", "runs/built", "--data", "tiny", "--build", "onions?", cwd=desk) == 0
    assert (desk / "runs/built/index/tiny/meta.json").exists() and "[1]" in capfd.readouterr().out


@pytest.mark.parametrize("last", [("brown onions slowly",), ("onions?",)])
def test_any_two_retrievers_stand_side_by_side(launch, untrained, capsys, last):
    flags = ("--run", "runs/R", "--retriever", "bm25", "--docs", 2)
    assert launch("rag_demo.py", *flags, "--show_prompt", *last, cwd=untrained) == 0
    said = capsys.readouterr().out
    assert "runs/R" in said and "bm25" in said
    assert launch("rag_demo.py", "--retriever", "bm25", "runs/R", *last, "--data", "tiny", cwd=untrained) == 0
    other = capsys.readouterr().out
    assert other.index("bm25") < other.index("runs/R")
    flags = ("--eval", "--run", "runs/R", "--retriever", "bm25", "--docs", 2, "--contexts", "--overwrite")
    assert launch("rag_demo.py", *flags, cwd=untrained) == 0
    assert (untrained / "runs/R-vs-bm25/answers").is_dir()


def test_control_characters_never_reach_the_terminal(launch, tiny, tmp_path, capsys):
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    lines = (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[0]) | {"text": "onions \x1b[2J\x1b]0;owned\x07 are browned in forty minutes over heat."}
    (folder / "corpus.jsonl").write_text("\n".join([json.dumps(record), *lines[1:]]) + "\n", encoding="utf-8")
    assert launch("rag_demo.py", "--retriever", "bm25", "--data", "tiny", "onions browned", cwd=tmp_path) == 0
    printed = capsys.readouterr().out
    assert "browned" in printed and "\x1b" not in printed and "\x07" not in printed


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "say what searches: --run R, --retriever bm25"),
        (("--retriever", "runs/R", "onions"), "onions: neither bm25 nor a run folder"),
        (("--eval", "--run", "runs/R", "--compare", "runs/AB"), "or else --compare"),
        (("--run", "runs/R", "--split", "dev"), "--split needs --eval"),
        (("--run", "runs/R", "--compare", "runs/AB"), "--compare needs --eval"),
        (("--run", "runs/R", "--eval", "--web"), "--web and --eval exclude each other"),
        (("--run", "runs/R", "--port", "1"), "--port needs --web"),
        (("--run", "runs/R", "--web", "onions?"), "--web takes its questions from the page"),
        (("--run", "runs/R", "runs/S", "runs/R", "--show_prompt"), "two can be shown"),
        (("--run", "runs/none", "onions?"), "runs/none"),
        (("--retriever", "bm25", "--data", "tiny", "--build", "onions?"), "--build needs --run"),
        (("--run", "runs/R", "--generator", "gpt:4", "--model", "x"), "--model is the name"),
        (
            ("--run", "runs/R", "--generator", "qa:none", "--answer_tokens", "9"),
            "--answer_tokens is for language models",
        ),
        (("--run", "runs/R", "--timeout", "9", "onions?"), "--timeout is for servers"),
        (("--run", "runs/R", "--eval", "--against", "x"), "--against needs --compare"),
        (("--eval", "--compare", "runs/AB", "--data", "tiny"), "--data and --compare exclude each other"),
        (("--eval", "--compare", "runs/AB", "--rerank", "x"), "--rerank plays no part with --compare"),
        (("--eval", "--run", "runs/R", "runs/R"), "stands twice"),
        (("--eval", "--run", "runs/R", "--generator", "extractive", "extractive"), "one for each folder"),
        (("--eval", "--retriever", "bm25", "--data", "tiny", "--split", "train", "--name", "../x"), "../x"),
    ],
)
def test_flags_that_do_not_go_together(refused, desk, flags, message):
    assert message in refused("rag_demo.py", *flags, cwd=desk)


# -------------------------------------------------------------------------------------------------- scoring


def test_a_run_is_scored_and_an_interrupted_scoring_goes_on(launch, desk, capsys, monkeypatch):
    flags = ("--eval", "--run", "runs/R", "--distraction", "--contexts", *scoring.CONTEXTS)
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    printed = capsys.readouterr().out
    target = desk / "runs/R/answers/gold-test-extractive"
    assert {path.name for path in target.iterdir()} >= {
        "metrics.json", "answers.md", "questions-0.jsonl", "answers-0.jsonl", "outcomes.png", "coverage.png",
    }  # fmt: skip
    result = read_json(target / "metrics.json")
    (row,) = result["arms"]
    assert result["gold_answers"] == "metadata.answers" and row["means"]["f1"][0] == pytest.approx(
        np.mean([line["f1"] for line in lines_of(target / "questions-0.jsonl") if line["context"] == "retrieved"])
    )
    assert sum(row["outcomes"].values()) == pytest.approx(1)
    known = {each["arm"]: each for each in result["references"]}
    assert known["closed book"]["means"]["abstained"] == [1.0] and known["gold"]["means"]["gold_recall"] == [1.0]
    assert known["random"]["means"]["gold_recall"] == [0.0] and "spoiled" in row["means"]
    assert "reversed f1" in row["means"] and "shuffled f1" in row["means"] and "F1 with the docs" in printed
    # without metrics.json it counts as interrupted: what was answered is not asked again
    (target / "metrics.json").unlink()
    monkeypatch.setattr(Extractive, "generate", lambda self, pairs: pytest.fail(f"asked again: {pairs[:1]}"))
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    assert "answers of before are used again" in capsys.readouterr().out
    again = read_json(target / "metrics.json")
    for each in (result, again):
        each["arms"][0]["means"].pop("ms")
    assert again["arms"] == result["arms"]


def test_answers_that_exist_are_not_replaced(launch, refused, desk):
    flags = ("--eval", "--retriever", "bm25", "--data", "tiny", "--name", "twice", "--contexts")
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    result = read_json(desk / "runs/twice/answers/tiny-test-extractive/metrics.json")
    assert result["gold_answers"].startswith("the first 2 sentences") and result["references"] == []
    above = (desk / "runs/twice/answers/tiny-test-extractive/answers.md").read_text(encoding="utf-8").split("|")[0]
    assert "compared with the first 2 sentences" in above
    assert "holds answers already" in refused("rag_demo.py", *flags, cwd=desk)
    gone = ("--eval", "--retriever", "runs/gone", "--data", "tiny", "--name", "twice", "--overwrite")
    assert "runs/gone" in refused("rag_demo.py", *gone, cwd=desk)
    assert (desk / "runs/twice/answers/tiny-test-extractive/metrics.json").exists()  # replaced when there is another
    assert launch("rag_demo.py", *flags, "--overwrite", cwd=desk) == 0


def test_a_second_scoring_of_one_target_asks_for_nothing(launch, refused, desk, monkeypatch):
    flags = ("--eval", "--retriever", "bm25", "--data", "tiny", "--name", "at-once", "--contexts")
    target = desk / "runs/at-once/answers/tiny-test-extractive"
    target.mkdir(parents=True)
    (target / "answers-0.jsonl").write_text("of the first")
    with monkeypatch.context() as patch, open(target / run.LOCK, "w") as first:
        patch.setattr(Extractive, "generate", lambda self, pairs: pytest.fail("asked"))
        fcntl.flock(first, fcntl.LOCK_EX)
        for more in ((), ("--overwrite",)):
            assert "another process is writing there" in refused("rag_demo.py", *flags, *more, cwd=desk)
        assert (target / "answers-0.jsonl").read_text() == "of the first"
    assert launch("rag_demo.py", *flags, "--overwrite", cwd=desk) == 0
    assert not (target / run.LOCK).exists()


def test_a_comparison_and_what_its_gains_are_made_of(launch, desk, arms):
    assert launch("rag_demo.py", "--eval", "--compare", "runs/AB", "--docs", 3, cwd=desk) == 0
    target = desk / "runs/AB/answers/gold-test-extractive"
    result = read_json(target / "metrics.json")
    assert result["name"] == "gold-test-extractive"
    assert [row["arm"] for row in result["arms"]] == ["in_batch", "bm25:2", "BM25"] and result["first"] == "in_batch"
    for row in result["arms"][1:]:
        parts = {name: test["difference"] for name, test in row["split"].items()}
        assert parts["recall effect"] + parts["distractor effect"] == pytest.approx(parts["gain"], abs=1e-12)
        assert parts["gain"] == pytest.approx(row["against_first"]["difference"], abs=1e-12)
    assert (target / "split.png").exists() and (target / "gains.png").exists()
    assert set(result["agreement"]) <= {"ndcg@10", "gold_recall", "answer_recall"}


def test_parts_of_a_collection_are_pooled(launch, desk, arms, capsys):
    shutil.copytree(desk / "runs/AB", desk / "runs/CD", ignore=shutil.ignore_patterns("answers"), dirs_exist_ok=True)
    flags = ("--eval", "--compare", "runs/AB", "runs/CD", "--name", "both", "--against", "bm25:2", "--contexts", "gold")
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    result = read_json(desk / "runs/both/answers/gold-test-extractive/metrics.json")
    single = len(load_collection(str(desk / "gold")).split("test"))
    assert result["first"] == "bm25:2" and all(row["questions"] == 2 * single for row in result["arms"])


def test_a_metric_and_a_context_from_outside(launch, desk, monkeypatch):
    """A function and a row each: in metrics.json, in the tables, and the metric is tested and split."""

    def words(one):
        """How many words an answer has."""
        return len(one.answer.text.split())

    def best_alone(best, **_):
        """The best doc alone."""
        return [rows[:1] for rows in best]

    monkeypatch.setitem(answers.METRICS, "words", answers.Metric(words, "words of the answer", "{:.2f}", tested=True))
    monkeypatch.setitem(scoring.CONTEXTS, "first", scoring.Context(best_alone, of_retriever=True))
    flags = ("--run", "runs/R", "runs/S", "--name", "outside", "--contexts", "first", "--measure", "words")
    assert launch("rag_demo.py", "--eval", *flags, cwd=desk) == 0
    target = desk / "runs/outside/answers/gold-test-extractive"
    first, second = read_json(target / "metrics.json")["arms"]
    counts = [len(line["answer"].split()) for line in lines_of(target / "questions-0.jsonl") if line["arm"] == "runs/R"]
    assert first["means"]["words"] == [pytest.approx(np.mean(counts))] and len(first["means"]["first f1"]) == 1
    gain = second["means"]["words"][0] - first["means"]["words"][0]
    assert second["against_first"]["difference"] == pytest.approx(gain)
    assert second["split"]["gain"]["difference"] == pytest.approx(gain)
    text = (target / "answers.md").read_text(encoding="utf-8")
    assert "| words of the answer |" in text and f"| {np.mean(counts):.2f} |" in text
    assert "| arm | best first | first |" in text


def test_two_equal_runs_differ_by_nothing(launch, desk):
    shutil.copytree(desk / "runs/R", desk / "runs/twin", ignore=shutil.ignore_patterns("answers"), dirs_exist_ok=True)
    flags = ("--eval", "--run", "runs/R", "runs/twin", "--name", "twins", "--contexts")
    assert launch("rag_demo.py", *flags, cwd=desk) == 0
    (_, twin) = read_json(desk / "runs/twins/answers/gold-test-extractive/metrics.json")["arms"]
    assert all(test["difference"] == test["low"] == test["high"] == 0 for test in twin["split"].values())


class Oracle:
    """Finds the relevant docs first, and behind them what BM25 finds."""

    encoder = None

    def __init__(self, collection, questions):
        self.collection, self.known = collection, collection.known_docs(questions.rows)
        self.bm25 = BM25.load(collection.docs)

    def search(self, queries, k, known=None, among=None):
        hits = self.bm25.search(queries, len(self.collection.docs))
        rows = hits.rows.copy()
        for i, own in enumerate(self.known):
            gold = [row for row in own if row >= 0]
            rest = [row for row in rows[i].tolist() if row not in gold and row >= 0]
            rows[i] = (gold + rest + [-1] * rows.shape[1])[: rows.shape[1]]
        return hits._replace(
            rows=rows[:, :k], scores=-np.arange(k, dtype=np.float32) * np.ones((len(rows), 1), np.float32)
        )


def test_an_oracle_finds_no_more_than_itself(tiny, tmp_path):
    """Against another retriever of all relevant docs at the same ranks, the recall effect is 0."""
    from lib.rag.store import Answers

    questions = scoring.Questions.of(tiny, "test")
    oracle = scoring.Retrieved.of(Oracle(tiny, questions), questions, 4, self_match="drop")
    swapped = [
        each._replace(rows=each.rows[: sum(each.gold)] + each.rows[sum(each.gold) :][::-1]) for each in oracle.ranked
    ]
    other = scoring.Retrieved(swapped, oracle.top, oracle.ndcg)
    docs = scoring.Docs(tiny.docs)
    made = Answers(tmp_path / "a.jsonl", Extractive())
    effects = scoring.split_of(made, questions, docs, oracle, other, 4, measure="f1", desc="")
    assert (effects["recall effect"] == 0).all() and (effects["distractor effect"] == effects["gain"]).all()
    assert (effects["gain"] != 0).any()
    bm25 = scoring.Retrieved.of(BM25.load(tiny.docs), questions, 4, self_match="drop")
    effects = scoring.split_of(made, questions, docs, bm25, oracle, 4, measure="f1", desc="")
    total = effects["recall effect"] + effects["distractor effect"]
    np.testing.assert_allclose(total, effects["gain"], atol=1e-12)


def test_a_scoring_ends_although_questions_are_cut_and_refused(launch, desk, capsys, monkeypatch):
    lost = [Answer("", cut=True), Answer("", refused=True)]
    monkeypatch.setattr(Extractive, "generate", lambda self, pairs: [lost[len(q) % 2] for q, _ in pairs])
    flags = ("--eval", "--retriever", "bm25", "--data", "gold", "--split", "test", "--name", "lost", "--contexts")
    assert launch("rag_demo.py", *flags, "gold", cwd=desk) == 0
    printed = capsys.readouterr().out
    assert "were cut before they began" in printed and "refused by a content filter" in printed
    (path,) = desk.glob("runs/lost/answers/*/metrics.json")
    (row,) = read_json(path)["arms"]
    assert row["outcomes"]["cut"] + row["outcomes"]["refused"] == pytest.approx(1) and row["means"]["f1"] == [0]
    assert row["means"]["abstained"] == [0] and "| cut | refused |" in printed


class Doubting(Extractive):
    """Has probabilities: of "no answer" the share of the alphabet that a doc does without."""

    def abstain_probability(self, pairs):
        return np.array([1 - len(set(doc.lower()) & set("abcdefghijklmnopqrstuvwxyz")) / 26 for _, doc in pairs])


def test_distraction_leaves_false_distractors_out(tiny, tmp_path):
    from lib.rag.store import Answers

    questions = scoring.Questions.of(tiny, "test")
    retrieved = scoring.Retrieved.of(BM25.load(tiny.docs), questions, 5, self_match="drop")
    made, docs = Answers(tmp_path / "a.jsonl", Doubting()), scoring.Docs(tiny.docs)
    found = scoring.distraction(made, questions, docs, retrieved, 5)
    each = retrieved.ranked[0]
    wanted = [
        1 - made.generator.abstain_probability([("", docs[row])])[0]
        for row, g in zip(each.rows[:5], each.gold)
        if not g
    ]
    assert found["distracting effect"][0] == pytest.approx(np.mean(wanted))
    # a doc that holds the gold answer and has no label counts apart
    first = next(row for row, gold in zip(each.rows[:5], each.gold) if not gold)
    golds = [[" ".join(docs[first].split()[:5])], *questions.golds[1:]]
    told = scoring.Questions(tiny, "test", questions.rows, golds, "")
    again = scoring.distraction(made, told, docs, retrieved, 5)
    assert again["false distractors"][0] == pytest.approx(1 / len(wanted))
    assert again["distracting effect"][0] == pytest.approx(np.mean(wanted[1:]))


# ------------------------------------------------------------------------------------------------- the page

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> ${alert(3)} {{x}} \x1b[2J"


def found(text=HOSTILE, answer=None):
    plain = "a plain doc about roast meat"
    docs = [Doc(1, f"id{HOSTILE}", 0.5, HOSTILE, text, text), Doc(2, "b", 0.25, "", plain, plain)]
    return Found(docs, answer or Answer(f"{HOSTILE} [1] and [2], [7]", (1, 2), (7,)), 1.0)


def test_nothing_of_a_doc_becomes_markup():
    for html in (page.answer_html(found(), 0), page.docs_html(found(), 0, HOSTILE, {1})):
        assert "<script" not in html and "<img" not in html and "\x1b" not in html
    html = page.answer_html(found(), 3)
    assert '<a href="#doc-3-1">[1]</a>' in html and '<a href="#doc-3-2">[2]</a>' in html and "[7?]" in html


def test_markdown_of_a_language_model_is_rendered_and_fetches_nothing():
    text = (
        "**Roast** it [1]:\n\n```\na[1] = __x__\n```\n\n| a | b |\n|---|---|\n| c [9] | d |\n\n"
        '- [more](https://a.example/x "t") and '
        "[bad](javascript:alert(1)) ![p](https://a.example/p.png) <b>b</b> &#x202e; &lt;\n\n[1]: https://a.example"
    )
    html = page.answer_html(found(answer=Answer(text, (1,))), 0, markdown=True)
    for part in (
        "<strong>Roast</strong>",
        '<a href="#doc-0-1">[1]</a>:',
        "a[1] = __x__",
        "<td>c [9?]</td>",
        "&lt;b&gt;b",
    ):
        assert part in html
    assert '<a href="https://a.example/x" title="https://a.example/x" target="_blank" rel="noopener noreferrer' in html
    assert not re.search(r"<img|<b>|\u202e|href=.javascript", html)
    quoted = page.answer_html(found(answer=Answer("`__init__` *is* [1]\n- not <b>\n\nx", (1,))), 0)
    assert quoted.startswith('<div class="answer"><p>`__init__` *is* <a href="#doc-0-1">[1]</a>\n- not &lt;b&gt;</p>')


class Writes:
    """A generator that writes word by word, a moment for each where `slow` is set."""

    def __init__(self, text, slow=0.0):
        self.text, self.slow, self.pause = text, slow, threading.Event()

    def stream(self, question, docs, said):
        words = self.text.split()
        for end in range(len(words)):
            said(" ".join(words[:end]))
            self.pause.wait(self.slow)
        return Answer(self.text, (1,), ms=5.0, prompt="p")

    def generate(self, pairs):
        return [Answer(self.text, (1,), ms=5.0, prompt="p") for _ in pairs]


def test_an_answer_is_shown_as_it_is_written(monkeypatch, capsys):
    monkeypatch.setattr(page, "PAUSE", 0)
    pending = found(answer=Answer(""))._replace(whole=False)
    states = list(
        page.results(lambda q: {"A": pending, "B": pending}, Writes("it is **so** [1]", 0.05), ["A", "B"], "x")
    )
    assert "being read" in states[0][0][0] and states[0][0][1]  # docs are there before the answer
    assert any(">it is ...<" in rows[0][0] and "being read" in rows[1][0] for rows in states)
    for *shown, right in states[-1]:
        assert "<strong>so</strong>" in shown[0] and "first words after" in shown[0] and shown[2] == "p" and right
        assert "tokens" not in shown[0]  # a server that streams may not count them
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    asking.show("x", {"A": pending}, Writes("it is so [1]"))
    out = capsys.readouterr().out
    assert out.count("it is so [1]") == 1 and out.index("a plain doc") < out.index("it is so")


def test_words_of_the_question_are_marked():
    assert (
        page.marked("Roast the MEAT, the meatball", "roast meat")
        == "<mark>Roast</mark> the <mark>MEAT</mark>, the meatball"
    )


def test_what_the_page_says_when_there_is_no_answer(capsys):
    names = ["runs/R"]
    shown = lambda find, question, text="": list(page.results(find, Writes(text), names, question))[-1][0]  # noqa: E731
    assert "Ask a question" in shown(None, "  \n")[0]
    assert "Nothing was found" in shown(lambda q: {"runs/R": Found([], Answer(""), 1.0)}, "x")[0]
    assert "do not answer" in shown(lambda q: {"runs/R": found()}, "x")[0]

    def down(question):
        raise BadInput("http://127.0.0.1:9: refused <b>")

    def broken(question):
        raise RuntimeError("in /home/me/secret.py")

    for fails, reason in ((down, "http://127.0.0.1:9: refused <b>"), (broken, "in /home/me/secret.py")):
        said = shown(fails, "x")[0]
        assert "could not be answered" in said and reason not in said and "127.0.0.1" not in said
        assert reason in capsys.readouterr().err
    assert "At most 2,000 characters" in shown(pytest.fail, "x" * 2001)[0]
    assert shown(lambda q: {"runs/R": found()}, "x" * 2000, "so [1]")[1]


def test_what_a_reader_marks_is_a_table_of_questions(tmp_path, tiny):
    path, shown = tmp_path / "asked.jsonl", tiny.docs.ids[:3]
    for question, found, marked in (("", shown, [[shown[0]]]), ("x?", shown, [[], None]), ("x?", shown, [["another"]])):
        assert "mark the docs" in page.keep(path, question, found, marked) and not path.exists()
    assert page.keep(path, "what rests?", shown, [[shown[0]], [shown[0], shown[2], "another"]]) == "Kept with 2 docs."
    assert page.keep(path, 'naïve \n "quoted"?', shown, [[shown[1]]]) == "Kept with 1 doc."
    path.write_bytes(path.read_bytes().rstrip())  # as an editor leaves it: the next one begins a line of its own
    assert page.keep(path, "what else?", shown, [[shown[0]]]) == "Kept with 1 doc."
    asked = load_collection(f"asked:{path}@{TINY}")
    kept = {asked.queries.text(row): set(asked.qrels_dict(split)[asked.queries.ids[row]])
            for split in ("dev", "test") for row in asked.split(split).queries}  # fmt: skip
    assert kept == {"what else?": {shown[0]}, "what rests?": {shown[0], shown[2]}, 'naïve \n "quoted"?': {shown[1]}}


def test_docs_with_some_metadata_alone_are_searched(tmp_path, refused, launch, capsys):
    systems = ["linux", "osx", "linux", "osx", ["linux", "osx"], ["osx"]]
    docs = [{"_id": f"d{i}", "text": f"how to list files, way {i}", "metadata": {"os": systems[i], "v": i}}
            for i in range(6)]  # fmt: skip
    (tmp_path / "queries.jsonl").write_text('{"_id": "q", "text": "list files"}\n')
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\n")
    command = ["rag_demo.py", "--retriever", "bm25", "--data", str(tmp_path), "--json", "--where"]
    docs[5]["metadata"]["by"] = "A B"
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    whom = ["os=osx", "by=A B"]  # which is no question
    for where, found in ((["os=osx"], "1345"), (["os=linux", "v=4", "v=2"], "24"), (["v=0", "v=1"], "01"), (whom, "5")):
        launch(*command, *where, "list the files?", cwd=tmp_path)
        shown = json.loads(capsys.readouterr().out)
        assert sorted(doc["id"] for doc in shown["docs"]) == [f"d{i}" for i in found]
    assert "--where os=beos: no doc has this value; most often it is" in refused(*command, "os=beos", "list files?")
    assert "--where size=1: no doc has this value; no doc has this field" in refused(*command, "size=1", "list files?")
    assert "no doc has all of these" in refused(*command, "v=0", "os=osx", "list files?")
    assert "FIELD=VALUE is wanted" in refused(*command, "os", "list files?")


def test_files_that_questions_are_not_kept_in(refused, untrained):
    for flags in (("--eval",), ("--show_prompt", "x?")):
        assert "--json is for answers" in refused("rag_demo.py", "--run", "runs/R", "--json", *flags, cwd=untrained)
    run = ("--run", "runs/R", "--web", "--save")
    assert "a name that ends in .jsonl is wanted" in refused("rag_demo.py", *run, "q.csv", cwd=untrained)
    assert "no file can be made there" in refused("rag_demo.py", *run, "nowhere/q.jsonl", cwd=untrained)
    assert "--save needs --web" in refused("rag_demo.py", "--run", "runs/R", "--save", "q.jsonl", "x?", cwd=untrained)


def test_the_page_takes_no_uploads_and_no_endless_requests():
    pytest.importorskip("gradio")
    built = page.build(lambda q: {}, Writes(""), ["a", "b"], title="t", examples=["one?"])
    assert sum(block["type"] == "html" for block in built.get_config_file()["components"]) >= 4
    assert built._queue.max_size == page.WAITING
    try:
        url = page.launch(built)
        assert urllib.request.urlopen(url).status == 200  # noqa: S310 - our own
        form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\nb\r\n--x--\r\n'
        for path, body, status in (("upload", form, 403), ("queue/join", b"x" * (page.LARGEST + 1), 413)):
            request = urllib.request.Request(
                f"{url}gradio_api/{path}", body, {"Content-Type": "multipart/form-data; boundary=x"}
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request)  # noqa: S310
            assert refused.value.code == status
    finally:
        built.close()


@pytest.mark.slow
def test_the_page_in_a_browser(tmp_path):
    """Citations, two runs, empty, endless and hostile questions, a generator that is down, two users at once."""
    webdriver = pytest.importorskip("selenium.webdriver")
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("no chromium here")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1200,1400"):
        options.add_argument(flag)
    release = threading.Event()

    def find(question):
        one = found()._replace(whole=False)
        return {"runs/A": one, "runs/B": one._replace(docs=one.docs[1:])}

    class Repeats:
        def stream(self, question, docs, said):
            if "down" in question:
                raise BadInput("http://127.0.0.1:9/v1: connection refused")
            said(f"begun: {question}")
            if "slow" in question:
                release.wait(20)
            return Answer(f"{question} [1] [2]", (1, 2))

    built = page.build(find, Repeats(), ["runs/A", "runs/B"], title=HOSTILE, examples=["an example?"],
                       save=tmp_path / "asked.jsonl")  # fmt: skip
    url = page.launch(built)
    users = [webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) for _ in range(2)]
    try:
        for user in users:
            user.get(url)
        wait_for(users[0], "#question textarea, #question input")
        type_in(users[0], "")
        wait_for(users[0], "#answer-0 .note")
        type_in(users[0], HOSTILE.replace("\x1b", ""))
        wait_for(users[0], "#answer-0 .answer a")
        assert not users[0].execute_script(
            "return document.querySelectorAll('.doc script, .doc img, .answer img').length"
        )
        assert HOSTILE[:25] in users[0].find_element("css selector", "#docs-0").text
        assert "only here" in users[0].find_element("css selector", "#docs-0").text  # the other found less
        users[0].find_element("css selector", "#answer-0 .answer a").click()
        assert users[0].current_url.endswith("#doc-0-1")
        users[0].find_element("css selector", "#keep").click()
        wait_for(users[0], "#kept .note", holds="mark the docs")
        users[0].find_elements("css selector", "input[type=checkbox]")[1].click()
        users[0].find_element("css selector", "#keep").click()
        wait_for(users[0], "#kept .note", holds="Kept with 1 doc.")
        (kept,) = map(json.loads, (tmp_path / "asked.jsonl").read_text(encoding="utf-8").splitlines())
        assert kept["answer"] == ["b"] and kept["question"].startswith(HOSTILE[:25])
        assert not users[0].execute_script("return document.querySelectorAll('label script, label img').length")
        users[0].save_screenshot(str(tmp_path / "marked.png"))
        type_in(users[0], "x" * 10_000)
        wait_for(users[0], "#answer-0 .error", holds="At most 2,000 characters")
        type_in(users[0], "down")
        wait_for(users[0], "#answer-0 .error", holds="could not be answered")
        type_in(users[0], "slow one")
        wait_until(lambda: not users[0].find_element("css selector", "#ask").is_enabled())
        wait_for(users[0], "#answer-0 .answer", holds="begun: slow one")
        type_in(users[1], "another user")
        release.set()
        wait_for(users[0], "#answer-0 .answer", holds="slow one")
        wait_for(users[1], "#answer-0 .answer", holds="another user")
        wait_until(lambda: users[0].find_element("css selector", "#ask").is_enabled())
        with pytest.raises(Exception, match="no such alert"):
            users[0].switch_to.alert  # noqa: B018 - reading it is the check
        users[0].save_screenshot(str(tmp_path / "page.png"))
    finally:
        for user in users:
            user.quit()
        built.close()


def type_in(user, text):
    place = user.find_element("css selector", "#question textarea, #question input")
    user.execute_script(
        "const set = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(arguments[0]), 'value').set;"
        "set.call(arguments[0], arguments[1]); arguments[0].dispatchEvent(new Event('input', {bubbles: true}));",
        place, text,
    )  # fmt: skip
    user.find_element("css selector", "#ask").click()


def wait_until(holds, seconds=20):
    end = threading.Event()
    for _ in range(int(seconds / 0.1)):
        if holds():
            return
        end.wait(0.1)
    pytest.fail("waited in vain")


def wait_for(user, selector, holds=""):
    wait_until(lambda: any(holds in each.text for each in user.find_elements("css selector", selector)))


# ------------------------------------------------------------------------------------ models that are made here


def test_a_reader_and_a_reranker_are_trained_and_used(launch, desk, bert, monkeypatch, capsys):
    import runpy
    import sys

    from conftest import ROOT

    def bench(script, *flags):
        monkeypatch.chdir(desk)
        monkeypatch.setattr(sys, "argv", [script, *map(str, flags)])
        runpy.run_path(str(ROOT / script))["main"]()

    bench("experiments/cross_fit.py", "--data", "gold", "--parts", 2, "--out", "parts/gold")
    parts = [load_collection(str(desk / f"parts/gold-{part}")) for part in range(2)]
    tested = [{qid for qid in part.qrels_dict("test")} for part in parts]
    assert not tested[0] & tested[1] and len(tested[0] | tested[1]) == len(parts[0].queries)
    for part in parts:
        sides = []
        for split in ("train", "test"):
            best = [max(docs, key=docs.get) for docs in part.qrels_dict(split).values()]
            sides.append({part.docs.record(part.docs.row_of[doc])["title"] for doc in best})
        assert not sides[0] & sides[1]
    small = ("--encoder", bert, "--length", 48, "--batch_size", 4)
    bench("experiments/train_reader.py", *small, "--data", "parts/gold-0", "--epochs", 1, "--out", "runs/reader")
    flags = "--eval --run runs/R --data gold --generator qa:runs/reader --distraction --docs 2".split()
    assert launch("rag_demo.py", *flags, "--name", "read", cwd=desk) == 0
    result = read_json(desk / "runs/read/answers/gold-test-qa_reader/metrics.json")
    assert 0 <= result["arms"][0]["means"]["distracting effect"][0] <= 1
    bench("experiments/train_cross_encoder.py", *small, "--data", "tiny", "gold", "--queries", 8, "--out", "runs/judge")
    flags = "--retriever bm25 --data tiny --rerank runs/judge --rerank_depth 3 --name reranked".split()
    assert launch("evaluate.py", *flags, cwd=desk) == 0
    printed = capsys.readouterr().out
    assert "wrote   runs/reader/" in printed and "wrote   runs/judge/" in printed


@pytest.mark.parametrize("docstring", [7, 1.5, True, ["a"], {"a": 1}, "", None])
def test_a_docstring_that_is_no_text_is_none(docstring):
    record = {"_id": "d", "text": "the text", "metadata": {"docstring": docstring, "name": 7, "file": [], "line": None}}
    assert scoring.readable(record, "the text") == "the text"
    collection = types.SimpleNamespace(
        docs=types.SimpleNamespace(record=lambda row: record, text=lambda row: "the text", ids=["d"])
    )
    one = Hits(np.ones((1, 1)), np.zeros((1, 1), dtype=int))
    retriever = types.SimpleNamespace(search=lambda questions, k, known, among: one)
    found = asking.answered(asking.find("which text?", retriever, collection, 1), "which text?", Extractive())
    assert found.answer.text == "the text [1]." and found.docs[0].place == "7  ([]:None)"

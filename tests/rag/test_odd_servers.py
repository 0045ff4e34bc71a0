"""Servers that answer in ways of their own: thoughts in the reply, parameters and roles that they refuse, filters."""

import contextlib
import http.server
import json
import threading

import numpy as np
import pytest

from lib.rag import answers, asking, page, prompts, store, summary
from lib.rag.prompts import Answer
from lib.rag.server import Server

PAIRS = [("how long should a roast rest?", ("A roast should rest for ten minutes.", "Slice the onions."))]


@contextlib.contextmanager
def serving(reply, *, models=(200, {"data": [{"id": "tiny"}]})):
    """(url, bodies that were sent): a server on this machine; reply(body) gives (status, object)."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send(self, status, thing):
            data = json.dumps(thing).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self):
            self.send(*models)

        def do_POST(self):
            seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send(*reply(seen[-1]))

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}/v1", seen
        listening.shutdown()


def said(text, finish="stop", **more):
    return 200, {"choices": [{"message": {"content": text} | more, "finish_reason": finish}]}


def open_server(url, **options):
    known = {"model": None, "context_tokens": 60, "answer_tokens": 6, "timeout": 5.0, "pause": 0.01}
    return Server(url, **(known | options))


# --------------------------------------------------------------------------------------------- thinking


@pytest.mark.parametrize(
    "reply, text, cited",
    [
        ("<think>[2] or NO-RESPONSE?</think>\n\nTen minutes [1].", "Ten minutes [1].", (1,)),
        ("[2] or NO-RESPONSE?\n</think>\nTen minutes [1].", "Ten minutes [1].", (1,)),  # begun by the template
        ("<think>a</think><think>[2]</think>Ten [1]", "Ten [1]", (1,)),
        ("<think>[1] says ten</think>NO-RESPONSE", "", ()),
        ("<think>[1] says ten</think>", "", ()),
        ("the tag <think> begins it [2]", "the tag <think> begins it [2]", (2,)),
    ],
)
def test_what_a_model_thinks_is_no_part_of_its_answer(reply, text, cited):
    found = prompts.answer_of(reply, 2)
    assert (found.text, found.citations, found.unknown, found.cut) == (text, cited, (), False)
    assert found.abstained is (not text)


@pytest.mark.parametrize(
    "reply", ["<think>Looking at [1], if none fits I say NO-RESPONSE", " <think>", "<think>a</think><think>b"]
)
def test_a_thought_that_is_cut_is_no_answer(reply):
    found = prompts.answer_of(reply, 2)
    assert (found.text, found.citations, found.cut, found.abstained) == ("", (), True, False)


def test_many_thoughts_take_no_time():
    assert prompts.answer_of("<think></think>" * 100_000 + "ten", 2).text == "ten"


def test_a_budget_that_went_into_thinking_is_no_abstention():
    for reply in (said(None, "length", reasoning_content="Doc 1 says"), said("<think>Doc [1]", "length")):
        with serving(lambda body, reply=reply: reply) as (url, _):
            (found,) = open_server(url).generate(PAIRS)
        assert found.cut and not found.abstained and found.citations == () and "--answer_tokens" in found.shown
    whole = prompts.answer_of("NO-RESPONSE.", 2, cut=True)
    assert whole.abstained and whole.shown == prompts.NOTHING


def test_a_local_model_whose_template_begins_the_thought(monkeypatch):
    torch = pytest.importorskip("torch")
    from lib.rag.language_model import LanguageModel

    class Tokens:
        pad_token_id, chat_template = 0, "x"
        replies = ["[2] or NO-RESPONSE, let me", "[2]?</think>ten [1]"]

        def decode(self, ids, **_):
            return self.replies[int(ids[0]) - 1]

    made = LanguageModel.__new__(LanguageModel)
    made.tokenizer, made.pairs, made.answer_tokens, made.device = Tokens(), True, 9, torch.device("cpu")
    monkeypatch.setattr(made, "prompt", lambda question, docs: (f"{question}<think>\n", 2), raising=False)
    inputs = {"input_ids": torch.ones(2, 3, dtype=int), "attention_mask": torch.ones(2, 3, dtype=int)}
    monkeypatch.setattr(made, "_inputs", lambda texts: inputs, raising=False)
    made.model = type("Model", (), {"generate": lambda self, **_: torch.tensor([[1], [2]])})()
    cut, whole = made.generate(PAIRS * 2)
    assert cut.cut and not cut.abstained and cut.citations == ()
    assert whole.text == "ten [1]" and whole.citations == (1,) and not whole.cut


def test_cut_answers_are_counted_apart(tmp_path, capsys):
    one = answers.Answered(Answer("", cut=True), ["ten"], ["doc"], [True])
    assert answers.outcome(one) == "cut" and answers.scored(one)["abstained"] == 0 and answers.scored(one)["f1"] == 0
    row = {"outcome": np.array(["cut", "distracted"]), "f1": np.zeros(2), "ndcg@10": np.zeros(2)}
    names = summary._happened([summary._arm_row("a", {0: row})])
    assert "cut" in names and "cut" not in summary._happened([{"outcomes": {"cut": 0.0}}])
    with serving(lambda body: said(None, "length")) as (url, _):
        known = store.Answers(tmp_path / "a.jsonl", open_server(url))
        (found,) = known.ask(PAIRS, desc="")
        again = store.Answers(tmp_path / "a.jsonl", open_server(url))
    for each in (known, again):
        (line,) = each.shortfall()
        assert line.startswith("1 of the answers were cut") and "--answer_tokens" in line
    shown = asking.Found([asking.Doc(1, "d", 1.0, "", "text")], found, 1.0)
    asking.show({"a": shown})
    assert "--answer_tokens" in capsys.readouterr().out and "--answer_tokens" in page.answer_html(shown, 0)

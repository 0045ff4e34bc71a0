"""Servers that answer in ways of their own: thoughts in the reply, parameters and roles that they refuse, filters."""

import contextlib
import http.server
import json
import socket
import threading
import time
import types

import numpy as np
import pytest

from lib.files import BadInput
from lib.rag import answers, asking, page, prompts, store, summary
from lib.rag.prompts import Answer
from lib.rag.server import Server

PAIRS = [("how long should a roast rest?", ("A roast should rest for ten minutes.", "Slice the onions."))]


@contextlib.contextmanager
def serving(reply, *, models=(200, {"data": [{"id": "tiny"}]})):
    """(url, bodies that were sent): a server on this machine; reply(body) gives (status, object or bytes)."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send(self, status, thing):
            data = thing if isinstance(thing, bytes) else json.dumps(thing).encode()
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
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
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
        ("<thinking>[2]: NO-RESPONSE</thinking>Ten [1]", "Ten [1]", (1,)),
        ("<THINK >[2]: NO-RESPONSE</Think >Ten [1]", "Ten [1]", (1,)),
        ("[THINK]Doc [2] </think> NO-RESPONSE[/THINK]Ten [1]", "Ten [1]", (1,)),
        ("◁think▷[2]: NO-RESPONSE◁/think▷Ten [1]", "Ten [1]", (1,)),
        (
            "<|start|>assistant<|channel|>analysis<|message|>[2]<|end|><|start|>assistant<|channel|>commentary"
            "<|message|>NO-RESPONSE?<|end|><|start|>assistant<|channel|>final<|message|>Ten [1]",
            "Ten [1]",
            (1,),
        ),
        ("[2]?<|end|><|start|>assistant<|channel|>final<|message|>NO-RESPONSE [2]", "", ()),
        ("<seed:think>[2] NO-RESPONSE</seed:think>Ten [1]", "Ten [1]", (1,)),
        ("<thought>[2] NO-RESPONSE</thought>\nTen [1]", "Ten [1]", (1,)),
        ("<reasoning>[2] NO-RESPONSE</reasoning><answer>Ten [1]</answer>", "Ten [1]", (1,)),
        ("<|START_THINKING|>[2] NO-RESPONSE<|END_THINKING|><|START_RESPONSE|>Ten [1]<|END_RESPONSE|>", "Ten [1]", (1,)),
        (
            "<|begin_of_thought|>NO-RESPONSE<|end_of_thought|> <|begin_of_solution|>Ten [1]<|end_of_solution|>",
            "Ten [1]",
            (1,),
        ),
        ("<|channel>thought\n[2] NO-RESPONSE<channel|>Ten [1]", "Ten [1]", (1,)),
        ("<unused94>thought\nNO-RESPONSE<unused95>Ten [1]", "Ten [1]", (1,)),
        ("Here is my thought process:\nNO-RESPONSE?\nHere is my response:\nTen [1]", "Ten [1]", (1,)),
        ("analysisWe need [2] or NO-RESPONSE.assistantfinalTen [1]", "Ten [1]", (1,)),
        ('<details type="reasoning" done="true">\n> NO-RESPONSE\n</details>\nTen [1]', "Ten [1]", (1,)),
        ("Ten [1]<|im_end|>", "Ten [1]", (1,)),
        ("analysis of <details>blood</details> [1]", "analysis of <details>blood</details> [1]", (1,)),
    ],
)
def test_what_a_model_thinks_is_no_part_of_its_answer(reply, text, cited):
    found = prompts.answer_of(reply, 2)
    assert (found.text, found.citations, found.unknown, found.cut) == (text, cited, (), False)
    assert found.abstained is (not text)


@pytest.mark.parametrize(
    "reply",
    [
        "<think>Looking at [1], if none fits I say NO-RESPONSE",
        " <think>",
        "<think>a</think><think>b",
        "[think] [2]",
        "<|channel|>analysis<|message|>[2] or NO-RESPONSE",
        "NO-RESPONSE [1]\n<think>or [2]",
        "<seed:think>[2] or NO-RESPONSE",
        "<|START_THINKING|>[2] or NO-RESPONSE",
        "<thought>NO-RESPONSE",
    ],
)
def test_a_thought_that_is_cut_is_no_answer(reply):
    found = prompts.answer_of(reply, 2)
    assert (found.text, found.citations, found.cut, found.abstained) == ("", (), True, False)


@pytest.mark.parametrize(
    "reply, cut", [("Sure.\n<think>[2] NO-RESPONSE", False), ("Sure. <Thinking>[2] NO-RESPONSE", True)]
)
def test_what_stands_before_a_thought_that_is_cut_is_no_abstention(reply, cut):
    found = prompts.answer_of(reply, 2, cut=cut)
    assert (found.text, found.citations, found.cut, found.abstained) == ("Sure.", (), True, False)


def test_many_thoughts_take_no_time():
    assert prompts.answer_of("<think></think>" * 100_000 + "ten", 2).text == "ten"
    assert prompts.answer_of('<details type="reasoning">' * 100_000, 2).cut
    assert prompts.answer_of('<details type="reasoning">' * 100_000 + "</details>ten", 2).text == "ten"


def test_a_budget_that_went_into_thinking_is_no_abstention():
    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Doc [1]: NO-RESPONSE"}]}]
    for reply in (
        said(None, "length", reasoning_content="Doc 1 says"),
        said("<think>Doc [1]", "length"),
        said(None, "stop", reasoning_content="Ten minutes, by doc [1]"),
        said("", "stop", reasoning="Doc [1]"),
        said(thought),
        (200, stream({"reasoning_content": "Doc [1]"}, {"content": None})),
        (200, stream({"content": thought})),
        *(said(None, reason) for reason in ("tool_calls", "max_tokens", "MAX_TOKENS", "model_length", None)),
    ):
        with serving(lambda body, reply=reply: reply) as (url, _):
            (found,) = open_server(url).generate(PAIRS)
        assert found.cut and not found.abstained and found.citations == () and "--answer_tokens" in found.shown
    for reason, cut in (("MAX_TOKENS", True), ("stop", False)):
        with serving(lambda body, reason=reason: said("ten [1]", reason)) as (url, _):
            (found,) = open_server(url).generate(PAIRS)
        assert (found.text, found.cut) == ("ten [1]", cut)
    with serving(lambda body: said("")) as (url, _):
        assert open_server(url).generate(PAIRS)[0].abstained
    whole = prompts.answer_of("NO-RESPONSE.", 2, cut=True)
    assert whole.abstained and whole.shown == prompts.NOTHING


def test_a_local_model_whose_template_begins_the_thought(monkeypatch):
    torch = pytest.importorskip("torch")
    from lib.rag.language_model import LanguageModel

    class Tokens:
        pad_token_id, chat_template, added_tokens_decoder = 0, "x", {}
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
    shown = asking.Found([asking.Doc(1, "d", 1.0, "", "text", "text")], found, 1.0)
    asking.show("q", {"a": shown}, types.SimpleNamespace(generate=lambda pairs: [found]))
    assert "--answer_tokens" in capsys.readouterr().out and "--answer_tokens" in page.answer_html(shown, 0)


# ---------------------------------------------------------------------------- what a server refuses of a request


def error(message, status=400, **more):
    return status, {"error": {"message": message, "code": status} | more}


def particular(body):
    """A server that takes neither max_tokens nor a temperature, and says so one at a time."""
    if "max_tokens" in body:
        return error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", param="max_tokens")
    if "temperature" in body:
        return error("Unsupported value: 'temperature' does not support 0 with this model.", param="temperature")
    return said("ten minutes [1]")


def test_parameters_that_are_refused_are_left_out_from_then_on():
    with serving(particular) as (url, seen):
        generator = open_server(url)
        assert generator.generate(PAIRS)[0].text == "ten minutes [1]" and len(seen) == 3
        assert generator.generate(PAIRS)[0].text == "ten minutes [1]" and len(seen) == 4
    assert seen[0]["max_tokens"] == 6 and seen[0]["temperature"] == 0
    assert seen[-1]["max_completion_tokens"] == 6 and not {"max_tokens", "temperature"} & seen[-1].keys()


@pytest.mark.parametrize(
    "reply",
    [
        error("System role not supported"),
        error("Conversation roles must alternate user/assistant/user/assistant/..."),
        (400, {"message": "Unexpected role 'system' in messages"}),
        (422, {"error": "Only user messages; no role: system"}),
        error("Jinja Exception: System role not supported", 500),
        error("Developer instruction is not enabled for models/gemma-3-27b-it"),
        error("Only user, assistant and tool roles are supported, got system."),
        error("Only user and assistant roles are supported!", 500),
        error("The first message must have role 'user'"),
        (422, {"detail": [{"msg": "Input should be 'user' or 'assistant'"}]}),
    ],
)
def test_a_server_without_a_system_role_is_sent_one_message(reply):
    system = lambda body: body["messages"][0]["role"] == "system"  # noqa: E731
    with serving(lambda body: reply if system(body) else said("ten minutes [1]")) as (url, seen):
        generator = open_server(url)
        for count in (2, 3):
            assert generator.generate(PAIRS)[0].text == "ten minutes [1]" and len(seen) == count
    (message,) = seen[-1]["messages"]
    assert message["role"] == "user" and prompts.SYSTEM in message["content"] and PAIRS[0][0] in message["content"]


@pytest.mark.parametrize("message", ["out of memory", "max_tokens: internal error"])
def test_another_error_of_the_server_is_tried_again(message):
    with serving(lambda body: error(message, 500) if len(seen) < 3 else said("ten [1]")) as (url, seen):
        assert open_server(url).generate(PAIRS)[0].text == "ten [1]"
    assert len(seen) == 3 and all(body == seen[0] for body in seen)


@pytest.mark.parametrize(
    "reply",
    [
        (200, {"error": {"code": 429, "message": "rate limited upstream"}}),
        (200, {"choices": [{"error": {"code": 502}, "finish_reason": "error", "message": {"content": ""}}]}),
    ],
)
def test_an_error_that_comes_as_a_success_is_tried_again(reply):
    with serving(lambda body: reply if len(seen) < 3 else said("ten [1]")) as (url, seen):
        assert open_server(url).generate(PAIRS)[0].text == "ten [1]" and len(seen) == 3


def test_what_did_not_help_is_not_remembered():
    failing = [True]
    long = error("max_tokens is too large: the context length is 512")
    with serving(lambda body: long if failing else said("ten [1]")) as (url, seen):
        generator = open_server(url)
        with pytest.raises(BadInput, match="lower --context_tokens"):
            generator.generate(PAIRS)
        assert len(seen) == 2
        failing.clear()
        assert generator.generate(PAIRS)[0].text == "ten [1]" and "max_tokens" in seen[-1]


@pytest.mark.parametrize(
    "body", [[], "no", {"error": "no"}, {"error": {"param": ["x"], "message": 7}}, {"error": None}]
)
def test_an_error_that_names_nothing_is_asked_once(body):
    with serving(lambda _: (400, body)) as (url, seen):
        with pytest.raises(BadInput, match="HTTP 400"):
            open_server(url, model="m").generate(PAIRS)
    assert len(seen) == 1


# --------------------------------------------------------------------------------------- filters and hints

FILTERS = [
    error("The response was filtered due to the prompt triggering Azure OpenAI's content management policy."),
    error("no", innererror={"code": "ResponsibleAIPolicyViolation"}),
    error("no", 403, code="content_filter"),
    error("Content Exists Risk"),
    error("Input data may contain inappropriate content.", code="data_inspection_failed"),
    error("Invalid prompt: it was flagged as potentially violating our usage policy.", code="invalid_prompt"),
    said(None, "content_filter: PROHIBITED_CONTENT"),
    said(None, "safety"),
    said(None, "content_filter"),
    said("Press", "content_filter"),
    said(None, refusal="I'm sorry, I can't help with that."),
    said("", reasoning="no", refusal="I'm sorry."),
]


@pytest.mark.parametrize("reply", FILTERS)
def test_a_question_that_a_filter_refuses_is_noted_and_the_others_are_answered(reply, tmp_path):
    pairs = [(f"question {number}?", PAIRS[0][1]) for number in range(5)]
    with serving(lambda body: reply if "question 2" in str(body) else said("ten [1]")) as (url, seen):
        known = store.Answers(tmp_path / "a.jsonl", open_server(url))
        found = known.ask(pairs, desc="")
        again = store.Answers(tmp_path / "a.jsonl", open_server(url))
        assert again.ask(pairs, desc="") == found and len(seen) == 5
    assert [each.text for each in found] == ["ten [1]", "ten [1]", "", "ten [1]", "ten [1]"]
    assert found[2].refused and not found[2].abstained and "filter" in found[2].shown
    lines = ["1 of the questions were refused by a content filter or the model"]
    assert list(known.shortfall()) == list(again.shortfall()) == lines
    assert answers.outcome(answers.Answered(found[2], ["ten"], ["doc"], [True])) == "refused"


@pytest.mark.parametrize(
    "models, reply, wanted",
    [
        ((404, {"detail": "Not Found"}), None, "may lack /v1, or it lists no models: say which with --model"),
        ((501, {}), None, "; it lists no models: say which with --model"),
        ((200, {"data": []}), None, "names no model: say which with --model"),
        (None, error('"tiny" does not support chat'), "the server's first model was asked: --model names another"),
        (None, error("This model's maximum context length is 512 tokens."), "lower --context_tokens"),
        (None, (200, {"id": "x", "choices": []}), "no choices.*serve chat completions"),
        (None, error("prompt is too long: 9000 tokens > 8192 maximum"), "lower --context_tokens"),
        (None, (413, {"error": "Payload Too Large"}), "lower --context_tokens"),
        (None, (200, {"error": {"code": 404, "message": "no endpoints"}}), "its reply is an error: .*no endpoints"),
    ],
)
def test_an_error_says_what_may_help(models, reply, wanted):
    with serving(lambda body: reply, **({"models": models} if models else {})) as (url, _):
        with pytest.raises(BadInput, match=wanted) as raised:
            open_server(url).generate(PAIRS)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("usage", [{"prompt_tokens": "ten", "completion_tokens": 3}, [1], 7, {"prompt_tokens": -1}])
def test_usage_that_is_no_number_is_ignored(usage):
    choices = said("ten [1]")[1]["choices"]
    for each in (usage, {"prompt_tokens": float("inf")}):
        with serving(lambda body, each=each: (200, {"choices": choices, "usage": each})) as (url, _):
            (found,) = open_server(url).generate(PAIRS)
        assert found.text == "ten [1]" and found.tokens[0] == 0


def test_a_content_of_parts_is_joined():
    parts = [{"type": "thinking", "thinking": "[2]"}, {"type": "text", "text": "ten "}, {"text": None}, "minutes [1]"]
    for reply in (said(parts), (200, stream({"content": parts[:2]}, {"content": parts[2:]}))):
        with serving(lambda body, reply=reply: reply) as (url, _):
            (found,) = open_server(url).generate(PAIRS)
        assert (found.text, found.citations, found.cut) == ("ten minutes [1]", (1,), False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST.", "[::1]", "127.9.9.9"])
def test_this_machine_is_reached_past_a_proxy(host, monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    reached = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(0.2)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with pytest.raises(BadInput):  # nobody listens there
            open_server(f"https://{host}:9/v1", timeout=0.3)
        with contextlib.suppress(TimeoutError):
            reached.append(proxy.accept())
    assert not reached


# ------------------------------------------------------------------------------------------------ streams


def events(*parts, end=b"data: [DONE]\n\n", finish=None):
    chunks = [{"choices": [{"delta": {"content": part}, "finish_reason": None}]} for part in parts]
    chunks += [{"choices": [{"delta": {}, "finish_reason": finish}]}, {"choices": [], "usage": {"prompt_tokens": 9}}]
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def stream(*deltas, head=b"", end=b"data: [DONE]\n\n"):
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    return head + b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + end


def test_what_else_stands_in_a_stream_is_passed_over():
    text = stream({"role": "assistant"}, None, {"content": "ten "}, None, {"content": "[1]"}, head=b"retry: 3000\n\n")
    with serving(lambda body: (200, text)) as (url, _):
        (found,) = open_server(url).generate(PAIRS)
    assert (found.text, found.cut) == ("ten [1]", False)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "out of memory", "code": 502}}\n\n',
        b'event: error\ndata: {"message": "out of memory"}\n\n',
        b'error: {"message": "out of memory"}\n\n',
        b'data: {"error": {"message": "out of memory"}, "choices": [{"delta": {}, "finish_reason": "error"}]}\n\n',
    ],
)
def test_an_error_in_a_stream_is_shown_in_the_servers_words(event):
    begin = stream({"content": "ten"}, end=b"")
    with serving(lambda body: (200, begin + event + b"data: [DONE]\n\n")) as (url, seen):
        with pytest.raises(BadInput, match="breaks off.*out of memory.*tried 4 times"):
            open_server(url).generate(PAIRS)
    assert len(seen) == 4
    replies = [begin + event, events("ten [1]", finish="stop")]
    with serving(lambda body: (200, replies.pop(0))) as (url, _):
        assert open_server(url).generate(PAIRS)[0].text == "ten [1]"


@pytest.mark.parametrize("finish, end", [("length", b""), ("stop", b"data: [DONE]\n\n"), (None, b"data: [DONE]\n\n")])
def test_a_server_that_only_streams_is_read(finish, end):
    with serving(
        lambda body: (200, b": working\n\n" + events("ten ", None, "minutes [1]", end=end, finish=finish))
    ) as (url, _):
        (found,) = open_server(url).generate(PAIRS)
    assert found.text == "ten minutes [1]" and found.cut is (finish == "length") and found.tokens == (9, 0)


@pytest.mark.parametrize(
    "stream", [events("ten ", end=b""), b"data: {", b"data: 7\n", b'data: {"choices": [7]}\n', events(7)]
)
def test_a_stream_that_breaks_off_or_is_none_is_no_answer(stream):
    with serving(lambda body: (200, stream)) as (url, seen):
        with pytest.raises(BadInput, match="not JSON.*tried 4 times"):
            open_server(url).generate(PAIRS)
    assert len(seen) == 4


def test_a_stream_is_told_as_it_comes_and_without_what_is_no_answer(monkeypatch):
    key, told = "key-" + "0f" * 12, []
    monkeypatch.setenv("OPENAI_API_KEY", key)
    parts = ["<think>[2]?", "</think>", "ten min", "utes, ", key[:9], key[9:], " in Nürn", "berg [", "1] long"]
    more = iter(parts)

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            self.wfile.write(b'HTTP/1.0 200 OK\r\n\r\n{"data": [{"id": "tiny"}]}')

        def do_POST(self):
            assert json.loads(self.rfile.read(int(self.headers["Content-Length"])))["stream"] is True
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
            for part in more:
                ready.wait(5)
                ready.clear()
                self.wfile.write(stream({"content": part}, end=b""))
            ready.wait(5)
            self.wfile.write(b"data: [DONE]\n\n")
            read.wait(20)  # the connection stays open

    def listen(text):
        told.append(text)
        ready.set()

    ready, read, begin = threading.Event(), threading.Event(), time.monotonic()
    ready.set()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
        answer = open_server(f"http://127.0.0.1:{listening.server_port}/v1").stream(*PAIRS[0], listen)
        read.set()
        listening.shutdown()
    assert time.monotonic() - begin < 15
    assert answer.text == "ten minutes, *** in Nürnberg [1] long" and answer.citations == (1,)
    whole = "ten minutes, *** in Nürnberg [1]"
    assert told[-1] == whole and "ten" in told  # several parts may come at once
    assert all(whole.startswith(text) and not text.endswith(("[", "*", "ten min")) for text in told)


def test_a_server_that_refuses_to_stream_answers_at_once():
    def reply(body):
        return (400, {"error": {"message": "stream is not supported"}}) if "stream" in body else said("ten [1]")

    told = []
    with serving(reply) as (url, seen):
        answer = open_server(url).stream(*PAIRS[0], told.append)
    assert answer.text == "ten [1]" and not any(told) and ["stream" in body for body in seen] == [True, False]

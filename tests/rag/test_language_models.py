"""Generators that are models: tiny ones with random weights, checked against the libraries; a server over real HTTP."""

import contextlib
import http.server
import json
import re
import threading
import time

import numpy as np
import pytest
import torch
import transformers

from lib import run
from lib.data.collection import load_collection
from lib.files import BadInput
from lib.rag import prompts, store
from lib.rag.generators import Extractive, open_generator
from lib.rag.server import TRIES, Server, retry_after

CPU = torch.device("cpu")
OPTIONS = {"device": CPU, "model": None, "context_tokens": 60, "answer_tokens": 6, "timeout": 2.0}
DOCS = ("Slice the onions thinly and cook them over low heat.", "A roast should rest for ten minutes before carving.")
PAIRS = [("how long should a roast rest?", DOCS), ("onions?", DOCS[:1]), ("nothing to read?", ())]
SMALL = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(scope="module")
def tokenizer():
    """A tokenizer of bytes: it can spell everything."""
    import tokenizers

    base = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={chr(0): 0}, merges=[]))
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<pad>": 0, "<eos>": 1} | {letter: i + 2 for i, letter in enumerate(alphabet)}
    base = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    base.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = tokenizers.decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=base, pad_token="<pad>", eos_token="<eos>", model_max_length=1024
    )


@pytest.fixture(scope="module")
def models(tokenizer, tmp_path_factory):
    """Folders of a causal and a sequence-to-sequence model with random weights."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    causal = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**SMALL, max_position_embeddings=1024, pad_token_id=0)
    )
    t5 = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=300, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0,
                              decoder_start_token_id=0, eos_token_id=1)
    )  # fmt: skip
    for name, model in (("causal", causal), ("pairs", t5)):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("kind", ["causal", "pairs"])
def test_a_language_model_answers_alike_alone_and_in_a_batch(models, kind):
    generator = open_generator(f"hf:{models / kind}", **OPTIONS)
    together, alone = generator.generate(PAIRS), [generator.generate([pair])[0] for pair in PAIRS]
    assert [each.text for each in together] == [each.text for each in alone]
    for answer, (question, _) in zip(together, PAIRS):
        assert question in answer.prompt and prompts.SYSTEM in answer.prompt
        assert answer.tokens[0] > 0 and answer.tokens[1] <= 6 and answer.ms > 0


@pytest.mark.parametrize("kind", ["causal", "pairs"])
def test_a_language_model_tells_what_it_writes(models, kind, monkeypatch):
    generator, told = open_generator(f"hf:{models / kind}", **OPTIONS), []
    monkeypatch.setattr(prompts, "so_far", lambda reply: reply)
    answer = generator.stream(*PAIRS[0], told.append)
    assert answer.text == generator.generate(PAIRS[:1])[0].text and len(told) == answer.tokens[1] > 1
    assert told[-1] == answer.text and all(
        after.startswith(before.rstrip("\ufffd")) for before, after in zip(told, told[1:])
    )


@pytest.mark.parametrize("kind", ["causal", "pairs"])
def test_the_probability_of_abstaining_is_the_product_over_its_tokens(models, tokenizer, kind):
    generator = open_generator(f"hf:{models / kind}", **OPTIONS)
    pairs = [(PAIRS[0][0], doc) for doc in DOCS]
    text, _ = generator.prompt(*[pairs[1][0], [pairs[1][1]]])
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    wanted, chance = tokenizer(prompts.ABSTAIN, add_special_tokens=False)["input_ids"], 1.0
    model, written = generator.model, [0]
    for token in wanted:  # one token after the other, as it would be written
        with torch.no_grad():
            if kind == "causal":
                logits = model(input_ids=ids).logits[0, -1]
                ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            else:
                logits = model(input_ids=ids, decoder_input_ids=torch.tensor([written])).logits[0, -1]
                written.append(token)
        chance *= logits.softmax(-1)[token].item()
    found = generator.abstain_probability(pairs)
    assert found.shape == (2,) and found[1] == pytest.approx(chance, rel=1e-4) and (found >= 0).all()


def test_a_chat_template_writes_the_prompt(models, tokenizer, tmp_path):
    transformers.AutoModelForCausalLM.from_pretrained(models / "causal").save_pretrained(tmp_path)
    other = transformers.AutoTokenizer.from_pretrained(models / "causal")
    other.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    )
    other.save_pretrained(tmp_path)
    text, docs = open_generator(f"hf:{tmp_path}", **OPTIONS).prompt("why?", DOCS)
    assert text.startswith(f"<user>{prompts.SYSTEM}") and text.endswith("Answer:<answer>") and docs == 1


@pytest.mark.parametrize(
    "marks", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|channel|>analysis<|message|>", "<|end|><|start|>"
                                                                 "assistant<|channel|>final<|message|>")]
)  # fmt: skip
def test_a_thought_between_special_tokens_is_no_answer(models, tokenizer, tmp_path, marks):
    own = transformers.AutoTokenizer.from_pretrained(models / "causal")
    special = dict.fromkeys(re.findall(r"<[^>]+>|\[/?THINK\]", "".join(marks)))
    own.add_special_tokens({"additional_special_tokens": [*special, "<|other|>"]})
    model = transformers.AutoModelForCausalLM.from_pretrained(models / "causal")
    model.resize_token_embeddings(len(own))
    for part in (model, own):
        part.save_pretrained(tmp_path)
    generator = open_generator(f"hf:{tmp_path}", **OPTIONS)
    reply = f"{marks[0]}by doc [2]{marks[1]}ten minutes [1]<|other|><eos>"
    said = generator._said(own(reply, add_special_tokens=False)["input_ids"])
    answer = prompts.answer_of(said, 2)
    assert (answer.text, answer.citations, answer.cut) == ("ten minutes [1]", (1,), False)
    cut = prompts.answer_of(generator._said(own(f"{marks[0]}by doc [2]", add_special_tokens=False)["input_ids"]), 2)
    assert cut.cut and not cut.text


def test_a_model_that_reads_too_little_is_refused(models, tmp_path):
    transformers.AutoModelForCausalLM.from_pretrained(models / "causal").save_pretrained(tmp_path)
    short = transformers.AutoTokenizer.from_pretrained(models / "causal")
    short.model_max_length = 128
    short.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="lower --answer_tokens"):
        open_generator(f"hf:{tmp_path}", **OPTIONS)


@pytest.mark.parametrize("kind", ["hf", "qa"])
def test_a_folder_that_is_no_such_model(kind, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput) as error:
        open_generator(f"{kind}:{tmp_path}", **OPTIONS)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------- extractive reading


@pytest.fixture(scope="module")
def reader(bert, tmp_path_factory):
    """A question-answering model with random weights."""
    folder = tmp_path_factory.mktemp("qa")
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(bert)
    transformers.BertForQuestionAnswering(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    return folder


def best_span(folder, question, doc):
    """(text, margin, P(no answer)) straight from the library, every span tried."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    inputs = tokenizer(question, doc, return_tensors="pt", return_offsets_mapping=True)
    offsets, kinds = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
    with torch.no_grad():
        output = model(**inputs)
    start, end = output.start_logits[0], output.end_logits[0]
    own = [i for i, kind in enumerate(kinds) if kind == 1]
    spans = [(start[i] + end[j], i, j) for i in own for j in own if 0 <= j - i < 30]
    score, i, j = max(spans)
    absent = start.softmax(0)[0] * end.softmax(0)[0]
    return doc[offsets[i][0] : offsets[j][1]], (score - start[0] - end[0]).item(), absent.item()


def test_a_reader_points_at_the_best_span(reader):
    generator = open_generator(f"qa:{reader}", **OPTIONS)
    question = PAIRS[0][0]
    wanted = [best_span(reader, question, doc) for doc in DOCS]
    found, nothing = generator.generate([(question, DOCS), (question, ())])
    number = int(np.argmax([margin for _, margin, _ in wanted]))
    assert found.confidence == pytest.approx(wanted[number][1], abs=1e-4)
    if wanted[number][1] > 0:
        assert found.text == f"{wanted[number][0]} [{number + 1}]" and found.citations == (number + 1,)
    else:
        assert found.abstained
    assert nothing.abstained
    chances = generator.abstain_probability([(question, doc) for doc in DOCS])
    np.testing.assert_allclose(chances, [absent for *_, absent in wanted], atol=1e-5)


def test_a_long_doc_is_read_in_windows(reader):
    generator = open_generator(f"qa:{reader}", **OPTIONS)
    padding = "cook them over low heat and slice the onions thinly " * 12
    (found,) = generator.generate([("roast rest?", (padding + DOCS[1],))])
    assert found.abstained or prompts.bare(found.text) in padding + DOCS[1]
    for length in range(36, 64):  # and each that leaves hardly any
        generator.generate([("roast " * length, (padding,))])
    (long_question,) = generator.generate([("roast " * 200, DOCS)])  # leaves no room for a doc
    assert long_question.text == "" or long_question.citations


# ------------------------------------------------------------------------------------------------- server


class Replies(http.server.BaseHTTPRequestHandler):
    """A server that says what the test wants: a list of (status, headers, body) or functions, the last one repeated."""

    script, seen = [], []

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.reply(200, {}, json.dumps({"data": [{"id": "tiny"}]}).encode())

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append((dict(self.headers), json.loads(body)))
        step = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        step(self) if callable(step) else self.reply(*step)

    def reply(self, status, headers, body, *, promise=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(promise or len(body)))
        self.end_headers()
        self.wfile.write(body)


def said(text, **more):
    choice = {"message": {"content": text}, "finish_reason": "stop"} | more
    return 200, {}, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3}}).encode()


def half(handler):
    handler.reply(*said("in 1937 [1]"), promise=5000)
    handler.wfile.flush()
    handler.connection.close()


def slow(handler):
    threading.Event().wait(1.0)
    handler.reply(*said("too late"))


def endless(handler):
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * 100_000)


def drip(first):
    """A reply that begins so and goes on byte by byte, each in time, and never ends."""

    def reply(handler):
        with contextlib.suppress(OSError):
            handler.wfile.write(first)
            for _ in range(300):
                handler.wfile.write(b"x")
                handler.wfile.flush()
                threading.Event().wait(0.1)

    return reply


HEAD = b"HTTP/1.0 200 OK\r\n"
DRIPS = {"headers": HEAD, "body": HEAD + b"\r\n", "error": b"HTTP/1.0 400 no\r\n\r\n", "status": b"HTTP/1.0 200 "}


@pytest.fixture
def server():
    """(url, Replies): a server on this machine for the time of a test."""
    Replies.script, Replies.seen = [said("in 1937 [1]")], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Replies) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/v1"
        listening.shutdown()
        thread.join()


@pytest.fixture
def other(server):
    """(port, list of its requests' paths and headers): a second server on this machine, which answers everything."""
    seen = []

    class Other(Replies):
        def do_GET(self):
            seen.append((self.path, dict(self.headers)))
            self.reply(*said("from elsewhere [1]"))

        do_POST = do_CONNECT = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as listening:
        threading.Thread(target=listening.serve_forever, args=[0.01], daemon=True).start()
        yield listening.server_port, seen
        listening.shutdown()


def open_server(url, **options):
    return Server(
        url, **({"model": None, "context_tokens": 60, "answer_tokens": 6, "timeout": 2.0, "pause": 0.01} | options)
    )


def test_a_server_answers(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "hush")
    generator = open_server(server)
    found = generator.generate(PAIRS)
    assert [each.text for each in found] == ["in 1937 [1]"] * 3
    assert found[0].citations == (1,) and found[2].unknown == (1,) and found[0].tokens == (9, 3)
    headers, body = Replies.seen[0]
    assert headers["Authorization"] == "Bearer hush"
    assert body["model"] == "tiny" and body["temperature"] == 0 and body["max_tokens"] == 6
    asked = {each["messages"][1]["content"] for _, each in Replies.seen}
    assert any("onions?" in text for text in asked) and "hush" not in generator.fingerprint + found[0].prompt
    assert not found[0].cut
    Replies.script = [said("in the year", finish_reason="length")]
    assert generator.generate(PAIRS[:1])[0].cut


@pytest.mark.parametrize(
    "first",
    [(429, {"Retry-After": "0"}, b"slow down"), (500, {}, b"oops"), (503, {}, b""), (200, {}, b"<html>not json"), half],
    ids=["429", "500", "503", "not json", "half"],
)
def test_what_goes_away_is_tried_again(server, first):
    Replies.script = [first, first, said("in 1937 [1]")]
    assert open_server(server).generate(PAIRS[:1])[0].text == "in 1937 [1]"
    assert len(Replies.seen) == 3


@pytest.mark.parametrize(
    "reply, wanted, tries",
    [
        ((429, {"Retry-After": "0"}, b"slow down"), "HTTP 429", TRIES),
        ((500, {}, b"oops"), "HTTP 500", TRIES),
        ((401, {}, b"who?"), "OPENAI_API_KEY", 1),
        ((404, {}, b"no such model"), "no such model", 1),
        ((200, {}, b"{}"), "no choices", 1),
        ((200, {}, b'{"choices": [{"message": {"content": 7}}]}'), "no choices", 1),
        ((200, {}, b"nonsense"), "not JSON", TRIES),
        ((200, {}, b"[" * 200_000), "not JSON", TRIES),
        (half, "middle of a reply", TRIES),
        (slow, "no reply within 0.2 s", TRIES),
    ],
    ids=["429", "500", "401", "404", "empty", "number", "not json", "nested", "half", "slow"],
)
def test_what_stays_is_one_line(server, reply, wanted, tries):
    Replies.script = [reply]
    generator = open_server(server, timeout=0.2 if reply is slow else 2.0)
    with pytest.raises(BadInput) as error:
        generator.generate(PAIRS[:1])
    assert wanted in str(error.value) and server in str(error.value) and len(Replies.seen) == tries


def test_a_reply_without_an_end_is_not_read_to_it(server):
    Replies.script = [endless]
    with pytest.raises(BadInput, match="longer than 4,000,000 bytes"):
        open_server(server).generate(PAIRS[:1])
    assert len(Replies.seen) == 1


@pytest.mark.parametrize("first", DRIPS.values(), ids=DRIPS)
def test_the_whole_of_a_reply_has_one_deadline(server, first):
    Replies.script = [drip(first)]
    begin = time.monotonic()
    with pytest.raises(BadInput, match="no reply within 0.2 s"):
        open_server(server, timeout=0.2).generate(PAIRS[:1])
    assert time.monotonic() - begin < 15 and len(Replies.seen) == TRIES  # byte by byte: 30 s for each of the tries


def test_a_server_that_is_not_there():
    with pytest.raises(BadInput, match="refused"):
        open_server("http://127.0.0.1:9/v1")


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("3", 1) == 3 and retry_after(None, 1) == 1 and retry_after("soon", 1) == 1
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT", 1) == 0 and retry_after("1e9", 1) == 60


SECRET = "sk-Secret/of-this.test"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server, other, monkeypatch, status):
    port, seen = other
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    generator = open_server(server)
    Replies.script = [(status, {"Location": f"http://u:p@localhost:{port}/v1?{SECRET}"}, b"there")]
    with pytest.raises(BadInput) as error:
        generator.generate(PAIRS[:1])
    message = str(error.value)
    assert f"HTTP {status}: redirects to localhost," in message and "u:" not in message and SECRET not in message
    assert not seen and len(Replies.seen) == 1


@pytest.mark.parametrize("location", [None, "http://[", "file:///etc/passwd"])
def test_a_redirect_that_leads_nowhere_is_one_line(server, location):
    generator = open_server(server)
    Replies.script = [(302, {"Location": location} if location else {}, b"")]
    with pytest.raises(BadInput, match="redirects to no host"):
        generator.generate(PAIRS[:1])


def test_the_key_goes_through_no_proxy_that_could_read_it(server, other, monkeypatch):
    port, seen = other
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "https_proxy"):
        monkeypatch.setenv(name, f"http://me:{SECRET}@localhost:{port}")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert open_server(server).generate(PAIRS[:1])[0].text == "in 1937 [1]"
    assert not seen
    with pytest.raises(BadInput) as error:  # encrypted, the key may pass: the proxy sees who is meant, and no more
        open_server("https://nowhere.invalid/v1", model="m").generate(PAIRS[:1])
    assert SECRET not in str(error.value)
    assert all("Authorization" not in headers and path == "nowhere.invalid:443" for path, headers in seen)
    assert len(seen) == TRIES
    monkeypatch.setenv("https_proxy", f"me:{SECRET}@x y")
    with pytest.raises(BadInput) as error:
        open_server("https://nowhere.invalid/v1", model="m").generate(PAIRS[:1])
    assert SECRET not in str(error.value)


ECHO = json.dumps({"error": SECRET, "url": f"http://me:word@host/?{SECRET}"}).encode()


@pytest.mark.parametrize(
    "reply",
    [
        (404, {}, ECHO),
        (404, {}, ECHO.replace(b"/", b"\\/")),
        (404, {}, b"x" * 290 + SECRET.encode()),  # cut within the key, what is left of it is shown no more
        (200, {}, b"x" * 70 + SECRET.encode()),
        (200, {}, ECHO),
        (500, {"Retry-After": "0"}, ECHO),
    ],
    ids=["body", "escaped body", "cut body", "cut reply", "odd reply", "tried again"],
)
def test_a_key_that_a_server_echoes_is_in_no_error(server, monkeypatch, reply):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    generator = open_server(server)
    Replies.script = [reply]
    with pytest.raises(BadInput) as error:
        generator.generate(PAIRS[:1])
    assert SECRET[:5] not in str(error.value) and "word" not in str(error.value)


@pytest.mark.parametrize("key", ["0", "true", "test"])
def test_a_key_where_none_is_wanted_changes_no_answer(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    Replies.script = [said(f"{key} is what it says [1]"), (404, {}, f"no key: {key}".encode())]
    generator = open_server(server)
    assert generator.generate(PAIRS[:1])[0].text == f"{key} is what it says [1]"
    with pytest.raises(BadInput, match=r"no key: \*\*\*"):
        generator.generate(PAIRS[:1])


def test_a_key_that_a_server_echoes_is_in_no_answer(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    status, headers, body = said(f"the key is {SECRET}, {SECRET.upper()} [1]")
    Replies.script = [(status, headers, body.replace(b"/", b"\\/"))]  # as some servers write JSON
    (found,) = store.Answers(tmp_path / "a.jsonl", open_server(server)).ask(PAIRS[:1], desc="")
    assert found.text == "the key is ***, *** [1]" and SECRET not in (tmp_path / "a.jsonl").read_text()


@pytest.mark.parametrize(
    "url",
    ["http://me:word@host/v1", "http://:word@host/v1", "http://me:wo/word@host", "http://host/v1?k=word",
     "htp://a:word@b", "http:/v1", "http://[::1", "http://a b/v1", "http://host/v1\n"],
)  # fmt: skip
def test_an_address_that_is_none_or_holds_a_password(url):
    with pytest.raises(BadInput, match="--generator http: an address like .* without a|--generator htp:") as error:
        open_generator(url, **OPTIONS)
    assert "word" not in str(error.value)


# -------------------------------------------------------------------------------------------------- store


class Counting(Extractive):
    """An extractive generator that counts what it is asked."""

    asked = 0

    def generate(self, pairs):
        self.asked += len(pairs)
        return super().generate(pairs)


def test_answers_are_asked_for_once_and_survive_a_cut(tmp_path):
    path = tmp_path / "answers.jsonl"
    generator = Counting()
    first = store.Answers(path, generator).ask(PAIRS + PAIRS, desc="")
    assert generator.asked == 3 and first[:3] == first[3:]
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])  # a kill in the middle of a line
    again = store.Answers(path, generator)
    texts = [each.text for each in again.ask(PAIRS, desc="")]
    assert again.reused == 2 and texts == [each.text for each in first[:3]] and generator.asked == 4
    assert len(path.read_bytes().splitlines()) == 4
    with pytest.raises(BadInput, match="another generator"):
        store.Answers(path, Extractive(count=1))
    (tmp_path / "first").write_text('{"genera')  # the first line of all is cut: it begins anew
    assert len(store.Answers(tmp_path / "first", Extractive()).ask(PAIRS, desc="")) == 3
    path.write_text(path.read_text().replace('"text"', '"texts"', 1))
    with pytest.raises(BadInput, match=":2, answer: text is missing"):
        store.Answers(path, generator)


def test_nothing_is_lost_when_a_server_fails(server, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BLOCK", 1)
    Replies.script = [said("one [1]"), (404, {}, b"gone")]
    generator = open_server(server)
    with pytest.raises(BadInput, match="gone"):
        store.Answers(tmp_path / "a.jsonl", generator).ask(PAIRS, desc="")
    Replies.script = [said("two [1]")]
    found = store.Answers(tmp_path / "a.jsonl", generator).ask(PAIRS, desc="")
    assert [each.text for each in found] == ["one [1]", "two [1]", "two [1]"]


def test_each_answer_is_kept_when_it_comes(server, tmp_path):
    pairs = [(f"question {number}?", DOCS) for number in range(80)]
    Replies.script = [*[said("one [1]")] * 20, (404, {}, b"gone")]
    with pytest.raises(BadInput, match="gone"):
        store.Answers(tmp_path / "a.jsonl", open_server(server)).ask(pairs, desc="")
    refused = len(Replies.seen) - 20
    assert 1 <= refused <= 20  # what was under way: a server that has ended is not asked all the rest
    Replies.script = [said("two [1]")]
    Replies.seen.clear()
    again = store.Answers(tmp_path / "a.jsonl", open_server(server))
    assert again.reused == 20
    found = [each.text for each in again.ask(pairs, desc="")]
    assert found.count("one [1]") == 20 and found.count("two [1]") == 60 and len(Replies.seen) == 60


def test_answers_of_other_code_are_used_only_if_that_is_wanted(server, tmp_path, monkeypatch):
    path, generator = tmp_path / "a.jsonl", open_server(server)
    store.Answers(path, generator).ask(PAIRS[:2], desc="")
    code = run.code() | {"lib/rag/page.py": "edited"}
    monkeypatch.setattr(run, "code", lambda: code)
    assert store.Answers(path, generator).reused == 2  # the page makes no answers
    code["lib/rag/prompts.py"] = "edited"
    with pytest.raises(BadInput, match=r"other code \(lib/rag/prompts.py\): --changed_code"):
        store.Answers(path, generator)
    store.Answers(path, generator, changed_code=True).ask(PAIRS, desc="")
    assert store.Answers(path, generator).reused == 3 and "edited" in path.read_text()


def test_answers_come_back_in_order(server):
    def late(handler):
        threading.Event().wait(0.3)
        handler.reply(*said("first [1]"))

    Replies.script = [late, said("later [1]")]
    found = [each.text for each in open_server(server).generate(PAIRS * 3)]
    assert found.count("first [1]") == 1 and len(found) == 9


@pytest.mark.parametrize("key", ["two\nlines", "a\\b", "\u20ac", "a b"])
def test_a_key_that_is_none_is_not_shown(server, monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(BadInput, match="OPENAI_API_KEY: holds") as error:
        open_server(server)
    assert key not in str(error.value)


def test_half_a_character_does_not_break_the_store(server, tmp_path):
    Replies.script = [said("odd \ud800 [1]")]
    found = store.Answers(tmp_path / "a.jsonl", open_server(server)).ask(PAIRS[:1], desc="")
    assert found[0].text == "odd ? [1]"


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"citations": [1]', '"citations": ["x"]', "not whole numbers"),
        ('"citations": [1]', '"citations": [99]', "cites"),
        ('"tokens": [9, 3]', '"tokens": [9]', "not whole numbers"),
    ],
)
def test_a_store_that_was_edited(server, tmp_path, old, new, message):
    path, generator = tmp_path / "a.jsonl", open_server(server)
    store.Answers(path, generator).ask(PAIRS[:1], desc="")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(BadInput, match=message):
        store.Answers(path, generator).ask(PAIRS[:1], desc="")


def mined(folder):
    """{qid: {doc_id: teacher's score}} of the one file of negatives in a run's folder."""
    (path,) = (folder / "negatives").glob("*.jsonl")
    found = {}
    for record in map(json.loads, path.read_text(encoding="utf-8").splitlines()[1:]):
        found.setdefault(record["qid"], {})[record["doc_id"]] = record["teacher_score"]
    return found


def test_the_docs_that_mislead_a_reader_are_mined(reader, folder, tmp_path, launch, refused):
    flags = ("--data", folder, "--sources", "bm25", "--candidates", 8)
    teacher = ("--depth", 3, "--sampling", "teacher", "--name", "worst")
    assert "--sampling teacher needs a teacher" in refused("mine_negatives.py", *flags, *teacher)
    assert "says no probability" in refused("mine_negatives.py", *flags, *teacher, "--reader", "extractive")
    for more in (teacher, ("--depth", 8, "--name", "all")):
        assert launch("mine_negatives.py", *flags, *more, "--reader", f"qa:{reader}", cwd=tmp_path) == 0
    everything, worst = mined(tmp_path / "runs/all"), mined(tmp_path / "runs/worst")
    generator, collection = open_generator(f"qa:{reader}", **OPTIONS), load_collection(folder)
    for qid, scores in everything.items():
        query = collection.queries.text(collection.queries.row_of[qid])
        pairs = [(query, collection.docs.text(collection.docs.row_of[doc])) for doc in scores]
        assert list(scores.values()) == pytest.approx(1 - generator.abstain_probability(pairs), abs=1e-5)
        assert sorted(worst[qid].values()) == sorted(scores.values())[-3:]
    assert worst != {qid: dict(list(scores.items())[:3]) for qid, scores in everything.items()}  # not BM25's best
    (path,) = (tmp_path / "runs/all/negatives").glob("*.jsonl")
    small = ("--steps", 2, "--batch_size", 8, "--dim", 16, "--vocab_size", 300, "--data", folder)
    arm = ("--negatives", "file:2 sampling=teacher", "--negatives_file", path, "--name", "taught")
    assert launch("train.py", *small, *arm, cwd=tmp_path) == 0
    assert "goes by a teacher's scores" in refused("train.py", *small, "--negatives", "bm25:2 sampling=teacher")


def test_a_prompt_of_one_s_own(tmp_path, models):
    path = tmp_path / "prompt.txt"
    path.write_text("Use these:\n{documents}\n\nQ: {question}\nA (or NO-RESPONSE):\n", encoding="utf-8")
    template = prompts.Template.read(path)
    assert template.system == "" and template.abstains
    made = prompts.make_prompt("why {documents}?", ["a {question} b"], budget=100, count=len, template=template)
    assert made.user == "Use these:\n[1] a {question} b\n\nQ: why {documents}?\nA (or NO-RESPONSE):"
    assert made.messages == made.merged == [{"role": "user", "content": made.user}] and made.text == made.user
    plain, own = (
        open_generator(f"hf:{models / 'causal'}", **OPTIONS, template=each) for each in (prompts.DEFAULT, template)
    )
    assert own.prompt("why?", DOCS)[0].endswith("A (or NO-RESPONSE):") and own.fingerprint != plain.fingerprint
    assert plain.fingerprint == open_generator(f"hf:{models / 'causal'}", **OPTIONS).fingerprint
    for text, said in (("{documents}", "{question} is wanted"), ("{question}", "{documents} is wanted")):
        path.write_text(text)
        with pytest.raises(BadInput, match=said):
            prompts.Template.read(path)
    with pytest.raises(BadInput, match="--prompt"):
        prompts.Template.read(tmp_path / "nowhere.txt")

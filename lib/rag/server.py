"""Language models behind HTTP, with OpenAI's interface: vLLM, Ollama, llama.cpp and others."""

import concurrent.futures
import email.utils
import functools
import http.client
import ipaddress
import json
import os
import re
import threading
import time
import urllib.parse
import urllib.request

from lib import process
from lib.files import BadInput, fingerprint
from lib.rag import adapt, prompts

TRIES = 4  # of one request
AT_ONCE = 4  # requests under way
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
AGAIN = {408, 425, 429, 500, 502, 503, 504, 529}  # what may go away by itself
KEY = process.SECRETS[0]
MOST_BYTES = 4_000_000  # of a reply
CUT = ("length", "max_tokens", "model_length")  # reasons to end of an answer that goes on


_hidden = functools.partial(process.hidden, shortest=1)  # in what is no answer, where every word counts


class _AsItIs(urllib.request.HTTPErrorProcessor):
    """Gives every reply as it is: no redirect is followed, along which urllib would carry the key."""

    def http_response(self, request, response):
        """The response."""
        return response

    https_response = http_response


class Refused(BadInput):
    """A server's error that does not go away by itself: its status, and its text, which may hold a key."""

    def __init__(self, message, status, text):
        super().__init__(message)
        self.status, self.text = status, text


class Server:
    """A server at a URL that ends in /v1. Requests that fail for a while are repeated, with growing pauses.

    BadInput, in one line, for what does not go away: a server that is not there, a name that it does not know, a reply
    that cannot be read. Its temperature is 0; whether it then says the same twice is the server's affair.
    """

    abstain_probability = None  # few servers give them

    def __init__(self, url, *, model=None, context_tokens, answer_tokens, timeout, pause=1.0, template=prompts.DEFAULT):
        try:
            parts = urllib.parse.urlsplit(url)
            sound = parts.hostname and parts.port != 0 and not re.search(r"[\s@?#\x00-\x1f]", url)
        except ValueError:
            sound = False
        if not sound:  # what stands in it may be a password
            raise BadInput(
                f"--generator {url.partition(':')[0]}: an address like http://127.0.0.1:8000/v1 is wanted, without a "
                "name or key in it"
            )
        # to a proxy only what is encrypted for the server: a proxy of http would read the key
        proxies = {kind: proxy for kind, proxy in urllib.request.getproxies().items() if kind == "https"}
        if _loopback(parts.hostname):  # from a proxy's side another machine
            proxies = {}
        self._open = urllib.request.build_opener(_AsItIs, urllib.request.ProxyHandler(proxies)).open
        self.url, self.timeout, self.pause = url.rstrip("/"), timeout, pause
        self.context_tokens, self.answer_tokens, self.template = context_tokens, answer_tokens, template
        self._unwanted = frozenset()  # what it has refused of requests that it then took: rows of adapt.SIGNS
        self._chosen = not model
        self.model = model or self._first_model()
        self.fingerprint = fingerprint(
            "http", 2, self.url, self.model, context_tokens, answer_tokens, *prompts.key(template)
        )

    def _first_model(self):
        try:
            found = self._ask("/models")
        except Refused as error:
            if error.status not in (404, 405, 501):
                raise
            lacks = "the address may lack /v1, or " if error.status == 404 else ""
            raise BadInput(f"{error}; {lacks}it lists no models: say which with --model") from None
        try:
            return str(found["data"][0]["id"])
        except (LookupError, TypeError):
            raise BadInput(f"{self.url}/models names no model: say which with --model") from None

    def generate(self, pairs):
        """An Answer for each (question, docs)."""
        return [answer for _, answer in sorted(self.as_they_come(pairs), key=lambda found: found[0])]

    def stream(self, question, docs, said):
        """The Answer to one question; said(text) is told what has been written so far."""
        return self._answer(question, docs, lambda text: said(process.hidden(prompts.so_far(adapt.so_far(text)))))

    def as_they_come(self, pairs):
        """(position, Answer) for each (question, docs), as they come.

        If one fails, no more are asked for; what was under way still comes, for it is paid, and then the error.
        """
        failed = None
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            asked = {pool.submit(self._answer, *pair): position for position, pair in enumerate(pairs)}
            try:
                for done in concurrent.futures.as_completed(asked):
                    if done.cancelled():
                        continue
                    if done.exception() is None:
                        yield asked[done], done.result()
                    else:
                        failed = failed or done.exception()
                        for each in asked:
                            each.cancel()
            finally:
                for each in asked:
                    each.cancel()
        if failed is not None:
            raise failed

    def _answer(self, question, docs, said=None):
        # the server's tokenizer is not known here: four characters a token is the usual estimate
        made = prompts.make_prompt(
            question, docs, budget=self.context_tokens, count=lambda text: -(-len(text) // 4), template=self.template
        )
        begin = time.perf_counter()
        sent = made.text
        try:
            found = self._complete(made, said)
        except Refused as error:
            if not adapt.filtered(error.status, error.text):
                raise
            return prompts.Answer("", refused=True, prompt=sent)
        try:
            choice = found["choices"][0]
            message, finish = choice["message"], str(choice.get("finish_reason")).lower()
            reply, apart = adapt.read(message)
            tokens = adapt.tokens_of(found.get("usage"))
        except (LookupError, TypeError, AttributeError):
            shown = _hidden(json.dumps(found))[:200]
            raise BadInput(
                f"{self.url}: its reply has no choices[0].message.content; does it serve chat completions? {shown}"
            ) from None
        if adapt.BLOCKED.match(finish) or (message.get("refusal") and not reply):
            return prompts.Answer("", refused=True, prompt=sent, tokens=tokens)
        return prompts.answer_of(
            process.hidden(reply.encode("utf-8", "replace").decode()),
            made.docs,
            tokens=tokens,
            ms=1000 * (time.perf_counter() - begin),
            prompt=sent,
            cut=finish in CUT or (not reply and (apart or finish != "stop")),  # silence alone is an abstention
        )

    def _complete(self, made, said):
        """The JSON of the reply to a Prompt; asked again, without what the server says that it refuses of a request."""
        unwanted = self._unwanted
        while True:
            body = adapt.body_of(made, self.model, self.answer_tokens, unwanted, stream=bool(said))
            try:
                found = self._ask("/chat/completions", body, said)
            except Refused as error:
                fresh = adapt.refused(error.status, error.text, body)
                if fresh is None:  # each is in a body once, so that this comes to an end
                    more = adapt.hint(error.status, error.text, chosen=self._chosen)
                    raise Refused(f"{error}{more}", error.status, error.text) from None
                unwanted = unwanted | {fresh}
            else:
                self._unwanted = self._unwanted | unwanted  # others under way may have found more
                return found

    def _ask(self, path, body=None, said=None):
        """The JSON object of a reply; BadInput when it still fails after TRIES, Refused when that would not help.

        said(text) is told the part of a stream that has come.
        """
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not key.isascii() or not key.isprintable() or set(key) & set(' "\\'):
                raise BadInput(f"{KEY}: holds characters that no key has; set it again")  # and never show it
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        for tried in range(1, TRIES + 1):
            # anew each time: one that was sent through a proxy would be sent again without encryption
            request = urllib.request.Request(self.url + path, data, headers)
            wait = self.pause * 2 ** (tried - 1)
            try:
                reply, text = within(self.timeout, self._reply, request, said)
            except (http.client.HTTPException, OSError) as error:  # URLError, an OSError, holds what was raised
                reason = getattr(error, "reason", error)
                problem = (
                    f"no reply within {self.timeout:g} s (--timeout)"
                    if isinstance(reason, TimeoutError)
                    else "the connection ended in the middle of a reply"
                    if isinstance(reason, http.client.IncompleteRead)
                    else _hidden(reason)
                )
            except BadInput:
                raise
            except ValueError:  # what stands in it may be a password
                raise BadInput("https_proxy, in the environment: no address of a proxy") from None
            else:
                if reply.status // 100 == 2:
                    try:
                        found = adapt.whole(text)
                        if (error := adapt.trouble(found)) is None:
                            return found
                        problem = f"its reply is an error: {_hidden(error[1])[:300]}"
                        if error[0] not in AGAIN:
                            raise Refused(f"{self.url}{path}: {problem}", *error)
                    except Refused:
                        raise
                    except adapt.Failed as error:
                        problem = f"its stream breaks off: {_hidden(error)[:300]}"
                    except (ValueError, RecursionError):
                        problem = f"its reply is not JSON: {_hidden(text)[:80]!r}"
                else:
                    problem = _refusal(request, reply, text)
                    if reply.status not in AGAIN or (body and adapt.refused(reply.status, text, body)):
                        again = f"; tried {tried} times" if tried > 1 else ""
                        raise Refused(f"{self.url}{path}: {problem}{again}", reply.status, text)
                    wait = retry_after(reply.headers.get("Retry-After"), wait)
            if tried < TRIES:
                time.sleep(wait)
        raise BadInput(f"{self.url}{path}: {problem}; tried {TRIES} times")

    def _reply(self, request, said):
        """(the reply, its text); BadInput if it is longer than MOST_BYTES."""
        parts, size, end = [], 0, time.monotonic() + self.timeout
        with self._open(request, timeout=self.timeout) as reply:
            while part := reply.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > MOST_BYTES:
                    raise BadInput(f"{reply.url}: its reply is longer than {MOST_BYTES:,} bytes: that is no answer")
                if time.monotonic() > end:  # nobody waits for it any more
                    raise TimeoutError
                if said and reply.status // 100 == 2:
                    said(text := b"".join(parts).decode("utf-8", "replace"))
                    if text.rstrip().endswith("\ndata: [DONE]"):  # some servers leave the connection open
                        return reply, text
            if reply.length:
                raise http.client.IncompleteRead(b"", reply.length)
        return reply, b"".join(parts).decode("utf-8", "replace")


def _loopback(host):
    """Whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def within(seconds, function, *arguments):
    """What function(*arguments) returns or raises; TimeoutError if that takes longer, and nobody waits for it then.

    The time of a socket is that of one read: a server that sends byte by byte, or a header that has no end, never
    exceeds it.
    """
    found = concurrent.futures.Future()

    def work():
        try:
            found.set_result(function(*arguments))
        except BaseException as error:  # raised where the result is waited for
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return found.result(seconds)


def _refusal(request, reply, text):
    """What a reply says that is no success."""
    if reply.status // 100 == 3:
        try:
            location = reply.headers["Location"]
            there = urllib.parse.urljoin(request.full_url, location) if location else ""
            host = urllib.parse.urlsplit(there).hostname or "no host"
        except ValueError:
            host = "no host"
        return f"HTTP {reply.status}: redirects to {_hidden(host)}, where nothing is sent; give its own address"
    key = f" (the key is taken from {KEY})" if reply.status in (401, 403) else ""
    return f"HTTP {reply.status} {_hidden(reply.reason)}: {_hidden(text)[:300]}{key}"


def retry_after(value, otherwise):
    """Seconds to wait by a Retry-After header, which holds seconds or a date; `otherwise` without one."""
    if not value:
        return otherwise
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return otherwise
    return min(max(0.0, seconds), LONGEST_WAIT) if seconds == seconds else otherwise

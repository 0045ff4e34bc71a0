"""Language models behind HTTP, with OpenAI's interface: vLLM, Ollama, llama.cpp and others."""

import concurrent.futures
import email.utils
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from lib.files import BadInput, fingerprint
from lib.rag import prompts
from lib.rag.language_model import answer_of

TRIES = 4  # of one request
AT_ONCE = 4  # requests under way
LONGEST_WAIT = 60.0  # seconds, whatever a server asks for
AGAIN = {408, 425, 429, 500, 502, 503, 504, 529}  # what may go away by itself
KEY = "OPENAI_API_KEY"
MOST_BYTES = 4_000_000  # of a reply


class Server:
    """A server at a URL that ends in /v1. Requests that fail for a while are repeated, with growing pauses.

    BadInput, in one line, for what does not go away: a server that is not there, a name that it does not know, a reply
    that cannot be read. Its temperature is 0; whether it then says the same twice is the server's affair.
    """

    abstain_probability = None  # few servers give them

    def __init__(self, url, *, model=None, context_tokens, answer_tokens, timeout, pause=1.0):
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise BadInput(f"--generator {url}: no address ({error})") from None
        if (
            any(c.isspace() or ord(c) < 32 for c in url)
            or not parts.hostname
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise BadInput(
                f"--generator {url}: an address like http://127.0.0.1:8000/v1 is wanted, without a name or key in it"
            )
        self.url, self.timeout, self.pause = url.rstrip("/"), timeout, pause
        self.context_tokens, self.answer_tokens = context_tokens, answer_tokens
        self.model = model or self._first_model()
        self.fingerprint = fingerprint("http", 1, self.url, self.model, context_tokens, answer_tokens, prompts.SYSTEM)

    def _first_model(self):
        found = self._ask("/models")
        try:
            return str(found["data"][0]["id"])
        except (LookupError, TypeError):
            raise BadInput(f"{self.url}/models names no model: say which with --model") from None

    def prompt(self, question, docs):
        """(text that is sent, how many docs stand in it)."""
        made = self._made(question, docs)
        return "\n\n".join(message["content"] for message in made.messages), made.docs

    def _made(self, question, docs):
        # the server's tokenizer is not known here: four characters a token is the usual estimate
        return prompts.make_prompt(question, docs, budget=self.context_tokens, count=lambda text: -(-len(text) // 4))

    def generate(self, pairs):
        """An Answer for each (question, docs)."""
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda pair: self._answer(*pair), pairs))

    def _answer(self, question, docs):
        made = self._made(question, docs)
        begin = time.perf_counter()
        body = {"model": self.model, "messages": made.messages, "temperature": 0, "max_tokens": self.answer_tokens}
        found = self._ask("/chat/completions", body)
        try:
            choice = found["choices"][0]
            reply = choice["message"]["content"] or ""
            usage = found.get("usage") or {}
            tokens = tuple(int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            if not isinstance(reply, str):
                raise TypeError
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            raise BadInput(
                f"{self.url}: its reply has no choices[0].message.content: {json.dumps(found)[:200]}"
            ) from None
        return answer_of(
            reply.encode("utf-8", "replace").decode().strip(),
            made.docs,
            tokens=tokens,
            ms=1000 * (time.perf_counter() - begin),
            prompt=self.prompt(question, docs)[0],
            cut=choice.get("finish_reason") == "length",
        )

    def _ask(self, path, body=None):
        """The JSON object of a reply; BadInput when it still fails after TRIES."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY, "").strip():
            if not key.isascii() or not key.isprintable() or " " in key:
                raise BadInput(f"{KEY}: holds characters that no key has; set it again")  # and never show it
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url + path, None if body is None else json.dumps(body).encode(), headers)
        for tried in range(1, TRIES + 1):
            wait = self.pause * 2 ** (tried - 1)
            try:
                text = within(self.timeout, self._reply, request)
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    problem = f"its reply is not JSON: {text[:80].decode('utf-8', 'replace')!r}"
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}: {error.detail}"
                if error.code in (401, 403):
                    problem += f" (the key is taken from {KEY})"
                if error.code not in AGAIN:
                    raise BadInput(f"{self.url}{path}: {problem}") from None
                wait = retry_after(error.headers.get("Retry-After"), wait)
            except TimeoutError:
                problem = f"no reply within {self.timeout:g} s (--timeout)"
            except http.client.IncompleteRead:
                problem = "the connection ended in the middle of a reply"
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = getattr(error, "reason", error)
                problem = (
                    f"no reply within {self.timeout:g} s (--timeout)"
                    if isinstance(reason, TimeoutError)
                    else str(reason)
                )
            if tried < TRIES:
                time.sleep(wait)
        raise BadInput(f"{self.url}{path}: {problem}; tried {TRIES} times")

    def _reply(self, request):
        """The bytes of a reply, or the HTTPError with what the server says of it."""
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:  # noqa: S310 - http or https
                return read(reply, MOST_BYTES, self.timeout)
        except urllib.error.HTTPError as error:
            with error:
                error.detail = error.read(300).decode("utf-8", "replace")
            raise


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


def read(reply, most, seconds):
    """The bytes of a reply; BadInput if they are more than `most`, TimeoutError if they take longer than `seconds`."""
    parts, size, end = [], 0, time.monotonic() + seconds
    while part := reply.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > most:
            raise BadInput(f"{reply.url}: its reply is longer than {most:,} bytes: that is no answer")
        if time.monotonic() > end:
            raise TimeoutError
    if reply.length:
        raise http.client.IncompleteRead(b"", reply.length)
    return b"".join(parts)


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

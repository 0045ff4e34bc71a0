"""What servers with OpenAI's interface refuse of a request, read from their errors, and the request without it."""

import contextlib
import json
import re

# in an error that names no parameter, the words that say what is unwanted
SIGNS = {
    "max_tokens": r"\bmax_tokens\b",
    "temperature": r"\btemperature\b",
    "stream": r"\bstream(ing)?\b",
    "system": r"\bsystem\W+(role|message|prompt|instruction)|\brole\W+system|roles must alternate"
    r"|\bdeveloper instruction\b|\broles\b.{0,80}\bgot system\b|\bonly user and assistant roles\b|"
    r"first message must have role|should be 'user' or 'assistant'",
}
# the rows that an error of a status may be on; llama.cpp gives 500 where a chat template fails
BY_STATUS = {400: {*SIGNS}, 422: {*SIGNS}, 500: {"system"}}
FILTERED = (
    r"content_filter|content management policy|ResponsibleAIPolicyViolation|content[ _]policy[ _]violation|"
    r"content exists risk|data_inspection_failed|\binvalid_prompt\b|usage policy"
)
BLOCKED = re.compile(r"content_filter|prohibited|safety|refus|blocklist|recitation", re.IGNORECASE)  # ends of an answer
THINKING = ("reasoning_content", "reasoning")  # of a message: what was thought apart from its content
TEXTS = (None, "text", "output_text")  # types of a content's parts


class Failed(ValueError):
    """An event of a stream that is no part of an answer but holds the server's own words on what went wrong."""


def body_of(made, model, tokens, unwanted=(), *, stream=False):
    """The body that asks a model for an answer of at most so many tokens to a Prompt, without what is unwanted.

    unwanted: names of SIGNS. A limit that is unwanted goes by its newer name; of the system message no word is lost.
    """
    body = {"model": model, "messages": made.merged if "system" in unwanted else made.messages}
    if "temperature" not in unwanted:
        body["temperature"] = 0
    body["max_completion_tokens" if "max_tokens" in unwanted else "max_tokens"] = tokens
    if stream and "stream" not in unwanted:
        body["stream"] = True
    return body


def refused(status, text, body):
    """Which row of SIGNS, of those that are in a body, a server refuses by an error's status and text; None if none."""
    there = {name for name in ("max_tokens", "temperature", "stream") if name in body}
    if body["messages"][0]["role"] == "system":
        there.add("system")
    there &= BY_STATUS.get(status, set())
    error = _error(text)
    if error.get("param") in there:
        return error["param"]
    said = str(error.get("message") or text)
    return next((name for name, sign in SIGNS.items() if name in there and re.search(sign, said, re.IGNORECASE)), None)


def filtered(status, text):
    """Whether an error's status and text say that a content filter refused the question."""
    return status in (400, 403, 422) and re.search(FILTERED, text, re.IGNORECASE) is not None


def hint(status, text, *, chosen):
    """What may be done about an error, to be put behind it; empty if that is not known.

    chosen: whether the server's first model was taken, because none was named.
    """
    long = r"context (length|window|size)|context_length_exceeded|(prompt|input)s? (is|are) too long|inputs? tokens"
    if status == 413 or (status in (400, 422) and re.search(long, text, re.IGNORECASE)):
        return "; lower --context_tokens or --answer_tokens"
    if chosen and status in (400, 404, 422) and re.search(r"\bchat\b|\bmodel\b", text, re.IGNORECASE):
        return "; the server's first model was asked: --model names another"
    return ""


def whole(text):
    """The object of a reply: JSON, or the events of a server that streams only, put together.

    ValueError or RecursionError for what is neither, and for a stream that ends before its answer does; Failed for one
    that breaks off with an error.
    """
    if not re.match(r"\s*(data|event|id|retry|error)?:", text):  # what begins with a colon is a comment
        return json.loads(text)
    message, finish, usage = {"content": []}, None, None
    for line in text.split("\n"):
        kind, _, data = line.partition(":")
        if kind not in ("data", "error") or data.strip() in ("", "[DONE]"):
            finish = finish or ("stop" if data.strip() == "[DONE]" else None)
            continue
        chunk = json.loads(data)
        if isinstance(chunk, dict) and (chunk.get("error") or "choices" not in chunk):
            raise Failed(data.strip())
        try:
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"][:1]:
                for name, part in (choice.get("delta") or choice.get("message") or {}).items():
                    if part and name in ("content", "refusal", *THINKING):
                        message.setdefault(name, []).extend(part if isinstance(part, list) else [part])
                finish = choice.get("finish_reason") or finish
        except (LookupError, TypeError, AttributeError):
            raise ValueError("an event that is no part of an answer") from None
    if finish is None or not all(isinstance(part, (str, dict)) for part in message["content"]):
        raise ValueError("a stream without an end")
    return {"choices": [{"message": message, "finish_reason": finish}], "usage": usage}


def trouble(found):
    """(status, text) of an error that a reply holds although it came as a success, as of a server behind; or None."""
    try:
        choices = found.get("choices") or [{}]
        error = found.get("error") or choices[0].get("error")
        return error and (int(error.get("code") or 502), json.dumps(found))
    except (TypeError, ValueError, AttributeError, LookupError):
        return None


def so_far(text):
    """What the whole events of a stream that has not ended yet have written; empty for what is none."""
    written = []
    for line in text.split("\n")[:-1]:
        with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, RecursionError):
            written.append(json.loads(line.partition("data:")[2])["choices"][0]["delta"]["content"])
    return "".join(part for part in written if isinstance(part, str))


def read(message):
    """(the text of a message, whether its model thought apart from it); TypeError or AttributeError where it is none.

    The content is a text or a list of parts, some of which may be thoughts.
    """
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [content]
    parts = [{"text": part} if isinstance(part, str) else part for part in parts]
    text = "".join(part.get("text") or "" for part in parts if part.get("type") in TEXTS)
    apart = any(message.get(name) for name in THINKING) or any(part.get("type") not in TEXTS for part in parts)
    return text.strip(), apart


def tokens_of(usage):
    """(tokens read, tokens written) by a reply's usage; 0 for what is no number."""
    found = [usage.get(name) if isinstance(usage, dict) else 0 for name in ("prompt_tokens", "completion_tokens")]
    return tuple(int(n) if isinstance(n, (int, float)) and 0 < n < 1e12 else 0 for n in found)


def _error(text):
    """The error object of a reply; empty where there is none."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return found if isinstance(found, dict) and isinstance(found.get("param"), (str, type(None))) else {}
    except (ValueError, AttributeError, RecursionError):
        return {}

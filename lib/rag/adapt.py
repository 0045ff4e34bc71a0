"""What servers with OpenAI's interface refuse of a request, read from their errors, and the request without it."""

import json
import re

# in an error that names no parameter, the words that say what is unwanted
SIGNS = {
    "max_tokens": r"\bmax_tokens\b",
    "temperature": r"\btemperature\b",
    "system": r"\bsystem\W+(role|message|prompt|instruction)|\brole\W+system|roles must alternate",
}
FILTERED = r"content_filter|content management policy|ResponsibleAIPolicyViolation|content[ _]policy[ _]violation"


def body_of(made, model, tokens, unwanted=()):
    """The body that asks a model for an answer of at most so many tokens to a Prompt, without what is unwanted.

    unwanted: names of SIGNS. A limit that is unwanted goes by its newer name; of the system message no word is lost.
    """
    body = {"model": model, "messages": made.merged if "system" in unwanted else made.messages}
    if "temperature" not in unwanted:
        body["temperature"] = 0
    body["max_completion_tokens" if "max_tokens" in unwanted else "max_tokens"] = tokens
    return body


def refused(status, text, body):
    """Which row of SIGNS, of those that are in a body, a server refuses by an error's status and text; None if none."""
    if status not in (400, 422):
        return None
    there = {name for name in ("max_tokens", "temperature") if name in body}
    if body["messages"][0]["role"] == "system":
        there.add("system")
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
    if status == 400 and re.search(r"context (length|window|size)|context_length_exceeded", text, re.IGNORECASE):
        return "; lower --context_tokens or --answer_tokens"
    if chosen and status in (400, 404, 422) and re.search(r"\bchat\b|\bmodel\b", text, re.IGNORECASE):
        return "; the server's first model was asked: --model names another"
    return ""


def whole(text):
    """The object of a reply: JSON, or the events of a server that streams only, put together.

    ValueError or RecursionError for what is neither, and for a stream that ends before its answer does.
    """
    if not re.match(r"\s*(data|event|id)?:", text):  # what begins with a colon is a comment
        return json.loads(text)
    said, finish, usage = [], None, None
    for line in text.split("\n"):
        kind, _, data = line.partition(":")
        if kind != "data" or data.strip() in ("", "[DONE]"):
            finish = finish or ("stop" if data.strip() == "[DONE]" else None)
            continue
        chunk = json.loads(data)
        try:
            usage = chunk.get("usage") or usage
            for choice in chunk["choices"][:1]:
                said.append(choice.get("delta", {}).get("content") or "")
                finish = choice.get("finish_reason") or finish
        except (LookupError, TypeError, AttributeError):
            raise ValueError("an event that is no part of an answer") from None
    if finish is None or not all(isinstance(part, str) for part in said):
        raise ValueError("a stream without an end")
    return {"choices": [{"message": {"content": "".join(said)}, "finish_reason": finish}], "usage": usage}


def _error(text):
    """The error object of a reply; empty where there is none."""
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return found if isinstance(found, dict) and isinstance(found.get("param"), (str, type(None))) else {}
    except (ValueError, AttributeError, RecursionError):
        return {}

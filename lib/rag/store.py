"""Answers on the disk: each is asked for once, and an interrupted evaluation goes on where it was."""

import contextlib
import dataclasses
import json
import pathlib

import numpy as np
from tqdm import tqdm

from lib import run
from lib.files import BadInput, check_keys, fingerprint
from lib.rag.prompts import Answer

MADE_BY = ("adapt", "generators", "language_model", "prompts", "reader", "server")  # the code that an answer depends on
BLOCK = 32  # questions that a generator is given together
FIELDS = {
    "text": str,
    "citations": list,
    "unknown": list,
    "tokens": list,
    "ms": (int, float),
    "prompt": str,
    "cut": bool,
}


def made_by():
    """{path: fingerprint} of the code that an answer depends on."""
    return {path: value for path, value in run.code().items() if path in map("lib/rag/{}.py".format, MADE_BY)}


def _whole(text):
    """A text that files can hold: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode()


class Answers:
    """What a generator says, by question and docs: an answer is a function of these alone, whatever found the docs.

    A line of JSON each; a line that a kill has cut is left out and asked for again.
    """

    def __init__(self, path, generator, *, changed_code=False):
        self.path, self.generator = pathlib.Path(path), generator
        self._found, self._absent, self.reused = {}, {}, 0
        head = {"generator": generator.fingerprint, "code": made_by()}
        if self.path.exists() and b"\n" in self.path.read_bytes()[:4096]:
            self._read(head)
            if changed := run.changes_of_code({"code": self._code}, head):
                if not changed_code:
                    raise BadInput(
                        f"{self.path}: answers of other code ({changed}): --changed_code uses them all the same, "
                        "--overwrite asks again"
                    )
                with open(self.path, "a", encoding="utf-8") as out:
                    out.write(json.dumps({"code": head["code"]}) + "\n")
        else:  # there is none, or a kill has cut its first line
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(head) + "\n", encoding="utf-8")

    def _read(self, head):
        lines = self.path.read_bytes().split(b"\n")
        whole = [line for line in lines[:-1] if line]  # behind the last line break there is nothing, or a cut line
        for number, line in enumerate(whole, 1):
            try:
                record = json.loads(line)
            except ValueError:
                raise BadInput(f"{self.path}:{number}: not valid JSON; delete the file, or the line") from None
            place = f"{self.path}:{number}"
            if number == 1:
                if not isinstance(record, dict) or record.get("generator") != head["generator"]:
                    raise BadInput(f"{self.path}: answers of another generator or other settings: --overwrite them")
                self._code = record.get("code", {})
            elif isinstance(record, dict) and "code" in record:  # used again by other code, which was wanted
                self._code = record["code"]
            elif isinstance(record, dict) and "absent" in record:
                check_keys(record, place, key=str, absent=(int, float))
                self._absent[record["key"]] = record["absent"]
            else:
                check_keys(record, place, key=str, answer=FIELDS)
                known = {name: record["answer"].get(name) for name in (*FIELDS, "confidence")}
                known["refused"] = record["answer"].get("refused") is True
                known |= {name: tuple(known[name]) for name in ("citations", "unknown", "tokens")}
                numbers = [n for name in ("citations", "unknown", "tokens") for n in known[name]]
                sound = all(isinstance(n, int) and n >= 0 for n in numbers) and len(known["tokens"]) == 2
                if not sound or not isinstance(known["confidence"], (int, float, type(None))):
                    raise BadInput(f"{place}: citations and tokens are not whole numbers, or confidence is none")
                known |= {name: _whole(known[name]) for name in ("text", "prompt")}
                self._found[record["key"]] = Answer(**known)
        self.reused = len(self._found)
        if lines[-1]:  # what a kill has cut
            with open(self.path, "r+b") as file:
                file.truncate(sum(len(line) + 1 for line in lines[:-1]))

    def ask(self, pairs, *, desc):
        """An Answer for each (question, docs)."""
        keys = [fingerprint(question, *docs) for question, docs in pairs]
        in_order = lambda part: enumerate(self.generator.generate(part))  # noqa: E731
        make = getattr(self.generator, "as_they_come", in_order)
        self._make(keys, pairs, self._found, make, lambda answer: {"answer": dataclasses.asdict(answer)}, desc)
        found = [self._found[key] for key in keys]
        for answer, (_, docs) in zip(found, pairs):
            if any(not 1 <= number <= len(docs) for number in answer.citations):
                raise BadInput(
                    f"{self.path}: an answer cites [{max(answer.citations)}] of {len(docs)} docs; delete the file"
                )
        return found

    def shortfall(self):
        """A line for each way in which questions were left without an answer that is no abstention."""
        refused = sum(answer.refused for answer in self._found.values())
        if refused:
            yield f"{refused:,} of the questions were refused by a content filter or the model"
        spent = sum(not answer.text and answer.cut for answer in self._found.values())
        if spent:
            yield f"{spent:,} of the answers were cut before they began, perhaps while thinking: raise --answer_tokens"

    def absent(self, pairs, *, desc):
        """(n,) the generator's probability of "no answer" for (question, doc) pairs."""
        keys = [fingerprint(question, doc) for question, doc in pairs]
        make = lambda part: enumerate(map(float, self.generator.abstain_probability(part)))  # noqa: E731
        self._make(keys, pairs, self._absent, make, lambda value: {"absent": value}, desc)
        return np.array([self._absent[key] for key in keys])

    def _make(self, keys, pairs, known, make, record, desc):
        """Fill `known`, and write each value when it comes: make(pairs) gives (position, value)."""
        new = {key: pair for key, pair in zip(keys, pairs) if key not in known}
        todo = list(new.items())
        with contextlib.ExitStack() as stack:
            bar = stack.enter_context(tqdm(total=len(todo), unit="answer", desc=desc, delay=2))
            out = stack.enter_context(open(self.path, "a", encoding="utf-8"))
            for begin in range(0, len(todo), BLOCK):
                part = todo[begin : begin + BLOCK]
                for position, value in make([pair for _, pair in part]):
                    key = part[position][0]
                    known[key] = value
                    out.write(json.dumps({"key": key} | record(value), ensure_ascii=False) + "\n")
                    out.flush()
                    bar.update()

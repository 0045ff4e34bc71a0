"""What generators are sent and say: the prompt, a pure function of the question and the docs, and the Answer."""

import dataclasses
import re
from typing import NamedTuple

ABSTAIN = "NO-RESPONSE"  # what a model is told to say where the docs do not answer (as in 2505.06914)
SYSTEM = (
    "Answer the question from the numbered documents only. Be brief: a few words where they are enough. "
    "Put the number of the document that you used behind the answer, as in [2]. "
    f"If no document answers the question, reply with {ABSTAIN} and nothing else."
)
NOTHING = "The docs do not answer this."  # what a reader sees where a generator abstains
SPENT = "No answer: the limit of tokens was used up before one began, perhaps by thinking; raise --answer_tokens."
REFUSED = "No answer: a content filter of the server refused the question."
THINKS, THOUGHT = "<think>", "</think>"  # around what a reasoning model writes before its answer
SHORTEST = 24  # tokens: less of a doc is left out altogether


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a generator says to a question and the docs that it was given."""

    text: str  # with citations as [n]; empty where it abstains, and where there is no answer
    citations: tuple = ()  # numbers, from 1, of the docs that it rests on
    unknown: tuple = ()  # numbers that it cites although there is no such doc
    confidence: float | None = None  # of the generator, where it has one; higher is surer
    tokens: tuple = (0, 0)  # read and written
    ms: float = 0.0
    prompt: str = ""  # exactly what was sent, where there is such a text
    cut: bool = False  # whether it ended at the limit of tokens, in the answer or before it began
    refused: bool = False  # whether a content filter refused the question

    @property
    def abstained(self):
        """Whether the generator says that the docs do not answer; one that was cut or refused says nothing."""
        return not (self.text or self.cut or self.refused)

    @property
    def shown(self):
        """What a reader sees: the text, or why there is none."""
        return self.text or (REFUSED if self.refused else SPENT if self.cut else NOTHING)


class Prompt(NamedTuple):
    """What is sent to a language model."""

    system: str
    user: str
    docs: int  # how many of the docs stand in it, the last of them perhaps cut

    @property
    def messages(self):
        """The messages of a chat."""
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    @property
    def merged(self):
        """The same for a model that knows no system message: one message."""
        return [{"role": "user", "content": f"{self.system}\n\n{self.user}"}]


def make_prompt(question, docs, *, budget, count):
    """The Prompt for a question and docs, best first, of at most `budget` tokens of docs.

    count(text) gives a text's tokens. Docs are taken whole while they fit, the next one is cut at a word, and the rest
    is left out. Line breaks inside of a doc become spaces, so that no doc can look like another one's beginning.
    """
    lines, left = [], budget
    for number, doc in enumerate(docs, 1):
        text = " ".join(doc.split())
        size = count(text)
        if size > left:
            if left < SHORTEST:
                break
            text = cut(text, left, count)
            size = left
        lines.append(f"[{number}] {text}")
        left -= size
    documents = "\n".join(lines) or "(none)"
    return Prompt(SYSTEM, f"Documents:\n{documents}\n\nQuestion: {' '.join(question.split())}\nAnswer:", len(lines))


def cut(text, limit, count):
    """The longest beginning of a text, in whole words, of at most `limit` tokens."""
    words = text.split(" ")
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(" ".join(words[:middle])) <= limit else (low, middle - 1)
    return " ".join(words[:low])


def citations(text, docs):
    """(the numbers of docs that an answer cites, in order; those that it cites although there is no such doc)."""
    numbers = dict.fromkeys(
        int(n) for part in re.findall(r"\[([\d,\s]{1,40})\]", text) for n in re.findall(r"\d{1,9}", part)
    )
    return tuple(n for n in numbers if 1 <= n <= docs), tuple(n for n in numbers if not 1 <= n <= docs)


def bare(text):
    """An answer without its citations: what is compared with the gold answers."""
    # from the beginning of white space only: tried at each space of a run, it would read the run again and again
    return " ".join(re.sub(r"(?<!\s)\s*\[[\d,\s]{1,40}\]", "", text).split())


def abstains(text):
    """Whether a model's reply is the abstention that the prompt asks for."""
    return not bare(text) or ABSTAIN.lower() in text.lower()


def without_thought(reply):
    """(a reply without what its model thought, whether it ends within a thought).

    The beginning of a thought may stand in the prompt, where a chat template writes it: then the reply has its end
    alone.
    """
    *thoughts, rest = reply.split(THOUGHT)
    said = "".join(part.partition(THINKS)[0] for part in thoughts if THINKS in part) + rest
    if said.lstrip().startswith(THINKS):  # elsewhere an answer may be on the word itself
        return "", True
    return said.strip(), False


def answer_of(reply, docs, *, cut=False, **known):
    """The Answer of a language model's reply to a prompt with so many docs; cut: whether the limit of tokens ended it.

    What it thought is left out first: there it weighs docs that it does not use, and whether to abstain. A thought
    without an end was cut, whatever a server says.
    """
    text, thinking = without_thought(reply)
    cited, unknown = citations(text, docs)
    cut = (cut or thinking) and ABSTAIN.lower() not in text.lower()  # the abstention is whole, whatever followed
    return Answer("" if abstains(text) else text, cited, unknown, cut=cut, **known)

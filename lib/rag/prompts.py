"""What generators are sent and say: the prompt, a pure function of the question and the docs, and the Answer."""

import dataclasses
import pathlib
import re
from typing import NamedTuple

from lib.files import BadInput

ABSTAIN = "NO-RESPONSE"  # what a model is told to say where the docs do not answer (as in 2505.06914)
SYSTEM = (
    "Answer the question from the numbered documents only. Be brief: a few words where they are enough. "
    "Put the number of the document that you used behind the answer, as in [2]. "
    f"If no document answers the question, reply with {ABSTAIN} and nothing else."
)
NOTHING = "The docs do not answer this."  # what a reader sees where a generator abstains
SPENT = "No answer: the reply ended before one began, perhaps while thinking; raise --answer_tokens."
REFUSED = "No answer: a content filter of the server, or the model, refused the question."
# with a space it may be part of an answer, unless it is said alone or begins one in capitals
ABSTAINS = re.compile(r"(?i:no[-_\u2010-\u2015]response)|^[\W_]*(?:NO RESPONSE\b|(?i:no response)[\W_]*$)")
THOUGHTS = (  # the marks around what a reasoning model writes before its answer, in any case of their letters
    (r"<(?:seed:)?think(?:ing)?\s*>", r"</(?:seed:)?think(?:ing)?\s*>"),
    (r"<(?:thought|reasoning)\s*>", r"</(?:thought|reasoning)\s*>"),  # EXAONE and others
    (r"\[think\]", r"\[/think\]"),
    (r"<\|start_thinking\|>", r"<\|end_thinking\|>"),  # Command A
    (r"<\|begin_of_thought\|>", r"<\|(?:end_of_thought|begin_of_solution)\|>"),
    (r"<\|channel>thought", r"<channel\|>"),  # Gemma
    (r"<unused94>thought", r"<unused95>"),
    (r"\Ahere is my thought process:", r"here is my response:"),  # Granite
    (r"\Aanalysis", r"assistantfinal"),  # gpt-oss, whose marks a server took away
    (r"(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary)", r"<\|channel\|>final<\|message\|>"),  # gpt-oss
    ("◁think▷", "◁/think▷"),
)
FOLDED = r"<details type=.?reasoning"  # a thought of Open WebUI, whose end may be that of other details
BEGINS = "|".join(
    [FOLDED, *(begin for begin, _ in THOUGHTS if not begin.startswith(r"\A"))]
)  # words may begin an answer
MARKS = re.compile(  # around an answer, and behind it
    r"</?answer>|<\|(?:return|end|im_end|eot_id|endoftext|(?:begin|end)_of_solution|(?:start|end)_response)\|>|</s>|"
    r"<end_of_turn>",
    re.IGNORECASE,
)
# [2], [1, 3], [1-2], [^2], [Document 2], and 【2†lines】 of gpt-oss, but no range of years and no date
NUMBERS = r"(?=[\s\w^]{0,12}\d)((?:documents?|docs?|[\d,;\s^]|(?<!\d{3})[–-](?!\d{3})){1,40})"
CITED = re.compile(rf"[\[【]{NUMBERS}(?:†[^\]】]{{0,40}})?[\]】]", re.IGNORECASE)
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
    cut: bool = False  # whether it ended too early, as at the limit of tokens, in the answer or before it began
    refused: bool = False  # whether a content filter or the model refused the question

    @property
    def abstained(self):
        """Whether the generator says that the docs do not answer; one that was cut or refused says nothing."""
        return not (self.text or self.cut or self.refused)

    @property
    def shown(self):
        """What a reader sees: the text, or why there is none."""
        return self.text or (REFUSED if self.refused else SPENT if self.cut else NOTHING)


class Template(NamedTuple):
    """What a prompt is made of: `user` has {documents} and {question} where these go; `system` may be empty."""

    system: str
    user: str

    @classmethod
    def read(cls, path):
        """The template of --prompt FILE; BadInput if a place is missing."""
        try:
            text = pathlib.Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"--prompt {path}: {error}") from None
        if missing := [place for place in ("{documents}", "{question}") if place not in text]:
            raise BadInput(f"--prompt {path}: {missing[0]} is wanted where it goes")
        return cls("", text)

    @property
    def abstains(self):
        """Whether it tells a model how to say that the docs do not answer."""
        return ABSTAIN in self.system + self.user


def key(template):
    """What a generator's fingerprint says of its template."""
    return (template.system,) if template == DEFAULT else tuple(template)


DEFAULT = Template(SYSTEM, "Documents:\n{documents}\n\nQuestion: {question}\nAnswer:")


class Prompt(NamedTuple):
    """What is sent to a language model."""

    system: str
    user: str
    docs: int  # how many of the docs stand in it, the last of them perhaps cut

    @property
    def messages(self):
        """The messages of a chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.user}]

    @property
    def text(self):
        """The same as one text."""
        return f"{self.system}\n\n{self.user}" if self.system else self.user

    @property
    def merged(self):
        """The same for a model that knows no system message: one message."""
        return [{"role": "user", "content": self.text}]


def make_prompt(question, docs, *, budget, count, template=DEFAULT):
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
    places = {"documents": "\n".join(lines) or "(none)", "question": " ".join(question.split())}
    user = re.sub(r"\{(documents|question)\}", lambda place: places[place[1]], template.user)
    return Prompt(template.system, user, len(lines))


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
    numbers = dict.fromkeys(n for found in CITED.finditer(text) for n in _numbers(found, docs))
    return tuple(n for n in numbers if 1 <= n <= docs), tuple(n for n in numbers if not 1 <= n <= docs)


def _numbers(found, docs):
    """The numbers that a match of CITED names; a range is filled only if all of it are docs."""
    for low, high in re.findall(r"(\d{1,9})(?:\s*[–-]\s*(\d{1,9}))?", found[1]):
        ends = [int(end) for end in (low, high) if end]
        yield from range(ends[0], ends[1] + 1) if high and ends[0] <= ends[1] <= docs else ends


def bare(text):
    """An answer without its citations: what is compared with the gold answers."""
    # from the beginning of white space only: tried at each space of a run, it would read the run again and again
    return " ".join(re.sub(rf"(?<!\s)\s*{CITED.pattern}", "", text, flags=re.IGNORECASE).split())


def abstains(text):
    """Whether a model's reply is the abstention that the prompt asks for."""
    text = bare(text)
    return not text or ABSTAINS.search(text) is not None


def marks_thought(token):
    """Whether a special token is one of the marks around a thought, or a part of one."""
    patterns = [pattern for pair in THOUGHTS for pattern in pair]
    return any(re.escape(token) in each or re.match(each, token, re.IGNORECASE) for each in patterns)


def begun(prompt):
    """The mark with which a prompt begins the thought itself, as some chat templates do; empty without one."""
    found = re.search(rf"(?:{BEGINS})\Z", prompt.rstrip(), re.IGNORECASE)
    return found[0] if found else ""


def without_thought(reply, *, cut=False):
    """(a reply without what its model thought, whether it ends within a thought); cut: whether it was cut.

    The beginning of a thought may stand in the prompt, where a chat template writes it: then the reply has its end
    alone.
    """
    folded, end, rest = reply.rpartition("</details>")
    reply = re.sub(rf"{FOLDED}.*?</details>", "", folded + end, flags=re.IGNORECASE | re.DOTALL) + rest
    for begin, end in THOUGHTS:
        *thoughts, rest = re.split(end, reply, flags=re.IGNORECASE)
        heads = (re.split(begin, part, maxsplit=1, flags=re.IGNORECASE) for part in thoughts)
        reply = "".join(head for head, *thought in heads if thought) + rest
    # within a line of a whole reply an answer may be on the word itself
    found = re.search(BEGINS if cut else rf"^[^\S\n]*(?:{BEGINS})", reply, re.IGNORECASE | re.MULTILINE)
    return MARKS.sub("", reply[: found.start()] if found else reply).strip(), found is not None


def so_far(reply):
    """What a reader may see of a reply that is still being written: no thought, and no word that may go on.

    A word may turn into a citation, an abstention, or a secret that is hidden where it is whole.
    """
    text = re.sub(r"[!-~]+\Z", "", without_thought(reply, cut=True)[0])
    return "" if abstains(text) else text.rstrip()


def answer_of(reply, docs, *, cut=False, **known):
    """The Answer of a language model's reply to a prompt with so many docs; cut: whether it ended too early.

    What it thought is left out first: there it weighs docs that it does not use, and whether to abstain. A thought
    without an end was cut, whatever a server says. All citations are written as [n].
    """
    text, thinking = without_thought(reply, cut=cut)
    if abstains(text):  # one that is said is whole, whatever followed, and its citations hold nothing up
        return Answer("", cut=thinking or (cut and not bare(text)), **known)
    cited, unknown = citations(text, docs)
    text = CITED.sub(lambda found: "".join(f"[{n}]" for n in _numbers(found, docs)), text)
    return Answer(text, cited, unknown, cut=cut or thinking, **known)

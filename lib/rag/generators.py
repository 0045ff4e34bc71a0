"""Generators: (question, docs) -> Answer. A row of GENERATORS each; a new one is a class and a row."""

import collections
import dataclasses
import math
import re
import time

import numpy as np

from lib.data.words import words
from lib.files import BadInput, fingerprint
from lib.rag.prompts import DEFAULT, Answer

# ---------------------------------------------------------------------------------------------- extractive


def sentences(text, *, shortest=20, longest=400):
    """A text's statements: sentences of `shortest` characters or more, cut at `longest`, no questions."""
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])|\n\s*\n|\s-\s(?=[A-Z])", text)
    parts = [re.sub(r"\s+", " ", part).strip() for part in parts]
    return [part[:longest] for part in parts if len(part) >= shortest and not part.endswith("?")]


class Extractive:
    """Answers with the sentences of the docs that share the question's rarer words: offline, whatever retrieves.

    A sentence is worth the cosine of its words with the question's, weighted by how rare they are among the sentences
    found, plus a prior for its doc's rank and for its place in the doc: docs tend to begin with what they are about.
    """

    abstain_probability = None  # it has no probabilities

    def __init__(self, *, count=2, rank_weight=1.0, place_weight=0.1):
        self.count, self.rank_weight, self.place_weight = count, rank_weight, place_weight
        self.fingerprint = fingerprint("extractive", 2, count, rank_weight, place_weight)

    def generate(self, pairs):
        """An Answer for each (question, docs), docs best first."""
        found = []
        for question, docs in pairs:
            begin = time.perf_counter()
            answer = self._answer(question, docs)
            found.append(dataclasses.replace(answer, ms=1000 * (time.perf_counter() - begin)))
        return found

    def _answer(self, question, docs):
        found = [
            (number, order, sentence, frozenset(words(sentence)))
            for number, doc in enumerate(docs, 1)
            for order, sentence in enumerate(sentences(doc) or ([doc[:400]] if doc.strip() else []))
        ]
        asked = set(words(question))
        frequency = collections.Counter(word for *_, own in found for word in own)
        weight = {word: math.log1p(len(found) / (1 + frequency[word])) ** 2 for word in asked | frequency.keys()}
        length = math.sqrt(math.fsum(weight[word] for word in asked)) or 1.0
        worth = np.zeros(len(found))
        for i, (number, order, _, own) in enumerate(found):
            shared = math.fsum(weight[word] for word in own & asked)
            if shared:
                worth[i] = shared / length / math.sqrt(math.fsum(weight[word] for word in own))
                worth[i] += self.rank_weight / number + self.place_weight / (1 + order)
        chosen, seen = [], set()
        for i in np.argsort(-worth, kind="stable"):
            if worth[i] > 0 and found[i][2] not in seen:  # copies of a sentence in several docs say it once
                seen.add(found[i][2])
                chosen.append(found[i])
            if len(chosen) == self.count:
                break
        chosen.sort(key=lambda item: item[:2])
        text = " ".join(f"{sentence.rstrip('.')} [{number}]." for number, _, sentence, _ in chosen)
        return Answer(
            text,
            tuple(sorted({number for number, *_ in chosen})),
            confidence=float(worth.max(initial=0.0)),
            tokens=(sum(len(doc.split()) for doc in docs), len(text.split())),
        )


# ---------------------------------------------------------------------------------------------- the table


def _extractive(name, **_):
    if name:
        raise BadInput(f"--generator extractive:{name}: extractive takes no name")
    return Extractive()


def _reader(name, *, device, **_):
    from lib.rag.reader import Reader  # here and below: their libraries take seconds to import

    return Reader(name, device=device)


def _language_model(name, *, device, context_tokens, answer_tokens, template=DEFAULT, **_):
    from lib.rag.language_model import LanguageModel

    how = {"context_tokens": context_tokens, "answer_tokens": answer_tokens, "template": template}
    return LanguageModel(name, device=device, **how)


def _server(url, *, model, context_tokens, answer_tokens, timeout, template=DEFAULT, **_):
    from lib.rag.server import Server

    how = {"context_tokens": context_tokens, "answer_tokens": answer_tokens, "timeout": timeout}
    return Server(url, model=model, template=template, **how)


GENERATORS = {"extractive": _extractive, "qa": _reader, "hf": _language_model, "http": _server, "https": _server}
HELP = (
    "what answers: extractive (sentences of the docs, offline); qa:FOLDER|NAME, an extractive question-answering "
    "model; hf:FOLDER|NAME, a causal or sequence-to-sequence language model; http://HOST/v1, a server with "
    "OpenAI's interface (vLLM, Ollama, llama.cpp), whose key is taken from OPENAI_API_KEY"
)


def open_generator(spec, **options):
    """The generator that `--generator` names; BadInput if there is none. options: of the table's functions."""
    kind, _, name = spec.partition(":")
    if kind not in GENERATORS:
        raise BadInput(f"--generator {kind}: is none of {', '.join(dict.fromkeys(GENERATORS))}")
    if not name and kind != "extractive":
        raise BadInput(f"--generator {spec}: what follows the colon is missing")
    return GENERATORS[kind](spec if kind.startswith("http") else name, **options)

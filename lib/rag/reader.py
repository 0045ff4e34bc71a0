"""Extractive question answering: a span of one doc, by a model that was trained to point at it."""

import dataclasses
import time

import numpy as np
import torch
import transformers
from tqdm import tqdm

from lib.files import fingerprint
from lib.model.backbone import load_with_head, longest
from lib.model.encoder import fingerprint_folder, local_folder
from lib.rag.prompts import Answer

LONGEST = 30  # tokens of an answer
LENGTH, STRIDE = 384, 128  # tokens of a window, and how many two windows of a long doc share
NEITHER = np.float32(-1e4)  # a score that no span has


@dataclasses.dataclass(frozen=True)
class Span:
    """The best answer of one doc."""

    text: str
    margin: float  # score of the span minus that of no answer, both sums of two logits
    absent: float  # probability that the doc does not answer


class Reader:
    """A Hugging Face question-answering model. Each doc is read by itself, and the doc whose best span stands
    highest above "no answer" answers (Karpukhin et al. 2020; Rajpurkar et al. 2018 for "no answer").

    What was read is kept: the same doc in another context costs nothing.
    """

    def __init__(self, source, *, device, length=LENGTH):
        folder = local_folder(source)
        kind, wanted = transformers.AutoModelForQuestionAnswering, "a model trained to answer questions"
        self.model, self.tokenizer = load_with_head(folder, kind, named=f"--generator qa:{source}", wanted=wanted)
        self.model.eval().to(device)
        self.device = device
        self.length = min(length, longest(self.model.base_model, self.tokenizer))
        self.stride = min(STRIDE, self.length // 4)
        self.fingerprint = fingerprint("qa", 1, fingerprint_folder(folder), self.length, LONGEST)
        self._spans = {}

    def generate(self, pairs):
        """An Answer for each (question, docs)."""
        begin = time.perf_counter()
        self._read([(question, doc) for question, docs in pairs for doc in docs])
        ms = 1000 * (time.perf_counter() - begin) / max(1, len(pairs))
        return [self._best(question, docs, ms) for question, docs in pairs]

    def abstain_probability(self, pairs):
        """(n,) the probability that a doc does not answer, for (question, doc) pairs."""
        self._read(pairs)
        return np.array([self._spans[pair].absent for pair in pairs])

    def _best(self, question, docs, ms):
        spans = [self._spans[question, doc] for doc in docs]
        tokens = sum(len(doc.split()) for doc in docs)
        if not spans:
            return Answer("", ms=ms)
        number = int(np.argmax([span.margin for span in spans]))  # the first of equal ones
        span = spans[number]
        known = {"confidence": span.margin, "ms": ms, "tokens": (tokens, len(span.text.split()))}
        if span.margin <= 0 or not span.text:
            return Answer("", **known)
        return Answer(f"{span.text} [{number + 1}]", (number + 1,), **known)

    @torch.inference_mode()
    def _read(self, pairs, *, block=16):
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self._spans]
        new.sort(key=lambda pair: len(pair[1]))
        with tqdm(total=len(new), unit="doc", unit_scale=True, desc="reading", delay=2, leave=False) as bar:
            for begin in range(0, len(new), block):
                part = new[begin : begin + block]
                fits = self._fits(part)
                inputs = self.tokenizer(
                    [question for question, _ in part],
                    [doc for _, doc in part],
                    truncation="only_second" if fits else True,
                    max_length=self.length,
                    stride=self.stride if fits else 0,
                    return_overflowing_tokens=fits,
                    return_offsets_mapping=True,
                    padding=True,
                    return_tensors="pt",
                )
                owner = inputs.pop("overflow_to_sample_mapping", torch.arange(len(inputs["input_ids"]))).tolist()
                offsets = inputs.pop("offset_mapping")
                kinds = [inputs.sequence_ids(i) for i in range(len(owner))]
                output = self.model(**inputs.to(self.device))
                found = [[] for _ in part]
                there = inputs["attention_mask"].bool()
                for i, pair in enumerate(owner):
                    start, end = (
                        x[i][there[i]].float().cpu().numpy() for x in (output.start_logits, output.end_logits)
                    )
                    own = [(kind, place) for kind, place, real in zip(kinds[i], offsets[i].tolist(), there[i]) if real]
                    found[pair].append(self._span(start, end, own, part[pair][1]))
                for pair, spans in zip(part, found):
                    best = max(spans, key=lambda span: span.margin)
                    self._spans[pair] = dataclasses.replace(best, absent=min(span.absent for span in spans))
                bar.update(len(part))

    def _fits(self, part):
        """Whether the questions leave room for windows of the docs, which overlap by `stride` tokens."""
        asked = self.tokenizer([question for question, _ in part], add_special_tokens=False)["input_ids"]
        special = self.tokenizer.num_special_tokens_to_add(pair=True)
        return max(map(len, asked)) + special + self.stride < self.length

    @staticmethod
    def _span(start, end, tokens, doc):
        """The Span of one window: start, end (L,) logits, the first of them of the token that means no answer.

        tokens: (0 for the question, 1 for the doc; its first character and end) of each.
        """
        own = np.array([kind == 1 for kind, _ in tokens])
        scores = np.where(own, start, NEITHER)[:, None] + np.where(own, end, NEITHER)[None]  # (L, L)
        places = np.arange(len(start))
        width = places[None] - places[:, None]
        scores = np.where((width >= 0) & (width < LONGEST), scores, 2 * NEITHER)
        first, last = np.unravel_index(np.argmax(scores), scores.shape)
        absent = float(np.exp(start[0] - _logsumexp(start)) * np.exp(end[0] - _logsumexp(end)))
        text = doc[tokens[first][1][0] : tokens[last][1][1]].strip() if own.any() else ""
        return Span(text, float(scores[first, last] - start[0] - end[0]), absent)


def _logsumexp(x):
    high = x.max()
    return high + np.log(np.exp(x - high).sum())

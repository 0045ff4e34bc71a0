"""The contrastive loss: pure functions of embeddings, in three tables. A new term is a function and a row.

Letters: B queries, N docs, D dimensions, N' columns with those that terms add. Every doc is scored against every query;
`invalid` (B, N) is True where a doc must not count as a negative of a query; `labels` (B,) is the column of each
query's positive. A row of a table names its numbers with their limits (words of cli.number()); what is written as
name:number is one of them, as in --terms spread:1 hardness:3.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

LEAST_0, SHARE = {"least": 0}, {"least": 0, "below": 1}
PART, FACTOR = {"least": 0, "most": 1}, {"above": 0, "default": 1.0}


def dot(a, b):
    """(n, D), (m, D) -> (n, m) inner products: cosines, of unit vectors."""
    return a @ b.T


@dataclasses.dataclass
class Scores:
    """What bases, masks and terms look at: the similarities of one batch, of whole vectors or of a prefix."""

    q: torch.Tensor  # (B, D)
    d: torch.Tensor  # (N, D)
    labels: torch.Tensor  # (B,)
    invalid: torch.Tensor  # (B, N) bool
    temperature: object  # a number or a tensor
    similarity: Callable
    explicit: torch.Tensor | None = None  # (B, N) bool: negatives that the arm names, not docs of other queries
    guide: torch.Tensor | None = None  # (B, N) scores of another encoder
    teacher: torch.Tensor | None = None  # (B, N) scores of a teacher, nan where it has none
    logq: torch.Tensor | None = None  # (B, N) log of how likely a batch holds the doc; 0 for what is there for sure

    def __post_init__(self):
        self.rows = torch.arange(len(self.q), device=self.q.device)
        self.plain = self.similarity(self.q, self.d)  # (B, N)
        self.is_positive = F.one_hot(self.labels, len(self.d)).bool()  # (B, N)

    def widen(self, extra, mask):
        """Add columns [(similarities (B, n), off (B, n))] to the docs'; mask (B, N): docs that do not count."""
        self.mask = mask
        self.similarities = torch.cat([self.plain, *(s for s, _ in extra)], 1)  # (B, N')
        self.off = torch.cat([mask & ~self.is_positive, *(off for _, off in extra)], 1)
        self.is_negative = ~self.off
        self.is_negative[self.rows, self.labels] = False
        self.logits = self.similarities / self.temperature

    def named(self):
        """(B, N') bool: negatives that the arm names; what terms add is nobody's choice."""
        return F.pad(self.explicit, (0, self.similarities.shape[1] - self.explicit.shape[1]))

    @functools.cached_property
    def log_probs(self):
        """(B, N') logarithm of the softmax."""
        return self.logits.log_softmax(1)


# ---------------------------------------------------------------------------------------------------- bases


def info_nce(s):
    """InfoNCE: -log softmax at the positive (van den Oord et al. 2018, eq. 4) -> (B,)."""
    return -s.log_probs[s.rows, s.labels]


def debiased(s, share):
    """InfoNCE less the share of the negatives that is assumed to be positive (Chuang et al. 2020, eq. 8) -> (B,)."""
    positive = s.logits[s.rows, s.labels]
    count, top = s.is_negative.sum(1), s.logits.detach().amax(1)  # relative to the top, nothing overflows
    negatives = (s.logits - top[:, None]).masked_fill(~s.is_negative, float("-inf")).exp().sum(1)
    corrected = (negatives - share * count * (positive - top).exp()) / (1 - share)
    floor = count * (-1 / torch.as_tensor(s.temperature, device=top.device) - top).exp()  # cosines of -1
    return torch.log((positive - top).exp() + torch.maximum(corrected, floor)) - (positive - top)


def triplet(s, margin):
    """max(0, margin - positive + negative) of every negative of the batch -> (negatives,)."""
    hinge = F.relu(margin - s.plain[s.rows, s.labels][:, None] + s.similarities)
    return hinge[s.is_negative] if s.is_negative.any() else s.plain.sum()[None] * 0.0


# ---------------------------------------------------------------------------------------------------- masks


def margin(s, gap):
    """Negatives that outscore their positive by more than this."""
    return s.plain.detach() > s.plain.detach()[s.rows, s.labels][:, None] + gap


def guide(s, gap):
    """Negatives that --guide scores above the positive less this (GISTEmbed, Solatorio 2024)."""
    return s.guide > s.guide[s.rows, s.labels][:, None] - gap


def guide_share(s, share):
    """The same less a share of the size of the positive's score by --guide."""
    best = s.guide[s.rows, s.labels][:, None]  # (B, 1); a cosine may be negative: its size scales the margin
    return s.guide > best - share * best.abs()


# ------------------------------------------------------------------- terms: columns, logits, queries, the whole


def doc_to_query(s):
    """More negatives: other queries against the positive (GTE, Li et al. 2023, eq. 2)."""
    return s.plain[:, s.labels].T, same_meaning(s)


def query_to_query(s):
    """More negatives: other queries against the query."""
    same = same_meaning(s)
    return s.similarity(s.q, s.q), same | same.T


def doc_to_doc(s):
    """More negatives: other docs against the positive."""
    own = s.invalid.clone()
    own[s.rows, s.labels] = True
    return s.similarity(s.d[s.labels], s.d), own


def same_meaning(s):
    """(B, B) bool: query j may not stand against query i where i's positive is relevant to j too."""
    return (s.labels[:, None] == s.labels[None, :]) | s.invalid[:, s.labels].T


def hardness(s, strength, group=None):
    """Adds this times its similarity, without its gradient, to the logit of each negative."""
    chosen = s.is_negative if group is None else s.is_negative & group
    return strength * s.similarities.detach() * chosen


def hardness_explicit(s, strength):
    """The same, to those of the negatives that the arm names."""
    return hardness(s, strength, s.named())


def hardness_in_batch(s, strength):
    """The same, to those that are docs of other queries or added by a term."""
    return hardness(s, strength, ~s.named())


def logq(s):
    """Subtracts log Q, how likely a batch holds the doc, from the logits of docs of other queries (Yi et al. 2019).

    The positive is there for sure and keeps its logit (Khrylchenko et al. 2025); so do negatives that the arm names.
    """
    return -F.pad(s.logq, (0, s.similarities.shape[1] - s.logq.shape[1]))


def smoothing(s, value, share):
    """Spreads this share of the target evenly over the negatives."""
    spread = -(s.log_probs.masked_fill(~s.is_negative, 0.0).sum(1)) / s.is_negative.sum(1).clamp(min=1)
    return (1 - share) * value + share * spread


def focal(s, value, plain, power):
    """Weighs each query by (1 - the probability of its positive) to this power (Lin et al. 2017)."""
    return value * (-torch.expm1(-plain)).clamp(min=1e-12) ** power


def spread(s, value, weight):
    """Adds the global orthogonal regulariser (Zhang et al. 2017), which spreads queries and docs over the sphere."""
    return value + weight * (orthogonality(s.q) + orthogonality(s.d))


def orthogonality(vectors):
    """How far the inner products of different vectors (n, D) are from those of a uniform sphere; 0 for one vector.

    The squared mean of the inner products, and what the mean of their squares exceeds 1 / D by.
    """
    n, dim = vectors.shape
    products = vectors @ vectors.T
    pairs = max(1, n * (n - 1))
    first = (products.sum() - products.diagonal().sum()) / pairs
    second = ((products**2).sum() - (products.diagonal() ** 2).sum()) / pairs
    return first**2 + F.relu(second - 1 / dim)


def margin_mse(s, value, share, scale):
    """This share of the loss follows the margins of a teacher's scores (Hofstätter et al. 2020), divided by SCALE: 1
    for cosines, some 10 for logits."""
    known = _taught(s)
    student = s.plain[s.rows, s.labels][:, None] - s.plain
    teacher = (s.teacher[s.rows, s.labels][:, None] - s.teacher) / scale
    known = known & ~s.is_positive  # its margin is 0 by definition
    taught = ((student - teacher)[known] ** 2).mean() if known.any() else s.plain.sum() * 0.0
    return (1 - share) * value + share * taught


def kl(s, value, share, temperature):
    """This share of the loss follows a teacher's distribution, its scores divided by T: 1 for logits, .05 for
    cosines."""
    known = _taught(s)
    some = known.any(1)
    if not some.any():
        return (1 - share) * value + share * (s.plain.sum() * 0.0)
    student = (s.plain / s.temperature).masked_fill(~known, float("-inf"))
    target = (s.teacher / temperature).masked_fill(~known, float("-inf")).softmax(1)
    log_probs = student[some].log_softmax(1).masked_fill(~known[some], 0.0)
    taught = F.kl_div(log_probs, target[some], reduction="none").sum(1).mean()
    return (1 - share) * value + share * taught


def _taught(s):
    """(B, N) bool: docs that the teacher scored, of queries whose positive it scored."""
    return ~s.teacher.isnan() & ~s.teacher[s.rows, s.labels].isnan()[:, None]


# --------------------------------------------------------------------------------------------------- tables


class Row(NamedTuple):
    """A base, mask or term: its function, its numbers, what of a batch it needs, and where it acts.

    A base and a mask are functions of the Scores s and their numbers: (B,) losses, (B, N) bool. A term that acts at
    columns: (s) -> scores (B, M) of more negatives and which of them do not count; logits: (s, numbers) -> what is
    added to them (B, N); targets: (s, value, numbers) -> losses (B,); queries: (s, value, plain, numbers), plain being
    the losses before any term; whole: (s, value, numbers), value being the mean of the losses.
    """

    function: Callable
    numbers: dict = {}  # letter -> limits, maybe with a default
    needs: tuple = ()  # of explicit, guide, logq, teacher
    at: str = ""  # of a term: where it acts
    takes: str = ""  # of a base: where terms may act


BASES = {
    "infonce": Row(info_nce, takes="columns logits targets queries whole"),
    "debiased": Row(debiased, {"SHARE": SHARE}, takes="columns logits queries whole"),
    "triplet": Row(triplet, {"MARGIN": LEAST_0}, takes="whole"),
}
MASKS = {
    "margin": Row(margin, {"X": {}}),
    "guide": Row(guide, {"X": {}}, ("guide",)),
    "guide_share": Row(guide_share, {"X": {}}, ("guide",)),
}
TERMS = {  # in the order in which they act
    "doc_to_query": Row(doc_to_query, at="columns"),
    "query_to_query": Row(query_to_query, at="columns"),
    "doc_to_doc": Row(doc_to_doc, at="columns"),
    "hardness": Row(hardness, {"X": LEAST_0}, at="logits"),
    "hardness_explicit": Row(hardness_explicit, {"X": LEAST_0}, ("explicit",), at="logits"),
    "hardness_in_batch": Row(hardness_in_batch, {"X": LEAST_0}, ("explicit",), at="logits"),
    "logq": Row(logq, needs=("logq",), at="logits"),
    "smoothing": Row(smoothing, {"SHARE": SHARE}, at="targets"),
    "focal": Row(focal, {"POWER": LEAST_0}, at="queries"),
    "spread": Row(spread, {"WEIGHT": LEAST_0}, at="whole"),
    "margin_mse": Row(margin_mse, {"SHARE": PART, "SCALE": FACTOR}, ("teacher",), at="whole"),
    "kl": Row(kl, {"SHARE": PART, "T": FACTOR}, ("teacher",), at="whole"),
}


INFO_NCE = ("infonce",)


def needs_of(base, masks, terms):
    """What of a batch the loss needs besides the vectors: of explicit, guide, logq, teacher."""
    rows = [BASES[base[0]], *(MASKS[name] for name, *_ in masks), *(TERMS[name] for name, *_ in terms)]
    return {need for row in rows for need in row.needs}


def contrasts(base, terms):
    """Whether InfoNCE is in the loss, so that its value says whether something is learned."""
    taught = any(name in ("margin_mse", "kl") and numbers[0] == 1 for name, *numbers in terms)  # and nothing else
    return "logits" in BASES[base[0]].takes.split() and not taught


def contrastive_loss(
    q_emb, d_emb, labels, invalid, *, temperature, base=INFO_NCE, masks=(), terms=(), dims=(), similarity=dot, **given
):
    """InfoNCE or another base, with masks and terms, over one score matrix -> (loss, scores, mask).

    q_emb (B, D), d_emb (N, D) -> a scalar; the similarities (B, N), detached; and (B, N) bool: which docs did not
    count as negatives, `invalid` among them. temperature divides the similarities; a tensor that requires a gradient
    is learned. base (name, *numbers) and lists of such masks and terms are rows of BASES, MASKS and TERMS; what
    needs_of() names of them, (B, N) each, is among `given`. dims: Matryoshka (Kusupati et al. 2022), the mean of the
    loss over these prefixes of the vectors, normalised anew. Scores and softmax are float32 or better whatever the
    autocast: in half precision a gap below 1e-3 would vanish.
    """
    with torch.autocast(q_emb.device.type, enabled=False):
        q_emb, d_emb = (x if x.dtype == torch.float64 else x.float() for x in (q_emb, d_emb))
        values = []
        for dim in sorted({*dims, q_emb.shape[1]}):
            q, d = q_emb, d_emb
            if dim < q_emb.shape[1]:
                q, d = F.normalize(q_emb[:, :dim], dim=-1), F.normalize(d_emb[:, :dim], dim=-1)
            s = Scores(q, d, labels, invalid, temperature, similarity, **given)
            values.append(_loss(s, base, masks, terms))
    return torch.stack(values).mean(), s.plain.detach(), s.mask  # of the whole vectors, which come last


def _loss(s, base, masks, terms):
    acting = {place: [] for place in "columns logits targets queries whole".split()}
    for name, row in TERMS.items():
        acting[row.at] += [(row.function, numbers) for found, *numbers in terms if found == name]
    likely = torch.zeros_like(s.invalid)  # negatives that look relevant
    for name, *numbers in masks:
        likely |= MASKS[name].function(s, *numbers)
    s.widen([term(s, *numbers) for term, numbers in acting["columns"]], s.invalid | likely & ~s.is_positive)
    for term, numbers in acting["logits"]:
        s.logits = s.logits + term(s, *numbers)
    s.logits = s.logits.masked_fill(s.off, float("-inf"))
    value = plain = BASES[base[0]].function(s, *base[1:])
    for term, numbers in acting["targets"]:
        value = term(s, value, *numbers)
    for term, numbers in acting["queries"]:
        value = term(s, value, plain, *numbers)
    value = value.mean()
    for term, numbers in acting["whole"]:
        value = term(s, value, *numbers)
    return value

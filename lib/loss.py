"""The contrastive loss: pure functions of embeddings.

Letters: B queries, N docs, D dimensions. Every doc is scored against every query; `invalid` (B, N) is True
where a doc must not count as a negative of a query; `labels` (B,) is the column of each query's positive.
"""

import torch
import torch.nn.functional as F

DIRECTIONS = ("doc_to_query", "query_to_query", "doc_to_doc")
# what train.py has flags for, besides the temperature and the guide: arguments of contrastive_loss() with their
# defaults, limits (words of run.number()) and help. A term with a flag of its own is an argument and a row.
OPTIONS = {
    "directions": {
        "default": (),
        "choices": DIRECTIONS,
        "help": "more negatives: doc_to_query, other queries "
        "against the positive; query_to_query, other queries against the query; doc_to_doc, other docs "
        "against the positive",
    },
    "hardness_strength": {
        "default": 0.0,
        "limits": {"least": 0},
        "help": "adds this times its similarity to each negative's logit",
    },
    "hardness_of": {
        "default": "all",
        "choices": ("all", "explicit", "in_batch"),
        "help": "which negatives --hardness_strength is for: all, those that the arm names, or docs of other queries",
    },
    "focal": {
        "default": 0.0,
        "limits": {"least": 0},
        "help": "weighs each query by (1 - the probability of its positive) to this power: easy queries count less",
    },
    "spread": {
        "default": 0.0,
        "limits": {"least": 0},
        "help": "weight of the global orthogonal regulariser, which spreads queries and docs over the sphere",
    },
    "label_smoothing": {
        "default": 0.0,
        "limits": {"least": 0, "below": 1},
        "help": "share of the target spread over the negatives",
    },
    "debias": {"default": 0.0, "limits": {"least": 0, "below": 1}, "help": "assumed share of false negatives"},
    "mask_margin": {
        "default": None,
        "limits": {},
        "help": "negatives that outscore their positive by more than this do not count",
    },
    "guide_margin": {
        "default": 0.0,
        "limits": {},
        "help": "with --guide: negatives above the positive's guide score minus this do not count either",
    },
    "guide_margin_of": {
        "default": "one",
        "choices": ("one", "positive"),
        "help": "what --guide_margin is a share of: one (the margin itself), or the positive's guide score",
    },
    "triplet_margin": {
        "default": None,
        "limits": {"least": 0},
        "help": "hinge loss with this margin in place of InfoNCE",
    },
    "dims": {"default": (), "limits": {"least": 1}, "help": "Matryoshka: train these prefixes of the vectors too"},
    "distill": {
        "default": "margin_mse",
        "choices": ("margin_mse", "kl"),
        "help": "how to follow the teacher scores of --negatives_file",
    },
    "distill_temperature": {
        "default": 1.0,
        "limits": {"above": 0},
        "help": "divides the teacher scores of --distill kl: about 1 for logits, .05 for cosines",
    },
    "distill_weight": {
        "default": 0.0,
        "limits": {"least": 0, "most": 1},
        "help": "share of distillation in the loss, the rest is contrastive",
    },
}


def contrastive_loss(
    q_emb,
    d_emb,
    labels,
    invalid,
    *,
    temperature,
    directions=(),
    hardness_strength=0.0,
    hardness_of="all",
    explicit=None,
    focal=0.0,
    spread=0.0,
    label_smoothing=0.0,
    debias=0.0,
    mask_margin=None,
    guide=None,
    guide_margin=0.0,
    guide_margin_of="one",
    triplet_margin=None,
    dims=(),
    teacher=None,
    distill="margin_mse",
    distill_temperature=1.0,
    distill_weight=0.0,
):
    """InfoNCE (van den Oord et al. 2018, eq. 4) and its relatives over one score matrix -> (loss, scores, mask).

    q_emb (B, D), d_emb (N, D) -> a scalar; the similarities (B, N), detached; and (B, N) bool: which docs did
    not count as negatives, `invalid` among them. Scores and softmax are float32 or better whatever the
    autocast: in half precision a gap below 1e-3 would vanish. Everything but the temperature is off by
    default:

    temperature      divides the similarities; a tensor that requires a gradient is learned
    directions       more negatives in the same denominator (GTE, Li et al. 2023, eq. 2): doc_to_query other
                     queries against the positive doc, query_to_query other queries against the query,
                     doc_to_doc other docs against the positive doc
    hardness_strength  alpha: adds alpha * similarity, without its gradient, to the logit of each negative of the
                     group hardness_of: all, explicit, in_batch; explicit (B, N) bool tells them apart
    focal            gamma: a query's loss times (1 - p)^gamma, p the probability of its positive (Lin et al. 2017)
    spread           weight of the global orthogonal regulariser (Zhang et al. 2017): the squared mean of the inner
                     products of different queries, and of different docs, and what the mean of their squares
                     exceeds 1 / D by, as on a sphere where vectors lie uniformly
    label_smoothing  share of the target that is spread evenly over the negatives
    debias           share of negatives assumed to be positive, subtracted from their sum (Chuang et al. 2020,
                     eq. 8)
    mask_margin      negatives that score above their positive by more than this do not count
    guide            (B, N) scores of another encoder: negatives whose guide score is above the positive's
                     guide score minus guide_margin do not count (GISTEmbed, Solatorio 2024); guide_margin_of positive:
                     minus guide_margin times the size of the positive's guide score
    triplet_margin   instead of InfoNCE, the mean of max(0, margin - positive + negative) over all negatives
    dims             Matryoshka (Kusupati et al. 2022): the mean of the loss over these prefixes of the
                     vectors, normalised anew
    teacher          (B, N) scores of a teacher, nan where it has none; mixed in with distill_weight as
                     distill = margin_mse (Hofstätter et al. 2020) or kl, which divides the teacher's scores by
                     distill_temperature
    """
    with torch.autocast(q_emb.device.type, enabled=False):
        q_emb, d_emb = (x if x.dtype == torch.float64 else x.float() for x in (q_emb, d_emb))
        values = []
        for dim in sorted({*dims, q_emb.shape[1]}):
            q, d = q_emb, d_emb
            if dim < q_emb.shape[1]:
                q, d = F.normalize(q_emb[:, :dim], dim=-1), F.normalize(d_emb[:, :dim], dim=-1)
            scores = q @ d.T  # (B, N)
            mask = invalid | likely_positive(scores, labels, mask_margin, guide, guide_margin, guide_margin_of)
            if triplet_margin is not None:
                value = triplet(scores, labels, mask, margin=triplet_margin)
            else:
                extra = extra_terms(q, d, scores, labels, invalid, directions)
                value = info_nce(
                    scores,
                    labels,
                    mask,
                    temperature=temperature,
                    hardness=hardness_strength,
                    hard=hard_group(hardness_of, explicit, scores.shape[1] + sum(s.shape[1] for s, _ in extra)),
                    focal=focal,
                    debias=debias,
                    label_smoothing=label_smoothing,
                    extra=extra,
                )
            if spread:
                value = value + spread * (orthogonality(q) + orthogonality(d))
            if distill_weight:
                taught = distillation(
                    scores,
                    labels,
                    teacher,
                    kind=distill,
                    temperature=temperature,
                    teacher_temperature=distill_temperature,
                )
                value = (1 - distill_weight) * value + distill_weight * taught
            values.append(value)
    return torch.stack(values).mean(), scores.detach(), mask  # of the whole vectors, which come last


def hard_group(name, explicit, width):
    """(B, width) bool: the negatives that are weighted by their hardness; True for all. Extra columns are in_batch."""
    if name == "all":
        return True
    named = F.pad(explicit, (0, width - explicit.shape[1]))
    return named if name == "explicit" else ~named


def orthogonality(vectors):
    """How far the inner products of different vectors (n, D) are from those of a uniform sphere; 0 for one vector."""
    n, dim = vectors.shape
    products = vectors @ vectors.T
    pairs = max(1, n * (n - 1))
    first = (products.sum() - products.diagonal().sum()) / pairs
    second = ((products**2).sum() - (products.diagonal() ** 2).sum()) / pairs
    return first**2 + F.relu(second - 1 / dim)


def info_nce(scores, labels, off, *, temperature, hardness, hard, focal, debias, label_smoothing, extra):
    """Mean over queries of -log softmax at the positive. scores, off (B, N); extra: [(similarities, off)]."""
    rows = torch.arange(len(scores), device=scores.device)
    is_positive = F.one_hot(labels, scores.shape[1]).bool()
    similarities = torch.cat([scores, *(s for s, _ in extra)], 1)  # (B, N')
    off = torch.cat([off & ~is_positive, *(o for _, o in extra)], 1)
    is_negative = ~off
    is_negative[rows, labels] = False
    logits = similarities / temperature + hardness * similarities.detach() * (is_negative & hard)
    logits = logits.masked_fill(off, float("-inf"))
    positive = logits[rows, labels]  # (B,)
    if debias:
        count, top = is_negative.sum(1), logits.detach().amax(1)  # relative to the top, nothing overflows
        negatives = (logits - top[:, None]).masked_fill(~is_negative, float("-inf")).exp().sum(1)
        corrected = (negatives - debias * count * (positive - top).exp()) / (1 - debias)
        floor = count * (-1 / torch.as_tensor(temperature, device=scores.device) - top).exp()  # cosines of -1
        value = torch.log((positive - top).exp() + torch.maximum(corrected, floor)) - (positive - top)
        return focused(value, value, focal).mean()
    log_probs = logits.log_softmax(1)
    value = plain = -log_probs[rows, labels]
    if label_smoothing:
        spread = -(log_probs.masked_fill(~is_negative, 0.0).sum(1)) / is_negative.sum(1).clamp(min=1)
        value = (1 - label_smoothing) * value + label_smoothing * spread
    return focused(value, plain, focal).mean()


def focused(value, plain, focal):
    """value (B,) times (1 - exp(-plain))^focal."""
    return value * (-torch.expm1(-plain)).clamp(min=1e-12) ** focal if focal else value


def extra_terms(q, d, scores, labels, invalid, directions):
    """[(similarities (B, n), off (B, n))] of the further negatives that `directions` names."""
    rows = torch.arange(len(q), device=q.device)
    extra = []
    # query j may not stand against query i where i's positive is relevant to j too: then they mean the same
    same = (labels[:, None] == labels[None, :]) | invalid[:, labels].T  # (B, B)
    if "doc_to_query" in directions:
        extra.append((scores[:, labels].T, same))
    if "query_to_query" in directions:
        extra.append((q @ q.T, same | same.T))
    if "doc_to_doc" in directions:
        own = invalid.clone()
        own[rows, labels] = True
        extra.append((d[labels] @ d.T, own))
    return extra


def likely_positive(scores, labels, mask_margin, guide, guide_margin, guide_margin_of="one"):
    """(B, N) bool: negatives that look relevant by the scores themselves or a guide's; never the positive."""
    rows = torch.arange(len(scores), device=scores.device)
    off = torch.zeros_like(scores, dtype=torch.bool)
    if mask_margin is not None:
        off |= scores.detach() > scores.detach()[rows, labels][:, None] + mask_margin
    if guide is not None:
        best = guide[rows, labels][:, None]  # (B, 1); a cosine may be negative: its size scales the margin
        off |= guide > best - guide_margin * (best.abs() if guide_margin_of == "positive" else 1.0)
    off[rows, labels] = False
    return off


def triplet(scores, labels, off, *, margin):
    """Mean over all negatives of the hinge at `margin`."""
    rows = torch.arange(len(scores), device=scores.device)
    is_negative = ~off
    is_negative[rows, labels] = False
    hinge = F.relu(margin - scores[rows, labels][:, None] + scores)
    return hinge[is_negative].mean() if is_negative.any() else scores.sum() * 0.0


def distillation(scores, labels, teacher, *, kind, temperature, teacher_temperature=1.0):
    """How far the scores are from a teacher's, where it scored. teacher (B, N), nan for none.

    kl compares two distributions, each with a temperature of its own; margin_mse compares margins as they are.
    """
    rows = torch.arange(len(scores), device=scores.device)
    known = ~teacher.isnan() & ~teacher[rows, labels].isnan()[:, None]
    if not known.any():
        return scores.sum() * 0.0
    if kind == "margin_mse":
        student_margin = scores[rows, labels][:, None] - scores
        teacher_margin = teacher[rows, labels][:, None] - teacher
        known[rows, labels] = False  # its margin is 0 by definition
        return ((student_margin - teacher_margin)[known] ** 2).mean() if known.any() else scores.sum() * 0.0
    student = (scores / temperature).masked_fill(~known, float("-inf"))
    target = (teacher / teacher_temperature).masked_fill(~known, float("-inf")).softmax(1)
    some = known.any(1)
    log_probs = student[some].log_softmax(1).masked_fill(~known[some], 0.0)
    return F.kl_div(log_probs, target[some], reduction="none").sum(1).mean()


def backward(forward, sides, loss_of, *, cached, both=None, scale=lambda value: value):
    """Gradients of a step, keeping all activations or, `cached`, one chunk's (GradCache, Gao et al. 2021).

    forward(chunk) -> vectors of one chunk; sides: the chunks of the queries and those of the docs, as two
    lists; loss_of(q_emb, d_emb) -> (loss, *more), which is returned. Cached: (1) vectors without a graph; (2) the loss
    and its gradient with respect to the vectors; (3) chunk by chunk, forward again with the random state of (1), and
    backward with the gradient of (2). The gradient is the same; memory stays that of a chunk, for one more
    forward pass. both(query chunk, doc chunk) -> (q_emb, d_emb), where given, takes the place of two calls of
    forward when nothing is cached and each side is one chunk.
    """
    if not cached:
        if both:
            vectors = both(*(side[0] for side in sides))
        else:
            vectors = (torch.cat([forward(chunk) for chunk in side]) for side in sides)
        value, *more = loss_of(*vectors)
        scale(value).backward()
        return value.detach(), *more
    states, leaves = [], []
    for side in sides:
        vectors = []
        for chunk in side:
            states.append(_random_state())
            with torch.no_grad():
                vectors.append(forward(chunk))
        leaves.append(torch.cat(vectors).requires_grad_())
    after = _random_state()
    value, *more = loss_of(*leaves)
    scale(value).backward()
    states = iter(states)
    for side, leaf in zip(sides, leaves):
        begin = 0
        for chunk in side:
            _set_random_state(next(states))
            vectors = forward(chunk)
            vectors.backward(leaf.grad[begin : begin + len(vectors)].to(vectors.dtype))
            begin += len(vectors)
    _set_random_state(after)
    return value.detach(), *more


def _random_state():
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state):
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])


def batch_stats(scores, labels, invalid, source, names, *, temperature, states=None):
    """What a batch taught, as plain numbers: accuracy, mean scores, and the ledger of its negatives.

    scores (B, N), labels (B,), invalid (B, N) as the loss had it, source (B, N) int, 0 for docs of other
    queries ("in_batch"), i + 1 for names[i] = (source, band of ranks). The ledger has a row for each name:
    negatives per query in the denominator, the share of them that outscore the positive, and the share of the
    softmax mass on negatives, which is their share of the gradient with respect to the scores. states
    {name: (N,) bool}: kinds of docs, whose share of the negatives each row has too. effective: the
    exponential of the entropy of that mass over a query's negatives, how many it is really trained on.
    """
    rows = torch.arange(len(scores), device=scores.device)
    positive = scores[rows, labels][:, None]  # (B, 1)
    negative = ~invalid
    negative[rows, labels] = False
    hardest = scores.masked_fill(~negative, float("-inf")).amax(1)
    logits = (scores.double() / temperature).masked_fill(invalid, float("-inf"))  # float32 would reach 0
    log_probs = logits.log_softmax(1)
    weight = torch.where(negative, log_probs.exp(), 0.0)  # (B, N)
    mass = weight.sum(1).clamp(min=1e-300)  # (B,) of a query's negatives
    entropy = mass.log() - torch.where(weight > 0, weight * log_probs, 0.0).sum(1) / mass
    total = max(weight.sum().item(), 1e-300)
    above = (scores > positive) & negative
    stats = {
        "accuracy": (hardest <= positive[:, 0]).float().mean().item(),
        "positive": positive.mean().item(),
        "hardest": hardest[hardest.isfinite()].mean().item() if hardest.isfinite().any() else None,
        "info_nce": -log_probs[rows, labels].mean().item(),
        "effective": (entropy.clamp(min=0).exp() * negative.any(1)).mean().item(),
        "ledger": [],
    }
    for number, (name, ranks) in enumerate((("in_batch", ""), *names)):
        own = negative & (source == number)
        count = own.sum().item()
        row = {"source": name, "ranks": ranks, "negatives": count / len(scores)}
        row["above"] = (above & own).sum().item() / count if count else 0.0
        row["gradient"] = torch.where(own, weight, 0.0).sum().item() / total if count else 0.0
        for state, docs in (states or {}).items():
            row[state] = (own & docs).sum().item() / count if count else 0.0
        stats["ledger"].append(row)
    return stats | {"sources": by_source(stats["ledger"])}


def by_source(ledger):
    """{source: its rows of a ledger, as one}."""
    sources = {}
    for row in ledger:
        sources.setdefault(row["source"], []).append(row)
    return {source: as_one(rows) for source, rows in sources.items()}


def as_one(rows):
    """Rows of a ledger as one: negatives and gradient add up, all other shares are means over the negatives."""
    negatives = sum(row["negatives"] for row in rows)
    total = {"negatives": negatives, "gradient": sum(row["gradient"] for row in rows)}
    for key in (key for key in rows[0] if key not in (*total, "source", "ranks", "age")):
        total[key] = sum(row[key] * row["negatives"] for row in rows) / (negatives or 1.0)
    return total

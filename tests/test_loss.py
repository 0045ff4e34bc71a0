"""The loss against a plain double loop, its masks, and the statistics of a batch."""

import math

import numpy as np
import pytest
import torch

from lib.cli import choice
from lib.evaluation.monitor import batch_stats
from lib.loss import BASES, MASKS, TERMS, contrastive_loss, contrasts, needs_of
from lib.model.gradients import backward


def make_batch(B, N, D, *, seed, masked=0.2):
    """Unit vectors, labels, a random mask that spares the labels, and random sources 0, 1, 2."""
    torch.manual_seed(seed)
    q_emb, d_emb = (torch.nn.functional.normalize(torch.randn(n, D), dim=1) for n in (B, N))
    labels = torch.randint(N, (B,))
    invalid = torch.rand(B, N) < masked
    invalid[torch.arange(B), labels] = False
    return q_emb, d_emb, labels, invalid, torch.randint(3, (B, N), dtype=torch.int8)


def loop_softmax(q_emb, d_emb, invalid, temperature):
    """The softmax over valid docs of every query, in double precision, as lists."""
    q_emb, d_emb, invalid = q_emb.tolist(), d_emb.tolist(), invalid.tolist()
    table = []
    for query, masks in zip(q_emb, invalid):
        powers = []
        for doc, mask in zip(d_emb, masks):
            powers.append(0.0 if mask else math.exp(sum(a * b for a, b in zip(query, doc)) / temperature))
        table.append([power / sum(powers) for power in powers])
    return table


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("B, N, masked", [(1, 1, 0.0), (1, 5, 0.3), (4, 4, 0.0), (6, 17, 0.3), (3, 9, 1.0)])
def test_loss_equals_a_double_loop(B, N, masked, temperature):
    q_emb, d_emb, labels, invalid, _ = make_batch(B, N, 8, seed=B * N, masked=masked)
    loss, scores, _ = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=temperature)
    softmax = loop_softmax(q_emb, d_emb, invalid, temperature)
    wanted = -sum(math.log(row[label]) for row, label in zip(softmax, labels.tolist())) / B
    assert loss.item() == pytest.approx(wanted, abs=1e-5, rel=1e-5)
    assert scores.shape == (B, N) and not scores.requires_grad
    assert scores[0, 0].item() == pytest.approx(
        sum(a * b for a, b in zip(q_emb[0].tolist(), d_emb[0].tolist())), abs=1e-6
    )


def test_gradient_equals_the_formula():
    q_emb, d_emb, labels, invalid, _ = make_batch(5, 11, 8, seed=3)
    q_emb.requires_grad_(), d_emb.requires_grad_()
    contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0].backward()
    error = torch.tensor(loop_softmax(q_emb, d_emb, invalid, 0.1))  # (B, N)
    error[torch.arange(5), labels] -= 1
    error = error / (5 * 0.1)
    torch.testing.assert_close(q_emb.grad, error @ d_emb.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(d_emb.grad, error.T @ q_emb.detach(), atol=1e-5, rtol=1e-4)


def test_a_doc_that_is_invalid_for_all_gets_no_gradient_and_changes_nothing():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 10, 8, seed=1, masked=0.0)
    column = next(j for j in range(10) if j not in labels.tolist())
    free = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0]
    invalid[:, column] = True
    d_emb.requires_grad_()
    masked = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0]
    masked.backward()
    assert (d_emb.grad[column] == 0).all()
    others = [j for j in range(10) if j != column]
    assert (d_emb.grad[others] != 0).any(1).all()
    moved = d_emb.detach().clone()
    moved[column] = 100.0
    assert contrastive_loss(q_emb, moved, labels, invalid, temperature=0.1)[0] == masked
    assert masked < free


def test_one_masked_pair_gets_no_gradient_while_its_neighbours_do():
    q_emb, d_emb, labels, invalid, _ = make_batch(3, 6, 4, seed=2, masked=0.0)
    labels = torch.tensor([0, 1, 2])
    invalid[0, 4] = True
    gradients = []
    for query in range(3):
        docs = d_emb.clone().requires_grad_()
        contrastive_loss(q_emb[[query]], docs, labels[[query]], invalid[[query]], temperature=0.1)[0].backward()
        gradients.append(docs.grad[4].abs().sum().item())
    assert gradients[0] == 0 and gradients[1] > 0 and gradients[2] > 0


def test_the_positive_counts_even_where_the_mask_names_it():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 9, 8, seed=4)
    wanted = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0]
    invalid[torch.arange(4), labels] = True
    assert contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0] == wanted


def test_scores_are_float32_under_autocast():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 9, 16, seed=7)
    wanted = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, scores, _ = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)
    assert scores.dtype == torch.float32 and torch.equal(loss, wanted)


# ---------------------------------------------------------------------------------------------------- options


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def loop_loss(q_emb, d_emb, labels, invalid, *, temperature, base=("infonce",), masks=(), terms=(), **given):
    """InfoNCE with bases, masks and terms as contrastive_loss() takes them, one query and one doc after the other."""
    q, d, labels, invalid = (x.tolist() for x in (q_emb, d_emb, labels, invalid))
    B, N, total = len(q), len(d), 0.0
    explicit, guide = given.get("explicit"), given.get("guide")
    terms = {name: numbers for name, *numbers in terms}
    for i in range(B):
        own, positive = labels[i], dot(q[i], d[labels[i]])
        negatives, named = [], []
        for j in range(N):
            off = invalid[i][j]
            for name, x in masks:
                if name == "margin":
                    off |= dot(q[i], d[j]) > positive + x
                else:
                    off |= bool(guide[i, j] > guide[i, own] - x * (1 if name == "guide" else abs(guide[i, own])))
            if j != own and not off:
                negatives.append(dot(q[i], d[j]))
                named.append(explicit is not None and bool(explicit[i, j]))
        for j in range(B):
            mine_suits_j = labels[j] == own or invalid[j][own]
            theirs_suits_i = labels[j] == own or invalid[i][labels[j]]
            if "doc_to_query" in terms and not mine_suits_j:
                negatives.append(dot(q[j], d[own]))
            if "query_to_query" in terms and not (mine_suits_j or theirs_suits_i):
                negatives.append(dot(q[i], q[j]))
        if "doc_to_doc" in terms:
            negatives += [dot(d[own], d[j]) for j in range(N) if j != own and not invalid[i][j]]
        up = math.exp(positive / temperature)
        named += [False] * (len(negatives) - len(named))  # other queries are nobody's choice
        powers = []
        for s, explicitly in zip(negatives, named):
            of_group = "hardness_explicit" if explicitly else "hardness_in_batch"
            strength = sum(terms.get(name, [0.0])[0] for name in ("hardness", of_group))
            powers.append(math.exp(s / temperature + strength * s))
        if base[0] == "debiased":
            corrected = (sum(powers) - base[1] * len(powers) * up) / (1 - base[1])
            total -= math.log(up / (up + max(corrected, len(powers) * math.exp(-1 / temperature))))
            continue
        log_softmax = [math.log(power / (up + sum(powers))) for power in (up, *powers)]
        (share,), (power,) = terms.get("smoothing", [0.0]), terms.get("focal", [0.0])
        smoothed = (1 - share) * log_softmax[0] + share * sum(log_softmax[1:]) / max(1, len(powers))
        total -= (1 - math.exp(log_softmax[0])) ** power * smoothed
    return total / B


def loss_of(*words, **given):
    """What --base, --masks and --terms with these words become, as arguments of contrastive_loss()."""
    tables, rows = {"base": BASES, "masks": MASKS, "terms": TERMS}, {"base": [], "masks": [], "terms": []}
    for word in words:
        (place,) = (place for place, table in tables.items() if word.partition(":")[0] in table)
        found = choice(tables[place])(word)
        rows[place].append((found.name, *found.numbers))
    return rows | {"base": (*rows["base"], ("infonce",))[0]} | given


def guided(words, seed=0):
    """Scores of a guide, cosines, some of them negative, and explicit negatives, where the words need them."""
    torch.manual_seed(seed)
    given = {"guide": 2 * torch.rand(5, 12, dtype=torch.double) - 1, "explicit": torch.rand(5, 12) < 0.5}
    return {name: value for name, value in given.items() if name in needs_of(**loss_of(*words))}


def make_double(seed=0, B=5, N=12, D=6):
    """Double precision; queries 0 and 1 share their positive, that of query 2 also answers query 3."""
    q_emb, d_emb, labels, invalid, _ = make_batch(B, N, D, seed=seed)
    labels = torch.tensor([4, 4, 0, 7, 9])
    invalid[torch.arange(B), labels] = False
    invalid[3, 0] = True
    q_emb, d_emb = (torch.nn.functional.normalize(x.double(), dim=1) for x in (q_emb, d_emb))
    return q_emb, d_emb, labels, invalid


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["doc_to_query"],
        ["query_to_query"],
        ["doc_to_doc"],
        ["doc_to_query", "query_to_query", "doc_to_doc"],
        ["hardness:3"],
        ["hardness:3", "query_to_query"],
        ["hardness_explicit:3"],
        ["hardness_in_batch:3", "doc_to_query"],
        ["hardness_explicit:3", "hardness_in_batch:1"],
        ["focal:2"],
        ["focal:.5", "smoothing:.2"],
        ["smoothing:.2"],
        ["smoothing:.2", "hardness:2"],
        ["debiased:.05"],
        ["debiased:.6"],
        ["margin:0"],
        ["margin:.3"],
        ["margin:-.3"],
        ["guide:0"],
        ["guide:.4"],
        ["guide_share:.4"],
        ["guide:0", "margin:.1", "smoothing:.1"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_options_equal_a_double_loop(words, seed):
    batch, options = make_double(seed), loss_of(*words, **guided(words, seed))
    loss, scores, _ = contrastive_loss(*batch, temperature=0.3, **options)
    assert loss.item() == pytest.approx(loop_loss(*batch, temperature=0.3, **options), abs=1e-7)
    assert torch.equal(scores, batch[0] @ batch[1].T)
    assert not words or loss != contrastive_loss(*batch, temperature=0.3)[0]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["hardness:3"],
        ["smoothing:.2"],
        ["debiased:.05"],
        ["doc_to_query", "query_to_query", "doc_to_doc"],
        ["margin:.1"],
        ["triplet:.2"],
    ],
    ids=" ".join,
)
def test_options_keep_the_mask(words):
    q_emb, d_emb, labels, invalid = make_double()
    column = 11
    invalid[:, column] = True
    d_emb.requires_grad_()
    contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, **loss_of(*words))[0].backward()
    assert (d_emb.grad[column] == 0).all() and d_emb.grad.isfinite().all() and d_emb.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "words", [[], ["debiased:.1"], ["smoothing:.1"], ["doc_to_query", "query_to_query", "doc_to_doc"]], ids=" ".join
)
def test_a_low_temperature_stays_finite(words):
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 9, 4, seed=0)
    q_emb = d_emb[labels].clone().requires_grad_()  # similarities of 1, logits of 100
    loss = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.01, **loss_of(*words))[0]
    loss.backward()
    assert loss.isfinite() and q_emb.grad.isfinite().all()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["margin:0"],
        ["margin:-.3"],
        ["guide:0"],
        ["guide:.4"],
        ["guide:.1", "margin:.1", "query_to_query"],
        ["margin:-.3", "triplet:.2"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dims", [(), (2, 4)])
def test_the_mask_is_what_is_invalid_or_likely_positive(words, dims, seed):
    q_emb, d_emb, labels, invalid = make_double(seed)
    options = loss_of(*words, **guided(words, seed))
    mask = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, dims=dims, **options)[2]
    assert mask.dtype == torch.bool and torch.equal(mask, invalid) == (not options["masks"])
    off = invalid.tolist()
    for i, own in enumerate(labels.tolist()):
        scores = {"margin": [dot(q_emb[i].tolist(), doc) for doc in d_emb.tolist()]}
        if "guide" in options:
            scores["guide"] = options["guide"][i].tolist()
        for name, x in options["masks"]:
            limit = scores[name][own] + (x if name == "margin" else -x)
            for j in set(range(12)) - {own}:
                off[i][j] |= scores[name][j] > limit
    assert mask.tolist() == off and not mask[torch.arange(5), labels].any()


def test_hardness_is_a_constant_for_the_gradient():
    """As with importance weights exp(strength * similarity) on the negatives (Robinson et al. 2021)."""
    q_emb, d_emb, labels, invalid = make_double()
    q_emb.requires_grad_()
    scores = q_emb @ d_emb.T
    weights = (2.0 * scores.detach()).exp().scatter(1, labels[:, None], 1.0).masked_fill(invalid, 0.0)
    powers = weights * (scores / 0.3).exp()
    positive = powers.gather(1, labels[:, None])[:, 0]
    wanted = torch.autograd.grad((powers.sum(1).log() - positive.log()).mean(), q_emb)[0]
    found = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, terms=[("hardness", 2.0)])[0]
    torch.testing.assert_close(torch.autograd.grad(found, q_emb)[0], wanted)


def test_triplets():
    q_emb, d_emb, labels, invalid = make_double()
    loss = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, base=("triplet", 0.2))[0]
    q, d = q_emb.tolist(), d_emb.tolist()
    hinges = [
        max(0.0, 0.2 - dot(q[i], d[label]) + dot(q[i], d[j]))
        for i, label in enumerate(labels.tolist())
        for j in range(12)
        if j != label and not invalid[i, j]
    ]
    assert loss.item() == pytest.approx(sum(hinges) / len(hinges), abs=1e-10)


def test_matryoshka_is_the_mean_over_prefixes():
    q_emb, d_emb, labels, invalid = make_double()
    losses = []
    for dim in (2, 4, 6):
        q, d = (torch.nn.functional.normalize(x[:, :dim], dim=1) for x in (q_emb, d_emb))
        losses.append(loop_loss(q, d, labels, invalid, temperature=0.3))
    for dims in ((2, 4, 6), (6, 4, 2)):
        loss, scores, _ = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, dims=dims)
        assert loss.item() == pytest.approx(sum(losses) / 3, abs=1e-10)
        assert torch.equal(scores, q_emb @ d_emb.T)


def test_the_temperature_can_be_learned():
    q_emb, d_emb, labels, invalid = make_double()
    temperature = torch.tensor(0.3, dtype=torch.double, requires_grad=True)
    contrastive_loss(q_emb, d_emb, labels, invalid, temperature=temperature)[0].backward()
    above, below = (loop_loss(q_emb, d_emb, labels, invalid, temperature=0.3 + step) for step in (1e-5, -1e-5))
    assert temperature.grad.item() == pytest.approx((above - below) / 2e-5, rel=1e-5)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["margin_mse", "kl"])
def test_distillation(kind, scale):
    q_emb, d_emb, labels, invalid = make_double()
    torch.manual_seed(1)
    teacher = torch.randn(5, 12, dtype=torch.double)
    teacher[torch.rand(5, 12) < 0.3] = math.nan
    teacher[torch.arange(5), labels] = 1.0
    teacher[4, labels[4]] = math.nan  # without its positive a row teaches nothing
    taught = []
    for i, label in enumerate(labels.tolist()):
        known = [j for j in range(12) if not math.isnan(teacher[i, j]) and not math.isnan(teacher[i, label])]
        scores = {j: dot(q_emb[i].tolist(), d_emb[j].tolist()) for j in known}
        goal = {j: teacher[i, j].item() / scale for j in known}
        if kind == "margin_mse":
            taught += [(scores[label] - scores[j] - goal[label] + goal[j]) ** 2 for j in known if j != label]
        elif known:
            sums = [sum(math.exp(goal[j]) for j in known), sum(math.exp(scores[j] / 0.3) for j in known)]
            taught.append(
                sum(
                    math.exp(goal[j]) / sums[0] * (goal[j] - math.log(sums[0]) - scores[j] / 0.3 + math.log(sums[1]))
                    for j in known
                )
            )
    plain = loop_loss(q_emb, d_emb, labels, invalid, temperature=0.3)
    loss = contrastive_loss(
        q_emb, d_emb, labels, invalid, temperature=0.3, teacher=teacher, terms=[(kind, 0.25, scale)]
    )[0]
    assert loss.item() == pytest.approx(0.75 * plain + 0.25 * sum(taught) / len(taught), abs=1e-9)


# ------------------------------------------------------------------------------------------- cached gradients


@pytest.mark.parametrize("sizes", [([7], [11]), ([3, 3, 1], [4, 4, 3]), ([1] * 7, [11])], ids=str)
def test_cached_gradients_are_the_gradients(sizes):
    """Dropout included: the second forward pass of a chunk must drop what the first one dropped."""
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 6))
    sides = [[*torch.randn(sum(size), 5).split(size)] for size in sizes]
    labels, invalid = torch.arange(7), torch.rand(7, 11) < 0.2
    temperature = torch.tensor(0.3, requires_grad=True)

    def loss_of(q_emb, d_emb):
        return contrastive_loss(q_emb, d_emb, labels, invalid, temperature=temperature)

    found = []
    for cached in (False, True):
        torch.manual_seed(1)
        value, scores, mask = backward(encoder, sides, loss_of, cached=cached)
        parameters = [*encoder.parameters(), temperature]
        found.append((value, scores, mask, [p.grad for p in parameters], torch.rand(1)))
        for p in parameters:
            p.grad = None
    torch.testing.assert_close(found[0], found[1])
    assert not found[1][0].requires_grad and all(grad.abs().sum() > 0 for grad in found[1][3])


def test_gradients_can_be_scaled():
    encoder = torch.nn.Linear(5, 6)
    sides = [[torch.randn(4, 5)], [torch.randn(2, 5), torch.randn(3, 5)]]

    def loss_of(q_emb, d_emb):
        return contrastive_loss(q_emb, d_emb, torch.arange(4), torch.zeros(4, 5, dtype=bool), temperature=0.5)

    grads = []
    for cached, factor in ((False, 1), (False, 64), (True, 64)):
        encoder.zero_grad()
        backward(encoder, sides, loss_of, cached=cached, scale=lambda value, factor=factor: value * factor)
        grads.append(encoder.weight.grad / factor)
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])


# ------------------------------------------------------------------------------------------------- statistics


NAMES = (("bm25", "1-10"), ("refresh", "11-30"), ("bm25", "11-30"))  # two bands of one source


@pytest.mark.parametrize("seed", range(5))
def test_batch_stats_equal_brute_force(seed):
    B, N = 6, 20
    q_emb, d_emb, labels, invalid, _ = make_batch(B, N, 8, seed=seed)
    source = torch.from_numpy(np.random.default_rng(seed).integers(4, size=(B, N)).astype(np.int8))
    _, scores, _ = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)
    stats = batch_stats(scores, labels, invalid, source, NAMES, temperature=0.1)
    softmax = loop_softmax(q_emb, d_emb, invalid, 0.1)
    count, above, mass, correct, hardest, effective = {}, {}, {}, 0, [], 0.0
    for i in range(B):
        positive = scores[i, labels[i]].item()
        negatives = [j for j in range(N) if j != labels[i] and not invalid[i, j]]
        hardest.append(max(scores[i, j].item() for j in negatives))
        correct += hardest[-1] <= positive
        shares = [softmax[i][j] / sum(softmax[i][k] for k in negatives) for j in negatives]
        effective += math.exp(-sum(share * math.log(share) for share in shares)) / B
        for j in negatives:
            name, ranks = (("in_batch", ""), *NAMES)[source[i, j]]
            for key in {(name, ranks), name}:
                count[key] = count.get(key, 0) + 1
                above[key] = above.get(key, 0) + (scores[i, j].item() > positive)
                mass[key] = mass.get(key, 0) + softmax[i][j]
    assert [(row["source"], row["ranks"]) for row in stats["ledger"]] == [("in_batch", ""), *NAMES]
    assert list(stats["sources"]) == ["in_batch", "bm25", "refresh"]
    found = {(row["source"], row["ranks"]): row for row in stats["ledger"]} | stats["sources"]
    total = sum(mass[name] for name in stats["sources"])
    assert len(found) == 7
    for key, row in found.items():
        assert row["negatives"] == pytest.approx(count[key] / B)
        assert row["above"] == pytest.approx(above[key] / count[key])
        assert row["gradient"] == pytest.approx(mass[key] / total, abs=1e-5)
    assert sum(row["gradient"] for row in stats["ledger"]) == pytest.approx(1, abs=1e-6)
    assert stats["accuracy"] == pytest.approx(correct / B)
    assert stats["hardest"] == pytest.approx(sum(hardest) / B, abs=1e-6)
    assert stats["positive"] == pytest.approx(scores[torch.arange(B), labels].mean().item(), abs=1e-6)
    assert stats["effective"] == pytest.approx(effective, rel=1e-4)


@pytest.mark.parametrize("n", [1, 4, 9])
def test_equal_negatives_are_all_effective(n):
    scores = torch.full((3, n + 1), 0.3)
    rest = torch.arange(3) * 0, torch.zeros(3, n + 1, dtype=bool), torch.zeros(3, n + 1, dtype=torch.int8)
    assert batch_stats(scores, *rest, (), temperature=0.05)["effective"] == pytest.approx(n)
    scores[:, 1] = 0.9  # one of them takes everything
    assert batch_stats(scores, *rest, (), temperature=0.01)["effective"] == pytest.approx(1)


def test_gradient_share_is_the_share_that_autograd_finds():
    q_emb, d_emb, labels, invalid, source = make_batch(5, 12, 8, seed=9)
    scores = (q_emb @ d_emb.T).requires_grad_()
    torch.nn.functional.cross_entropy((scores / 0.2).masked_fill(invalid, -math.inf), labels).backward()
    pull = scores.grad.abs()
    pull[torch.arange(5), labels] = 0
    names = (("a", "1-10"), ("b", ""))
    stats = batch_stats(scores.detach(), labels, invalid, source, names, temperature=0.2)
    for number, name in enumerate(("in_batch", "a", "b")):
        wanted = (pull[source == number].sum() / pull.sum()).item()
        assert stats["sources"][name]["gradient"] == pytest.approx(wanted, abs=1e-6)


def test_only_higher_scores_are_above():
    scores = torch.tensor([[0.5, 0.5, 0.6, 0.4]])
    stats = batch_stats(
        scores,
        torch.tensor([0]),
        torch.zeros(1, 4, dtype=bool),
        torch.zeros(1, 4, dtype=torch.int8),
        (),
        temperature=0.1,
    )
    assert stats["sources"]["in_batch"]["above"] == pytest.approx(1 / 3)
    stats = batch_stats(
        scores[:, :2],
        torch.tensor([0]),
        torch.zeros(1, 2, dtype=bool),
        torch.zeros(1, 2, dtype=torch.int8),
        (),
        temperature=0.1,
    )
    assert stats["accuracy"] == 1 and stats["sources"]["in_batch"]["above"] == 0


def test_a_source_without_negatives_counts_nothing():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 8, 8, seed=0)
    _, scores, _ = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)
    stats = batch_stats(
        scores, labels, invalid, torch.zeros(4, 8, dtype=torch.int8), (("random", ""),), temperature=0.1
    )
    assert stats["sources"]["random"] == {"negatives": 0, "above": 0, "gradient": 0}
    assert stats["sources"]["in_batch"]["gradient"] == pytest.approx(1)


@pytest.mark.parametrize("case", ["all negatives masked", "negatives underflow"])
def test_batch_stats_stay_finite(case):
    own = torch.eye(3, dtype=bool)
    invalid = ~own if case == "all negatives masked" else torch.zeros(3, 3, dtype=bool)
    scores = torch.where(own, 1.0, -1.0)
    stats = batch_stats(scores, torch.arange(3), invalid, torch.zeros(3, 3, dtype=torch.int8), (), temperature=0.01)
    numbers = [stats[name] for name in ("accuracy", "positive", "hardest", "effective")]
    numbers += stats["sources"]["in_batch"].values()
    assert all(number is None or math.isfinite(number) for number in numbers), stats


def test_a_focus_counts_easy_queries_less_and_keeps_debias_finite():
    q_emb, d_emb, labels, invalid = make_double()
    q_emb = torch.nn.functional.normalize(q_emb + 3 * d_emb[labels], dim=1)
    losses = [
        contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1, terms=[("focal", f)])[0]
        for f in (0.0, 1.0, 3.0)
    ]
    assert losses[0] > losses[1] > losses[2] >= 0
    q_emb = d_emb[labels].clone().requires_grad_()  # nothing is left to learn
    loss = contrastive_loss(
        q_emb, d_emb, labels, invalid, temperature=0.01, base=("debiased", 0.1), terms=[("focal", 0.5)]
    )[0]
    loss.backward()
    assert loss.isfinite() and q_emb.grad.isfinite().all()


def test_the_regulariser_is_that_of_different_vectors():
    """Zhang et al. 2017, eq. 8: the mean of the inner products, squared, and their second moment above 1 / D."""
    q_emb, d_emb, labels, invalid = make_double()
    plain = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3)[0]
    wanted = 0.0
    for vectors in (q_emb.tolist(), d_emb.tolist()):
        products = [dot(a, b) for i, a in enumerate(vectors) for j, b in enumerate(vectors) if i != j]
        first, second = (sum(x**power for x in products) / len(products) for power in (1, 2))
        wanted += first**2 + max(0.0, second - 1 / q_emb.shape[1])
    found = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, terms=[("spread", 0.7)])[0]
    assert (found - plain).item() == pytest.approx(0.7 * wanted, abs=1e-9)
    axes = torch.eye(6, dtype=torch.double)
    at_rest = contrastive_loss(axes, axes, torch.arange(6), torch.zeros(6, 6, dtype=torch.bool), temperature=0.3)[0]
    spread = contrastive_loss(
        axes, axes, torch.arange(6), torch.zeros(6, 6, dtype=torch.bool), temperature=0.3, terms=[("spread", 9.0)]
    )[0]
    assert torch.equal(at_rest, spread)


def test_another_similarity_is_one_function():
    """Everything is computed from it: minus the distance ranks unit vectors as the inner product does."""
    q_emb, d_emb, labels, invalid = make_double()
    terms = [("query_to_query",), ("doc_to_doc",), ("hardness", 1.0)]
    distance = lambda a, b: -(torch.cdist(a, b) ** 2) / 2 + 1  # noqa: E731  of unit vectors the cosine
    plain, found = (
        contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, terms=terms, **how)
        for how in ({}, {"similarity": distance})
    )
    torch.testing.assert_close(plain, found)
    halved = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.3, similarity=lambda a, b: (a @ b.T) / 2)
    assert halved[0] != plain[0] and torch.equal(halved[1], plain[1] / 2)


def test_every_row_says_what_it_does_and_what_it_needs():
    for table in (BASES, MASKS, TERMS):
        for row in table.values():
            assert row.function.__doc__
    for place in {row.at for row in TERMS.values()}:
        assert any(place in row.takes.split() for row in BASES.values())
    assert needs_of(("infonce",), [("guide", 0.0)], [("kl", 1.0, 1.0), ("hardness_explicit", 1.0)]) == {
        "guide",
        "teacher",
        "explicit",
    }
    assert needs_of(("triplet", 0.1), [("margin", 0.1)], [("spread", 1.0)]) == set()


@pytest.mark.parametrize(
    "base, terms, wanted",
    [
        (("infonce",), [("focal", 1.0), ("kl", 0.5, 1.0)], True),
        (("debiased", 0.1), [], True),
        (("triplet", 0.1), [], False),
        (("infonce",), [("margin_mse", 1, 1.0)], False),  # then there is the teacher alone
    ],
)
def test_whether_a_loss_contrasts(base, terms, wanted):
    assert contrasts(base, terms) == wanted

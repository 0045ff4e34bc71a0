"""The loss against a plain double loop, its masks, and the statistics of a batch."""
import math

import pytest
import torch

from lib.loss import batch_stats, contrastive_loss


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
    loss, scores = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=temperature)
    softmax = loop_softmax(q_emb, d_emb, invalid, temperature)
    wanted = -sum(math.log(row[label]) for row, label in zip(softmax, labels.tolist())) / B
    assert loss.item() == pytest.approx(wanted, abs=1e-5, rel=1e-5)
    assert scores.shape == (B, N) and not scores.requires_grad
    assert scores[0, 0].item() == pytest.approx(sum(a * b for a, b in zip(q_emb[0].tolist(), d_emb[0].tolist())), abs=1e-6)


def test_gradient_equals_the_formula():
    q_emb, d_emb, labels, invalid, _ = make_batch(5, 11, 8, seed=3)
    q_emb.requires_grad_(), d_emb.requires_grad_()
    contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)[0].backward()
    error = torch.tensor(loop_softmax(q_emb, d_emb, invalid, 0.1))                           # (B, N)
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


def test_scores_are_float32_under_autocast():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 9, 16, seed=7)
    wanted = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, scores = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.05)
    assert scores.dtype == torch.float32 and torch.equal(loss, wanted)


@pytest.mark.parametrize("seed", range(5))
def test_batch_stats_equal_brute_force(seed):
    B, N, names = 6, 20, ("bm25", "refresh")
    q_emb, d_emb, labels, invalid, source = make_batch(B, N, 8, seed=seed)
    _, scores = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)
    stats = batch_stats(scores, labels, invalid, source, names, temperature=0.1)
    softmax = loop_softmax(q_emb, d_emb, invalid, 0.1)
    count, above, mass, correct, hardest = {}, {}, {}, 0, []
    for i in range(B):
        positive = scores[i, labels[i]].item()
        negatives = [j for j in range(N) if j != labels[i] and not invalid[i, j]]
        hardest.append(max(scores[i, j].item() for j in negatives))
        correct += hardest[-1] <= positive
        for j in negatives:
            name = ("in_batch", *names)[source[i, j]]
            count[name] = count.get(name, 0) + 1
            above[name] = above.get(name, 0) + (scores[i, j].item() > positive)
            mass[name] = mass.get(name, 0) + softmax[i][j]
    assert list(stats["sources"]) == ["in_batch", *names]
    for name, found in stats["sources"].items():
        assert found["negatives"] == pytest.approx(count[name] / B)
        assert found["above"] == pytest.approx(above[name] / count[name])
        assert found["gradient"] == pytest.approx(mass[name] / sum(mass.values()), abs=1e-5)
    assert sum(found["gradient"] for found in stats["sources"].values()) == pytest.approx(1, abs=1e-6)
    assert stats["accuracy"] == pytest.approx(correct / B)
    assert stats["hardest"] == pytest.approx(sum(hardest) / B, abs=1e-6)
    assert stats["positive"] == pytest.approx(scores[torch.arange(B), labels].mean().item(), abs=1e-6)


def test_gradient_share_is_the_share_that_autograd_finds():
    q_emb, d_emb, labels, invalid, source = make_batch(5, 12, 8, seed=9)
    scores = (q_emb @ d_emb.T).requires_grad_()
    torch.nn.functional.cross_entropy((scores / 0.2).masked_fill(invalid, -math.inf), labels).backward()
    pull = scores.grad.abs()
    pull[torch.arange(5), labels] = 0
    stats = batch_stats(scores.detach(), labels, invalid, source, ("a", "b"), temperature=0.2)
    for number, name in enumerate(("in_batch", "a", "b")):
        wanted = (pull[source == number].sum() / pull.sum()).item()
        assert stats["sources"][name]["gradient"] == pytest.approx(wanted, abs=1e-6)


def test_a_source_without_negatives_counts_nothing():
    q_emb, d_emb, labels, invalid, _ = make_batch(4, 8, 8, seed=0)
    _, scores = contrastive_loss(q_emb, d_emb, labels, invalid, temperature=0.1)
    stats = batch_stats(scores, labels, invalid, torch.zeros(4, 8, dtype=torch.int8), ("random",), temperature=0.1)
    assert stats["sources"]["random"] == {"negatives": 0, "above": 0, "gradient": 0}
    assert stats["sources"]["in_batch"]["gradient"] == pytest.approx(1)


@pytest.mark.parametrize("case", ["all negatives masked", "negatives underflow"])
def test_batch_stats_stay_finite(case):
    own = torch.eye(3, dtype=bool)
    invalid = ~own if case == "all negatives masked" else torch.zeros(3, 3, dtype=bool)
    scores = torch.where(own, 1.0, -1.0)
    stats = batch_stats(scores, torch.arange(3), invalid, torch.zeros(3, 3, dtype=torch.int8), (), temperature=0.01)
    numbers = [stats["accuracy"], stats["positive"], stats["hardest"], *stats["sources"]["in_batch"].values()]
    assert all(number is None or math.isfinite(number) for number in numbers), stats

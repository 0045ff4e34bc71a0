"""The contrastive loss: pure functions of embeddings.

Letters: B queries, N docs, D dimensions. Every doc is scored against every query; what must not count is in `invalid`.
"""
import torch
import torch.nn.functional as F


def contrastive_loss(q_emb, d_emb, labels, invalid, *, temperature):
    """InfoNCE (van den Oord et al. 2018, eq. 4) over the docs of a batch -> (loss, scores).

    q_emb (B, D), d_emb (N, D); labels (B,) column of each query's positive; invalid (B, N) bool, True where a doc must
    not count as a negative of the query. `scores` (B, N) are the similarities, detached, for statistics.
    Scores and softmax are float32 whatever the autocast: in half precision a gap below 1e-3 would vanish.
    """
    with torch.autocast(q_emb.device.type, enabled=False):
        scores = q_emb.float() @ d_emb.float().T                                             # (B, N)
        logits = (scores / temperature).masked_fill(invalid, float("-inf"))
        loss = F.cross_entropy(logits, labels)
    return loss, scores.detach()


def batch_stats(scores, labels, invalid, source, names, *, temperature):
    """What a batch taught, as plain numbers: accuracy, mean scores, and for each source of negatives its part.

    scores (B, N), labels (B,), invalid (B, N), source (B, N) int, 0 for docs of other queries ("in_batch"), i + 1 for
    names[i]. For each source: negatives per query in the denominator, share of them that outscore the positive, and
    share of the softmax mass on negatives, which is their share of the gradient with respect to the scores.
    """
    rows = torch.arange(len(scores))
    positive = scores[rows, labels][:, None]                                                 # (B, 1)
    negative = ~invalid
    negative[rows, labels] = False
    masked = scores.masked_fill(~negative, float("-inf"))
    hardest = masked.amax(1)
    weight = torch.softmax((scores / temperature).masked_fill(invalid, float("-inf")), 1) * negative
    above = (scores > positive) & negative
    stats = {"accuracy": (hardest <= positive[:, 0]).float().mean().item(),
             "positive": positive.mean().item(), "hardest": hardest[hardest.isfinite()].mean().item(), "sources": {}}
    for number, name in enumerate(("in_batch", *names)):
        of_source = negative & (source == number)
        count = of_source.sum().item()
        stats["sources"][name] = {"negatives": count / len(scores),
                                  "above": above[of_source].float().mean().item() if count else 0.0,
                                  "gradient": (weight[of_source].sum() / weight.sum()).item() if count else 0.0}
    return stats

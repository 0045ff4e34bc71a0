"""Before an arm is trained: how many steps its budget pays for, and what the untrained encoder says of it."""
import math

import torch

from lib import data, loss, negatives, options

PILOT = 30  # steps that are timed to match seconds


def matched_steps(args, parser, collection, arm, pilot):
    """--steps of an arm: as given or, with --match, as many as cost what the first arm costs.

    Costs are counted: B docs and B * K negatives are in the denominators and are encoded; dense and adore
    encode the corpus once, refresh at each of its minings. Seconds are those of pilot(arm, steps), which
    trains so many steps and returns the summary.
    """
    first = args.negatives[0]
    if args.match == "steps" or arm == first:
        return args.steps
    order = data.QueryOrder(len(collection.split("train")), batch_size=args.batch_size, seed=0)
    steps = args.steps or max(1, round(args.epochs * order.steps_per_epoch))

    def cost(arm):  # (fixed, of a step)
        own = options.arm_args(args, parser, arm)
        stages = negatives.parse_arm(arm)
        ends = [stage.begin for stage in stages[1:]] + [1.0]
        parts, share = {}, {}  # by source: mean count over the run; share of the run that it is active
        for stage, end in zip(stages, ends):
            for name, count in stage.parts:
                parts[name] = parts.get(name, 0) + count * (end - stage.begin)
                share[name] = share.get(name, 0) + end - stage.begin
        explicit = sum(count for name, count in parts.items() if name != "queue")
        docs = len(collection.docs)
        if args.match == "denominators":
            return 0.0, min(docs, order.batch_size * (1 + explicit)) - 1 + parts.get("queue", 0)
        if args.match == "docs_encoded":
            every = own.refresh_every or max(1, order.steps_per_epoch // 2)
            fixed = docs * ("dense" in parts or "adore" in parts)
            batch = min(docs, order.batch_size * (1 + explicit)) * (1 + ("queue" in parts))
            return fixed, batch + docs * share.get("refresh", 0) / every
        tried = pilot(arm, PILOT)
        fixed = tried["mine_s"] if "refresh" not in parts else 0.0
        return fixed, (tried["train_s"] + tried["mine_s"] - fixed) / PILOT

    (fixed, each), (first_fixed, first_each) = cost(arm), cost(first)
    return max(1, round((first_fixed + steps * first_each - fixed) / each))


@torch.no_grad()
def forecast(retriever, supply, order, *, temperature, seed, queries=256):
    """What the untrained encoder says of an arm's negatives, averaged over the first `queries` queries.

    loss: how much there is to learn, in nats; above: share of explicit negatives above their positive;
    explicit: their share of the gradient; gradient: mean length of the loss's gradient with respect to a
    query's vector, sum of p_j d_j - d+ over the temperature.
    """
    encoder, told = retriever.averaged.module, []
    device = next(encoder.parameters()).device
    for step in range(max(1, queries // order.batch_size)):
        picks = order.picks(step)
        rows = supply.qrels.queries[picks]
        positives = data.draw_positives(supply.qrels, picks, seed=seed, epoch=0)
        batch = data.make_batch(supply.collection, rows, positives, supply.forecast(picks))
        q_emb, d_emb = (torch.from_numpy(retriever.embed(encoder, kind, part)).to(device)
                        for kind, part in (("query", batch.queries), ("doc", batch.docs)))
        labels, invalid, source = (torch.from_numpy(x).to(device)
                                   for x in (batch.labels, batch.invalid, batch.source))
        scores = q_emb @ d_emb.T
        chances = (scores / temperature).masked_fill(invalid, -math.inf).softmax(1)        # (B, N)
        stats = loss.batch_stats(scores, labels, invalid, source, supply.labels, temperature=temperature)
        explicit = [row for name, row in stats["sources"].items() if name != "in_batch"]
        count = sum(row["negatives"] for row in explicit)
        told.append({
            "loss": stats["info_nce"],
            "above": sum(row["above"] * row["negatives"] for row in explicit) / count if count else 0.0,
            "explicit": sum(row["gradient"] for row in explicit),
            "gradient": ((chances @ d_emb - d_emb[labels]) / temperature).norm(dim=1).mean().item()})
    return {key: sum(x[key] for x in told) / len(told) for key in told[0]}

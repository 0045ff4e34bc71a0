"""The monitor of a training: averages since the last line, and early warnings of training problems."""

import math

import torch

from lib.files import BadInput, write_json
from lib.negatives.sources import SOURCES

SETTLED = 0.3  # share of the steps after which warnings begin: at first everything looks wrong


class Averages:
    """Statistics of the steps since the last line of the log, as one line."""

    def __init__(self, states=None):
        self._steps, self._states = [], states or {}  # {name: (M,) bool}: kinds of docs, see pool.doc_states()

    def add(self, value, scores, mask, batch, labels, *, temperature):
        """Note a step: its loss, what contrastive_loss() returned, its Batch and the sampler's labels."""
        columns, source = (torch.from_numpy(x).to(scores.device) for x in (batch.labels, batch.source))
        states = {name: torch.from_numpy(of[batch.columns]).to(scores.device) for name, of in self._states.items()}
        names = [(label.name, label.ranks) for label in labels]
        found = batch_stats(scores, columns, mask, source, names, temperature=temperature, states=states)
        self._steps.append({"loss": value} | found)

    def take(self):
        """The means over the steps noted, in the form of batch_stats() with the loss, and begin anew.

        Shares of negatives are weighted by how many negatives there were.
        """
        steps, self._steps = self._steps, []
        if len(steps) == 1:
            return steps[0]
        found = {
            key: [step[key] for step in steps if step[key] is not None]
            for key in steps[0]
            if key not in ("ledger", "sources")
        }
        means = {key: sum(values) / len(values) if values else None for key, values in found.items()}
        rows = {}
        for step in steps:
            for row in step["ledger"]:
                rows.setdefault((row["source"], row["ranks"]), []).append(row)
        means["ledger"] = []
        for (source, ranks), of_name in rows.items():
            row = as_one(of_name)
            row |= {key: row[key] / len(steps) for key in ("negatives", "gradient")}
            means["ledger"].append({"source": source, "ranks": ranks} | row)
        return means | {"sources": by_source(means["ledger"])}

    def state_dict(self):
        """The steps noted so far."""
        return {"steps": list(self._steps)}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self._steps = list(state["steps"])


class Monitor:
    """Watches the statistics of logged lines; every warning is given once.

    contrastive: whether InfoNCE is in the loss, so that its staying high says something.
    """

    def __init__(self, *, contrastive=True):
        self._contrastive = contrastive
        self._raised, self._above, self._absent = set(), {}, set()

    def check(self, step, steps, stats):
        """The new warnings at a step, as [{"warning", "advice"}]; stats: of Averages or batch_stats()."""
        if step < SETTLED * steps:
            return []
        found = []
        negatives = sum(row["negatives"] for row in stats["ledger"])
        if self._contrastive and negatives and stats["info_nce"] > 0.95 * math.log(1 + negatives):
            found.append(
                (
                    "no learning",
                    f"InfoNCE {stats['info_nce']:.2f} is no better than guessing among "
                    f"{negatives:.0f} negatives; try another --lr, a lower --temperature",
                )
            )
        hardest = stats["hardest"]
        if hardest is not None and 0.95 < stats["positive"] < hardest < 1.001:  # cosines, all near 1
            found.append(
                (
                    "collapse",
                    f"positives ({stats['positive']:.3f}) and hardest negatives "
                    f"({hardest:.3f}) are all alike; try a lower --lr, fewer hard negatives at first "
                    "(in_batch,refresh:4@0.3), a higher --temperature",
                )
            )
        for source, row in stats["sources"].items():
            if source != "in_batch" and row["negatives"]:
                seen = self._above.setdefault(source, [])
                seen.append(row["above"])
                recent = sum(seen[-5:]) / 5
                if len(seen) >= 5 and recent > 0.3:
                    found.append(
                        (
                            f"false negatives from {source}?",
                            f"{recent:.0%} of them stay above the "
                            "positive; look at mine_negatives.py --audit 0.3, try --filters "
                            "near_copy:0.5 percpos:0.95, --masks margin:0.1",
                        )
                    )
        new = [(name, advice) for name, advice in found if name not in self._raised]
        self._raised |= {name for name, _ in new}
        return [{"warning": name, "advice": advice} for name, advice in new]

    def check_sources(self, ledger, labels, active, *, queued):
        """BadInput if a source had no negative in the denominator in two logged lines in a row.

        Then it teaches nothing. One line alone may be chance: a doc that two sources draw counts for one.
        labels: the sampler's, of the ledger's rows after the first; queued: docs of the queue in this batch;
        it is empty at first.
        """
        alone = not any(SOURCES[name].explicit for name in active)
        if alone and not any(row["negatives"] for row in ledger):
            raise BadInput(
                "no query of a batch has a negative, so that nothing can be learned: --batch_size 1, or batches whose "
                "queries share their positives; take a larger --batch_size or a source of negatives"
            )
        of_name = {label.name: label.source for label in labels}
        there = {of_name[row["source"]] for row in ledger if row["negatives"] and row["source"] in of_name}
        absent = {name for name in active if name not in there and not (SOURCES[name].queue and not queued)}
        if again := sorted(absent & self._absent):
            raise BadInput(
                f"--negatives: no doc of {again[0]} stands in the denominator; are all of them "
                "masked (--masks), or the docs of other queries anyway?"
            )
        self._absent = absent

    def check_end(self, *, rank, dim, dev, untrained):
        """The warnings after training: the docs' effective rank; the dev measure, trained and untrained (or None)."""
        found = []
        if rank < max(4.0, 0.02 * dim):
            found.append(
                {
                    "warning": "collapsed space",
                    "advice": f"the docs fill {rank:.1f} of {dim} "
                    "dimensions; try a lower --lr or a higher --temperature",
                }
            )
        if untrained is not None and dev <= untrained:
            found.append(
                {
                    "warning": "no gain",
                    "advice": f"dev went from {untrained:.4f} to {dev:.4f}; "
                    "compare with --negatives in_batch, try a lower --lr, look at mine_negatives.py "
                    "--audit 0.3",
                }
            )
        return found

    def state_dict(self):
        """What was seen and said so far."""
        return {"raised": sorted(self._raised), "absent": sorted(self._absent), "above": dict(self._above)}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self._raised, self._absent = set(state["raised"]), set(state["absent"])
        self._above = {source: list(seen) for source, seen in state["above"].items()}


def mining_line(step, name, report):
    """One line for people about a mining."""
    age = "" if report["age"] is None else f", {report['age']} steps after the last"
    kept = (
        "" if report.get("overlap") is None else f", {report['overlap']:.0%} of them were already in the previous lists"
    )
    above = report["outscore_positive"]
    above = "" if above is None else f", {above:.1%} above the positive"
    outside = report["dropped"].get("outside the pool", 0)
    outside = f", {outside:,} outside the pool left out" if outside else ""
    return f"step {step:>5}  mined {name}: {report['candidates']:,} candidates{outside}{above}{age}{kept}"


def step_line(step, stats, rate):
    """One line for people. By source: negatives per query, share above the positive, share of gradient."""
    sources = "  ".join(
        f"{name} {s['negatives']:.0f} above {s['above']:.1%} grad {s['gradient']:.0%}"
        for name, s in stats["sources"].items()
        if s["negatives"]
    )
    hardest = "none" if stats["hardest"] is None else f"{stats['hardest']:.2f}"
    return (
        f"step {step:>5}  loss {stats['loss']:.3f}  acc {stats['accuracy']:.2f}  "
        f"pos {stats['positive']:.2f}  hardest {hardest} | {sources} | {rate:,.0f} queries/s"
    )


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


def stop_non_finite(log, collection, batch, step, value):
    """End the run, leaving the batch that broke it for inspection."""
    path = log.path / "non_finite_batch.json"
    if log.writes:
        qids, doc_ids = (
            [collection.queries.ids[row] for row in batch.queries],
            [collection.docs.ids[row] for row in batch.docs],
        )
        write_json(path, {"step": step, "qids": qids, "doc_ids": doc_ids})
    raise BadInput(
        f"loss is {value} at step {step}: try a lower --lr or a higher --temperature; the batch is in {path}"
    )

"""Alarms while training: what goes wrong silently, said while it can still be mended."""
import math

from lib.run import BadInput

SETTLED = 0.3  # share of the steps after which the alarms are armed: at first all is confusion


class Health:
    """Watches the statistics of logged steps; every alarm is raised once.

    contrastive: whether InfoNCE is in the loss, so that its staying high says something.
    """

    def __init__(self, *, contrastive=True):
        self._contrastive = contrastive
        self._raised, self._above, self._absent = set(), {}, set()

    def check(self, step, steps, stats):
        """The new alarms at a step, as [{"alarm", "advice"}]; stats: loss.batch_stats()."""
        if step < SETTLED * steps:
            return []
        found = []
        negatives = sum(row["negatives"] for row in stats["ledger"])
        if self._contrastive and negatives and stats["info_nce"] > 0.95 * math.log(1 + negatives):
            found.append(("no learning", f"InfoNCE {stats['info_nce']:.2f} is that of guessing among "
                          f"{negatives:.0f} negatives; try another --lr, a lower --temperature"))
        hardest = stats["hardest"]
        if hardest is not None and 0.95 < stats["positive"] < hardest < 1.001:  # cosines, all near 1
            found.append(("collapse", f"positives ({stats['positive']:.3f}) and hardest negatives "
                          f"({hardest:.3f}) are all alike; try a lower --lr, fewer hard negatives at first "
                          "(in_batch,refresh:4@0.3), a higher --temperature"))
        for source, row in stats["sources"].items():
            if source != "in_batch" and row["negatives"]:
                seen = self._above.setdefault(source, [])
                seen.append(row["above"])
                recent = sum(seen[-5:]) / 5
                if len(seen) >= 5 and recent > 0.3:
                    found.append((f"false negatives from {source}?", f"{recent:.0%} of them stay above the "
                                  "positive; look at mine_negatives.py --audit 0.3, try --filters "
                                  "near_copy:0.5 percpos:0.95, --mask_margin 0.1"))
        new = [(name, advice) for name, advice in found if name not in self._raised]
        self._raised |= {name for name, _ in new}
        return [{"alarm": name, "advice": advice} for name, advice in new]

    def check_sources(self, ledger, active, *, queued):
        """BadInput if a source had no negative in the denominator at two logged steps in a row.

        Then it teaches nothing. One step alone may be chance: a doc that two sources draw counts for one.
        queued: docs of the queue in this batch; it is empty at first.
        """
        there = {"file" if row["source"].endswith("(file)") else row["source"]
                 for row in ledger if row["negatives"]}
        absent = {name for name in active if name not in there and not (name == "queue" and not queued)}
        if again := sorted(absent & self._absent):
            raise BadInput(f"--negatives: no doc of {again[0]} stands in the denominator; are all of them "
                           "masked (--mask_margin, --guide), or the docs of other queries anyway?")
        self._absent = absent

    def check_end(self, *, rank, dim, dev, untrained):
        """The alarms after training: the docs' effective rank; the dev measure, trained and untrained."""
        found = []
        if rank < max(4.0, 0.02 * dim):
            found.append({"alarm": "collapsed space", "advice": f"the docs fill {rank:.1f} of {dim} "
                          "dimensions; try a lower --lr or a higher --temperature"})
        if dev <= untrained:
            found.append({"alarm": "no gain", "advice": f"dev went from {untrained:.4f} to {dev:.4f}; "
                          "compare with --negatives in_batch, try a lower --lr, look at mine_negatives.py "
                          "--audit 0.3"})
        return found

    def state_dict(self):
        """What was seen and said so far."""
        return {"raised": sorted(self._raised), "absent": sorted(self._absent), "above": dict(self._above)}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self._raised, self._absent = set(state["raised"]), set(state["absent"])
        self._above = {source: list(seen) for source, seen in state["above"].items()}

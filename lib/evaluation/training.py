"""One training: what it works with, what it measures, logs and keeps on the way, and what it leaves at its end."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable

import numpy as np
import torch

from lib import dist, rng, run
from lib.data.batches import QueryOrder
from lib.evaluation import comparison, diagnostics, measures, monitor, plots, retrieval, significance
from lib.evaluation.monitor import Averages, Monitor
from lib.evaluation.retrieval import verdict_of_run
from lib.files import write_json
from lib.model import card
from lib.model.embedder import Embedder
from lib.model.encoder import load_encoder, save_encoder
from lib.negatives.queue import Queue
from lib.negatives.sampler import NegativeSampler
from lib.negatives.sources import SOURCES
from lib.search import fusion
from lib.search.retriever import open_retriever

READING = 20.0  # seconds that a plan embeds docs for, to say what training must beat
MIXED_UP_TO = 2e9  # docs times queries: BM25 scores each pair once more; evaluate.py mixes larger ones


class Evaluator:
    """Measures an encoder in training: as it starts, on dev, on test; and BM25 beside it.

    dev_docs: how many docs stand for the corpus on dev, None for all of it; untrained: whether the start is measured.
    """

    def __init__(self, embedder, collection, *, self_match, dev_docs=None, untrained=True):
        self.embedder, self.collection, self.self_match = embedder, collection, self_match
        self._dev_docs, self._untrained, self._among = dev_docs, untrained, None

    def search_among(self, rows):
        """Search dev among these doc rows, None for all, from now on."""
        self._among = None if rows is None else np.array(rows)

    def start(self, encoder):
        """{"untrained": {split: measures}, "dev_docs": rows that dev is searched among}, each if it is wanted."""
        found, hits = {}, {}
        if self._untrained:
            start = diagnostics.AsItStands(self.embedder, encoder, shared=True)
            of = functools.partial(diagnostics.ranked, start, self.embedder.collection, self_match=self.self_match)
            hits = {split: of(split) for split in ("dev", "test")}
            values = {split: measures.score(self.collection, split, hits[split]) for split in hits}
            found["untrained"] = {split: measures.mean(of_split) for split, of_split in values.items()}
            found["untrained_test"] = values["test"]
        if self._dev_docs:
            best = [self._bm25_hits("dev"), *([hits["dev"]] if self._untrained else [])]
            found["dev_docs"] = diagnostics.dev_pool(self.collection, self._dev_docs, best).tolist()
            self.search_among(found["dev_docs"])
            if self._untrained:
                found["untrained"]["dev"] = measures.mean(self.dev(encoder))
        return found

    def bm25(self):
        """{split: {qid: {measure: value}}} of BM25; says so if it finds nothing for many queries."""
        hits = {"dev": self._bm25_hits("dev", docs=self._among), "test": self._bm25_hits("test")}
        if (nothing := measures.nothing_found(hits["test"])) > measures.VOID:
            print(f"warning: BM25 finds nothing for {nothing:.0%} of the test queries: as a baseline it is void")
        return {split: measures.score(self.collection, split, of) for split, of in hits.items()}

    def _bm25_hits(self, split, docs=None):
        return diagnostics.bm25_hits(self.collection, split, self_match=self.self_match, docs=docs)

    def dev(self, encoder):
        """{qid: {measure: value}} on dev."""
        of = {"self_match": self.self_match, "docs": self._among}
        return diagnostics.evaluate(self.embedder, encoder, "dev", **of)

    def finish(self, encoder):
        """(rankings of test, {weight, dev, test} of its scores mixed with BM25's; {} if that takes long).

        The encoder's weight is what is best on dev, as for --retriever RUN+bm25; dev and test as above.
        """
        collection, found = self.embedder.collection, diagnostics.AsItStands(self.embedder, encoder)
        of = functools.partial(diagnostics.ranked, collection=collection, self_match=self.self_match)
        rankings = measures.rankings_of(collection, "test", of(found, split="test"))
        queries = sum(len(collection.split(split)) for split in ("dev", "test"))
        if queries * len(collection.docs) > MIXED_UP_TO:
            return rankings, {}
        mixed = with_bm25(found, collection, self._among)
        hits = {"dev": of(mixed, split="dev", docs=self._among), "test": of(mixed, split="test")}
        return rankings, {"weight": mixed.weight} | {
            split: measures.score(collection, split, own) for split, own in hits.items()
        }


def with_bm25(retriever, collection, among):
    """The Fusion of a retriever and BM25, its weight chosen on dev, searched among these doc rows or all."""
    mixed = fusion.Fusion([retriever, open_retriever("bm25", collection, device=None)], names=("run", "bm25"))
    mixed.weight = retrieval.tuned_weight(mixed, collection, among)
    return mixed


def to_beat(collection, encoder, *, self_match, measure):
    """What a training begins from and must beat on dev, as a sentence: BM25, the encoder as it is, both mixed.

    A transformer searches among as many docs as it embeds in about READING seconds. Returns the sentence, and by how
    much the encoder's values spread over queries.
    """
    embedder, rows, docs = Embedder(collection, encoder), None, len(collection.docs)
    if encoder.kind == "transformer":
        begin = time.perf_counter()
        embedder.embed(encoder, "doc", rng.permutation(docs, "dev pool", 0)[:32])
        if (count := int(32 * READING / (time.perf_counter() - begin))) < docs:
            rows = diagnostics.dev_pool(collection, count, [diagnostics.bm25_hits(collection, "dev")])
    start = diagnostics.AsItStands(embedder, encoder)
    mixed = with_bm25(start, collection, rows)
    hits = [diagnostics.ranked(each, collection, "dev", self_match=self_match, docs=rows) for each in (start, mixed)]
    hits.insert(0, diagnostics.bm25_hits(collection, "dev", self_match=self_match, docs=rows))
    values = [measures.score(collection, "dev", own) for own in hits]
    bm25, alone, both = (measures.mean(each)[measure] for each in values)
    among = "" if rows is None else f" (searched among {len(rows):,} docs)"
    said = (
        f"what training must beat{among}: BM25 has {bm25:.4f} dev {measure}, the encoder as it is {alone:.4f}, "
        f"both mixed {both:.4f} at weight {mixed.weight:.2f}"
    )
    return said, float(np.std([each[measure] for each in values[1].values()]))


@dataclasses.dataclass
class Training:
    """What a run works with, set up once."""

    collection: object  # with the pseudo-queries of --pull
    log: run.Run
    config: dict  # what config.json records
    clock: run.Clock
    device: torch.device
    encoder: torch.nn.Module  # in training
    averaged: torch.nn.Module  # an average of its weights, in `module`: mines, is evaluated and saved
    embedder: Embedder
    order: QueryOrder  # which queries a step visits
    sampler: NegativeSampler
    queue: Queue
    loss_fn: Callable  # contrastive_loss() with all but the temperature and what it needs of a batch
    given_by: dict  # {what it needs of a batch: function of (batch, positions, step) -> (B, N) array}
    temperature: torch.Tensor  # its logarithm
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    evaluator: Evaluator
    watch: Monitor
    averages: Averages  # statistics since the last line of the log
    select: str  # the measure that chooses the checkpoint

    def __post_init__(self):
        self.plan, self.seed = self.config["derived"], self.order.seed
        self.steps, self.folder = self.plan["steps"], self.log.path
        self.best, self.tally = {"score": -math.inf}, {"denominators": 0, "docs_encoded": 0}
        names = "encoder averaged optimizer scaler sampler queue clock watch averages".split()
        self.parts = {name: getattr(self, name) for name in names} | {"miner": self.sampler.miner}

    def resume(self):
        """Go on from the last checkpoint, if there is one; the step to go on with."""
        if not (state := self.log.load_state(self.parts)):
            return 0
        self.best, self.tally = state["best"], state["tally"]
        self.temperature.data.fill_(state["log_temperature"])
        self.evaluator.search_among(self.best.get("dev_docs"))
        return state["step"]

    def start(self):
        """Measure and log the encoder as it is."""
        self.best |= self.evaluator.start(self.encoder)
        if "untrained" in self.best:
            self.log.log("evaluation", {"step": 0, "dev": self.best["untrained"]["dev"]})

    def note(self, batch, value, scores, mask):
        """Note what a step cost and taught."""
        self.tally["denominators"] += int((~batch.invalid).sum()) / len(batch.queries) - 1
        times = 0 if self.embedder.frozen is not None else 2 if self.queue.size else 1
        self.tally["docs_encoded"] += len(batch.docs) * times
        temperature = self.temperature.exp().item()
        self.averages.add(value, scores, mask, batch, self.sampler.labels, temperature=temperature)

    def log_mining(self, step, mined, bar):
        """A line for each list that was mined at a step."""
        for name, numbers in mined.items():
            if SOURCES[name].every != "step":  # a line for each step would drown the others
                at = {"step": step, "mined": name}
                self.log.log("mining", at | numbers)
                self.log.log("mining", at | {"seconds": self.clock.total()}, file="timing.jsonl")
                bar.write(monitor.mining_line(step, name, numbers))

    def log_step(self, step, queries, bar):
        """A line with the averages since the last one, and the warnings that follow from them."""
        stats, active = self.averages.take(), self.sampler.active(step)
        self.watch.check_sources(stats["ledger"], self.sampler.labels, active, queued=len(self.queue.docs))
        for row in stats["ledger"]:
            row["age"] = self.sampler.age(row["source"], step)
        state = {"step": step, "epoch": self.order.epoch(step), "loss": stats["loss"]}
        state |= {"lr": self.optimizer.param_groups[0]["lr"], "temperature": self.temperature.exp().item()}
        self.log.log("step", state | stats)
        for warning in self.watch.check(step, self.steps, stats):
            self.log.log("warning", {"step": step} | warning)
            bar.write(f"warning: {warning['warning']}: {warning['advice']}")
        rate = (step + 1) * queries / self.clock.spent["train"]
        timing = {"seconds": self.clock.total(), "spent": self.clock.spent}
        self.log.log("step", {"step": step, "queries_per_s": rate} | timing, file="timing.jsonl")
        bar.write(monitor.step_line(step, stats, rate))

    def evaluate(self, step, bar):
        """Measure dev, keep the encoder if it is the best so far, and write a checkpoint."""
        with self.clock("evaluate"):
            per_query = self.evaluator.dev(self.averaged.module)
        dev = measures.mean(per_query)
        self.log.log("evaluation", {"step": step, "dev": dev})
        spent = self.clock.spent
        timing = {"step": step, "dev_seconds": spent["train"] + spent["mine"], "seconds": self.clock.total()}
        self.log.log("evaluation", timing | {"spent": spent}, file="timing.jsonl")
        better = dev[self.select] > self.best["score"]
        bar.write(f"step {step:>5}  dev {self.select} {dev[self.select]:.4f}{'  best, saved' if better else ''}")
        if better:
            self.best |= {"score": dev[self.select], "step": step, "dev": dev}
            if dist.is_main():
                save_encoder(self.averaged.module, self.folder / "encoder")
        if dist.is_main():
            comparison.write_dev(self.folder, step, [values[self.select] for values in per_query.values()])
        values = {"step": step, "best": self.best, "tally": self.tally}
        self.log.save_state(self.parts, values | {"log_temperature": self.temperature.item()})

    def finish(self, bm25):
        """Measure test with the checkpoint that dev chose, and leave what a run leaves; its summary."""
        dist.barrier()  # the encoder that process 0 saved is there for all
        last = self.order.positions(self.steps - 1)[:1]
        chosen = load_encoder(self.folder / "encoder").set_device(self.device, self.encoder.dtype)
        with self.clock("evaluate"):
            rankings, mixed = self.evaluator.finish(chosen)
            per_query = measures.per_query(rankings, self.collection.qrels_dict("test"))
            geometry = diagnostics.geometry(self.embedder, chosen, "dev")
            drawn = self.sampler.sample(last, step=self.steps - 1, epoch=self.order.epoch(self.steps - 1))
            names = [of_code.name for of_code in self.sampler.labels]
            points = diagnostics.neighbourhood(self.embedder, chosen, int(last[0]), drawn, names)
        untrained = self.best["untrained"]["dev"][self.select] if "untrained" in self.best else None
        ends = {"rank": geometry["effective_rank"], "dim": self.encoder.dim, "dev": self.best["score"]}
        for warning in self.watch.check_end(**ends, untrained=untrained):
            self.log.log("warning", {"step": self.steps} | warning)
            print(f"warning: {warning['warning']}: {warning['advice']}")
        summary = self.summarise({split: measures.mean(of) for split, of in bm25.items()}, per_query, geometry)
        others = {"bm25": bm25["test"], "untrained": self.best.get("untrained_test")}
        summary |= {f"against_{name}": self.against(per_query, of) for name, of in others.items() if of}
        if mixed:
            better = max((per_query, bm25["test"]), key=lambda values: measures.mean(values)[self.select])
            summary["mixed"] = {"weight": mixed["weight"], "against_better": self.against(mixed["test"], better)}
            summary["mixed"] |= {split: measures.mean(mixed[split]) for split in ("dev", "test")}
        if dist.is_main():
            evaluation = self.folder / "eval" / f"{self.config['inputs']['collection']}-test"
            measures.write_rankings(evaluation / f"{comparison.RANKINGS}.gz", rankings, tag="dense")
            measures.write_per_query(evaluation / "per_query.jsonl", per_query)
            write_json(self.folder / "map.json", points)
            said, _ = verdict_of_run(summary, self.select, run="RUN", lr=self.plan["peak_lr"])
            card.write_card(
                self.folder / "encoder", chosen, {"config": self.config, "summary": summary, "verdict": said}
            )
            self.log.finish(summary)
            title = f"{summary['negatives']} on {self.collection.name}, seed {self.seed}"
            query = self.collection.queries.text(self.collection.split("train").queries[last[0]])
            with plots.optional(self.folder):
                log = self.log.read_log()
                plots.of_run(self.folder / "plots", log, points, measure=self.select, title=title, query=query)
        return summary

    def against(self, per_query, other):
        """The difference to another retriever on test, and its 95 % interval over queries."""
        test = significance.by_query(per_query, other, self.select)
        return {key: test[key] for key in ("difference", "low", "high", "p", "queries")}

    def summarise(self, bm25, per_query, geometry):
        """What summary.json holds."""
        args, spent = self.config["args"], self.clock.spent
        summary = {"name": self.folder.name, "data": args["data"], "encoder": args["encoder"]}
        summary |= {"init": args["init"]} if args.get("init") else {}
        summary |= {"negatives": self.plan["arm"], "seed": self.plan["seed"], "steps": self.steps}
        summary |= {"best_step": self.best["step"], "wall_s": round(self.clock.total(), 1)}
        summary |= {f"{name}_s": round(spent[name], 3) for name in ("train", "mine", "evaluate")}
        summary |= {"queries_per_s": round(self.steps * self.order.batch_size / spent["train"], 1)}
        summary |= {"peak_rss_mb": run.peak_rss_mb(), "dev": self.best["dev"], "test": measures.mean(per_query)}
        summary |= {"denominators": round(self.tally["denominators"]), "geometry": geometry}
        lists = {source: mined.candidates for source, mined in self.sampler.lists.items()}
        copies = {source: diagnostics.near_copies(found, self.collection) for source, found in lists.items()}
        for of, key in (("positive", "near_copies"), ("query", "near_copies_of_the_query")):
            summary[key] = {source: shares[of] for source, shares in copies.items()}
        summary |= {"docs_encoded": self.tally["docs_encoded"] + self.sampler.miner.encoded, "pool": self.plan["pool"]}
        summary |= {"bm25": bm25["test"], "bm25_dev": bm25["dev"]}
        if untrained := self.best.get("untrained"):
            summary |= {"untrained": untrained["test"], "untrained_dev": untrained["dev"]}
        return summary

"""The encoder in training as a retriever: embeds, searches, mines, is evaluated, on one process or more."""
import dataclasses
import functools

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lib import data, dist, index, metrics, model, negatives
from lib.run import BadInput

RANKED = 100  # docs ranked per query when evaluating: the deepest cut-off of metrics.MEASURES


class Retriever:
    """The encoder in training; its averaged twin, which mines, is evaluated and saved; texts as tokens."""

    def __init__(self, collection, encoder, *, negatives_file=None, needs_teacher=False):
        self.collection, self.encoder = collection, encoder
        self.negatives_file, self.needs_teacher = negatives_file, needs_teacher
        self.tokens = {"query": data.tokenize(collection.queries, encoder, "query"),
                       "doc": data.tokenize(collection.docs, encoder, "doc")}
        self.averaged = self.guide = None
        self.frozen = {}  # adore: the docs as the averaged encoder saw them when the source began

    def place(self, device, dtype, *, ema, compile, checkpoint, guide):
        """Move to the device, make the averaged twin, embed the collection with the guide if one is named."""
        self.encoder.set_device(device, dtype)
        self.averaged = AveragedModel(self.encoder, multi_avg_fn=get_ema_multi_avg_fn(ema))
        if compile:
            self.encoder.compile_backbone()
        if checkpoint:
            self.encoder.checkpoint_activations()
        if guide:
            guide = model.load_encoder(guide).set_device(device, dtype)
            self.guide = {}
            for kind, texts in (("query", self.collection.queries), ("doc", self.collection.docs)):
                embed = functools.partial(model.embed, guide, data.tokenize(texts, guide, kind),
                                          desc="embedding with the guide")
                self.guide[kind] = dist.map_rows(embed, np.arange(len(texts)))

    def state_dict(self):
        """The frozen docs of adore, if there are any."""
        return {source: torch.from_numpy(vectors) for source, vectors in self.frozen.items()}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.frozen = {source: vectors.numpy() for source, vectors in state.items()}

    def guide_scores(self, query_rows, doc_rows):
        """(B, N) similarities by the guide."""
        return self.guide["query"][query_rows] @ self.guide["doc"][doc_rows].T

    def embed(self, encoder, kind, rows=None):
        """Vectors of rows of the queries or of the docs, all by default, each process doing its share."""
        rows = np.arange(len(self.tokens[kind])) if rows is None else rows
        tokens, desc = self.tokens[kind], f"embedding {kind}s"
        return dist.map_rows(lambda own: model.embed(encoder, tokens, own, desc=desc), rows)

    def search(self, encoder, query_rows, k, d_emb=None):
        """(scores, rows) of the k best docs of each query, exactly."""
        q_emb = self.embed(encoder, "query", query_rows)
        d_emb = self.embed(encoder, "doc") if d_emb is None else d_emb
        return dist.map_rows(lambda own: index.exact_search(q_emb[own], d_emb, k), np.arange(len(q_emb)))

    def mine(self, source, picks, depth):
        """Candidates of a source for the train queries at positions `picks`."""
        qrels = self.collection.split("train")
        rows = qrels.queries[picks]
        fetch = depth + negatives.overfetch(self.collection)
        if source == "file":
            return file_candidates(self.negatives_file, self.collection, depth,
                                   needs_teacher=self.needs_teacher)
        if source == "bm25":
            return bm25_candidates(self.collection, depth)
        if source == "adore":
            if "adore" not in self.frozen:
                self.frozen["adore"] = self.embed(self.averaged.module, "doc")
            found = self.search(self.encoder, rows, fetch, self.frozen["adore"])
        else:
            found = self.search(self.averaged.module, rows, fetch)
        return negatives.from_search(self.collection, rows, found, source=source, depth=depth)

    def evaluate(self, encoder, split):
        """Per-query values of a split, by exact search."""
        found = self.search(encoder, self.collection.split(split).queries, RANKED)
        return metrics.score(self.collection, split, *found)


@functools.lru_cache(maxsize=4)
def bm25_scores(collection, split):
    """Per-query values of BM25 on a split, the same for every run of a command."""
    rows = collection.split(split).queries
    return metrics.score(collection, split, *bm25_search(collection, rows, RANKED))


@functools.lru_cache(maxsize=1)
def file_candidates(path, collection, depth, *, needs_teacher):
    """The candidates of --negatives_file, the first `depth` of each query."""
    found = negatives.load_candidates(path, collection, collection.split("train"))
    if needs_teacher and np.isnan(found.teacher).all():
        raise BadInput(f"{path}: no record has a teacher_score, which --distill_weight needs")
    return dataclasses.replace(found, docs=found.docs[:, :depth], scores=found.scores[:, :depth],
                               teacher=found.teacher[:, :depth])


@functools.lru_cache(maxsize=1)
def bm25_candidates(collection, depth):
    """BM25's candidates for all train queries."""
    rows = collection.split("train").queries
    found = bm25_search(collection, rows, depth + negatives.overfetch(collection))
    return negatives.from_search(collection, rows, found, source="bm25", depth=depth)


def bm25_search(collection, query_rows, k):
    """(scores, rows) of the k best docs of each query."""
    with dist.main_first():
        bm25 = index.BM25.load(collection.docs)
    return dist.map_rows(lambda own: bm25.search(collection.queries.texts(own), k), query_rows)

"""The encoder in training as a retriever: embeds, searches, mines, is evaluated, on one process or more."""
import concurrent.futures
import copy
import functools

import numpy as np
import torch
from torch.optim.swa_utils import AveragedModel

from lib import data, dist, filters, index, metrics, model, negatives, run
from lib.run import BadInput

RANKED = 100  # docs ranked per query when evaluating: the deepest cut-off of metrics.MEASURES


PROBE_QUERIES, PROBE_DOCS, PROBE_DEPTH = 200, 2000, 10  # of the fixed sample that shows drift


_untrained = {}  # collection -> fingerprint of weights, vectors of all docs: what Retriever.keep_docs() kept


class Retriever:
    """The encoder in training; its averaged twin, which mines, is evaluated and saved; texts as tokens."""

    def __init__(self, collection, encoder, *, negatives_file=None, needs_teacher=False, positive="max"):
        self.collection, self.encoder = collection, encoder
        self.negatives_file, self.needs_teacher = negatives_file, needs_teacher
        self.positive = positive  # which of several positives' scores candidates are compared with
        self.encoded = 0          # docs embedded so far in order to mine
        self._background = None   # the thread of mine_later()
        self._docs = None, None   # fingerprint of an encoder's weights, its vectors of all docs
        self.tokens = {"query": data.tokenize(collection.queries, encoder, "query"),
                       "doc": data.tokenize(collection.docs, encoder, "doc")}
        self.averaged = self.guide = None
        self.frozen = {}  # adore: the docs as the averaged encoder saw them when the source began

    def topics(self, count):
        """(n,) topic of each train query, by the encoder as it stands."""
        queries = self.collection.split("train").queries
        if count > len(queries):
            raise BadInput(f"--topics {count}: there are {len(queries)} train queries")
        q_emb = model.embed(self.encoder, self.tokens["query"], queries, desc="embedding queries for topics")
        key = [weights_fingerprint(self.encoder), self.collection.fingerprint]
        return data.topics_of(q_emb, count, key=key)

    def place(self, device, dtype, *, ema, compile, checkpoint, guide):
        """Move to the device, make the averaged twin, embed the collection with the guide if one is named."""
        self.encoder.set_device(device, dtype)
        self.averaged = AveragedModel(self.encoder, multi_avg_fn=exponential_average(ema))
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
        """The frozen docs of adore, if there are any, and the count of docs embedded."""
        frozen = {source: torch.from_numpy(vectors) for source, vectors in self.frozen.items()}
        return {"frozen": frozen, "encoded": self.encoded}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.frozen = {source: vectors.numpy() for source, vectors in state["frozen"].items()}
        self.encoded = state["encoded"]

    def guide_scores(self, query_rows, doc_rows):
        """(B, N) similarities by the guide."""
        return self.guide["query"][query_rows] @ self.guide["doc"][doc_rows].T

    def embed(self, encoder, kind, rows=None):
        """Vectors of rows of the queries or of the docs, all by default, each process doing its share."""
        rows = np.arange(len(self.tokens[kind])) if rows is None else rows
        tokens, desc = self.tokens[kind], "embedding " + {"query": "queries", "doc": "docs"}[kind]
        return dist.map_rows(lambda own: model.embed(encoder, tokens, own, desc=desc), rows)

    def embed_docs(self, encoder):
        """Vectors of all docs; those of the last call, if the weights are the same."""
        key = weights_fingerprint(encoder)
        found = self._docs  # a local: another thread may mine meanwhile
        if found[0] != key:
            found = _untrained.get(self.collection, (None, None))
        if found[0] != key:
            found = key, self.embed(encoder, "doc")
        self._docs = found
        return found[1]

    def forget_forecast(self):
        """Begin to train as if nothing had been mined: what the forecast mined is no cost of the arm."""
        self.encoded = 0
        self.frozen.clear()

    def keep_docs(self):
        """Keep what embed_docs() gave last for other runs of this command: they begin alike."""
        _untrained[self.collection] = self._docs

    def mine(self, source, picks, depth, last=None, *, encoder=None):
        """Candidates of a source for the train queries at positions `picks`.

        last (n, C): the docs of their last lists, -1 for none; the share of them that still outscores the
        positive is noted. encoder: the one that mines, by default the one that the source wants.
        """
        rows = self.collection.split("train").queries[picks]
        if source == "file":
            return file_candidates(self.negatives_file, self.collection, depth,
                                   needs_teacher=self.needs_teacher)
        if source == "bm25":
            return bm25_candidates(self.collection, depth, self.positive)
        if source == "adore" and "adore" not in self.frozen:
            self.frozen["adore"] = self.embed_docs(self.averaged.module)
            self.encoded += len(self.collection.docs)
        encoder = encoder or (self.encoder if source == "adore" else self.averaged.module)
        q_emb = self.embed(encoder, "query", rows)
        if source != "adore":
            self.encoded += len(self.collection.docs)
        d_emb = self.frozen["adore"] if source == "adore" else self.embed_docs(encoder)
        found = negatives.from_vectors(self.collection, rows, q_emb, d_emb, source=source, depth=depth,
                                       positive=self.positive, search=search)
        if last is not None and (last >= 0).any():
            still = index.pair_scores(q_emb, d_emb, last) > found.positive[:, None]
            found.notes = {"last_still_above": round(float(still[last >= 0].mean()), 6)}
        return found

    def mine_later(self, source, picks, depth, last):
        """A future of mine() with the weights of this moment, on a thread of its own."""
        self._background = self._background or concurrent.futures.ThreadPoolExecutor(1)
        return self._background.submit(self.mine, source, picks, depth, last,
                                       encoder=copy.deepcopy(self.averaged.module))

    def probe(self):
        """(PROBE_QUERIES, PROBE_DEPTH) best docs, out of a fixed sample, for fixed train queries."""
        queries = self.collection.split("train").queries
        queries = queries[run.permutation(len(queries), "probe", 0)[:PROBE_QUERIES]]
        docs = run.permutation(len(self.collection.docs), "probe", 1)[:PROBE_DOCS]
        encoder = self.averaged.module
        return index.exact_search(self.embed(encoder, "query", queries), self.embed(encoder, "doc", docs),
                                  PROBE_DEPTH)[1]

    def evaluate(self, encoder, split):
        """Per-query values of a split, by exact search."""
        q_emb = self.embed(encoder, "query", self.collection.split(split).queries)
        return metrics.score(self.collection, split, *search(q_emb, self.embed_docs(encoder), RANKED))

    def geometry(self, encoder, split):
        """metrics.geometry() of the split's first positives and of a sample of the corpus."""
        qrels = self.collection.split(split)
        d_emb = self.embed_docs(encoder)
        positives = np.array([qrels.positives(i)[0] for i in range(len(qrels))])
        sample = run.permutation(len(d_emb), "geometry", 0)[:PROBE_DOCS]
        q_emb = self.embed(encoder, "query", qrels.queries)
        return metrics.geometry(q_emb, d_emb[positives], d_emb[sample])

    def neighbourhood(self, encoder, pick, drawn, labels, *, others=300):
        """[(label, x, y)] of a query, its positive, drawn docs {code: (1, K)} and others, on the plane."""
        qrels = self.collection.split("train")
        groups = {"other docs": run.permutation(len(self.collection.docs), "map", 0)[:others],
                  "positive": qrels.positives(pick)[:1]}
        for code, docs in drawn.items():
            name = labels[code - 1][0]
            groups[name] = np.concatenate([groups.get(name, docs[0][:0]), docs[0][docs[0] >= 0]])
        d_emb = self.embed_docs(encoder)[np.concatenate(list(groups.values())).astype(np.int64)]
        vectors = np.concatenate([d_emb, self.embed(encoder, "query", qrels.queries[pick:pick + 1])])
        centred = vectors - vectors.mean(0)
        plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T            # (n, 2)
        names = [name for name, rows in groups.items() for _ in rows] + ["query"]
        return [(name, float(f"{x:.5g}"), float(f"{y:.5g}")) for name, (x, y) in zip(names, plane)]


def exponential_average(decay):
    """For AveragedModel: decay per step, lower at first: a short run would average its beginning."""
    @torch.no_grad()
    def update(averaged, current, count):
        warm = (1 + float(count)) / (10 + float(count))
        torch._foreach_lerp_(averaged, current, 1 - min(decay, warm))
    return update


def weights_fingerprint(encoder):
    """16 hex digits over an encoder's weights as they stand."""
    return run.fingerprint(*(p.detach().cpu().numpy() for p in encoder.parameters()))


def query_features(collection, split):
    """{qid: {name: value}} for every query of a split: what may explain where an arm gains."""
    qrels = collection.split(split)
    rows = bm25_search(collection, qrels.queries, RANKED)[1]
    features = {}
    for i, row in enumerate(qrels.queries):
        hits = np.flatnonzero(np.isin(rows[i], qrels.positives(i)))
        words = set(index.words(collection.queries.text(row)))
        shared = max(len(words & set(index.words(collection.docs.text(doc)))) for doc in qrels.positives(i))
        features[collection.queries.ids[row]] = {
            "BM25 rank of the positive": int(hits[0]) + 1 if len(hits) else RANKED + 1,
            "words of the query": len(words), "share of them in the positive": shared / max(len(words), 1)}
    return features


def search(q_emb, d_emb, k):
    """index.exact_search(), each process doing its share of the queries."""
    return dist.map_rows(lambda own: index.exact_search(q_emb[own], d_emb, k), np.arange(len(q_emb)))


@functools.lru_cache(maxsize=4)
def bm25_scores(collection, split):
    """Per-query values of BM25 on a split, the same for every run of a command."""
    rows = collection.split(split).queries
    return metrics.score(collection, split, *bm25_search(collection, rows, RANKED))


@functools.lru_cache(maxsize=2)
def file_candidates(path, collection, depth, *, needs_teacher):
    """The candidates of --negatives_file, the first `depth` of each query (None: all)."""
    found = negatives.load_candidates(path, collection, collection.split("train"))
    if needs_teacher and np.isnan(found.teacher).all():
        raise BadInput(f"{path}: no record has a teacher_score, which --distill_weight needs")
    return filters.keep(found, found.docs >= 0, depth=depth)


@functools.lru_cache(maxsize=2)
def bm25_candidates(collection, depth, positive):
    """BM25's candidates for all train queries."""
    rows = collection.split("train").queries
    found = bm25_search(collection, rows, depth + negatives.overfetch(collection),
                        also=collection.known_docs(rows))
    return negatives.from_search(collection, rows, found, source="bm25", depth=depth, positive=positive)


def bm25_search(collection, query_rows, k, also=None):
    """BM25.search() for rows of queries, each process doing its share."""
    with dist.main_first():
        bm25 = index.BM25.load(collection.docs)

    def search(own):
        return bm25.search(collection.queries.texts(query_rows[own]), k,
                           also=None if also is None else also[own])
    return dist.map_rows(search, np.arange(len(query_rows)))

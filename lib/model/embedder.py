"""The texts of a collection as tokens, and vectors of them by weights that change as training goes on."""

import numpy as np

from lib import dist
from lib.data.batches import cluster_queries
from lib.data.tokens import tokenize
from lib.files import BadInput, cache_dir, cached_array, fingerprint
from lib.model.encoder import embed, load_encoder, weights_fingerprint


class Embedder:
    """Tokens of a collection's queries and docs for one encoder, and vectors of them; processes share the work.

    The vectors of all docs are kept for the weights that made them last: what mines is evaluated too.
    """

    def __init__(self, collection, encoder):
        self.collection = collection
        self.tokens = {
            "query": tokenize(collection.queries, encoder, "query"),
            "doc": tokenize(collection.docs, encoder, "doc"),
        }
        self._docs = None, None  # fingerprint of weights, their vectors of all docs
        self.frozen = None  # (M, D) vectors of the docs where they do not change in training

    def embed(self, encoder, kind, rows=None):
        """(n, D) vectors of rows of the queries or of the docs, all by default."""
        rows = np.arange(len(self.tokens[kind])) if rows is None else rows
        if kind == "doc" and self.frozen is not None:
            return self.frozen[rows]
        tokens, desc = self.tokens[kind], "embedding " + {"query": "queries", "doc": "docs"}[kind]
        return dist.map_rows(lambda own: embed(encoder, tokens, own, desc=desc), rows)

    def embed_docs(self, encoder, rows=None, *, shared=False):
        """(M, D) vectors of all docs, or of some rows; those of the last call, if the weights are the same. An array,
        or of several processes a dist.Spread.

        shared: whether other runs will want them, as those of a model that is not yet trained. A transformer's
        then go through the cache; a static encoder makes its own faster than they could be read.
        """
        if self.frozen is not None:
            return self.frozen if rows is None else self.frozen[rows]
        key = weights_fingerprint(encoder)
        if self._docs[0] != key:
            self._docs = None, None  # the old ones go first: of a large corpus two would not fit
            if rows is not None:
                return self._made(encoder, rows)
            through_cache = shared and dist.world() == 1
            self._docs = key, self.embed_shared(encoder, "doc") if through_cache else self._made(encoder)
        docs = self._docs[1]
        return docs if rows is None else docs.select(rows) if isinstance(docs, dist.Spread) else docs[rows]

    def has_docs(self, encoder):
        """Whether the vectors of all docs are there, or are in the memory of several processes when they are made."""
        return dist.world() > 1 or self.frozen is not None or self._docs[0] == weights_fingerprint(encoder)

    def _made(self, encoder, rows=None):
        """The vectors (n, D) of docs; of several processes a dist.Spread: each holds those it has made."""
        if dist.world() == 1:
            return self.embed(encoder, "doc", rows)
        rows = np.arange(len(self.tokens["doc"])) if rows is None else rows
        own = dist.own(len(rows))
        return dist.Spread(embed(encoder, self.tokens["doc"], rows[own], desc="embedding docs"), own, len(rows))

    def freeze_docs(self, encoder):
        """Embed the docs for the last time: whatever encoder is asked for them later on has the same tower of docs."""
        self.frozen = self.embed_shared(encoder, "doc")

    def embed_shared(self, encoder, kind):
        """embed() of all queries or docs, through the cache where a transformer makes them in one process."""
        if encoder.kind != "transformer" or dist.world() > 1:
            return self.embed(encoder, kind)
        texts = {"query": self.collection.queries, "doc": self.collection.docs}[kind]
        keys = weights_fingerprint(encoder), encoder.vector_key(), encoder.token_key(kind), texts.fingerprint
        return cached_array(cache_dir("vectors", fingerprint(*keys) + ".npy"), lambda: self.embed(encoder, kind))

    def clusters(self, encoder, count):
        """(n,) cluster of each train query, by the encoder as it stands."""
        queries = self.collection.split("train").queries
        if count > len(queries):
            raise BadInput(f"--query_clusters {count}: there are {len(queries)} train queries")
        q_emb = embed(encoder, self.tokens["query"], queries, desc="embedding queries to cluster")
        return cluster_queries(
            q_emb, count, key=[weights_fingerprint(encoder), self.collection.fingerprint, fingerprint(queries)]
        )


class Guide:
    """Another encoder, which says which negatives look relevant: vectors of a whole collection, made once."""

    def __init__(self, collection, source, device, dtype):
        encoder = load_encoder(source).set_device(device, dtype)
        embedder = Embedder(collection, encoder)
        self._queries, self._docs = (embedder.embed_shared(encoder, kind) for kind in ("query", "doc"))

    def scores(self, batch):
        """(B, N) similarities of a batch's queries and docs."""
        return self._queries[batch.queries] @ self._docs[batch.columns].T

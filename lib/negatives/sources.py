"""Sources: where negatives come from. A new source is a function and a row of SOURCES.

A function that mines is called as mine(miner, positions, count, last, encoder): the Miner, positions of train
queries, candidates wanted for each, the docs of their last lists (n, C) or None, and the encoder to mine with. It
returns Candidates(source, query rows, doc rows (n, C), -1 for none), with scores where it has some, of these queries
or, where `fixed`, of all train queries. One that draws is called as draw(collection, query_rows, count, pool=, seed=,
epoch=) and returns doc rows (n, C) of the pool. Neither has to care which docs may not be negatives of a query.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import torch

from lib.files import BadInput
from lib.negatives.candidates import random_docs, search_candidates
from lib.negatives.files import load_candidates
from lib.negatives.pool import EVERYTHING
from lib.search import exact
from lib.search.approximate import Approximate
from lib.search.retriever import EXACT_RAM, open_retriever
from lib.search.sharded import cached_search


@dataclasses.dataclass(frozen=True)
class Source:
    """What the rest of the project asks about a source."""

    about: str  # its negatives of a query, besides the docs of the batch's other queries
    mine: Callable | None = None  # lists of candidates are made by this function
    draw: Callable | None = None  # or docs are drawn at each step, without lists, by this one
    every: str = "stage"  # when it mines: as a stage begins, or again each "refresh" or "step"
    fixed: bool = False  # whether its lists are the same whatever the encoder: mined for all, once
    encodes_corpus: bool = False  # whether it embeds all docs: at each refresh, or once
    retriever: str | None = None  # what searches for it in mine_negatives.py: bm25, or what --"run" or --"miner" names
    needs_file: bool = False  # whether its lists stand in --negatives_file
    teaches: bool = False  # whether its lists have a teacher's scores, at least where that is asked for
    queue: bool = False  # whether its docs come with the vectors that they had
    explicit: bool = True  # whether it adds anything to the batch, and so takes a number


class Miner:
    """What sources mine with: the embedder, the encoder in training and the average of it.

    positive: which of several positives' scores candidates are compared with. miner: what the source miner asks, in
    the words of search.retriever.HELP.
    """

    def __init__(
        self,
        embedder,
        encoder,
        averaged,
        *,
        pool=EVERYTHING,
        positive="max",
        negatives_file=None,
        needs_teacher=False,
        mine_index=None,
        miner=None,
        device=None,
    ):
        self.retriever, self.device = miner, device or torch.device("cpu")
        self.embedder, self.encoder, self.averaged = embedder, encoder, averaged
        self.collection, self.pool, self.positive = embedder.collection, pool, positive
        self.negatives_file, self.needs_teacher = negatives_file, needs_teacher
        self._find = Approximate(mine_index) if mine_index else functools.partial(exact.search, device=self.device)
        self.encoded = 0  # docs embedded so far in order to mine
        self.frozen = {}  # source -> vectors of all docs as they were when it began

    def mine(self, source, positions, count, last=None, *, encoder=None):
        """Candidates of a source, those that may be negatives, by the averaged encoder where none is given."""
        found = SOURCES[source].mine(self, positions, count, last, encoder or self.averaged.module)
        return found.admit(self.collection, self.pool, count=count)

    def search(self, source, positions, count, last, q_emb, d_emb):
        """Candidates by inner product: q_emb (n, D) of the queries at `positions`, d_emb (M, D).

        Notes the share of the last lists' docs that still outscores the positive.
        """
        rows = self.collection.split("train").queries[positions]
        found = search_candidates(
            self.collection,
            rows,
            count,
            lambda part, k, known: self._find(q_emb[part], d_emb, k, known, among=self.pool.rows),
            source=source,
            positive=self.positive,
        )
        if last is not None and (last >= 0).any():
            still = exact.pair_scores(q_emb, d_emb, last) > found.positive[:, None]
            found.notes = {"last_still_above": round(float(still[last >= 0].mean()), 6)}
        return found

    def embed_queries(self, encoder, positions):
        """(n, D) vectors of the train queries at `positions`."""
        return self.embedder.embed(encoder, "query", self.collection.split("train").queries[positions])

    def state_dict(self):
        """The frozen docs, if there are any, and the count of docs embedded."""
        frozen = {source: torch.from_numpy(vectors) for source, vectors in self.frozen.items()}
        return {"frozen": frozen, "encoded": self.encoded}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.frozen = {source: vectors.numpy() for source, vectors in state["frozen"].items()}
        self.encoded = state["encoded"]


def mine_bm25(miner, positions, count, last, encoder):
    """BM25's best, of all train queries."""
    return _best_of("bm25", "bm25", miner.collection, count, miner.positive, miner.pool, miner.device)


def mine_by_miner(miner, positions, count, last, encoder):
    """The best of the retriever that --miner names, of all train queries."""
    return _best_of(miner.retriever, "miner", miner.collection, count, miner.positive, miner.pool, miner.device)


@functools.lru_cache(maxsize=2)
def _best_of(spec, source, collection, count, positive, pool, device):
    rows = collection.split("train").queries
    retriever = open_retriever(spec, collection, device=device, exact_in=EXACT_RAM)

    def search(part, k, known):
        view = collection.queries.view(rows[part])
        return cached_search(retriever, view, k, known, pool.rows, desc=f"mining by {spec}")

    return search_candidates(collection, rows, count, search, source=source, positive=positive)


def mine_file(miner, positions, count, last, encoder):
    """What stands in the negatives file, of all train queries."""
    return file_candidates(miner.negatives_file, miner.collection, needs_teacher=miner.needs_teacher)


@functools.lru_cache(maxsize=1)
def file_candidates(path, collection, *, needs_teacher):
    """The candidates of --negatives_file."""
    found = load_candidates(path, collection, collection.split("train"))
    if needs_teacher and np.isnan(found.teacher).all():
        raise BadInput(f"{path}: no record has a teacher_score, which --terms margin_mse and kl need")
    return found


def mine_dense(miner, positions, count, last, encoder, *, source="dense"):
    """The encoder's own best."""
    miner.encoded += len(miner.collection.docs)
    q_emb = miner.embed_queries(encoder, positions)
    return miner.search(source, positions, count, last, q_emb, miner.embedder.embed_docs(encoder))


def mine_adore(miner, positions, count, last, encoder):
    """The best by the query vectors of this very step, over docs frozen as the source began (Zhan et al. 2021)."""
    if "adore" not in miner.frozen:
        miner.frozen["adore"] = miner.embedder.embed_docs(encoder)
        miner.encoded += len(miner.collection.docs)
    q_emb = miner.embed_queries(miner.encoder, positions)
    return miner.search("adore", positions, count, last, q_emb, miner.frozen["adore"])


SOURCES = {
    "in_batch": Source("none", explicit=False),
    "random": Source("K docs drawn from the corpus", draw=random_docs),
    "bm25": Source("K of BM25's best --depth", mine=mine_bm25, fixed=True, retriever="bm25"),
    "dense": Source(
        "K of the model's own best --depth, mined once, when the stage begins",
        mine=mine_dense,
        encodes_corpus=True,
        retriever="run",
    ),
    "refresh": Source(
        "the same, mined again every --refresh_every steps, for the queries that come next",
        mine=functools.partial(mine_dense, source="refresh"),
        every="refresh",
        encodes_corpus=True,
    ),
    "adore": Source(
        "K of the best --depth for query vectors made anew at every step, over doc vectors that "
        "stay as they were when the stage began",
        mine=mine_adore,
        every="step",
        encodes_corpus=True,
    ),
    "miner": Source(
        "K of the best --depth of --miner: BM25, a run, any model, or vectors from files; mined once",
        mine=mine_by_miner,
        fixed=True,
        retriever="miner",
    ),
    "queue": Source("the N most recent docs, with the vectors that the averaged encoder gave them", queue=True),
    "file": Source(
        "K of the candidates in --negatives_file, as mine_negatives.py writes it",
        mine=mine_file,
        fixed=True,
        needs_file=True,
        teaches=True,
    ),
}

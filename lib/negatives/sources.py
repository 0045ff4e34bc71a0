"""Sources: where negatives come from. A new source is a function and a row of SOURCES.

A function that mines is called as mine(miner, positions, count, last, encoder): the Miner, positions among the rows
miner.queries, candidates wanted for each, the docs of their last lists (n, C) or None, and the encoder to mine with,
None where there is none. It returns Candidates(source, query rows, doc rows (n, C), -1 for none), with scores where it
has some, of these queries or, where `fixed`, of all. One that draws is called as draw(collection, query_rows, count,
pool=, seed=, epoch=) and returns doc rows (n, C) of the pool. Neither has to care which docs may not be negatives of a
query. train.py and mine_negatives.py know every source of the table.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

import numpy as np
import torch

from lib.data import fields
from lib.data.collection import ranges
from lib.files import BadInput
from lib.model.embedder import Embedder
from lib.model.encoder import load_to_encode
from lib.negatives.candidates import Candidates, overfetch, random_docs, search_candidates
from lib.negatives.files import load_candidates
from lib.negatives.formats import exchange
from lib.negatives.pool import EVERYTHING
from lib.rng import uniform
from lib.search import exact
from lib.search.approximate import Approximate
from lib.search.retriever import EXACT_RAM, open_retriever
from lib.search.sharded import cached_search


@dataclasses.dataclass(frozen=True)
class Source:
    """What the rest of the project asks about a source."""

    about: str  # its negatives of a query, besides the docs of the batch's other queries: --help of train.py
    mine: Callable | None = None  # lists of candidates are made by this function
    draw: Callable | None = None  # or docs are drawn at each step, without lists, by this one
    every: str = "stage"  # when it mines: as a stage begins, or again each "refresh" or "step"
    fixed: bool = False  # whether its lists are the same whatever the encoder: mined for all, once
    encodes_corpus: bool = False  # whether it embeds all docs: at each refresh, or once
    searches: bool = False  # whether an encoder that is trained already proposes its search's best, as dense does
    needs_file: bool = False  # whether its lists stand in --negatives_file
    by_field: bool = False  # whether it goes by the metadata field of --by
    given: bool = False  # whether its docs come with --data, as negatives: the pool does not narrow them
    teaches: bool = False  # whether its lists have a teacher's scores, at least where that is asked for
    queue: bool = False  # whether its docs come with the vectors that they had
    explicit: bool = True  # whether it adds anything to the batch, and so takes a number


class Miner:
    """What sources mine with: a collection and its pool; in training the embedder, the encoder and the average of it.

    Where nothing is trained, `run` is the folder whose encoder mines. miner: what the source miner asks, in the words
    of search.retriever.HELP. by: the metadata field of the source sibling. seed: of what is drawn when mining.
    queries: the rows that are mined for.
    """

    def __init__(
        self,
        embedder=None,
        encoder=None,
        averaged=None,
        *,
        collection=None,
        split="train",
        run=None,
        pool=EVERYTHING,
        negatives_file=None,
        negatives_format="own",
        needs_teacher=False,
        mine_index=None,
        miner=None,
        by=None,
        seed=0,
        device=None,
        precision="fp32",
        max_ram=EXACT_RAM,
    ):
        self.run, self.miner, self.device, self.averaged = run, miner, device or torch.device("cpu"), averaged
        self.by, self.seed = by, seed
        if embedder:
            self.embedder, self.encoder = embedder, encoder
        self.collection, self.pool, self.split = collection or embedder.collection, pool, split
        self.queries = self.collection.split(split).queries
        self.file, self.needs_teacher = (negatives_file, negatives_format), needs_teacher
        self.mine_index, self.precision, self.max_ram = mine_index, precision, max_ram
        self._find = Approximate(mine_index) if mine_index else functools.partial(exact.search, device=self.device)
        self.encoded = 0  # docs embedded so far in order to mine
        self.frozen = {}  # source -> vectors of the docs as they were when it began

    @functools.cached_property
    def encoder(self):
        """The encoder in training, or that of a run."""
        if not self.run:
            raise BadInput("this source mines with an encoder: --run R names the run that has one")
        return load_to_encode(pathlib.Path(self.run) / "encoder", self.device, self.precision)

    @functools.cached_property
    def embedder(self):
        """Vectors of the collection by that encoder."""
        return Embedder(self.collection, self.encoder)

    @functools.cached_property
    def rows(self):
        """The docs that are embedded in order to mine, sorted, None for all: see embedded_docs()."""
        return embedded_docs(self.collection, self.pool, self.split)

    @functools.cached_property
    def _among(self):
        """Which of these docs lists may hold, None for all."""
        pool = self.pool.rows
        if self.rows is None or pool is None:
            return pool
        return None if len(pool) == len(self.rows) else np.searchsorted(self.rows, pool)

    def embed_docs(self, encoder):
        """Vectors (R, D) of these docs; `encoded` counts them."""
        if self.embedder.frozen is None:
            self.encoded += len(self.collection.docs) if self.rows is None else len(self.rows)
        return self.embedder.embed_docs(encoder, self.rows)

    def mine(self, source, positions, count, last=None, *, encoder=None):
        """Candidates of a source, those that may be negatives, by the averaged encoder where none is given."""
        row = SOURCES[source]
        if row.searches and self.run:  # whose vectors are made and searched file by file, and kept
            found = self.propose(self.run, source, count, mine_index=self.mine_index)
        else:
            if not encoder and not row.fixed:
                encoder = self.averaged.module if self.averaged else self.encoder if self.run else None
            found = row.mine(self, positions, count, last, encoder)
        if not np.isin(found.queries, self.queries).all():
            raise BadInput(f"the source {source} proposes for other queries than those of {self.split}")
        given = row.given and not (row.needs_file and self.file[0])
        return found.admit(self.collection, EVERYTHING if given else self.pool, count=count)

    def propose(self, spec, source, count, *, mine_index=None):
        """Candidates for all queries by the retriever that `spec` names."""
        retriever = open_retriever(
            spec,
            self.collection,
            device=self.device,
            exact_in=self.max_ram,
            precision=self.precision,
            mine_index=mine_index,
        )

        def search(part, k, known):
            view = self.collection.queries.view(self.queries[part])
            return cached_search(retriever, view, k, known, self.pool.rows, desc=f"mining {source}")

        return search_candidates(self.collection, self.queries, count, search, source=source)

    def search(self, source, positions, count, last, q_emb, d_emb):
        """Candidates by inner product: q_emb (n, D) of the queries at `positions`, d_emb (R, D) of embed_docs().

        Notes the share of the last lists' docs that still outscores the positive.
        """
        rows = self.rows

        def place(docs):
            return docs if rows is None else np.where(docs < 0, -1, np.searchsorted(rows, docs))

        def find(part, k, known):
            hits = self._find(q_emb[part], d_emb, k, place(known), among=self._among)
            return hits if rows is None else hits._replace(rows=np.where(hits.rows < 0, -1, rows[hits.rows]))

        found = search_candidates(self.collection, self.queries[positions], count, find, source=source)
        if last is not None and (last >= 0).any():
            still = exact.pair_scores(q_emb, d_emb, place(last)) > found.positive[:, None]
            found.notes = {"last_still_above": round(float(still[last >= 0].mean()), 6)}
        return found

    def embed_queries(self, encoder, positions):
        """(n, D) vectors of the queries at `positions`."""
        return self.embedder.embed(encoder, "query", self.queries[positions])

    def state_dict(self):
        """The frozen docs, if there are any, and the count of docs embedded."""
        frozen = {source: torch.from_numpy(vectors) for source, vectors in self.frozen.items()}
        return {"frozen": frozen, "encoded": self.encoded}

    def load_state_dict(self, state):
        """Continue from what state_dict() returned."""
        self.frozen = {source: vectors.numpy() for source, vectors in state["frozen"].items()}
        self.encoded = state["encoded"]


def embedded_docs(collection, pool, split="train"):
    """The docs that a mining embeds, sorted: those of the pool and the positives they are compared with. None: all."""
    if pool.rows is None:
        return None
    (indptr, known), queries = collection.known, collection.split(split).queries
    rows = np.union1d(pool.rows, known[ranges(indptr[queries], indptr[queries + 1])])
    return rows if len(rows) < len(collection.docs) else None


def mine_bm25(miner, positions, count, last, encoder):
    """BM25's best, of all queries."""
    return miner.propose("bm25", "bm25", count)


def mine_by_miner(miner, positions, count, last, encoder):
    """The best of the retriever that --miner names, of all queries."""
    return miner.propose(miner.miner, "miner", count)


def mine_siblings(miner, positions, count, last, encoder):
    """Docs that share a metadata field's value with a positive, in random order, of all queries; none without any.

    The other chunks of the positive's document are such docs, negatives for an encoder that sees a chunk in its context
    (InSeNT; Conti et al. 2025).
    """
    collection, rows = miner.collection, miner.queries
    of_queries, of_docs = fields.values(collection, miner.by, rows)
    inside = np.flatnonzero((of_docs >= 0) & miner.pool.holds(np.arange(len(of_docs))))
    inside = inside[np.argsort(of_docs[inside], kind="stable")]
    begin, end = (np.searchsorted(of_docs[inside], of_queries, side=side) for side in ("left", "right"))
    found = []
    for row, codes, begins, ends in zip(rows, of_queries, begin, end):
        siblings = [inside[a:b] for code, a, b in zip(codes, begins, ends) if code >= 0]
        docs = np.unique(np.concatenate(siblings)) if siblings else inside[:0]
        order = np.argsort(uniform("sibling", miner.seed, row, docs), kind="stable")
        found.append(docs[order][: count + overfetch(collection, np.array([row]))])
    docs = np.full((len(rows), max(1, *map(len, found))), -1)
    for i, own in enumerate(found):
        docs[i, : len(own)] = own
    return Candidates("sibling", rows, docs)


def mine_file(miner, positions, count, last, encoder):
    """What stands in the negatives file, of all queries."""
    path, format = miner.file
    return file_candidates(path, miner.collection, needs_teacher=miner.needs_teacher, split=miner.split, format=format)


def mine_judged(miner, positions, count, last, encoder):
    """The docs that were judged and are not relevant, of all queries."""
    qrels, lists = miner.collection.split(miner.split), []
    for begin, end in zip(qrels.indptr, qrels.indptr[1:]):
        lists.append(qrels.docs[begin:end][qrels.grades[begin:end] < 1])
    docs = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int32)
    if not docs.size:
        raise BadInput(f"judged:K: no doc of the {miner.split} split was judged as not relevant (a grade below 1)")
    for row, found in zip(docs, lists):
        row[: len(found)] = found
    return Candidates("judged", qrels.queries, docs)


@functools.lru_cache(maxsize=1)
def file_candidates(path, collection, *, needs_teacher, split="train", format="own"):
    """The candidates of --negatives_file, or of the file that came with the collection where that is None."""
    if not (path := path or collection.negatives):
        raise BadInput(
            "file:K and --negatives_file F come together: F holds what file:K draws from (--data brings no negatives)"
        )
    rows = None if format == "own" else exchange.read(path, format, collection)
    found = load_candidates(path, collection, collection.split(split), rows=rows)
    if needs_teacher and np.isnan(found.teacher).all():
        brought = path == collection.negatives
        if not (brought or format != "own") or np.isnan(found.scores).all():
            raise BadInput(
                "--terms margin_mse and kl need a teacher's scores, and "
                + ("--data brings none (pos_scores and neg_scores)" if brought else f"{path} has no teacher_score")
            )
        print(f"note: the scores that {'--data brings' if brought else f'{path} has'} are taken as a teacher's")
        found = dataclasses.replace(found, teacher=found.scores, teacher_positive=found.positive)
    if needs_teacher and (several := int(((collection.known_docs(found.queries) >= 0).sum(1) > 1).sum())):
        print(f"note: the teacher leaves out {several:,} queries that have several positives and one score for them")
    return found


def mine_dense(miner, positions, count, last, encoder, *, source="dense"):
    """The encoder's own best."""
    q_emb = miner.embed_queries(encoder, positions)
    return miner.search(source, positions, count, last, q_emb, miner.embed_docs(encoder))


def mine_adore(miner, positions, count, last, encoder):
    """The best by the query vectors of this very step, over docs frozen as the source began (Zhan et al. 2021)."""
    if "adore" not in miner.frozen:
        miner.frozen["adore"] = miner.embed_docs(encoder)[:]  # on every process: its vectors are part of the state
    q_emb = miner.embed_queries(miner.encoder, positions)
    return miner.search("adore", positions, count, last, q_emb, miner.frozen["adore"])


SOURCES = {
    "in_batch": Source("the docs of the batch's other queries alone", explicit=False),
    "random": Source("K docs drawn from the corpus", draw=random_docs),
    "bm25": Source("K of BM25's best --depth", mine=mine_bm25, fixed=True),
    "dense": Source(
        "K of the model's own best --depth, mined once, when the stage begins",
        mine=mine_dense,
        encodes_corpus=True,
        searches=True,
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
    ),
    "sibling": Source(
        "K of the docs that share the metadata field --by with the positive, fewer where there are none",
        mine=mine_siblings,
        fixed=True,
        by_field=True,
    ),
    "queue": Source("the N most recent docs, with the vectors that the averaged encoder gave them", queue=True),
    "judged": Source("K of the docs that were judged and are not relevant", mine=mine_judged, fixed=True, given=True),
    "file": Source(
        "K of the candidates in --negatives_file, as mine_negatives.py writes it, or that --data brings",
        mine=mine_file,
        fixed=True,
        needs_file=True,
        given=True,
        teaches=True,
    ),
}

"""Where quality is lost: by the model, by what an index compresses, by what its search leaves out."""

import faiss

from lib.evaluation import measures
from lib.search import faiss_index
from lib.search.hits import Hits

PARTS = ("model", "quantisation", "search")


def exhaustive(index):
    """The same index without shortcuts: every code is compared with the query, whatever that takes."""
    found = faiss.downcast_index(index)
    if hasattr(found, "refine_index"):
        return faiss.downcast_index(found.refine_index)
    if hasattr(found, "hnsw"):
        return faiss.downcast_index(found.storage)
    return found


def split(rankings, qrels, *, measure="ndcg@10"):
    """{qid: {model, quantisation, search}} of three rankings: exact vectors, compressed ones, the index itself.

    What is missing to 1 falls into three parts that add up exactly: 1 - exact, exact - exhaustive search of what the
    index holds, that - the index as it is searched. The last two may be negative for a query.
    """
    exact, whole, index = (measures.per_query(each, qrels) for each in rankings)
    return {
        qid: {
            "model": 1 - exact[qid][measure],
            "quantisation": exact[qid][measure] - whole[qid][measure],
            "search": whole[qid][measure] - index[qid][measure],
        }
        for qid in exact
    }


def hits_of(index, q_emb, best, depth):
    """The Hits of the three rankings of split(). best: (scores, rows) of exact search, at least `depth` deep."""
    inverted = faiss_index.cells(index)
    if inverted:  # all cells, for a moment
        ivf = faiss.extract_index_ivf(index)
        probes, ivf.nprobe = ivf.nprobe, ivf.nlist
    whole = faiss_index.search(exhaustive(index), q_emb, depth)
    if inverted:
        ivf.nprobe = probes
    return Hits(best[0][:, :depth], best[1][:, :depth]), whole, faiss_index.search(index, q_emb, depth)

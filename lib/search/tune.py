"""Tuning an index: which one, and what of its accuracy a search may trade for time. Measured on real queries.

Queries lie elsewhere than docs, so that an index that is tuned on docs promises too much. A doc counts as found if
its exact score is at least that of the k-th best, so that copies are no misses (as in ann-benchmarks; Aumueller et
al. 2020, https://github.com/erikbern/ann-benchmarks: one query at a time, on one core, and batches apart).
"""

import dataclasses
import time

import faiss
import numpy as np

from lib.files import BadInput
from lib.search import faiss_index
from lib.search.exact import merge, pair_scores, pieces, top_k

K = 10  # docs whose recall is tuned
SINGLE = 200  # queries that are timed one by one
EFFORT = 60  # settings that are tried, at most
QUICK = 0.01  # seconds of an exact search that is quick enough as it is
SLACK = 1e-6  # of scores that are equal


@dataclasses.dataclass(frozen=True)
class Point:
    """One setting of an index, measured."""

    parameters: str  # as in nprobe=16,k_factor_rf=4
    recall: float  # of the K best, on queries that took no part in the tuning
    tuning_recall: float  # on those that did
    single: float  # queries a second, one at a time
    batch: float  # queries a second, all at once
    p50_ms: float
    p99_ms: float


def exact_best(vectors, q_emb, k=K):
    """(scores, rows) of the exact k best, block by block, and the estimated seconds of one query by itself."""
    best, seconds = None, 0.0
    for docs, block in pieces(vectors, faiss_index.BLOCK):
        scores, rows = top_k(q_emb, block, k)
        best = merge(best, (scores, np.where(rows < 0, -1, docs[rows]).astype(np.int64)), k)
        clock = time.perf_counter()
        for query in q_emb[:10]:
            top_k(query[None], block, k)
        seconds += (time.perf_counter() - clock) / min(10, len(q_emb))
    return *best, seconds


def recall(scores, exact_scores, *, k=K):
    """Mean share of the k docs that score as well as the exact k best; scores are exact ones, (Q, k) each."""
    least = exact_scores[:, k - 1 : k] if exact_scores.shape[1] >= k else exact_scores[:, -1:]
    hits = (scores[:, :k] >= least - SLACK * np.abs(least) - 1e-9).sum(1)
    return float(np.mean(np.minimum(hits, exact_scores.shape[1]) / min(k, exact_scores.shape[1])))


def curve(index, vectors, q_emb, best, *, k=K):
    """[Point] of the settings that no other beats in both recall and time, from the quickest on.

    The even queries choose them (faiss.ParameterSpace.explore), the odd ones, kept aside, give `recall`.
    best: (scores, rows) of exact_best(). An index without parameters is one Point.
    """
    scores, rows = best
    odd = np.arange(len(q_emb)) % 2 == 1 if len(q_emb) > 1 else np.ones(len(q_emb), dtype=bool)
    space, tune = faiss.ParameterSpace(), np.ascontiguousarray(q_emb[~odd] if len(q_emb) > 1 else q_emb)
    space.initialize(index)
    keys = [""]
    if space.parameter_ranges.size():
        criterion = faiss.IntersectionCriterion(len(tune), min(k, rows.shape[1]))
        chosen = (scores[~odd], rows[~odd]) if len(q_emb) > 1 else best
        criterion.set_groundtruth(*(np.ascontiguousarray(x[:, :k]) for x in chosen))
        space.verbose, space.n_experiments, space.min_test_duration = 0, EFFORT, 0.01
        names = [space.parameter_ranges.at(i).name for i in range(space.parameter_ranges.size())]
        if "ht" in names:  # a filter by Hamming distance, which inner products do not have: off
            values = space.add_range("ht").values
            off = values.at(values.size() - 1)
            values.clear()
            values.push_back(off)
        if "efSearch" in names:  # FAISS ends at 512, which is not enough where docs resemble one another
            for value in (1024, 2048):
                space.add_range("efSearch").values.push_back(value)
        if "nprobe" in names:  # it ends at half of the cells
            space.add_range("nprobe").values.push_back(faiss_index.cells(index))
        count = space.n_combinations()
        if count > 2:
            try:
                tried = space.explore(index, tune, criterion)  # kept: FAISS frees what it holds along with it
            except RuntimeError as error:
                raise BadInput(f"FAISS cannot tune this index ({faiss_index.reason(error)})") from None
            found = [tried.optimal_pts.at(i).key for i in range(tried.optimal_pts.size())]
        else:  # fewer than FAISS explores
            found = [space.combination_name(number) for number in range(count)]
        keys = list(dict.fromkeys(filter(None, found))) or [""]
    return [_measure(index, vectors, q_emb, scores, key, odd, k) for key in keys]


def _measure(index, vectors, q_emb, exact_scores, key, odd, k):
    faiss_index.set_parameters(index, key)
    clock = time.perf_counter()
    _, rows = index.search(q_emb, k)
    batch = len(q_emb) / (time.perf_counter() - clock)
    found = np.nan_to_num(pair_scores(q_emb, vectors.take, rows), nan=-np.inf)  # exact scores of what was found
    times = []
    for query in q_emb[odd][:SINGLE]:
        clock = time.perf_counter()
        index.search(query[None], k)
        times.append(time.perf_counter() - clock)
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    recalls = [recall(found[part], exact_scores[part], k=k) for part in (odd, ~odd if (~odd).any() else odd)]
    return Point(key, *recalls, len(times) / sum(times), batch, float(p50), float(p99))


def choose(points, target):
    """(the fastest Point that reaches the target on the tuning queries, else the most accurate; whether one does)."""
    reached = [point for point in points if point.tuning_recall >= target]
    if reached:
        return max(reached, key=lambda point: point.single), True
    return max(points, key=lambda point: point.tuning_recall), False


def plan(vectors, *, max_ram, expected_queries, exact_seconds, build_rate=None):
    """[(index, why)] for vectors (n, D) within max_ram bytes, the first choice first.

    exact_seconds: of one query by exact search; build_rate: vectors a second that a graph takes in at 10,000 vectors,
    timed by default; it takes about n log n. Those behind are for the case that the first does not reach its recall.
    """
    n, dim = vectors.shape
    flat, graph, room = 4 * n * dim, (32 * 2 + 4) * 4 * n, f"{max_ram / 1e9:.1f} GB"
    one, saved = f"exact search takes {exact_seconds * 1e3:.2f} ms a query", expected_queries * exact_seconds
    if flat <= max_ram and exact_seconds <= QUICK:
        return [("Flat", f"{one}, for which nobody waits")]
    build = n / (build_rate or _build_rate(vectors)) * np.log(max(n, 2)) / np.log(10_000)
    why = f"{one}, {saved:,.0f} s for {expected_queries:,} of them; building a graph takes about {build:,.0f} s"
    if flat <= max_ram and saved <= build:
        return [("Flat", f"{why}, which would not pay back")]
    lists = int(2 ** np.round(np.log2(4 * n**0.5)))
    sizes = {"HNSW32": flat + graph, "HNSW32_SQ8": flat // 4 + graph, f"IVF{lists},Flat": flat}
    sizes |= {f"IVF{lists},SQ8": flat // 4, f"IVF{lists},RaBitQ": flat // 32}
    fitting = [(name, f"{why}; it fits into {room}") for name, size in sizes.items() if size <= max_ram]
    return fitting or [(list(sizes)[-1], f"{why}; nothing fits into {room}: the smallest")]


def _build_rate(vectors, rows=10_000):
    """Vectors a second that a graph takes in, timed on some of them."""
    sample = vectors.take(np.arange(min(rows, vectors.shape[0])))
    index = faiss.index_factory(sample.shape[1], "HNSW32", faiss.METRIC_INNER_PRODUCT)
    clock = time.perf_counter()
    index.add(sample)
    return len(sample) / (time.perf_counter() - clock)

"""What an evaluation says of itself: what ties and missing judgements leave open, tables by a field; what of
nDCG@10 is lost by the model, by what an index compresses, and by what its search leaves out; run files.
"""

import itertools
import math
import sys

import faiss
import ir_measures
import numpy as np

from lib.evaluation import measures
from lib.files import BadInput, first_line, parse_json
from lib.search import faiss_index
from lib.search.hits import Hits

LOST_BY = ("model", "quantisation", "search")


def parse_measures(text, flag=""):
    """[measure] of ir_measures, as in "nDCG@10 AP P@5 Success@1"; BadInput for a name that it does not know."""
    found = []
    for name in text.replace(",", " ").split():
        try:
            measure = ir_measures.parse_measure(name)
            if not measure.params.get("cutoff", 1) >= 1:
                raise ValueError("a measure of no docs")
            found.append(measure)
        except (NameError, ValueError, SyntaxError, TypeError) as error:
            said = f"{flag} {name}: {error}; one of ir_measures, as in nDCG@10 AP P@5 Success@1"
            raise BadInput(said.strip()) from None
    return found


def per_query(wanted, rankings, qrels):
    """{qid: {measure: value}} by ir_measures, for the queries that measures.per_query() counts; 0 where unranked."""
    judged = {qid: grades for qid, grades in qrels.items() if max(grades.values()) >= 1}
    values = {qid: {str(measure): 0.0 for measure in wanted} for qid in judged}
    if wanted and any(qid in judged and docs for qid, docs in rankings.items()):
        try:
            found = list(ir_measures.iter_calc(wanted, judged, rankings))
        except Exception as error:  # of programs that a measure wants, or of judgements that it does not take
            names = " ".join(map(str, wanted))
            raise BadInput(f"{names}: ir_measures cannot compute this here ({first_line(error)})") from None
        for qid, measure, value in found:
            if qid in values:
                values[qid][str(measure)] = value
    return values


def check_rankings(rankings):
    """BadInput if a score is no number: where it stands in the order would be chance."""
    for qid, docs in rankings.items():
        for doc_id, score in docs.items():
            if not math.isfinite(score):
                raise BadInput(f"the score of doc {doc_id} for query {qid} is {score}: no order follows from that")


def tie_interval(rankings, qrels):
    """{measure: (mean if ties are ordered worst, best)}: what docs of equal score leave open.

    trec_eval orders ties by doc id; any other order is as good. Within the lists, that is: docs that stand just
    below the last rank and score the same are not seen.
    """
    ends = []
    for sign in (1, -1):
        ordered = {}
        for qid, docs in rankings.items():
            grades = qrels.get(qid, {})
            order = sorted(docs, key=lambda doc: (-np.float32(docs[doc]), sign * grades.get(doc, 0)))  # noqa: B023
            ordered[qid] = {doc: float(-rank) for rank, doc in enumerate(order)}
        ends.append(measures.mean(measures.per_query(ordered, qrels)))
    return {name: (ends[0][name], ends[1][name]) for name in measures.MEASURES}


def hole_bounds(rankings, qrels, *, depth=10):
    """{measure: (mean as it is, if every unjudged doc among the `depth` best were relevant)}."""
    filled = {}
    for qid, grades in qrels.items():
        best = measures.in_order(rankings.get(qid, {}))[:depth]
        filled[qid] = {doc: 1 for doc in best if doc not in grades} | grades
    low, high = (measures.mean(measures.per_query(rankings, each)) for each in (qrels, filled))
    return {name: (low[name], high[name]) for name in measures.MEASURES}


def by_slice(values, field_of, *, measure, seed=0, rounds=2000):
    """[{value, queries, mean, low, high}] of a measure by the value of a field, {qid: value}, the largest first.

    low, high: 95 % bootstrap interval over queries.
    """
    groups = {}
    for qid, measured in values.items():
        groups.setdefault(field_of.get(qid, "(none)"), []).append(measured[measure])
    generator, rows = np.random.Generator(np.random.Philox(seed)), []
    for value, found in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        found = np.array(found)
        means = found[generator.integers(0, len(found), size=(rounds, len(found)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        rows.append(
            {"value": value, "queries": len(found), "mean": float(found.mean()), "low": float(low), "high": float(high)}
        )
    return rows


# what stands in a line of a run, by its number of columns
RUN_COLUMNS = {
    6: ("qid", None, "doc_id", "rank", "score", None),  # TREC's
    4: ("qid", "doc_id", "rank", "score"),
    3: ("qid", "doc_id", "score"),  # MS MARCO's, with ranks in place of scores where all are whole numbers
}


def read_run_file(path):
    """{qid: {doc_id: score}} of a run, perhaps a .gz: lines as RUN_COLUMNS has them, or JSON {qid: {doc_id: score}}.

    Where a file has ranks and no scores (1, 2, 3 ... in JSON), a doc's score is the rank's negative. Scores go before
    ranks, as in trec_eval; where the two contradict each other, that is said. BadInput for a line of another form,
    a doc twice, a NaN, ranks that do not rise.
    """
    from lib.data.beir import read_lines

    if str(path).removesuffix(".gz").endswith(".json"):
        return _run_of_json(path)
    rankings, ranked, columns = {}, {}, None
    for number, line in read_lines(path):
        fields = line.split()
        columns = columns or RUN_COLUMNS.get(len(fields)) or RUN_COLUMNS[6]
        if len(fields) != len(columns):
            raise BadInput(
                f"{path}:{number}: {len(columns)} columns are wanted, found {len(fields)}: a run has six (qid Q0 "
                "doc_id rank score tag), four (qid doc_id rank score) or three (qid doc_id and a rank or a score), or "
                "is JSON, FILE.json"
            )
        named = dict(zip(columns, fields))
        qid, doc_id, rank = named["qid"], named["doc_id"], named.get("rank", "")
        if len(columns) == 4 and not rank.isdigit():
            raise BadInput(f"{path}:{number}: rank {rank!r} is no whole number; are these judgements?")
        _add(rankings, qid, doc_id, named["score"], f"{path}:{number}")
        if rank.isdecimal() and len(rank) < 10:
            ranked.setdefault(qid, []).append((int(rank), -rankings[qid][doc_id]))
    if not rankings:
        raise BadInput(f"{path}: no lines")
    places = {qid: sorted(rank for rank, _ in own) for qid, own in ranked.items()}
    if (
        len(columns) == 4
        and _are_ranks(rankings)
        and not all(own == [*range(1, len(own) + 1)] for own in places.values())
    ):
        raise BadInput(
            f"{path}: its last column counts 1, 2, 3 ... as ranks do; four columns are qid doc_id rank score"
        )
    risen = [q for q, own in ranked.items() if any(a > b for (_, a), (_, b) in itertools.pairwise(sorted(own)))]
    if risen:
        print(
            f"warning: {path}: scores rise with the ranks, as distances do, for {len(risen):,} of {len(rankings):,} "
            f"queries ({risen[0]}): the order is that of the scores, the largest first, as in trec_eval",
            file=sys.stderr,
        )
    if "rank" not in columns and all(score.is_integer() for docs in rankings.values() for score in docs.values()):
        for qid, docs in rankings.items():
            ranks = list(docs.values())
            if ranks != sorted(ranks):
                raise BadInput(
                    f"{path}: query {qid}: its third column has whole numbers that do not rise, as ranks do; "
                    "scores take six columns"
                )
        return {qid: {doc: -rank for doc, rank in docs.items()} for qid, docs in rankings.items()}
    return rankings


def _add(rankings, qid, doc_id, score, place):
    """Put a doc with its score, perhaps a text, into a ranking."""
    try:
        value = math.nan if isinstance(score, (bool, type(None))) else float(score)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not math.isfinite(value):
        raise BadInput(f"{place}: score {score!r} is not a finite number")
    if "\0" in qid + doc_id:
        raise BadInput(f"{place}: a NUL, which ends a text in trec_eval")
    if doc_id in rankings.setdefault(qid, {}):
        raise BadInput(f"{place}: doc {doc_id} stands twice in the list of query {qid}")
    rankings[qid][doc_id] = value


def _once(pairs):
    """A dict of pairs; ValueError if a name stands twice, of which JSON would keep the last one."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands twice")
    return found


def _run_of_json(path):
    from lib.data.beir import read_lines

    text = "\n".join(line for _, line in read_lines(path))
    try:
        found = parse_json(text, of_pairs=_once)
    except ValueError as error:
        raise BadInput(f"{path}: not valid JSON ({error})") from None
    if not isinstance(found, dict) or not all(isinstance(docs, dict) for docs in found.values()):
        raise BadInput(f"{path}: an object of objects is wanted, {{qid: {{doc_id: score}}}}")
    rankings = {}
    for qid, docs in found.items():
        for doc_id, score in docs.items():
            _add(rankings, qid, doc_id, score, f"{path}, query {qid}")
    if not rankings:
        raise BadInput(f"{path}: no queries")
    if _are_ranks(rankings):
        return {qid: {doc: -rank for doc, rank in docs.items()} for qid, docs in rankings.items()}
    return rankings


def _are_ranks(rankings):
    """Whether the numbers of every query are 1, 2, 3 ... or, in this order, 0, 1, 2 ..., and some query has several."""
    numbers = [list(docs.values()) for docs in rankings.values()]
    from_1 = all(sorted(found) == [*range(1, len(found) + 1)] for found in numbers)
    return (from_1 or all(found == [*range(len(found))] for found in numbers)) and max(map(len, numbers)) > 1


def exhaustive(index):
    """The same index without shortcuts: every code is compared with the query, whatever that takes."""
    found = faiss.downcast_index(index)
    if hasattr(found, "refine_index"):
        return faiss.downcast_index(found.refine_index)
    if hasattr(found, "hnsw") or hasattr(found, "nsg"):
        return faiss.downcast_index(found.storage)
    if hasattr(found, "chain"):  # what is done to vectors before stays
        whole = faiss.IndexPreTransform(exhaustive(found.index))
        for i in reversed(range(found.chain.size())):
            whole.prepend_transform(found.chain.at(i))
        return whole
    return found


def error_split(rankings, qrels, *, measure="ndcg@10"):
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
        coarse = getattr(faiss.downcast_index(ivf.quantizer), "hnsw", None)
        width = coarse and coarse.efSearch
        if coarse:
            coarse.efSearch = ivf.nlist
    whole = faiss_index.search(exhaustive(index), q_emb, depth)
    if inverted:
        ivf.nprobe = probes
        if coarse:
            coarse.efSearch = width
    return Hits(best[0][:, :depth], best[1][:, :depth]), whole, faiss_index.search(index, q_emb, depth)

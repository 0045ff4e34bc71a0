"""The negative sampler: which source is mined when and for whom, what each step draws, the queue's part."""

import types

import numpy as np
import pytest
import torch
from conftest import known_by_text, write_collection

from lib.data.batches import QueryOrder, make_batch
from lib.data.collection import load_collection
from lib.evaluation import diagnostics
from lib.files import BadInput
from lib.negatives.arms import Arm
from lib.negatives.candidates import Candidates
from lib.negatives.files import load_candidates, write_negatives
from lib.negatives.filters import parse_filter
from lib.negatives.queue import Queue
from lib.negatives.sampler import Label, MiningConfig, NegativeSampler, overlap
from lib.negatives.sampling import parse_sampling

SHIFT = 3  # by how many docs the made-up lists of one step's weights lie behind those of the step before


class Miner:
    """A made-up miner: with the weights of step s it finds the docs i + 5 + SHIFT * s, ... for query i.

    The docs themselves tell with which weights they were mined. `calls` records what was asked for.
    """

    def __init__(self, collection, *, shift=SHIFT):
        self.collection, self.qrels = collection, collection.split("train")
        self.shift, self.step, self.calls = shift, 0, []

    def mine(self, source, positions, count, last=None):
        last = None if last is None else last.copy()
        self.calls.append(
            types.SimpleNamespace(source=source, positions=positions.tolist(), count=count, last=last, step=self.step)
        )
        docs = positions[:, None] + 5 + int(self.shift * self.step) + np.arange(count)
        return Candidates(
            source,
            self.qrels.queries[positions],
            (docs % len(self.collection.docs)).astype(np.int32),
            np.broadcast_to(-np.arange(count, dtype=np.float32), docs.shape).copy(),
            np.zeros(len(positions), dtype=np.float32),
            {},
            np.broadcast_to(1 + np.arange(count, dtype=np.int32), docs.shape).copy(),
        )


def make_sampler(arm, collection, *, steps=12, batch_size=6, shift=SHIFT, in_batch="on", **config):
    """A NegativeSampler with lists of 3 docs and a made-up miner, the order of its training, and the miner."""
    miner = Miner(collection, shift=shift)
    order = QueryOrder(len(miner.qrels), batch_size=batch_size, seed=0)
    made = NegativeSampler(
        Arm.parse(arm),
        steps=steps,
        config=MiningConfig(**({"depth": 3, "candidates": 3, "refresh_every": 4} | config)),
        seed=0,
        collection=collection,
        miner=miner,
        upcoming=order.upcoming,
        in_batch=in_batch,
    )
    return made, order, miner


def weights_of(positions, docs):
    """The steps whose weights found the docs (B, K) of the train queries `positions`, out of lists of 3."""
    return set((((docs - positions[:, None] - 5) % 40) // SHIFT)[docs >= 0].tolist())


def by_label(made, drawn):
    """What sample() returned, {code: docs}, as {its Label: docs}."""
    return {made.labels[code - 1]: docs for code, docs in drawn.items()}


def play(made, order, miner, steps=range(12)):
    """Run the steps of a training; for each, ({source: report}, {source: negatives per query}, {source: the
    steps whose weights mined them}, {label: docs})."""
    seen = []
    for step in steps:
        miner.step = step
        reports, positions = made.refresh(step), order.positions(step)
        drawn = by_label(made, made.sample(positions, step=step, epoch=order.epoch(step)))
        counts, weights = {}, {}
        for (source, origin, ranks), docs in drawn.items():
            assert docs.shape[0] == len(positions) and origin == "" and (source == "random") == (ranks == "")
            counts[source] = counts.get(source, 0) + (docs >= 0).sum() / len(positions)
            if source != "random":
                weights.setdefault(source, set()).update(weights_of(positions, docs))
        seen.append((reports, counts, weights, {key: docs.tolist() for key, docs in drawn.items()}))
    return seen


def mined(seen):
    """[sources mined] of each step."""
    return [list(reports) for reports, *_ in seen]


# ----------------------------------------------------------------------------------------------------- stages


def test_near_copies_are_counted_in_a_sample_of_a_list(tiny, monkeypatch):
    made, order, miner = make_sampler("random:2+bm25:2+refresh:2", tiny)
    made.refresh(0)
    asked = []
    monkeypatch.setattr(diagnostics, "share_of_near_copies", lambda found, collection: asked.append(found) or 0.25)
    for source in ("bm25", "refresh"):
        assert diagnostics.near_copies(made.lists[source].candidates, tiny, queries=5) == 0.25
    assert [found.source for found in asked] == ["bm25", "refresh"]
    assert all(len(set(found.queries.tolist())) == 5 and found.docs.shape[1] == 3 for found in asked)


def test_in_batch_needs_nothing(tiny):
    made, order, miner = make_sampler("in_batch", tiny)
    assert play(made, order, miner) == [({}, {}, {}, {})] * 12 and not miner.calls


def test_adore_is_mined_at_each_step_for_that_step(tiny):
    made, order, miner = make_sampler("adore:2", tiny)
    for step, (reports, counts, weights, _) in enumerate(play(made, order, miner)):
        assert list(reports) == ["adore"] and counts == {"adore": 2} and weights == {"adore": {step}}
    assert made.age("adore", 11) == 0
    for step, call in enumerate(miner.calls):
        assert (call.positions, call.count) == (sorted(order.positions(step).tolist()), 3)


def test_neither_depth_nor_candidates_is_below_the_number_drawn(tiny):
    made, order, miner = make_sampler("bm25:5", tiny)
    made.refresh(0)
    assert miner.calls[0].count == 5
    drawn = made.sample(order.positions(0), step=0, epoch=0)
    assert sum((docs >= 0).sum() for docs in drawn.values()) == 6 * 5


@pytest.mark.parametrize("source", ["bm25", "dense", "file"])
def test_a_fixed_source_is_mined_once_for_all_queries(tiny, source):
    made, order, miner = make_sampler(f"{source}:2", tiny)
    seen = play(made, order, miner)
    assert mined(seen) == [[source]] + [[]] * 11
    assert all(counts == {source: 2} and weights == {source: {0}} for _, counts, weights, _ in seen)
    (call,) = miner.calls
    assert call.positions == list(range(36)) and call.count == 3 and call.last is None
    assert seen[0][0][source]["candidates"] == 36 * 3 and seen[0][0][source]["age"] is None
    assert made.age(source, 7) == 7 and made.age("refresh", 7) is None


def test_refresh_is_mined_every_so_often_for_the_upcoming_queries(tiny):
    made, order, miner = make_sampler("refresh:2", tiny, steps=10)
    seen = play(made, order, miner, range(10))
    assert [step for step, sources in enumerate(mined(seen)) if sources] == [0, 4, 8]
    assert [weights["refresh"] for _, _, weights, _ in seen] == [{step // 4 * 4} for step in range(10)]
    for call, steps in zip(miner.calls, (range(0, 4), range(4, 8), range(8, 10))):
        assert call.positions == sorted({position for step in steps for position in order.positions(step).tolist()})
        assert len(call.positions) < 36


def test_stages_switch_at_their_steps(tiny):
    made, order, miner = make_sampler("random:1,bm25:2+refresh:2@0.5,refresh:3@0.75", tiny)
    seen = play(made, order, miner)
    assert mined(seen) == [[]] * 6 + [["bm25", "refresh"]] + [[]] * 3 + [["refresh"], []]
    assert [counts for _, counts, _, _ in seen] == [{"random": 1}] * 6 + [{"bm25": 2, "refresh": 2}] * 3 + [
        {"refresh": 3}
    ] * 3
    assert [call.source for call in miner.calls] == ["bm25", "refresh", "refresh"]
    assert [weights for _, _, weights, _ in seen] == [{}] * 6 + [{"bm25": {6}, "refresh": {6}}] * 3 + [
        {"refresh": {6}}
    ] + [{"refresh": {10}}] * 2


def test_a_source_may_rest_for_a_stage(tiny):
    made, order, miner = make_sampler("refresh:2,random:1@0.4,refresh:2@0.75", tiny)
    for step, (_, counts, weights, _) in enumerate(play(made, order, miner)):
        assert counts == ({"random": 1} if 5 <= step < 9 else {"refresh": 2}) and len(weights) < 2


def test_a_later_stage_may_draw_more_than_the_depth(tiny):
    made, order, miner = make_sampler("refresh:2,refresh:5@0.5", tiny, shift=0)
    for step in range(12):
        miner.step = step
        made.refresh(step)
        drawn = made.sample(order.positions(step), step=step, epoch=0)
        wanted = 2 if step < 6 else 3 if step < 8 else 5  # the lists of step 4 have 3 docs, at most
        assert sum((docs >= 0).sum() for docs in drawn.values()) == 6 * wanted


def test_random_draws_avoid_positives_and_change_with_the_epoch(tiny):
    made, _, _ = make_sampler("random:3", tiny)
    known, positions = known_by_text(tiny), np.arange(36)
    first, second = (made.sample(positions, step=0, epoch=epoch)[1] for epoch in (0, 1))
    assert made.labels == [Label("random", "", "")]
    for row, docs in zip(made.qrels.queries, first):
        texts = {tiny.docs.text(doc) for doc in docs}
        assert len(texts) == 3 and not texts & known[tiny.queries.text(row)]
    assert (first != second).any()


# ------------------------------------------------------------------------------ candidates, filters, sampling


def test_lists_are_filtered_and_cut_to_the_depth(tiny):
    window = (parse_filter("window:4:9"),)
    made, order, miner = make_sampler("bm25:3", tiny, candidates=12, filters=window, sampling=parse_sampling("top"))
    report = made.refresh(0)["bm25"]
    assert miner.calls[0].count == 12
    assert report["dropped"]["window:4:9"] == 36 * 6 and report["candidates"] == 36 * 3
    positions = order.positions(0)
    ((code, docs),) = made.sample(positions, step=0, epoch=0).items()
    assert made.labels[code - 1] == Label("bm25", "", "1-10")
    assert docs.tolist() == ((positions[:, None] + 5 + np.arange(3, 6)) % 40).tolist()  # ranks 4, 5 and 6


def test_draws_of_high_ranks_have_their_own_code(tiny):
    window = (parse_filter("window:9:12"),)
    made, order, _ = make_sampler("bm25:4", tiny, candidates=12, depth=4, filters=window)
    made.refresh(0)
    positions = order.positions(0)
    drawn = by_label(made, made.sample(positions, step=0, epoch=0))
    assert set(drawn) == {Label("bm25", "", "1-10"), Label("bm25", "", "11-30")}
    for band, wanted in (("1-10", {8, 9}), ("11-30", {10, 11})):
        docs = drawn["bm25", "", band]
        assert set(((docs - positions[:, None] - 5) % 40)[docs >= 0].tolist()) == wanted


def test_filters_that_leave_nothing_are_refused(tiny):
    made, _, _ = make_sampler("bm25:2", tiny, filters=(parse_filter("max_score:-50"),))
    with pytest.raises(BadInput, match="source bm25 has no candidate left.*max_score:-50.*loosen --filters"):
        made.refresh(0)


def test_lists_take_no_more_memory_than_the_docs_there_are(tiny):
    made, _, _ = make_sampler("refresh:1", tiny, depth=1_000_000_000)
    made.refresh(0)
    assert made._last["refresh"].shape == (len(tiny.split("train")), len(tiny.docs))


def test_no_filter_is_blamed_where_none_has_dropped_anything(tiny, monkeypatch):
    nothing = Candidates.keep
    for filters in ((), (parse_filter("max_score:1e9"),)):
        made, _, _ = make_sampler("bm25:2", tiny, filters=filters)
        with monkeypatch.context() as patch:
            patch.setattr(Candidates, "trim", lambda self, depth: nothing(self, self.docs < -1))
            with pytest.raises(BadInput, match="source bm25 has no candidate left.*nothing but positives") as error:
                made.refresh(0)
        assert "--filters" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- refresh


def shares(lists, last):
    """Mean share of each list's docs that its query's last list held, by loops; None without any."""
    found = [len(set(docs) & set(last[position])) / len(docs) for position, docs in lists.items() if position in last]
    return sum(found) / len(found) if found else None


@pytest.mark.parametrize("shift", [0, 0.25, 0.5, 3])
def test_reports_tell_age_and_overlap(tiny, shift):
    made, order, miner = make_sampler("refresh:2", tiny, shift=shift)
    ages, last = [], {}
    for step in range(12):
        miner.step = step
        reports = made.refresh(step)
        if not reports:
            continue
        ages.append(reports["refresh"]["age"])
        call = miner.calls[-1]
        lists = {p: [(p + 5 + int(shift * step) + j) % 40 for j in range(3)] for p in call.positions}
        assert reports["refresh"]["overlap"] == pytest.approx(shares(lists, last))
        if step == 0:
            assert call.last is None
        else:  # the miner is told the last lists, -1 for queries that had none
            assert [row[row >= 0].tolist() for row in call.last] == [last.get(p, []) for p in call.positions]
            assert any(p in last for p in call.positions)
        last |= lists
    assert ages == [None, 4, 4]


def test_overlap_of_lists():
    a = np.array([[1, 2, 3, 4], [5, 6, -1, -1], [-1, -1, -1, -1]])
    b = np.array([[4, 9, 1], [-1, 7, 8], [1, 2, 3]])
    assert overlap(a, b) == pytest.approx((2 / 4 + 0 / 2) / 2)
    assert overlap(b[:1], a[:1]) == pytest.approx(2 / 3) and overlap(a, a) == 1
    assert overlap(a[2:], b[2:]) is None and overlap(a[:0], b[:0]) is None


# ----------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize(
    "arm, config",
    [
        ("random:1,bm25:2+refresh:2@0.25", {}),
        ("random:1+bm25:2", {"candidates": 15, "depth": 15}),
        ("refresh:2,random:1@0.8", {"refresh_every": 3}),
        ("adore:2+refresh:1", {}),
    ],
    ids=["stages", "deep lists", "rest", "adore"],
)
@pytest.mark.parametrize("cut", range(1, 12))
def test_a_sampler_goes_on_where_another_stopped(tiny, tmp_path, arm, config, cut):
    if config.get("candidates"):
        config = config | {"shift": 0}

    def run(made, order, miner, steps):
        seen = []
        for step in steps:
            miner.step = step
            reports = made.refresh(step)
            drawn = made.sample(order.positions(step), step=step, epoch=order.epoch(step))
            ages = {source: made.age(source, step) for source in Arm.parse(arm).sources}
            seen.append((reports, {code: docs.tolist() for code, docs in drawn.items()}, ages))
        return seen

    whole, stopped, again = (make_sampler(arm, tiny, **config) for _ in range(3))
    wanted = run(*whole, range(12))
    assert run(*stopped, range(cut)) == wanted[:cut]
    torch.save(stopped[0].state_dict(), tmp_path / "state.pt")
    again[0].load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert again[0].labels == stopped[0].labels
    assert all(isinstance(label, Label) for label in again[0].labels)
    assert run(*again, range(cut, 12)) == wanted[cut:]  # the codes, too
    assert again[0].labels == whole[0].labels
    asked = [
        [(call.step, call.source, call.positions) for call in miner.calls] for *_, miner in (whole, stopped, again)
    ]
    assert asked[0] == asked[1] + asked[2]  # nothing is mined twice


# --------------------------------------------------------------------------------------------- queue, teacher


def test_a_queue_holds_the_last_docs_each_once():
    queue = Queue(5, 2, device="cpu")
    for number, docs in enumerate(([1, 2, 3], [4, 2], [7, 8])):
        queue.push(np.array(docs, dtype=np.int32), np.array([[number, doc] for doc in docs], dtype=np.float32))
        assert len(queue.docs) == len(queue.vectors) == len(set(queue.docs.tolist())) <= 5
    assert queue.docs.tolist() == [3, 4, 2, 7, 8]
    assert queue.vectors.tolist() == [[0, 3], [1, 4], [1, 2], [2, 7], [2, 8]]
    other = Queue(5, 2, device="cpu")
    other.load_state_dict(queue.state_dict())
    assert other.docs.tolist() == queue.docs.tolist() and torch.equal(other.vectors, queue.vectors)


def test_arms_with_a_queue(tiny):
    made, order, miner = make_sampler("random:1,queue:4+random:2@0.5,queue:9@0.75", tiny)
    queue = Queue(9, 2, device="cpu")
    assert made.queued(queue, 6) is None  # nothing in it yet
    queue.push(np.array([3, 5]), np.zeros((2, 2), dtype=np.float32))
    assert made.queued(queue, 0) is None  # its stage has not begun
    code, docs = made.queued(queue, 6)
    assert made.labels[code - 1] == Label("queue", "", "") and docs.tolist() == [3, 5]
    queue.push(np.arange(10, 17), np.zeros((7, 2), dtype=np.float32))
    assert made.queued(queue, 6)[1].tolist() == [13, 14, 15, 16] and len(made.queued(queue, 9)[1]) == 9
    drawn = made.sample(order.positions(6), step=6, epoch=0)
    drawn = {label: docs.shape for label, docs in by_label(made, drawn).items()}
    assert drawn == {Label("random", "", ""): (6, 2)}
    assert made.sample(order.positions(9), step=9, epoch=0) == {} and not miner.calls


def test_teacher_scores_find_their_columns(tiny, tmp_path):
    rows, qrels = tiny.docs.row_of, tiny.split("train")
    records = [
        {
            "qid": "q01",
            "doc_id": "c02",
            "source": "x",
            "score": 1.0,
            "teacher_score": 0.25,
            "teacher_positive_score": 2.5,
        },
        {"qid": "q12", "doc_id": "a12", "source": "x", "score": 2.0, "teacher_score": 0.5},
        {"qid": "q12", "doc_id": "c02", "source": "x", "score": 1.0},
    ]
    path = tmp_path / "n.jsonl"
    write_negatives(path, {"collection_fingerprint": tiny.fingerprint}, records)
    made, _, miner = make_sampler("file:2", tiny)
    miner.mine = lambda source, positions, count, last: load_candidates(path, tiny, qrels)
    made.refresh(0)
    positions = np.array([11, 0])  # q12 and q01
    positives = np.array([rows["a01"], rows["c01"]])
    drawn = {1: np.array([[rows["a08"]], [rows["c02"]]])}
    batch = make_batch(tiny, qrels.queries[positions], positives, drawn)
    column = {tiny.docs.ids[doc]: j for j, doc in enumerate(batch.docs)}  # a08 stands for its copy a12, too
    wanted = np.full((2, 4), np.nan)
    wanted[0, column["a08"]], wanted[1, column["c02"]], wanted[1, column["c01"]] = 0.5, 0.25, 2.5
    np.testing.assert_array_equal(made.teacher(batch, positions, 0), wanted)


def test_one_score_of_several_positives_is_given_to_none(tmp_path):
    """It is the best one's: on the others a margin would be taught that the teacher never gave."""
    judged = [("q0", "d0", 1), ("q0", "d1", 1), ("q1", "d2", 1)]
    docs, queries = ({f"{letter}{i}": f"{letter} of {i}" for i in range(12)} for letter in "dq")
    splits = {"train": judged, "dev": judged[:1], "test": judged[:1]}
    twice = load_collection(write_collection(tmp_path / "twice", docs, queries, splits), quiet=True)
    made, _, miner = make_sampler("file:1", twice)
    qrels = twice.split("train")
    taught = Candidates("file", qrels.queries, np.full((len(qrels), 1), 9), positive=None).admit(twice)
    taught.teacher, taught.teacher_positive = np.full(taught.docs.shape, 0.1), np.full(len(qrels), 0.9)
    miner.mine = lambda source, positions, count, last: taught
    made.refresh(0)
    batch = made.batch(np.arange(len(qrels)), step=0, epoch=0)
    scores = made.teacher(batch, np.arange(len(qrels)), 0)
    given = scores[np.arange(len(qrels)), batch.labels]
    assert np.isnan(given[0]) and given[1] == np.float32(0.9)


# ---------------------------------------------------------------------------------------- docs of other queries


def batches_of(collection, **options):
    """The batches of six steps of random:2, and the sampler."""
    made, order, _ = make_sampler("random:2", collection, **options)
    return [made.batch(order.positions(step), step=step, epoch=0) for step in range(6)], made


def test_without_in_batch_only_the_named_negatives_count(collection):
    (on, _), (off, _) = batches_of(collection), batches_of(collection, in_batch="off")
    for usual, batch in zip(on, off):
        rows = np.arange(len(batch.labels))
        assert not batch.invalid[rows, batch.labels].any()
        counts = ~batch.invalid
        counts[rows, batch.labels] = False
        assert (batch.source[counts] > 0).all()
        # what is named counts exactly where it counted before
        np.testing.assert_array_equal(counts & (batch.source > 0), ~usual.invalid & (batch.source > 0) & counts)
        assert (usual.invalid <= batch.invalid).all()


def test_masked_in_batch_leaves_near_copies_of_positives_out(tmp_path):
    from conftest import write_collection

    from lib.data.collection import load_collection

    story = "the roast should rest for ten minutes before it is carved at the table of the house"
    docs = {
        "a": story,
        "b": story + " tonight",
        "c": "bread rises in a warm place for an hour until it has doubled",
        "d": "x y z",
    }
    queries = {name: f"question {name}" for name in docs}
    qrels = {"train": [(name, name, 1) for name in docs]}
    small = load_collection(write_collection(tmp_path / "small", docs, queries, qrels))
    for in_batch, pairs in (("on", set()), ("masked", {("a", "b"), ("b", "a")})):
        made, order, _ = make_sampler("in_batch", small, batch_size=4, in_batch=in_batch)
        batch = made.batch(order.positions(0), step=0, epoch=0)
        found = {
            (small.queries.ids[batch.queries[i]], small.docs.ids[batch.docs[j]])
            for i, j in zip(*np.nonzero(batch.invalid))
        }
        assert found == pairs

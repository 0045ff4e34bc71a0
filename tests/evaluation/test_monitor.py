"""The monitor: averages of statistics, and warnings, each on the fault that it is for, once, none without one."""

import math

import numpy as np
import pytest
import torch

from lib.data.batches import Batch
from lib.evaluation.monitor import SETTLED, Averages, Monitor, batch_stats
from lib.files import BadInput
from lib.negatives.sampler import Label

STEPS = 100
ARMED = math.ceil(SETTLED * STEPS)


def stats(*, negatives=127.0, positive=0.7, hardest=0.5, **sources):
    """Statistics of a batch; sources: name = (negatives per query, share above the positive)."""
    rows = {"in_batch": (negatives, 0.4)} | sources  # in_batch may be above as often as it likes
    return {
        "positive": positive,
        "hardest": hardest,
        "ledger": [{"source": name, "negatives": count} for name, (count, _) in rows.items()],
        "sources": {name: {"negatives": n, "above": above} for name, (n, above) in rows.items()},
    }


def warned(monitor, loss, numbers, *, steps=range(ARMED, ARMED + 10)):
    """{step: [names of warnings]} of the steps that raised any."""
    found = {step: monitor.check(step, STEPS, numbers | {"info_nce": loss}) for step in steps}
    raised = [warning for made in found.values() for warning in made]
    assert all(set(warning) == {"warning", "advice"} and warning["advice"] for warning in raised)
    return {step: [warning["warning"] for warning in made] for step, made in found.items() if made}


def test_a_training_that_goes_well_raises_none():
    monitor = Monitor()
    for step in range(STEPS):
        loss = math.log(128) * (1 - 0.9 * step / STEPS)
        numbers = stats(positive=0.4 + 0.5 * step / STEPS, hardest=0.5, refresh=(4.0, 0.25), bm25=(4.0, 0.05))
        assert monitor.check(step, STEPS, numbers | {"info_nce": loss}) == []
    assert monitor.check_end(rank=200.0, dim=768, dev=0.4, untrained=0.3) == []


@pytest.mark.parametrize("negatives", [7.0, 127.0, 1023.0])
def test_a_loss_of_guessing(negatives):
    guessing = math.log(1 + negatives)
    assert warned(Monitor(), guessing, stats(negatives=negatives)) == {ARMED: ["no learning"]}
    assert warned(Monitor(), 0.96 * guessing, stats(negatives=negatives)) == {ARMED: ["no learning"]}
    assert warned(Monitor(), 0.94 * guessing, stats(negatives=negatives)) == {}
    assert warned(Monitor(), 0.0, stats(negatives=0.0, hardest=None)) == {}  # nothing to guess among


def test_guessing_counts_the_negatives_of_every_source():
    loss = math.log(1 + 8)
    assert warned(Monitor(), loss, stats(negatives=7.0)) == {ARMED: ["no learning"]}
    assert warned(Monitor(), loss, stats(negatives=7.0, bm25=(8.0, 0.1))) == {}


def test_a_high_info_nce_says_nothing_where_the_loss_is_another():
    assert warned(Monitor(contrastive=False), math.log(128), stats()) == {}


def test_a_collapse():
    assert warned(Monitor(), 1.0, stats(positive=0.97, hardest=0.98)) == {ARMED: ["collapse"]}
    for positive, hardest in ((0.94, 0.98), (0.97, 0.96), (0.5, 0.6)):
        assert warned(Monitor(), 1.0, stats(positive=positive, hardest=hardest)) == {}


def test_negatives_that_stay_above():
    found = warned(Monitor(), 1.0, stats(refresh=(4.0, 0.31), bm25=(4.0, 0.29)))
    assert found == {ARMED + 4: ["false negatives from refresh?"]}  # five logged steps are looked at
    assert warned(Monitor(), 1.0, stats(refresh=(0.0, 0.9))) == {}  # it rests
    two = warned(Monitor(), 1.0, stats(refresh=(4.0, 0.9), bm25=(4.0, 0.9)))
    assert two == {ARMED + 4: ["false negatives from refresh?", "false negatives from bm25?"]}


def test_the_last_five_logged_steps_count():
    monitor, found = Monitor(), []
    for step, above in enumerate([0.0] * 5 + [0.5] * 5, ARMED):
        found.append(bool(monitor.check(step, STEPS, stats(bm25=(4.0, above)) | {"info_nce": 1.0})))
    assert found == [False] * 8 + [True, False]  # .4 on average, with 4 of 5


def test_confusion_at_first_is_no_warning():
    bad = stats(positive=0.97, hardest=0.98, bm25=(4.0, 0.9))
    monitor = Monitor()
    assert warned(monitor, math.log(132), bad, steps=range(ARMED)) == {}
    found = warned(monitor, math.log(132), bad)
    assert found == {ARMED: ["no learning", "collapse"], ARMED + 4: ["false negatives from bm25?"]}


def test_a_warning_that_comes_back_is_not_raised_again():
    monitor = Monitor()
    assert warned(monitor, 9.0, stats(), steps=[ARMED]) == {ARMED: ["no learning"]}
    assert warned(monitor, 1.0, stats(), steps=[ARMED + 1]) == {}
    assert warned(monitor, 9.0, stats(), steps=[ARMED + 2]) == {}
    assert warned(Monitor(), 9.0, stats(), steps=[ARMED + 2]) == {ARMED + 2: ["no learning"]}


def test_what_was_seen_goes_on_after_a_pause(tmp_path):
    numbers = stats(positive=0.97, hardest=0.98, bm25=(4.0, 0.9))
    first, again = Monitor(), Monitor()
    assert warned(first, 1.0, numbers, steps=range(ARMED, ARMED + 3)) == {ARMED: ["collapse"]}
    absent = [{"source": "in_batch", "negatives": 7.0}]
    first.check_sources(absent, [Label("bm25", "", "")], {"bm25": 4}, queued=0)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    wanted = {ARMED + 4: ["false negatives from bm25?"]}
    assert warned(again, 1.0, numbers, steps=range(ARMED + 3, ARMED + 9)) == wanted
    with pytest.raises(BadInput, match="no doc of bm25"):
        again.check_sources(absent, [Label("bm25", "", "")], {"bm25": 4}, queued=0)


@pytest.mark.parametrize(
    "rank, dim, raised", [(1.0, 32, True), (3.9, 32, True), (4.1, 32, False), (15.0, 768, True), (16.0, 768, False)]
)
def test_a_collapsed_space(rank, dim, raised):
    found = Monitor().check_end(rank=rank, dim=dim, dev=0.4, untrained=0.3)
    assert [warning["warning"] for warning in found] == ["collapsed space"] * raised
    assert all(f"{rank:.1f} of {dim} dimensions" in warning["advice"] for warning in found)


@pytest.mark.parametrize("dev, raised", [(0.31, False), (0.3, True), (0.1, True)])
def test_a_training_that_was_for_nothing(dev, raised):
    found = Monitor().check_end(rank=100.0, dim=768, dev=dev, untrained=0.3)
    assert [warning["warning"] for warning in found] == ["no gain"] * raised
    assert all(f"from 0.3000 to {dev:.4f}" in warning["advice"] for warning in found)


# ---------------------------------------------------------------------------------------------------- sources


def ledger(**counts):
    """(rows of a ledger with these negatives per query, the labels of all but in_batch).

    What follows __ tells bands apart, _file a source that a file's records name.
    """
    rows, labels = [], []
    for name, count in counts.items():
        name, _, ranks = name.partition("__")
        origin = name.removesuffix("_file") if name.endswith("_file") else ""
        label = Label("file" if origin else name, origin, ranks)
        rows.append({"source": label.name, "ranks": ranks, "negatives": count})
        labels += [label] * (name != "in_batch")
    return rows, labels


@pytest.mark.parametrize(
    "rows, active, queued",
    [
        (ledger(in_batch=7.0), {}, 0),
        (ledger(in_batch=7.0, bm25__low=0.0, bm25__high=0.1), {"bm25": 2}, 0),
        (ledger(in_batch=7.0, bm25=1.0, random=2.0), {"bm25": 2, "random": 2}, 0),
        (ledger(in_batch=7.0, bm25=1.0, refresh=0.0), {"bm25": 2}, 0),  # refresh rests
        (ledger(in_batch=7.0, bm25_file=1.0, random_file=0.0), {"file": 2}, 0),
        (ledger(in_batch=7.0), {"queue": 9}, 0),  # nothing in it yet
        (ledger(in_batch=7.0, queue=3.0), {"queue": 9}, 5),
    ],
)
def test_sources_that_teach_pass(rows, active, queued):
    monitor = Monitor()
    for _ in range(3):
        monitor.check_sources(*rows, active, queued=queued)


def test_batches_without_any_negative_are_refused_at_once():
    with pytest.raises(BadInput, match="no query of a batch has a negative"):
        Monitor().check_sources(*ledger(in_batch=0.0), {}, queued=0)


@pytest.mark.parametrize(
    "rows, active, queued, name",
    [
        (ledger(in_batch=7.0), {"bm25": 2}, 0, "bm25"),
        (ledger(in_batch=7.0, bm25__low=0.0, bm25__high=0.0), {"bm25": 2}, 0, "bm25"),
        (ledger(in_batch=7.0, bm25=1.0, refresh=0.0), {"bm25": 2, "refresh": 2}, 0, "refresh"),
        (ledger(in_batch=7.0, bm25_file=0.0), {"file": 2}, 0, "file"),
        (ledger(in_batch=7.0, bm25_file=1.0), {"bm25": 2}, 0, "bm25"),
        (ledger(in_batch=7.0, queue=0.0), {"queue": 9}, 5, "queue"),
    ],
)
def test_a_source_without_negatives_twice_in_a_row_is_refused(rows, active, queued, name):
    monitor = Monitor()
    monitor.check_sources(*rows, active, queued=queued)  # once may be chance
    with pytest.raises(BadInput, match=f"no doc of {name} stands in the denominator"):
        monitor.check_sources(*rows, active, queued=queued)


def test_a_source_that_is_absent_now_and_then_passes():
    both, first, second = ledger(bm25=1.0, random=1.0), ledger(bm25=1.0), ledger(random=1.0)
    monitor, active = Monitor(), {"bm25": 1, "random": 1}
    for rows in (first, both, first, second, first, second, both):  # never the same one twice in a row
        monitor.check_sources(*rows, active, queued=0)
    monitor.check_sources(*first, active, queued=0)
    with pytest.raises(BadInput, match="no doc of random"):
        monitor.check_sources(*first, active, queued=0)


# --------------------------------------------------------------------------------------------------- averages


LABELS = [Label("random", "", ""), Label("bm25", "", "1-10"), Label("bm25", "", "11-30"), Label("file", "bm25", "1-10")]


def step_of(seed, *, B=6, N=20, masked=0.2, labels=LABELS):
    """The arguments of Averages.add() for a made-up step whose negatives are of the batch and of `labels`."""
    random = np.random.default_rng(seed)
    columns = random.integers(N, size=B)
    invalid = random.random((B, N)) < masked
    invalid[np.arange(B), columns] = False
    source = random.integers(1 + len(labels), size=(B, N)).astype(np.int8)
    batch = Batch(np.arange(B), np.arange(N), columns, invalid, source)
    scores = torch.from_numpy(random.uniform(-1, 1, size=(B, N)).astype(np.float32))
    return float(random.random()), scores, torch.from_numpy(invalid), batch, labels


def stats_of(value, scores, mask, batch, labels):
    """What batch_stats() says of such a step, with its loss."""
    columns, source = torch.from_numpy(batch.labels), torch.from_numpy(batch.source)
    names = [(label.name, label.ranks) for label in labels]
    return {"loss": value} | batch_stats(scores, columns, mask, source, names, temperature=0.2)


def averaged(steps):
    """What Averages says of such steps."""
    averages = Averages()
    for step in steps:
        averages.add(*step, temperature=0.2)
    return averages.take()


@pytest.mark.parametrize("masked", [0.2, 1.0])
def test_one_step_comes_back_unchanged(masked):
    step = step_of(0, masked=masked)
    found = averaged([step])
    assert found == stats_of(*step) and (found["hardest"] is None) == (masked == 1.0)
    names = [(row["source"], row["ranks"]) for row in found["ledger"]]
    assert names == [("in_batch", ""), ("random", ""), ("bm25", "1-10"), ("bm25", "11-30"), ("bm25 (file)", "1-10")]


def test_means_are_weighted_by_negatives():
    steps = [step_of(seed, masked=masked) for seed, masked in enumerate((0.1, 0.5, 0.8))]
    found, each = averaged(steps), [stats_of(*step) for step in steps]
    for key in ("loss", "accuracy", "positive", "hardest", "info_nce", "effective"):
        assert found[key] == pytest.approx(sum(stats[key] for stats in each) / 3), key
    plain = 0
    for number, row in enumerate(found["ledger"]):  # over the negatives of all steps, one by one
        above = []
        for _, scores, mask, batch, _ in steps:
            for i, column in enumerate(batch.labels):
                own = ~mask[i].numpy() & (batch.source[i] == number) & (np.arange(20) != column)
                above += (scores[i] > scores[i, column]).numpy()[own].tolist()
        rows = [stats["ledger"][number] for stats in each]
        assert (row["source"], row["ranks"]) == (rows[0]["source"], rows[0]["ranks"])
        assert row["above"] == pytest.approx(sum(above) / len(above))
        assert row["negatives"] == pytest.approx(len(above) / (3 * 6))
        assert row["gradient"] == pytest.approx(sum(row["gradient"] for row in rows) / 3)
        plain += row["above"] == pytest.approx(sum(row["above"] for row in rows) / 3)
    assert plain < len(found["ledger"])  # the weights matter here
    assert found.keys() == each[0].keys() and sum(row["gradient"] for row in found["ledger"]) == pytest.approx(1)
    bands = [row for row in found["ledger"] if row["source"] == "bm25"]
    total = sum(row["negatives"] for row in bands)
    assert list(found["sources"]) == ["in_batch", "random", "bm25", "bm25 (file)"]
    assert found["sources"]["bm25"] == {
        "negatives": pytest.approx(total),
        "above": pytest.approx(sum(row["above"] * row["negatives"] for row in bands) / total),
        "gradient": pytest.approx(sum(row["gradient"] for row in bands)),
    }


def test_steps_without_negatives_have_no_hardest():
    some, none = step_of(0), step_of(1, masked=1.0)
    found = averaged([some, none, none])
    assert found["hardest"] == stats_of(*some)["hardest"]
    row, alone = found["ledger"][1], stats_of(*some)["ledger"][1]
    assert row["negatives"] == pytest.approx(alone["negatives"] / 3) and row["above"] == pytest.approx(alone["above"])
    found = averaged([none, none])
    assert found["hardest"] is None and all(row["negatives"] == row["above"] == 0 for row in found["ledger"])


def test_a_source_may_appear_later():
    steps = [step_of(0, labels=[]), step_of(1, labels=LABELS[:1]), step_of(2, labels=LABELS)]
    found, each = averaged(steps), [stats_of(*step) for step in steps]
    assert [len(stats["ledger"]) for stats in each] == [1, 2, 5]
    assert [row["source"] for row in found["ledger"]] == ["in_batch", "random", "bm25", "bm25", "bm25 (file)"]
    for number, row in enumerate(found["ledger"]):
        rows = [stats["ledger"][number] for stats in each if number < len(stats["ledger"])]
        negatives = sum(row["negatives"] for row in rows)
        assert row["negatives"] == pytest.approx(negatives / 3)  # per query of all steps
        assert row["above"] == pytest.approx(sum(row["above"] * row["negatives"] for row in rows) / negatives)
        assert row["gradient"] == pytest.approx(sum(row["gradient"] for row in rows) / 3)
    assert list(found["sources"]) == ["in_batch", "random", "bm25", "bm25 (file)"]


def test_a_line_begins_anew():
    averages, steps = Averages(), [step_of(seed) for seed in range(4)]
    for pair in (steps[:2], steps[2:]):
        for step in pair:
            averages.add(*step, temperature=0.2)
        assert averages.take() == averaged(pair)


@pytest.mark.parametrize("cut", range(4))
def test_averages_go_on_where_others_stopped(tmp_path, cut):
    steps = [step_of(seed, labels=LABELS[: seed + 1]) for seed in range(4)]
    first, again = Averages(), Averages()
    for step in steps[:cut]:
        first.add(*step, temperature=0.2)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    first.add(*steps[0], temperature=0.2)  # what comes after the save is not in it
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for step in steps[cut:]:
        again.add(*step, temperature=0.2)
    assert again.take() == averaged(steps)

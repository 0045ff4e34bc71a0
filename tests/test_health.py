"""Alarms: each on the fault that it is for, once, and none on a training that goes well."""

import math

import pytest
import torch
from lib.health import SETTLED, Health

from lib.run import BadInput

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


def alarms(health, loss, numbers, *, steps=range(ARMED, ARMED + 10)):
    """{step: [names of alarms]} of the steps that raised any."""
    found = {step: health.check(step, STEPS, numbers | {"info_nce": loss}) for step in steps}
    raised = [alarm for made in found.values() for alarm in made]
    assert all(set(alarm) == {"alarm", "advice"} and alarm["advice"] for alarm in raised)
    return {step: [alarm["alarm"] for alarm in made] for step, made in found.items() if made}


def test_a_training_that_goes_well_raises_none():
    health = Health()
    for step in range(STEPS):
        loss = math.log(128) * (1 - 0.9 * step / STEPS)
        numbers = stats(positive=0.4 + 0.5 * step / STEPS, hardest=0.5, refresh=(4.0, 0.25), bm25=(4.0, 0.05))
        assert health.check(step, STEPS, numbers | {"info_nce": loss}) == []
    assert health.check_end(rank=200.0, dim=768, dev=0.4, untrained=0.3) == []


@pytest.mark.parametrize("negatives", [7.0, 127.0, 1023.0])
def test_a_loss_of_guessing(negatives):
    guessing = math.log(1 + negatives)
    assert alarms(Health(), guessing, stats(negatives=negatives)) == {ARMED: ["no learning"]}
    assert alarms(Health(), 0.96 * guessing, stats(negatives=negatives)) == {ARMED: ["no learning"]}
    assert alarms(Health(), 0.94 * guessing, stats(negatives=negatives)) == {}
    assert alarms(Health(), 0.0, stats(negatives=0.0, hardest=None)) == {}  # nothing to guess among


def test_guessing_counts_the_negatives_of_every_source():
    loss = math.log(1 + 8)
    assert alarms(Health(), loss, stats(negatives=7.0)) == {ARMED: ["no learning"]}
    assert alarms(Health(), loss, stats(negatives=7.0, bm25=(8.0, 0.1))) == {}


def test_a_collapse():
    assert alarms(Health(), 1.0, stats(positive=0.97, hardest=0.98)) == {ARMED: ["collapse"]}
    for positive, hardest in ((0.94, 0.98), (0.97, 0.96), (0.5, 0.6)):
        assert alarms(Health(), 1.0, stats(positive=positive, hardest=hardest)) == {}


def test_negatives_that_stay_above():
    found = alarms(Health(), 1.0, stats(refresh=(4.0, 0.31), bm25=(4.0, 0.29)))
    assert found == {ARMED + 4: ["false negatives from refresh?"]}  # five logged steps are looked at
    assert alarms(Health(), 1.0, stats(refresh=(0.0, 0.9))) == {}  # it rests
    two = alarms(Health(), 1.0, stats(refresh=(4.0, 0.9), bm25=(4.0, 0.9)))
    assert two == {ARMED + 4: ["false negatives from refresh?", "false negatives from bm25?"]}


def test_the_last_five_logged_steps_count():
    health, found = Health(), []
    for step, above in enumerate([0.0] * 5 + [0.5] * 5, ARMED):
        found.append(bool(health.check(step, STEPS, stats(bm25=(4.0, above)) | {"info_nce": 1.0})))
    assert found == [False] * 8 + [True, False]  # .4 on average, with 4 of 5


def test_confusion_at_first_is_no_alarm():
    bad = stats(positive=0.97, hardest=0.98, bm25=(4.0, 0.9))
    health = Health()
    assert alarms(health, math.log(132), bad, steps=range(ARMED)) == {}
    found = alarms(health, math.log(132), bad)
    assert found == {ARMED: ["no learning", "collapse"], ARMED + 4: ["false negatives from bm25?"]}


def test_an_alarm_that_comes_back_is_not_raised_again():
    health = Health()
    assert alarms(health, 9.0, stats(), steps=[ARMED]) == {ARMED: ["no learning"]}
    assert alarms(health, 1.0, stats(), steps=[ARMED + 1]) == {}
    assert alarms(health, 9.0, stats(), steps=[ARMED + 2]) == {}
    assert alarms(Health(), 9.0, stats(), steps=[ARMED + 2]) == {ARMED + 2: ["no learning"]}


def test_what_was_seen_goes_on_after_a_pause(tmp_path):
    numbers = stats(positive=0.97, hardest=0.98, bm25=(4.0, 0.9))
    first, again = Health(), Health()
    assert alarms(first, 1.0, numbers, steps=range(ARMED, ARMED + 3)) == {ARMED: ["collapse"]}
    absent = [{"source": "in_batch", "negatives": 7.0}]
    first.check_sources(absent, {"bm25": 4}, queued=0)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    wanted = {ARMED + 4: ["false negatives from bm25?"]}
    assert alarms(again, 1.0, numbers, steps=range(ARMED + 3, ARMED + 9)) == wanted
    with pytest.raises(BadInput, match="no doc of bm25"):
        again.check_sources(absent, {"bm25": 4}, queued=0)


@pytest.mark.parametrize(
    "rank, dim, raised",
    [(1.0, 32, True), (3.9, 32, True), (4.1, 32, False), (15.0, 768, True), (16.0, 768, False)],
)
def test_a_collapsed_space(rank, dim, raised):
    found = Health().check_end(rank=rank, dim=dim, dev=0.4, untrained=0.3)
    assert [alarm["alarm"] for alarm in found] == ["collapsed space"] * raised
    assert all(f"{rank:.1f} of {dim} dimensions" in alarm["advice"] for alarm in found)


@pytest.mark.parametrize("dev, raised", [(0.31, False), (0.3, True), (0.1, True)])
def test_a_training_that_was_for_nothing(dev, raised):
    found = Health().check_end(rank=100.0, dim=768, dev=dev, untrained=0.3)
    assert [alarm["alarm"] for alarm in found] == ["no gain"] * raised
    assert all(f"from 0.3000 to {dev:.4f}" in alarm["advice"] for alarm in found)
